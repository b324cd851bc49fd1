"""Evaluation rows that the training data gives away in parts: an answer behind one more turn, under a system message, or in a longer chat.

:mod:`mlops.dataset.checks` compares whole conversations. Here single answers are compared, in three ways that don't depend on what is
around them:

- a question together with its answer,
- an answer of some length on its own,
- runs of 13 words, the unit of GPT-3's decontamination (Brown et al. 2020, appendix C). One shared run may be a quotation, so half of an
  answer's runs must occur in one training row. Rows with fewer shared runs are only counted.

An answer, or a run of words, that follows several different questions is a stock phrase ("I'm sorry, but …", the frame of a template) and
proves nothing; nor does a short answer such as "Yes." on its own. Case, white space and punctuation don't count.
"""

from __future__ import annotations

import tempfile
import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from mlops.dataset.conversation import Conversation, InvalidRow, Message, TextHash, hash_text, read_jsonl
from mlops.dataset.words import hash_runs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]

__all__ = ["BATCH", "RUN_WORDS", "Leak", "LeakIndex", "Leaks", "Screen", "Shared", "find_leaks", "resolve"]

T = TypeVar("T")

BATCH = 32
"""How many training rows to look up at once: enough for numpy, and few enough to stay in the processor's cache."""
RUN_WORDS = 13
LEAKED_SHARE = 0.5
"""The share of an answer's runs of words that one training row must contain."""
LONG_PAIR, LONG_ANSWER = 30, 45
"""In normalized bytes. A question and answer, or an answer, below these lengths may be equal by chance."""
STOCK_QUESTIONS = 4
"""What follows so many different questions, in the suites and the training data together, is a stock phrase."""
RUNS_PER_ELEMENT = 4
"""At most so many runs share an element of the filter, which rules out at once nearly all runs that are in no suite."""
_PARTS = 16
"""Runs are sorted in so many parts, so that sorting needs little memory."""
_WAITING = 256
"""How many answers are collected before their runs are hashed."""


class Evidence(NamedTuple):
    """What a training row shares with an evaluation row: the hash of a whole answer, or the runs of an answer with this number."""

    how: str
    key: int


class Match(NamedTuple):
    """A training row has an answer of an evaluation row, or a part of one."""

    suite: str
    line: int
    description: str
    """Completes "line 3, which …"."""
    evidence: Evidence | None
    """None if it is conclusive whatever else is in the training data: a question with its answer."""
    question: int
    """Hash of the question in the training row."""


@dataclass(frozen=True)
class Leak:
    """An evaluation row, and the training row that contains an answer of it."""

    suite: str
    line: int
    training_line: int
    how: str
    """Completes "line 3, which …"."""


@dataclass(frozen=True)
class Leaks:
    """What the training data has in common with the suites, by suite.

    ``answers`` are rows of which it contains an answer; ``passages`` maps each line with an answer of which it contains a run of words to
    the first such line of the training data; ``rows`` is the number of rows.
    """

    answers: Mapping[str, Sequence[Leak]]
    passages: Mapping[str, Mapping[int, int]]
    rows: Mapping[str, int]


class Shared(NamedTuple):
    """What a training row has in common with the suites."""

    matches: Sequence[Match]
    passages: Sequence[tuple[str, int]]
    """Suite and line of answers of which it contains a run of words."""


class _Text(NamedTuple):
    """An answer of an evaluation row, and the hash of its question."""

    suite: str
    line: int
    question: int


@dataclass(frozen=True)
class _Lookup:
    """The runs of words of all answers, without stock phrases."""

    runs: Hashes
    """In ascending order."""
    owners: npt.NDArray[np.uint32]
    """The answer that each run belongs to."""
    sizes: npt.NDArray[np.intp]
    """Answer → its number of runs."""
    filter: Hashes
    """A Bloom filter: two bits for every run, both in the element that its highest bits denote."""

    def save(self, folder: Path) -> None:
        """Write the arrays to files."""
        import numpy as np

        for each in fields(self):
            np.save(folder / f"{each.name}.npy", getattr(self, each.name))

    @classmethod
    def load(cls, folder: Path) -> _Lookup:
        """Map the files into memory, of which all processes share one copy."""
        import numpy as np

        return cls(*(np.load(folder / f"{each.name}.npy", mmap_mode="r").view(np.ndarray) for each in fields(cls)))


