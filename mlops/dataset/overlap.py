"""Evaluation rows that the training data gives away in parts: an answer behind one more turn, under a system message, or in a longer chat.

:mod:`mlops.dataset.checks` compares whole conversations. Here single answers are compared, in three ways that don't depend on what is
around them:

- a question together with its answer,
- an answer of some length on its own,
- runs of 13 words, the unit of GPT-3's decontamination (Brown et al. 2020, appendix C). One shared run may be a stock phrase, so half of an
  answer's runs must occur in one training row.

Short answers such as "Yes." prove nothing on their own. Case, white space and punctuation don't count.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mlops.dataset.conversation import Conversation, InvalidRow, Message, hash64, normalize, read_jsonl

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]

__all__ = ["Leak", "LeakIndex", "find_leaks"]

RUN_WORDS = 13
LEAKED_SHARE = 0.5
"""The share of an answer's runs of words that one training row must contain."""
LONG_PAIR, LONG_ANSWER = 30, 45
"""In normalized bytes. A question and answer, or an answer, below these lengths may be equal by chance."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Leak:
    """An evaluation row, and the training row that contains an answer of it."""

    suite: str
    line: int
    training_line: int
    how: str
    """Completes "line 3, which …"."""


class LeakIndex:
    """The answers of evaluation rows, to look training rows up in."""

    def __init__(self) -> None:
        self._pairs: dict[int, tuple[str, int]] = {}
        self._answers: dict[int, tuple[str, int]] = {}
        self._owners: list[tuple[str, int]] = []
        """Suite and line of each answer that has runs of words."""
        self._runs: list[Hashes] = []
        self._sorted: tuple[Hashes, npt.NDArray[np.intp]] | None = None

    def add(self, suite: str, line: int, messages: Sequence[Message]) -> None:
        """Add an evaluation row."""
        import numpy as np

        for pair, answer, text in _answers(messages):
            if pair is not None:
                self._pairs.setdefault(pair, (suite, line))
            if answer is not None:
                self._answers.setdefault(answer, (suite, line))
            runs = np.unique(_runs(text))
            if len(runs):
                self._owners.append((suite, line))
                self._runs.append(runs)
        self._sorted = None

    def add_file(self, suite: str, path: Path) -> None:
        """Add the rows of a JSON Lines file; invalid ones are reported elsewhere."""
        for line, row in read_jsonl(path, Conversation):
            if not isinstance(row, InvalidRow):
                self.add(suite, line, row.messages)

    def find(self, messages: Sequence[Message]) -> Iterator[tuple[str, int, str]]:
        """Yield suite, line and explanation of each evaluation row that a training row gives away."""
        import numpy as np

        for pair, answer, _ in _answers(messages):
            if pair is not None and pair in self._pairs:
                yield *self._pairs[pair], "has a question and its answer in a training row"
            elif answer is not None and answer in self._answers:
                yield *self._answers[answer], "has an answer that is in a training row"
        runs, owners = self._lookup()
        if not len(runs):
            return
        own = np.unique(np.concatenate([_runs(message.content) for message in messages] or [runs[:0]]))
        first, last = np.searchsorted(runs, own, side="left"), np.searchsorted(runs, own, side="right")
        if not (hits := np.flatnonzero(last > first)).size:
            return
        counts = np.bincount(np.concatenate([owners[first[hit] : last[hit]] for hit in hits]), minlength=len(self._owners))
        for index in np.flatnonzero(counts):
            if counts[index] >= LEAKED_SHARE * len(self._runs[index]):
                share = f"{counts[index] / len(self._runs[index]):.0%}"
                yield *self._owners[index], f"has an answer of which {share} (in runs of {RUN_WORDS} words) is in a training row"

    def _lookup(self) -> tuple[Hashes, npt.NDArray[np.intp]]:
        """Return all runs in ascending order, and the answer that each belongs to."""
        import numpy as np

        if self._sorted is None:
            runs = np.concatenate([np.empty(0, dtype=np.uint64), *self._runs])
            owners = np.repeat(np.arange(len(self._runs)), [len(each) for each in self._runs])
            order = np.argsort(runs, kind="stable")
            self._sorted = runs[order], owners[order]
        return self._sorted


def find_leaks(training: Path, suites: Mapping[str, Path]) -> dict[str, list[Leak]]:
    """Return suite → its rows that the training data gives away, each once, in the order of the training data.

    Args:
        training: the training split, JSON Lines.
        suites: name → file, JSON Lines.
    """
    index = LeakIndex()
    for suite, path in suites.items():
        index.add_file(suite, path)
    leaks: dict[tuple[str, int], Leak] = {}
    for training_line, row in read_jsonl(training, Conversation):
        if not isinstance(row, InvalidRow):
            for suite, line, how in index.find(row.messages):
                leaks.setdefault((suite, line), Leak(suite, line, training_line, how))
    by_suite: dict[str, list[Leak]] = {}
    for leak in leaks.values():
        by_suite.setdefault(leak.suite, []).append(leak)
    return by_suite


def _answers(messages: Sequence[Message]) -> Iterator[tuple[int | None, int | None, str]]:
    """Yield the hash of each answer with its question, the hash of the answer alone, and the answer. A hash of too short a text is None."""
    question = b""
    for message in messages:
        text = normalize(message.content)
        if message.role == "assistant":
            pair = hash64(question, text) if question and len(question) + len(text) >= LONG_PAIR else None
            yield pair, hash64(text) if len(text) >= LONG_ANSWER else None, message.content
        question = text if message.role == "user" else b""


def _runs(text: str) -> Hashes:
    """Return the hashes of all runs of words in a text. They are only comparable within one process."""
    import numpy as np

    words = _WORD.findall(text.casefold())
    if len(words) < RUN_WORDS:
        return np.empty(0, dtype=np.uint64)
    hashed = np.array([hash(word) for word in words], dtype=np.int64).view(np.uint64)
    count = len(words) - RUN_WORDS + 1
    result = np.zeros(count, dtype=np.uint64)
    for offset in range(RUN_WORDS):
        result = result * np.uint64(0x9E3779B97F4A7C15) + hashed[offset : offset + count]
    return result
