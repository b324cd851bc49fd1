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

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from mlops.dataset.conversation import Conversation, InvalidRow, Message, hash64, normalize, read_jsonl

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]

__all__ = ["RUN_WORDS", "Leak", "LeakIndex", "Leaks", "Screen", "find_leaks"]

T = TypeVar("T")

RUN_WORDS = 13
LEAKED_SHARE = 0.5
"""The share of an answer's runs of words that one training row must contain."""
LONG_PAIR, LONG_ANSWER = 30, 45
"""In normalized bytes. A question and answer, or an answer, below these lengths may be equal by chance."""
STOCK_QUESTIONS = 4
"""What follows so many different questions, in the suites and the training data together, is a stock phrase."""
MASK_BITS = 22
_WORD = re.compile(r"[^\W_]+")


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


class _Text(NamedTuple):
    """An answer of an evaluation row that has runs of words."""

    suite: str
    line: int
    question: int
    runs: Hashes


@dataclass(frozen=True)
class _Lookup:
    """The runs of words of all answers, without stock phrases."""

    runs: Hashes
    """In ascending order."""
    owners: npt.NDArray[np.intp]
    """The answer that each run belongs to."""
    sizes: npt.NDArray[np.intp]
    """Answer → its number of runs."""
    possible: npt.NDArray[np.bool_]
    """The lowest bits of a run → whether there is one. Rules out at once nearly all runs that are in no suite."""


class LeakIndex:
    """The answers of evaluation rows, to look training rows up in."""

    def __init__(self) -> None:
        self._pairs: dict[int, tuple[str, int]] = {}
        self._answers: dict[int, tuple[str, int]] = {}
        self._questions: dict[Evidence, set[int]] = {}
        self._texts: list[_Text] = []
        self._lookup: _Lookup | None = None

    def add(self, suite: str, line: int, messages: Sequence[Message]) -> None:
        """Add an evaluation row."""
        import numpy as np

        for turn in _turns(messages):
            if turn.pair is not None:
                self._pairs.setdefault(turn.pair, (suite, line))
            if turn.answer is not None:
                self._answers.setdefault(turn.answer, (suite, line))
                self._questions.setdefault(Evidence("answer", turn.answer), set()).add(turn.question)
            if len(runs := np.unique(_runs([turn.text]))):
                self._questions[Evidence("runs", len(self._texts))] = {turn.question}
                self._texts.append(_Text(suite, line, turn.question, runs))
        self._lookup = None

    def add_file(self, suite: str, path: Path) -> int:
        """Add the rows of a JSON Lines file, and return their number; invalid ones are reported elsewhere."""
        line = 0
        for line, row in read_jsonl(path, Conversation):
            if not isinstance(row, InvalidRow):
                self.add(suite, line, row.messages)
        return line

    def questions(self, evidence: Evidence) -> set[int]:
        """Return the hashes of the questions before an answer in the suites."""
        return self._questions[evidence]

    def find(self, messages: Sequence[Message], touched: dict[tuple[str, int], int] | None = None, number: int = 0) -> Iterator[Match]:
        """Yield what a training row gives away.

        Args:
            messages: of the training row.
            touched: receives ``number`` for each suite and line of which an answer shares a run of words with the row, unless it has one.
            number: of the training row.
        """
        import numpy as np

        first_question = next((hash64(normalize(message.content)) for message in messages if message.role == "user"), 0)
        for turn in _turns(messages):
            if turn.pair is not None and turn.pair in self._pairs:
                yield Match(*self._pairs[turn.pair], "has a question and its answer in a training row", None, turn.question)
            elif turn.answer is not None and turn.answer in self._answers:
                evidence = Evidence("answer", turn.answer)
                yield Match(*self._answers[turn.answer], "has an answer that is in a training row", evidence, turn.question)
        lookup = self._lookup = self._lookup or _build_lookup(self._texts)
        runs = _runs([message.content for message in messages])
        runs = np.unique(runs[lookup.possible[runs & np.uint64(len(lookup.possible) - 1)]])
        first, last = np.searchsorted(lookup.runs, runs, side="left"), np.searchsorted(lookup.runs, runs, side="right")
        owners = [lookup.owners[first[hit] : last[hit]] for hit in np.flatnonzero(last > first)]
        for index, count in sorted(Counter(np.concatenate(owners).tolist()).items()) if owners else ():
            text = self._texts[index]
            if touched is not None:
                touched.setdefault((text.suite, text.line), number)
            if count >= LEAKED_SHARE * lookup.sizes[index]:
                how = f"has an answer of which {count / lookup.sizes[index]:.0%} (in runs of {RUN_WORDS} words) is in a training row"
                yield Match(text.suite, text.line, how, Evidence("runs", index), first_question)


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

    def put(self, item: T, messages: Sequence[Message]) -> tuple[T, ...]:
        """Return the items that may be used now: this one, earlier ones of its kind, or none.

        Args:
            item: anything that stands for the row.
            messages: the row.
        """
        matches = list(self._index.find(messages))
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
    stock = _Stock(index)
    candidates: dict[tuple[str, int, Evidence | None], Leak] = {}
    touched: dict[tuple[str, int], int] = {}
    for number, row in read_jsonl(training, Conversation):
        if isinstance(row, InvalidRow):
            continue
        for match in index.find(row.messages, touched, number):
            stock.add(match)
            leak = Leak(match.suite, match.line, number, match.description)
            candidates.setdefault((match.suite, match.line, match.evidence), leak)
    leaks: dict[tuple[str, int], Leak] = {}
    for (suite, line, evidence), leak in candidates.items():
        if evidence is None or not stock.contains(evidence):
            leaks.setdefault((suite, line), leak)
    return Leaks(
        answers={suite: [leak for leak in leaks.values() if leak.suite == suite] for suite in suites},
        passages={suite: {line: first for (name, line), first in sorted(touched.items()) if name == suite} for suite in suites},
        rows=rows,
    )


