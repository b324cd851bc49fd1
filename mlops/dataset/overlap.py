"""Distinguishes evaluation rows that the training data leaks in parts from stock phrases.

A short answer, or a part of one, that follows several different questions is a stock phrase ("I'm sorry, but …", the frame of a template)
and proves nothing, nor does a short answer such as "Yes." on its own. A long answer that occurs as a whole is a leak however many questions
precede it, because paraphrases of one question are different questions too.

Many rows can prove what single rows don't: a suite of which many answers are in the training data piece by piece has been leaked.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from mlops.dataset.leak_index import MANY_RUNS, Evidence, LeakIndex, Match, Overlap
from mlops.dataset.passages import STOCK_QUESTIONS, Part

__all__ = ["Leak", "Leaks", "Screen", "resolve"]

T = TypeVar("T")

COLLECTED_SHARE = 0.8
"""The share of an answer's runs that all training rows together must contain, if single ones prove nothing."""


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
