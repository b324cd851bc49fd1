"""Wilcoxon signed-rank test of paired differences, and the interval that results from inverting it.

Wilcoxon (1945) tests whether differences are symmetric about a threshold. The thresholds that it does not reject form the interval of the
pseudo-median, the median of all averages of two differences (Hodges & Lehmann 1963; Hollander, Wolfe & Chicken 2014, §3.1–3.3). The test is
about a typical row: every row counts the same, a few extreme rows have little influence, and if differences are skewed it is not about the
mean. P-values are those of :func:`scipy.stats.wilcoxon`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np

from mlops.judging.statistics.estimate import Estimate, Floats, no_evidence, significance_level

__all__ = ["signed_rank"]

_EXACT_ROWS = 50
"""Up to this many rows scipy computes exact p-values by default."""


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
    # The upper end is computed as the lower end of the negated differences, so both are exactly symmetric.
    limit, both = significance_level(confidence), (ascending, -ascending[::-1])
    low, high = (_last_positive(functools.partial(_rejection, limit=limit), values) for values in both)
    lower, upper = (_last_positive(_rank_sum_lead, values) for values in both)
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


def _rejection(shifted: Floats, limit: float) -> float:
    """Return a positive number if the test rejects "centered at 0 or below". It is nearly linear in the shift, so root finding is fast."""
    from scipy.special import ndtri

    p = _p(shifted)
    # A p-value equal to the limit also rejects: exact p-values are fractions of 2 ** rows and can be equal to it.
    return 1.0 if p == limit else float(ndtri(limit) - ndtri(max(p, 1e-300)))


def _rank_sum_lead(shifted: Floats) -> float:
    """Return the rank sum of the positive values minus that of the negative ones, minus a small number, so that a tie is negative."""
    from scipy.stats import rankdata

    return float((np.sign(shifted) * rankdata(np.abs(shifted))).sum()) - 0.1


def _last_positive(statistic: Callable[[Floats], float], values: Floats) -> float:
    """Return the largest threshold at which the statistic of the shifted values is positive. The statistic falls with the threshold."""
    from scipy.optimize import brentq

    smallest, largest = float(values.min()), float(values.max())
    spread = largest - smallest
    if not statistic(values - (smallest - spread)) > 0:
        return -math.inf
    step = max(1e-9 * spread, 8 * math.ulp(max(-smallest, largest)))
    root = brentq(lambda threshold: statistic(values - threshold), smallest - spread, largest + spread, xtol=step)
    # The root may be one step off to either side, and the result must be a threshold at which the statistic is positive.
    return float(root) - 2 * step