class LeakIndex:
    """The answers of evaluation rows, to look training rows up in. Every run of their words takes 14 bytes.

    All rows are added before the first one is looked up.
    """

    def __init__(self) -> None:
        self._pairs: dict[tuple[int, int], tuple[str, int]] = {}
        self._answers: dict[int, tuple[str, int]] = {}
        self._answer_questions: dict[int, set[int]] = {}
        self._texts: list[_Text] = []
        self._waiting: list[str] = []
        self._runs: list[tuple[Hashes, npt.NDArray[np.uint32]]] = []
        self._lookup: _Lookup | None = None
        self._folder: Path | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to look rows up. It maps the same files into its memory."""
        self._open_lookup()
        return self.__dict__ | {"_lookup": None}

    def add(self, suite: str, line: int, messages: Sequence[Message], texts: Sequence[TextHash] | None = None) -> None:
        """Add an evaluation row; the hashes of its messages are computed if they are not there yet."""
        for turn in _turns(messages, texts or [hash_text(message.content) for message in messages]):
            if turn.pair is not None:
                self._pairs.setdefault(turn.pair, (suite, line))
            if turn.answer is not None:
                self._answers.setdefault(turn.answer, (suite, line))
                self._answer_questions.setdefault(turn.answer, set()).add(turn.question)
            self._texts.append(_Text(suite, line, turn.question))
            self._waiting.append(turn.text)
        if len(self._waiting) >= _WAITING:
            self._hash_waiting()

    def add_file(self, suite: str, path: Path) -> int:
        """Add the rows of a JSON Lines file, and return their number; invalid ones are reported elsewhere."""
        line = 0
        for line, row in read_jsonl(path, Conversation):
            if not isinstance(row, InvalidRow):
                self.add(suite, line, row.messages)
        return line

    def questions(self, evidence: Evidence) -> set[int]:
        """Return the hashes of the questions before an answer in the suites."""
        return self._answer_questions[evidence.key] if evidence.how == "answer" else {self._texts[evidence.key].question}

    def find(self, rows: Sequence[tuple[Sequence[Message], Sequence[TextHash]]]) -> Iterator[Shared]:
        """Yield what each of some training rows gives away.

        Args:
            rows: their messages, and the hashes of those.
        """
        for (messages, hashes), owners in zip(rows, self._find_runs([messages for messages, _ in rows]), strict=True):
            matches: list[Match] = []
            for turn in _turns(messages, hashes):
                if turn.pair is not None and turn.pair in self._pairs:
                    how = "has a question and its answer in a training row"
                    matches.append(Match(*self._pairs[turn.pair], how, None, turn.question))
                elif turn.answer is not None and turn.answer in self._answers:
                    evidence = Evidence("answer", turn.answer)
                    matches.append(Match(*self._answers[turn.answer], "has an answer that is in a training row", evidence, turn.question))
            first = next((text.value for message, text in zip(messages, hashes, strict=True) if message.role == "user"), 0)
            for index, share in owners.items():
                if share >= LEAKED_SHARE:
                    how = f"has an answer of which {share:.0%} (in runs of {RUN_WORDS} words) is in a training row"
                    text = self._texts[index]
                    matches.append(Match(text.suite, text.line, how, Evidence("runs", index), first))
            yield Shared(matches, [self._texts[index][:2] for index in owners])

    def _find_runs(self, rows: Sequence[Sequence[Message]]) -> Iterator[Mapping[int, float]]:
        """Yield for each row the answers with which it has runs in common → the share of their runs."""
        import numpy as np

        lookup = self._open_lookup()
        runs, begin = hash_runs([message.content for messages in rows for message in messages], RUN_WORDS)
        begin = begin[np.cumsum([0, *map(len, rows)])]
        bits = _filter_bits(runs)
        candidates = np.flatnonzero(lookup.filter[_filter_place(runs, len(lookup.filter))] & bits == bits)
        first = np.searchsorted(lookup.runs, runs[candidates])
        hits = np.flatnonzero(lookup.runs[np.minimum(first, len(lookup.runs) - 1)] == runs[candidates]) if len(lookup.runs) else first
        found: list[dict[int, set[int]]] = [{} for _ in rows]
        for hit in hits:
            run = runs[candidates[hit]]
            row = int(np.searchsorted(begin, candidates[hit], side="right")) - 1
            for owner in lookup.owners[first[hit] : np.searchsorted(lookup.runs, run, side="right")].tolist():
                found[row].setdefault(owner, set()).add(int(run))
        for owners in found:
            yield {owner: len(owners[owner]) / int(lookup.sizes[owner]) for owner in sorted(owners)}

    def _hash_waiting(self) -> None:
        import numpy as np

        runs, begin = hash_runs(self._waiting, RUN_WORDS)
        first = len(self._texts) - len(self._waiting)
        owners = np.repeat(np.arange(first, len(self._texts), dtype=np.uint32), np.diff(begin))
        self._runs.append((runs, owners))
        self._waiting = []

    def _open_lookup(self) -> _Lookup:
        if self._folder is None:
            folder = tempfile.TemporaryDirectory(prefix="mlops-")
            weakref.finalize(self, folder.cleanup)
            self._folder = Path(folder.name)
            self._build_lookup().save(self._folder)
        if self._lookup is None:
            self._lookup = _Lookup.load(self._folder)
        return self._lookup

    def _build_lookup(self) -> _Lookup:
        """Sort the runs, and leave out those that follow :data:`STOCK_QUESTIONS` different questions in the suites."""
        import numpy as np

        self._hash_waiting()
        questions = np.array([text.question for text in self._texts], dtype=np.uint64)
        total = sum(len(runs) for runs, _ in self._runs)
        all_runs, all_owners, size = np.empty(total, dtype=np.uint64), np.empty(total, dtype=np.uint32), 0
        for part in range(_PARTS):
            chosen = [runs >> np.uint64(60) == part for runs, _ in self._runs]
            runs = np.concatenate([runs[mask] for (runs, _), mask in zip(self._runs, chosen, strict=True)])
            owners = np.concatenate([owners[mask] for (_, owners), mask in zip(self._runs, chosen, strict=True)])
            runs, owners = _sort_runs(runs, owners, questions)
            all_runs[size : size + len(runs)], all_owners[size : size + len(runs)] = runs, owners
            size += len(runs)
        self._runs = []
        runs, owners = all_runs[:size], all_owners[:size]
        return _Lookup(runs, owners, np.bincount(owners, minlength=len(self._texts)), _make_filter(runs))


class _Stock:
    """Tells stock phrases from leaks, by the questions before them in the suites and in the training rows so far."""

    def __init__(self, index: LeakIndex) -> None:
        self._index = index
        self._questions: dict[Evidence, set[int]] = {}

    def add(self, match: Match) -> None:
        if match.evidence is not None:
            self._questions.setdefault(match.evidence, set(self._index.questions(match.evidence))).add(match.question)

    def contains(self, evidence: Evidence) -> bool:
        return len(self._questions[evidence]) >= STOCK_QUESTIONS


class Screen(Generic[T]):
    """Withholds the training rows that give evaluation rows away.

    What looks like a leak may turn out to be a stock phrase, so a row is held back until its answer has followed enough questions.
    """

    def __init__(self, index: LeakIndex) -> None:
        self._index = index
        self._stock = _Stock(index)
        self._held: dict[Evidence, list[tuple[T, set[Evidence]]]] = {}

    def put(self, item: T, matches: Sequence[Match]) -> tuple[T, ...]:
        """Return the items that may be used now: this one, earlier ones of its kind, or none.

        Args:
            item: anything that stands for the row.
            matches: what the row gives away.
        """
        released: list[T] = []
        for match in matches:
            self._stock.add(match)
            if match.evidence is not None and self._stock.contains(match.evidence):
                for earlier, waiting in self._held.pop(match.evidence, ()):
                    waiting.discard(match.evidence)
                    released += () if waiting else (earlier,)
        if any(match.evidence is None for match in matches):
            return tuple(released)
        open_evidence = {match.evidence for match in matches if match.evidence and not self._stock.contains(match.evidence)}
        for evidence in open_evidence:
            self._held.setdefault(evidence, []).append((item, open_evidence))
        return tuple(released) if open_evidence else (*released, item)


def find_leaks(training: Path, suites: Mapping[str, Path]) -> Leaks:
    """Return what the training data gives away, each row of a suite once, in the order of the training data.

    Args:
        training: the training split, JSON Lines, read once.
        suites: name → file, JSON Lines. All their runs of words are in memory, 16 bytes each.
    """
    index = LeakIndex()
    rows = {suite: index.add_file(suite, path) for suite, path in suites.items()}
    return resolve(index, _search(index, training), rows)


def _search(index: LeakIndex, training: Path) -> Iterator[tuple[int, Shared]]:
    valid = ((number, row.messages) for number, row in read_jsonl(training, Conversation) if not isinstance(row, InvalidRow))
    while batch := list(islice(valid, BATCH)):
        shared = index.find([(messages, [hash_text(message.content) for message in messages]) for _, messages in batch])
        yield from zip((number for number, _ in batch), shared, strict=True)


def resolve(index: LeakIndex, shared: Iterable[tuple[int, Shared]], rows: Mapping[str, int]) -> Leaks:
    """Tell leaks from stock phrases.

    Args:
        index: the suites.
        shared: line of the training data, in order, and what it gives away; lines without anything may be left out.
        rows: suite → its number of rows.
    """
    stock = _Stock(index)
    candidates: dict[tuple[str, int, Evidence | None], Leak] = {}
    touched: dict[tuple[str, int], int] = {}
    for number, (matches, passages) in shared:
        for place in passages:
            touched.setdefault(place, number)
        for match in matches:
            stock.add(match)
            leak = Leak(match.suite, match.line, number, match.description)
            candidates.setdefault((match.suite, match.line, match.evidence), leak)
    leaks: dict[tuple[str, int], Leak] = {}
    for (suite, line, evidence), leak in candidates.items():
        if evidence is None or not stock.contains(evidence):
            leaks.setdefault((suite, line), leak)
    return Leaks(
        answers={suite: [leak for leak in leaks.values() if leak.suite == suite] for suite in rows},
        passages={suite: {line: first for (name, line), first in sorted(touched.items()) if name == suite} for suite in rows},
        rows=rows,
    )


class _Turn(NamedTuple):
    text: str
    question: int
    """Hash of the user's turn before it."""
    pair: tuple[int, int] | None
    """Hashes of question and answer, unless they are too short."""
    answer: int | None
    """Hash of the answer, unless it is too short."""