class _Turn(NamedTuple):
    text: str
    question: int
    """Hash of the user's turn before it."""
    pair: int | None
    """Hash of question and answer, unless they are too short."""
    answer: int | None
    """Hash of the answer, unless it is too short."""


def _turns(messages: Sequence[Message]) -> Iterator[_Turn]:
    """Yield the answers of a conversation."""
    question = b""
    for message in messages:
        text = normalize(message.content)
        if message.role == "assistant":
            pair = hash64(question, text) if question and len(question) + len(text) >= LONG_PAIR else None
            yield _Turn(message.content, hash64(question), pair, hash64(text) if len(text) >= LONG_ANSWER else None)
        question = text if message.role == "user" else b""


def _build_lookup(texts: Sequence[_Text]) -> _Lookup:
    """Sort the runs, and leave out those that follow :data:`STOCK_QUESTIONS` different questions in the suites."""
    import numpy as np

    runs = np.concatenate([np.empty(0, dtype=np.uint64), *(text.runs for text in texts)])
    owners = np.repeat(np.arange(len(texts)), [len(text.runs) for text in texts])
    questions = np.array([text.question for text in texts], dtype=np.uint64)[owners] if len(texts) else runs
    order = np.lexsort((questions, runs))
    runs, owners, questions = runs[order], owners[order], questions[order]
    new_run = np.r_[True, runs[1:] != runs[:-1]][: len(runs)]
    new_pair = new_run | np.r_[True, questions[1:] != questions[:-1]][: len(runs)]
    group = np.cumsum(new_run) - 1
    kept = np.bincount(group[new_pair], minlength=int(group[-1]) + 1 if len(runs) else 0)[group] < STOCK_QUESTIONS
    runs, owners = runs[kept], owners[kept]
    possible = np.zeros(2**MASK_BITS, dtype=np.bool_)
    possible[runs & np.uint64(2**MASK_BITS - 1)] = True
    return _Lookup(runs, owners, np.bincount(owners, minlength=len(texts)), possible)


def _runs(texts: Sequence[str]) -> Hashes:
    """Return the hashes of all runs of words within each text. They are only comparable within one process."""
    import numpy as np

    words: list[str] = []
    for number, text in enumerate(texts):
        if number:
            words.append(f"_{number}")  # no word contains it, so no run that spans two texts is equal to another
        words += _WORD.findall(text.casefold())
    count = len(words) - RUN_WORDS + 1
    if count <= 0:
        return np.empty(0, dtype=np.uint64)
    hashed = np.fromiter(map(hash, words), dtype=np.int64, count=len(words)).view(np.uint64)
    result = np.zeros(count, dtype=np.uint64)
    for offset in range(RUN_WORDS):
        result = result * np.uint64(0x9E3779B97F4A7C15) + hashed[offset : offset + count]
    return result
