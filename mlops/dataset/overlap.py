"""Finds evaluation rows that the training data leaks in parts: an answer after another turn, under a system message, or in a longer chat.

:mod:`mlops.dataset.checks` compares whole conversations. Here single answers are compared, independently of their context:

- a question together with its answer, or with nearly that answer if it is the first message,
- an answer of some length on its own,
- runs of 13 words, the unit of GPT-3's decontamination (Brown et al. 2020, appendix C). One shared run may be a quotation, so half of an
  answer's runs must occur in one training row, or a third if they are many. Rows with fewer shared runs are only counted.

A short answer, or a part of one, that follows several different questions is a stock phrase ("I'm sorry, but …", the frame of a template)
and proves nothing, nor does a short answer such as "Yes." on its own. A long answer that occurs as a whole is a leak however many questions
precede it, because paraphrases of one question are different questions too. Case, white space and punctuation don't count.

Many rows can prove what single rows don't: a suite of which many answers are in the training data piece by piece has been leaked.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, TypeVar

from mlops.dataset.conversation import Conversation, InvalidRow, Message, read_jsonl
from mlops.dataset.filters import BloomFilter
from mlops.dataset.hashes import TextHash, hash_ends, hash_text
from mlops.dataset.passages import RUN_WORDS, STOCK_QUESTIONS, Answers, Part, RunIndex
from mlops.dataset.resemblance import find_similar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Codes = npt.NDArray[np.uint8]

__all__ = ["BATCH", "EvaluatedRows", "Leak", "LeakIndex", "Leaks", "Overlap", "Screen", "find_leaks", "resolve"]

T = TypeVar("T")

BATCH = 32
"""Number of training rows that are looked up at once: enough for numpy, and few enough for the processor's cache."""
_MASK = 2**64 - 1
_WAITING = 256
"""Number of evaluation rows that are processed at once."""
_ENDS_PER_ELEMENT = 0.25
LEAKED_SHARE = 0.5
"""The share of an answer's runs of words that one training row must contain."""
MANY_RUNS, SHARE_OF_MANY = 10, 0.3
"""The share that suffices for at least this many runs: 22 words in a row aren't a coincidence, and single words may be changed."""
COLLECTED_SHARE = 0.8
"""The share of an answer's runs that all training rows together must contain, if single ones prove nothing."""
MAX_STOCK_BYTES, MAX_STOCK_WORDS = 100, 25
"""Maximum length of a stock phrase: in normalized bytes as a whole answer, or in words inside another text."""
LONG_QUESTION = 20
"""Minimum length, in normalized bytes, of a question whose answers are compared word by word."""
_CANDIDATES = 64
"""An answer is compared with at most this many answers to the same question."""
LONG_PAIR, LONG_ANSWER = 30, 45
"""Minimum lengths, in normalized bytes, of a question with its answer, and of an answer; shorter ones may be equal by chance."""


class Evidence(NamedTuple):
    """The common part of a training row and an evaluation row: the hash of a whole answer, or the runs of an answer with this number."""

    how: str
    key: int


class Match(NamedTuple):
    """A training row that contains an answer of an evaluation row, or part of one."""

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
    """The overlap of the training data with the suites, by suite.

    ``answers`` are rows of which it contains an answer; ``passages`` maps each line with an answer of which it contains a run of words to
    the first such line of the training data; ``collected`` are lines with an answer that is there nearly as a whole, but in pieces or as a
    stock phrase; ``rows`` is the number of rows.
    """

    answers: Mapping[str, Sequence[Leak]]
    passages: Mapping[str, Mapping[int, int]]
    collected: Mapping[str, Sequence[int]]
    rows: Mapping[str, int]


class Overlap(NamedTuple):
    """The overlap of a training row with the suites."""

    matches: Sequence[Match]
    passages: Sequence[tuple[tuple[str, int], int, Part]]
    """Suite and line of answers of which it contains runs of words, their numbers, and these runs."""


