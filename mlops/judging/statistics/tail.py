"""Exact test of the share of rows that got much worse, whatever the mean says.

A mean can improve while a few rows get much worse. Whether a row is worse by more than a given amount is a Bernoulli trial with an unknown
probability, so the share has the exact interval of Clopper and Pearson (1934), even if no such row was seen.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlops.judging.statistics.estimate import significance_level

__all__ = ["Tail", "tail"]


@dataclass(frozen=True)
class Tail:
    """A share of rows with its two-sided interval, as fractions, and the p-value of "the share is at most the limit"."""

    share: float
    low: float
    high: float
    p_within: float


def tail(flags: npt.NDArray[np.bool_], limit: float, *, confidence: float) -> Tail:
    """Estimate the share of rows that are much worse, and test whether it is at most a limit.

    Args:
        flags: shape [rows], whether each row is much worse.
        limit: the largest share that is tolerated, a fraction.
        confidence: of the two-sided interval, e.g. 0.95; the coverage is at least that.

    Raises:
        ValueError: there are no rows.
    """
    from scipy.stats import binomtest

    if not len(flags):
        raise ValueError("a share of no rows can't be estimated")
    count, rows = int(flags.sum()), len(flags)
    interval = binomtest(count, rows).proportion_ci(1 - 2 * significance_level(confidence), method="exact")
    p = binomtest(count, rows, limit, alternative="greater").pvalue
    return Tail(count / rows, float(interval.low), float(interval.high), float(p))
