"""Finds evaluation rows that the training data leaks in parts: an answer after another turn, under a system message, or in a longer chat.

:mod:`mlops.dataset.checks` compares whole conversations. Here single answers are compared, independently of their context:

- a question together with its answer, or with nearly that answer if it is the first message,
- an answer of some length on its own,
- runs of 13 words, the unit of GPT-3's decontamination (Brown et al. 2020, appendix C). One shared run may be a quotation, so half of an
  answer's runs must occur in one training row, or a third if they are many. Rows with fewer shared runs are only counted.

Case, white space and punctuation don't count. :mod:`mlops.dataset.overlap` decides what a match proves.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from mlops.dataset.conversation import Conversation, InvalidRow, Message, read_jsonl
from mlops.dataset.filters import BloomFilter
from mlops.dataset.hashes import TextHash, hash_ends, hash_text
from mlops.dataset.passages import RUN_WORDS, Answers, Part, RunIndex
from mlops.dataset.resemblance import find_similar

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Codes = npt.NDArray[np.uint8]

__all__ = ["BATCH", "EvaluatedRows", "Evidence", "LeakIndex", "Match", "Overlap"]

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
