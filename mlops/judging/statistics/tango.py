"""Score interval for the difference of two paired shares, e.g. of answers that loop.

Tango (1998) inverts the score test of "the difference is Δ". Unlike a bootstrap it has an interval if no row differs at all, where the rule
of three applies: with n rows and none of them different, a difference of about 3.8 / n can't be excluded at 97.5 %. It needs no rows to be
discordant, and unlike McNemar's test it supports a margin.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from mlops.judging.statistics.estimate import Estimate, significance_level

__all__ = ["tango"]

Flags = npt.NDArray[np.bool_]


def tango(candidate: Flags, reference: Flags, *, confidence: float) -> Estimate:
    """Estimate the share of the candidate's rows that have a property minus that of the reference's.

    Args:
        candidate: shape [rows], whether each row has the property.
        reference: shape [rows], the same rows.
        confidence: of the two-sided interval, e.g. 0.95.

    Raises:
        ValueError: there are no rows, the models have different numbers of rows, or the rows are not booleans.
    """
    if len(candidate) != len(reference) or not len(candidate) or candidate.dtype != np.bool_ or reference.dtype != np.bool_:
        raise ValueError(f"the score test needs the same rows of both models as booleans, not {len(candidate)} and {len(reference)} rows")
    rows, only_candidate, only_reference = len(candidate), int((candidate & ~reference).sum()), int((reference & ~candidate).sum())
    z = NormalDist().inv_cdf(1 - significance_level(confidence))
    # The lower end is the negated upper end of the swapped models, so that both are exactly symmetric.
    high, low = _upper(only_candidate, only_reference, rows, z), -_upper(only_reference, only_candidate, rows, z)
    value = (only_candidate - only_reference) / rows
    tails = functools.partial(_tails, only_candidate, only_reference, rows)
    return Estimate(value, low, high, (high - low) / 2 / z, confidence, tails)


def _tails(only_candidate: int, only_reference: int, rows: int, threshold: float) -> tuple[float, float]:
    above, below = (
        _statistic(only_candidate, only_reference, rows, threshold),
        _statistic(only_reference, only_candidate, rows, -threshold),
    )
    return 1 - NormalDist().cdf(above), 1 - NormalDist().cdf(below)


def _statistic(gained: int, lost: int, rows: int, difference: float) -> float:
    """Return how many standard errors the observed difference is above the hypothetical one. The rest are estimated under it."""
    distance = gained - lost - rows * difference
    a = 2 * rows
    b = -gained - lost + (2 * rows - gained + lost) * difference
    c = -lost * difference * (1 - difference)
    share = (math.sqrt(max(0.0, b * b - 4 * a * c)) - b) / (2 * a)
    variance = rows * (2 * share + difference * (1 - difference))
    if variance <= 0:
        return math.copysign(math.inf, distance) if distance else 0.0
    return distance / math.sqrt(variance)


def _upper(gained: int, lost: int, rows: int, z: float) -> float:
    """Return the difference above which the score test rejects."""
    low, high = (gained - lost) / rows, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _statistic(gained, lost, rows, middle) > -z else (low, middle)
    return high
