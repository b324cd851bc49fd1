"""Wilcoxon signed-rank test of paired differences, and the interval that results from inverting it.

Wilcoxon (1945) tests whether differences are symmetric about a threshold. The thresholds that it does not reject form the interval of the
pseudo-median, the median of all averages of two differences (Hodges & Lehmann 1963; Hollander, Wolfe & Chicken 2014, §3.1–3.3). The test is
about a typical row: every row counts the same, a few extreme rows have little influence, and if differences are skewed it is not about the
mean. P-values are those of :func:`scipy.stats.wilcoxon`.

The rank sum at a threshold is the number of these averages (Walsh averages) above it. It only changes at an average, so each end of the
interval is the average at which it reaches its critical value, and no root has to be searched.
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

import numpy as np

from mlops.judging.statistics.estimate import Estimate, Floats, no_evidence, significance_level

__all__ = ["signed_rank"]

_EXACT_ROWS = 50
"""Maximum number of rows for which scipy computes exact p-values by default."""
_ENUMERATED_ROWS = 700
"""Maximum number of rows for which all averages are computed; beyond it, the relevant average is bracketed."""


def signed_rank(differences: Floats, *, confidence: float) -> Estimate:
    """Estimate the pseudo-median of differences with the interval of the signed-rank test.

    P-values are exact for up to 50 rows. Beyond that, they are those of the normal approximation with continuity correction and a variance
    corrected for ties. Tied rows share their ranks. Exact p-values ignore ties; with half a dozen rows of two values they can be off by
    half a percentage point. A difference on the threshold counts half for each side (``zero_method="zsplit"``) and is not dropped: rows on
    which the models are equal are evidence of "no difference", and if most rows are equal, no candidate can be shown to beat a margin of 0.

    Args:
        differences: shape [rows], candidate minus reference.
        confidence: of the two-sided interval, e.g. 0.95.

    Returns:
        The estimate. Its standard error is the interval's half width over the normal quantile. The interval is infinite if there are too
        few rows to reject anything (fewer than six at 95 %), if all rows are equal, or if a row is not finite.

    Raises:
        ValueError: there are no rows.
    """
    if not len(differences):
        raise ValueError("the signed-rank test needs rows")
    # With sorted rows, ranking is a single merge, and the order of the rows can't matter.
    ascending = np.sort(differences)
    if not np.isfinite(ascending).all() or ascending[-1] == ascending[0]:
        value = float(ascending[0]) if math.isfinite(ascending[0]) and ascending[-1] == ascending[0] else math.nan
        return Estimate(value, -math.inf, math.inf, math.nan, confidence, no_evidence)
    limit, both = significance_level(confidence), (ascending, -ascending[::-1])
    averages = len(ascending) * (len(ascending) + 1) // 2
    # The upper end is computed as the lower end of the negated differences, so both are exactly symmetric.
    low, high = (_last_rejected(values, averages - _critical_rank_sum(values, limit)) for values in both)
    lower, upper = (_walsh_average(values, (averages - 1) // 2) for values in both)
    error = (low + high) / -2 / NormalDist().inv_cdf(1 - limit)
    return Estimate((lower - upper) / 2, low, -high, error, confidence, functools.partial(_tails, *both))


def _tails(ascending: Floats, negated: Floats, threshold: float) -> tuple[float, float]:
    return _p(ascending - threshold), _p(negated + threshold)


def _p(shifted: Floats) -> float:
    """Return the p-value of "these values are centered at 0 or below"."""
    from scipy.stats import wilcoxon

    exact = len(shifted) <= _EXACT_ROWS
    result = wilcoxon(shifted, alternative="greater", zero_method="zsplit", correction=not exact, method="exact" if exact else "auto")
    return float(result.pvalue)


def _critical_rank_sum(values: Floats, limit: float) -> int:
    """Return the smallest rank sum of the positive values whose p-value is at most the limit; one more than there are if there is none."""
    rows = len(values)
    if rows <= _EXACT_ROWS:
        # A p-value equal to the limit also rejects: exact p-values are fractions of 2 ** rows and can be equal to it.
        return int(np.searchsorted(-_exact_tails(rows), -limit))
    from scipy.special import ndtr

    # Between two averages only rows with equal differences are tied, whatever the threshold.
    _, ties = np.unique(values, return_counts=True)
    mean = rows * (rows + 1) / 4
    deviation = math.sqrt(rows * (rows + 1) * (2 * rows + 1) / 24 - float((ties.astype(float) ** 3 - ties).sum()) / 48)
    critical = max(0, math.floor(mean + 0.5 + deviation * NormalDist().inv_cdf(1 - limit)) - 1)
    while ndtr(-(critical - mean - 0.5) / deviation) > limit:
        critical += 1
    return critical


@functools.cache
def _exact_tails(rows: int) -> Floats:
    """Return the probability of each rank sum or a larger one if all signs are equally likely: shape [rows (rows + 1) / 2 + 1]."""
    counts = [1]
    for rank in range(1, rows + 1):
        shifted = [0] * rank + counts
        counts = [a + b for a, b in zip(shifted, counts + [0] * rank, strict=True)]
    tails, total = [0.0] * len(counts), 0
    for rank_sum in range(len(counts) - 1, -1, -1):
        total += counts[rank_sum]
        tails[rank_sum] = total / 2**rows
    return np.array(tails)


def _last_rejected(values: Floats, index: int) -> float:
    """Return the largest threshold that is rejected: barely below the average with this index; minus infinity if none is."""
    if index < 0:
        return -math.inf
    smallest, largest = float(values[0]), float(values[-1])
    # Far enough that the ranks at this threshold don't depend on rounding.
    return _walsh_average(values, index) - max(2e-9 * (largest - smallest), 16 * math.ulp(max(-smallest, largest)))


def _walsh_average(ascending: Floats, index: int) -> float:
    """Return the average of two values (or of one with itself) that has this index among all of them in ascending order."""
    rows = len(ascending)
    if rows <= _ENUMERATED_ROWS:
        first, second = _pairs(rows)
        sums = ascending[first] + ascending[second]
        return float(np.partition(sums, index)[index]) / 2
    below, above = 2 * float(ascending[0]), 2 * float(ascending[-1])
    step = 1e-10 * (above - below)
    while above - below > step and (middle := below + (above - below) / 2) not in (below, above):
        # Row i has partners up to the returned position; those before i are counted by the other row.
        partners = np.searchsorted(ascending, middle - ascending, side="right")
        at_most = (int(partners.sum()) + int(np.count_nonzero(2 * ascending <= middle))) // 2
        below, above = (below, middle) if at_most > index else (middle, above)
    return above / 2


@functools.lru_cache(maxsize=4)
def _pairs(rows: int) -> tuple[np.ndarray[tuple[int], np.dtype[np.intp]], np.ndarray[tuple[int], np.dtype[np.intp]]]:
    first, second = np.triu_indices(rows)
    return first, second