class _Positions:
    """The positions of hashes; a hash of 0 means that there is none."""

    def __init__(self, hashes: array[int]) -> None:
        import numpy as np

        values = np.frombuffer(hashes, dtype=np.uint64) if hashes else np.empty(0, dtype=np.uint64)
        self._order = np.argsort(values, kind="stable").astype(np.uint32)
        self._values = values[self._order]

    def find_first(self, hashes: Sequence[int]) -> list[int | None]:
        """Return the first position of each hash."""
        import numpy as np

        queries = np.array(hashes, dtype=np.uint64)
        places = np.searchsorted(self._values, queries)
        places[places == len(self._values)] = 0
        there = (self._values[places] == queries) & (queries != 0) if len(self._values) else np.zeros(len(queries), dtype=np.bool_)
        return [int(self._order[place]) if is_there else None for place, is_there in zip(places, there, strict=True)]

    def find_all(self, value: int) -> list[int]:
        """Return all positions of a hash."""
        import numpy as np

        first, last = (np.searchsorted(self._values, np.uint64(value), side=side) for side in ("left", "right"))
        positions: list[int] = self._order[first:last].tolist()
        return positions


class EvaluatedRows(NamedTuple):
    """Evaluation rows in the form that :class:`LeakIndex` stores, which another process can prepare. Each field has an entry per answer."""

    lines: Sequence[int]
    pairs: Sequence[int]
    answers: Sequence[int]
    ends: Sequence[int]
    """Hashes of the beginnings and ends of those that are compared as a whole, and of the questions."""
    runs: Answers

    @classmethod
    def encode(cls, rows: Sequence[tuple[int, Sequence[Message]]]) -> EvaluatedRows:
        """Prepare rows: line and messages."""
        turns = [(line, turn) for line, messages in rows for turn in _turns(messages, _hash_texts(messages))]
        questions = [message.content for _, messages in rows for message in messages if message.role == "user"]
        return cls(
            [line for line, _ in turns],
            [turn.pair for _, turn in turns],
            [turn.answer for _, turn in turns],
            hash_ends([*(turn.text for _, turn in turns if turn.pair or turn.answer), *questions])[0],
            Answers.encode([turn.text for _, turn in turns], [turn.question for _, turn in turns]),
        )


