"""Detects copies of rows in score files without inputs, which only the scores themselves can reveal.

Scores with few possible values are often equal by chance, so equal rows alone aren't evidence of copies. Two patterns are, because
chance hardly explains them: several different rows that are repeated although their scores have more digits than a count, a rounded
number or a fraction; and combinations of scores whose frequencies all have a common divisor. Rows with few possible scores that were
copied different numbers of times can't be detected.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

from mlops.judging.metric_table import Floats
from mlops.judging.validity import MAX_REPEATED

__all__ = ["describe_copies"]

_MAX_LIMITS = 4
"""Up to this number of repeated values may be limits of a metric, e.g. the largest loss that is counted, in one or both files."""
_LARGEST_DENOMINATOR = 1000
_ROUNDED = 6
"""In significant digits. A score with more of them was not rounded."""
_CHANCE = 1e-3


def describe_copies(columns: Sequence[Floats], ids: Sequence[str]) -> str | None:
    """Describe the rows that are copies by their scores, or return None.

    Args:
        columns: scores, each of shape [rows].
        ids: of the rows.
    """
    rows = list(zip(*([f"{value:.9g}" for value in column.tolist()] for column in columns), strict=True))
    counts = Counter(rows)
    scores = dict(zip(rows, zip(*(column.tolist() for column in columns), strict=True), strict=True))
    copied = {row for row, count in counts.items() if count > 1 and any(map(_is_measured, scores[row]))}
    further = sum(counts[row] - 1 for row in copied)
    if len(copied) > _MAX_LIMITS and further > MAX_REPEATED * len(rows):
        first = next(row for row in rows if row in copied)
        one, other = [name for name, row in zip(ids, rows, strict=True) if row == first][:2]
        return f"{further:,} of {len(rows):,} rows repeat the scores of another row to nine digits. {other} is a copy of {one}"
    times = math.gcd(*counts.values())
    if times > 1 and _chance_of_divisor(times, len(counts), len(rows)) < _CHANCE:
        return f"{len(counts):,} combinations of scores occur {times:,} times each, or a multiple of it, which chance does not explain"
    return None


def _is_measured(score: float) -> bool:
    """Whether a score has more digits than a count, a rounded number or a simple fraction, in double or single precision."""
    if not math.isfinite(score):
        return False
    simple = (float(f"{score:.{_ROUNDED}g}"), float(Fraction(score).limit_denominator(_LARGEST_DENOMINATOR)))
    with np.errstate(over="ignore"):
        return not any(math.isclose(score, each, rel_tol=1e-12) or score == float(np.float32(each)) for each in simple)


def _chance_of_divisor(divisor: int, combinations: int, rows: int) -> float:
    """Return how likely it is that the frequencies of all combinations have a common divisor that is at least as large.

    A frequency is divisible by k once in k times, and the last one follows from the others and the number of rows.
    """
    return math.fsum(each ** (1.0 - combinations) for each in range(divisor, rows + 1) if rows % each == 0)