def _turns(messages: Sequence[Message], hashes: Sequence[TextHash]) -> Iterator[_Turn]:
    """Yield the answers of a conversation."""
    question = TextHash(0, 0)
    for message, text in zip(messages, hashes, strict=True):
        if message.role == "assistant":
            pair = (question.value, text.value) if question.size and question.size + text.size >= LONG_PAIR else None
            yield _Turn(message.content, question.value, pair, text.value if text.size >= LONG_ANSWER else None)
        question = text if message.role == "user" else TextHash(0, 0)


def _sort_runs(runs: Hashes, owners: npt.NDArray[np.uint32], questions: Hashes) -> tuple[Hashes, npt.NDArray[np.uint32]]:
    """Sort runs and their owners, each pair once, without the runs that follow many different questions.

    Args:
        runs: unsorted.
        owners: the answer of each run.
        questions: answer → its question.
    """
    import numpy as np

    order = np.lexsort((owners, runs))
    runs, owners = runs[order], owners[order]
    kept = np.ones(len(runs), dtype=np.bool_)
    kept[1:] = (runs[1:] != runs[:-1]) | (owners[1:] != owners[:-1])
    runs, owners = runs[kept], owners[kept]
    first = _find_changes(runs)
    sizes = np.diff(np.r_[first, len(runs)])
    kept = np.ones(len(runs), dtype=np.bool_)
    # Few runs occur so often, so a loop is good enough.
    for start, size in zip(first[sizes >= STOCK_QUESTIONS].tolist(), sizes[sizes >= STOCK_QUESTIONS].tolist(), strict=True):
        if len(np.unique(questions[owners[start : start + size]])) >= STOCK_QUESTIONS:
            kept[start : start + size] = False
    return runs[kept], owners[kept]


def _make_filter(runs: Hashes) -> Hashes:
    """Make a Bloom filter of sorted runs."""
    import numpy as np

    result = np.zeros(1 << (len(runs) // RUNS_PER_ELEMENT).bit_length(), dtype=np.uint64)
    places = _filter_place(runs, len(result))
    first = _find_changes(places)
    if len(first):
        result[places[first]] = np.bitwise_or.reduceat(_filter_bits(runs), first)
    return result


def _filter_place(runs: Hashes, size: int) -> Hashes:
    import numpy as np

    # In two steps, because a shift by 64 bits has no defined result.
    return runs >> np.uint64(32) >> np.uint64(33 - size.bit_length())


def _filter_bits(runs: Hashes) -> Hashes:
    import numpy as np

    one, lowest = np.uint64(1), np.uint64(63)
    return one << (runs & lowest) | one << (runs >> np.uint64(6) & lowest)


def _find_changes(values: Hashes) -> npt.NDArray[np.intp]:
    """Return where each group of equal values begins."""
    import numpy as np

    return np.flatnonzero(np.r_[True, values[1:] != values[:-1]][: len(values)])