class LeakIndex:
    """An index of the answers of evaluation rows. All of them must be added before the first training row is looked up."""

    def __init__(self) -> None:
        self._places: list[tuple[str, int]] = []
        self._pairs, self._answers, self._ends = array("Q"), array("Q"), array("Q")
        self._runs = RunIndex()
        self._waiting: list[tuple[int, Sequence[Message]]] = []
        self._suite = ""

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to look up rows."""
        self._flush()
        return self.__dict__

    def add(self, suite: str, line: int, messages: Sequence[Message]) -> None:
        """Add an evaluation row."""
        if suite != self._suite or len(self._waiting) == _WAITING:
            self._flush()
        self._suite = suite
        self._waiting.append((line, messages))

    def add_encoded(self, suite: str, rows: EvaluatedRows, lines_before: int = 0) -> None:
        """Add evaluation rows that have been prepared. Their lines are counted from the one after ``lines_before``."""
        self._flush()
        self._add(suite, rows._replace(lines=[lines_before + line for line in rows.lines]))

    def add_file(self, suite: str, path: Path) -> int:
        """Add the rows of a JSON Lines file, and return their number; invalid ones are reported elsewhere."""
        line = 0
        for line, row in read_jsonl(path, Conversation):
            if not isinstance(row, InvalidRow):
                self.add(suite, line, row.messages)
        return line

    def _flush(self) -> None:
        if self._waiting:
            rows, self._waiting = self._waiting, []
            self._add(self._suite, EvaluatedRows.encode(rows))

    def _add(self, suite: str, rows: EvaluatedRows) -> None:
        self._places += [(suite, line) for line in rows.lines]
        self._pairs.extend(rows.pairs)
        self._answers.extend(rows.answers)
        self._ends.extend(rows.ends)
        self._runs.add(rows.runs)

    @cached_property
    def _by_pair(self) -> _Positions:
        self._flush()
        return _Positions(self._pairs)

    @cached_property
    def _by_answer(self) -> _Positions:
        self._flush()
        return _Positions(self._answers)

    @cached_property
    def _by_question(self) -> _Positions:
        self._flush()
        return _Positions(self._runs.questions)

    @cached_property
    def _end_filter(self) -> BloomFilter:
        import numpy as np

        self._flush()
        ends = BloomFilter.create(len(self._ends), _ENDS_PER_ELEMENT)
        ends.add(np.sort(np.array(self._ends, dtype=np.uint64)))
        return ends

    def screen(self, rows: Sequence[Sequence[str]], ends: Sequence[Sequence[int]], block: bytes | None = None) -> tuple[list[int], Codes]:
        """Return the numbers of the training rows that may leak something, which are few, and what to expect of them.

        Args:
            rows: the texts of their messages.
            ends: the hashes of the beginnings and ends of their answers, and perhaps of other messages.
            block: the rows as lines of JSON, perhaps with more messages, which are searched faster.
        """
        import numpy as np

        hits = np.flatnonzero(self._end_filter.contains(np.array([end for each in ends for end in each], dtype=np.uint64)))
        owners = np.searchsorted(np.cumsum([len(each) for each in ends]), hits, side="right")
        suspects, codes = self._runs.screen(rows, block)
        return sorted({*suspects, *owners.tolist()}), codes

    def expect(self, codes: Sequence[Codes]) -> None:
        """Announce some rows to be looked up; see :meth:`RunIndex.expect`."""
        self._runs.expect(codes)

    def questions(self, evidence: Evidence) -> set[int]:
        """Return the hashes of the questions before an answer in the suites."""
        texts = self._by_answer.find_all(evidence.key) if evidence.how == "answer" else [evidence.key]
        return {self._runs.questions[text] for text in texts}

    def find(self, rows: Sequence[tuple[Sequence[Message], Sequence[TextHash]]]) -> Iterator[Overlap]:
        """Yield what each training row leaks.

        Args:
            rows: their messages, and the hashes of those.
        """
        self._flush()
        turns = [list(_turns(messages, hashes)) for messages, hashes in rows]
        pairs = iter(self._by_pair.find_first([turn.pair for each in turns for turn in each]))
        answers = iter(self._by_answer.find_first([turn.answer for each in turns for turn in each]))
        shares = self._runs.find([[message.content for message in messages] for messages, _ in rows])
        for (messages, hashes), own_turns, owners in zip(rows, turns, shares, strict=True):
            matches: list[Match] = []
            for turn, pair, answer in zip(own_turns, pairs, answers, strict=False):
                if pair is not None:
                    how = "shares a question and its answer with a training row"
                    matches.append(Match(*self._places[pair], how, None, turn.question))
                elif answer is not None:
                    evidence = Evidence("answer", turn.answer) if turn.size <= MAX_STOCK_BYTES else None
                    matches.append(Match(*self._places[answer], "shares an answer with a training row", evidence, turn.question))
                elif (near := self._find_near_copy(turn)) is not None:
                    how = "shares a question and nearly its answer with a training row"
                    matches.append(Match(*self._places[near], how, None, turn.question))
            first = next((text.value for message, text in zip(messages, hashes, strict=True) if message.role == "user"), 0)
            for index, part in owners.items():
                if part.share >= LEAKED_SHARE or (part.share >= SHARE_OF_MANY and len(part.runs) >= MANY_RUNS):
                    how = f"has an answer of which {part.share:.0%} (in runs of {RUN_WORDS} words) is in a training row"
                    is_whole = part.share == 1 and part.of > MAX_STOCK_WORDS - RUN_WORDS + 1
                    matches.append(Match(*self._places[index], how, None if is_whole else Evidence("runs", index), first))
            yield Overlap(matches, [(self._places[index], index, part) for index, part in owners.items()])

    def _find_near_copy(self, turn: _Turn) -> int | None:
        """Return the first answer to the same question that this answer is nearly equal to."""
        candidates = self._by_question.find_all(turn.question)[:_CANDIDATES] if turn.question_size >= LONG_QUESTION else []
        index = find_similar(turn.text, self._runs.read(candidates)) if candidates else None
        return None if index is None else candidates[index]


class _Stock:
    """Distinguishes stock phrases from leaks, by the questions before them in the suites and in the training rows so far."""

    def __init__(self, index: LeakIndex) -> None:
        self._index = index
        self._questions: dict[Evidence, set[int]] = {}

    def add(self, match: Match) -> None:
        if match.evidence is not None:
            if match.evidence not in self._questions:
                self._questions[match.evidence] = self._index.questions(match.evidence)
            self._questions[match.evidence].add(match.question)

    def contains(self, evidence: Evidence) -> bool:
        return len(self._questions[evidence]) >= STOCK_QUESTIONS


class Screen(Generic[T]):
    """Withholds the training rows that leak evaluation rows.

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
            matches: what the row leaks.
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
    """Return what the training data leaks: each row of a suite once, in the order of the training data.

    Args:
        training: the training split, JSON Lines, read once.
        suites: name → file, JSON Lines. All their runs of words are in memory, 16 bytes each.
    """
    index = LeakIndex()
    rows = {suite: index.add_file(suite, path) for suite, path in suites.items()}
    return resolve(index, _search(index, training), rows)


def _search(index: LeakIndex, training: Path) -> Iterator[tuple[int, Overlap]]:
    valid = ((number, row.messages) for number, row in read_jsonl(training, Conversation) if not isinstance(row, InvalidRow))
    while batch := list(islice(valid, BATCH)):
        shared = index.find([(messages, _hash_texts(messages)) for _, messages in batch])
        yield from zip((number for number, _ in batch), shared, strict=True)


def resolve(index: LeakIndex, shared: Iterable[tuple[int, Overlap]], rows: Mapping[str, int]) -> Leaks:
    """Distinguish leaks from stock phrases.

    Args:
        index: the suites.
        shared: line of the training data, in order, and what it leaks; lines without leaks may be omitted.
        rows: suite → its number of rows.
    """
    stock = _Stock(index)
    candidates: dict[tuple[str, int, Evidence | None], Leak] = {}
    first_lines: dict[tuple[str, int], int] = {}
    collected: dict[tuple[tuple[str, int], int], Part] = {}
    for number, (matches, passages) in shared:
        for place, answer, part in passages:
            first_lines.setdefault(place, number)
            earlier = collected.get((place, answer))
            collected[place, answer] = part if earlier is None else part._replace(runs=part.runs | earlier.runs)
        for match in matches:
            stock.add(match)
            leak = Leak(match.suite, match.line, number, match.description)
            candidates.setdefault((match.suite, match.line, match.evidence), leak)
    leaks: dict[tuple[str, int], Leak] = {}
    for (suite, line, evidence), leak in candidates.items():
        if evidence is None or not stock.contains(evidence):
            leaks.setdefault((suite, line), leak)
    in_pieces = sorted({place for (place, _), part in collected.items() if part.share >= COLLECTED_SHARE and part.of >= MANY_RUNS})
    return Leaks(
        answers={suite: [leak for leak in leaks.values() if leak.suite == suite] for suite in rows},
        passages={suite: {line: first for (name, line), first in sorted(first_lines.items()) if name == suite} for suite in rows},
        collected={suite: [line for name, line in in_pieces if name == suite] for suite in rows},
        rows=rows,
    )


def _hash_texts(messages: Sequence[Message]) -> list[TextHash]:
    return [hash_text(message.content) for message in messages]


class _Turn(NamedTuple):
    text: str
    size: int
    """Size in normalized bytes."""
    question: int
    """Hash of the user's turn before it."""
    question_size: int
    pair: int
    """Hash of question and answer, or 0 if they are too short."""
    answer: int
    """Hash of the answer, or 0 if it is too short."""


def _turns(messages: Sequence[Message], hashes: Sequence[TextHash]) -> Iterator[_Turn]:
    """Yield the answers of a conversation."""
    question = TextHash(0, 0)
    for message, text in zip(messages, hashes, strict=True):
        if message.role == "assistant":
            is_long = question.size and question.size + text.size >= LONG_PAIR
            pair = hash((question.value, text.value)) & _MASK if is_long else 0
            answer = text.value if text.size >= LONG_ANSWER else 0
            yield _Turn(message.content, text.size, *question, pair, answer)
        question = text if message.role == "user" else TextHash(0, 0)
