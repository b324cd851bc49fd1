"""Ranks of paired differences: the Wilcoxon signed-rank test and the interval that it inverts to.

Wilcoxon (1945) tests whether differences lie symmetrically about a threshold; the thresholds that it does not refuse are the interval of
the pseudo-median, the median of all averages of two differences (Hodges & Lehmann 1963; Hollander, Wolfe & Chicken 2014, §3.1–3.3). It is
about a typical row: every row counts the same, few extreme rows decide nothing, and where differences are skewed it is not about the
mean. P-values are those of :func:`scipy.stats.wilcoxon`.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from mlops.judging.statistics.bootstrap import Estimate, level, nothing_shown

__all__ = ["signed_rank"]

Floats = npt.NDArray[np.float64]


_EXACT_ROWS = 50
"""As many as scipy takes for exact by itself."""


def signed_rank(differences: Floats, *, confidence: float) -> Estimate:
    """Pseudo-median of differences with the interval of the signed-rank test.

    Up to 50 rows the p-values are exact; beyond, they are those of the normal approximation with continuity correction and a variance
    corrected for ties. Tied rows share their ranks; the exact ones then take the distribution without ties, and with half a dozen rows of
    two values can be off by half a percent. A difference on the threshold counts half for either side (``zero_method="zsplit"``) instead of
    being dropped: rows on which the models are equal speak for "no difference", and where most are, no margin of 0 can be beaten.

    Args:
        differences: shape [rows], candidate minus reference.
        confidence: of the two-sided interval, e.g. 0.95.

    Returns:
        The estimate, of which the standard error is the interval's half width over its normal quantile. The interval is infinite where
        rows are too few for anything to be refused (under six at 95 %), where all are equal, and where one is not finite.

    Raises:
        ValueError: no rows.
    """
    if not len(differences):
        raise ValueError("the signed-rank test needs rows")
    # Sorted, the ranks are found in one merge, and the order of the rows can't matter.
    rising = np.sort(differences)
    if not np.isfinite(rising).all() or rising[-1] == rising[0]:
        middle = float(rising[0]) if math.isfinite(rising[0]) and rising[-1] == rising[0] else math.nan
        return Estimate(middle, -math.inf, math.inf, math.nan, confidence, nothing_shown)
    # What is found below in the negated differences is found above in these: so the two are symmetric to the last bit.
    limit, both = level(confidence), (rising, -rising[::-1])
    low, high = (_last(functools.partial(_refused, limit=limit), values) for values in both)
    lower, upper = (_last(_lead, values) for values in both)
    error = (low + high) / -2 / NormalDist().inv_cdf(1 - limit)
    return Estimate((lower - upper) / 2, low, -high, error, confidence, functools.partial(_tails, *both))


def _tails(rising: Floats, negated: Floats, threshold: float) -> tuple[float, float]:
    return _p(rising - threshold), _p(negated + threshold)


def _p(shifted: Floats) -> float:
    """P-value of "these lie about 0 or below"."""
    from scipy.stats import wilcoxon

    exact = len(shifted) <= _EXACT_ROWS
    found = wilcoxon(shifted, alternative="greater", zero_method="zsplit", correction=not exact, method="exact" if exact else "auto")
    return float(found.pvalue)


def _refused(shifted: Floats, limit: float) -> float:
    """Positive where the test refuses "these lie about 0 or below"; nearly linear in the shift, so that a root is found in few steps."""
    from scipy.special import ndtri

    p = _p(shifted)
    # On the limit is refused, too: exact p-values are fractions of 2 ** rows and can be on it.
    return 1.0 if p == limit else float(ndtri(limit) - ndtri(max(p, 1e-300)))


def _lead(shifted: Floats) -> float:
    """Ranks of the positive values minus those of the negative, less than the smallest step, so that a draw is no lead."""
    from scipy.stats import rankdata

    return float((np.sign(shifted) * rankdata(np.abs(shifted))).sum()) - 0.1


def _last(refused: Callable[[Floats], float], values: Floats) -> float:
    """The largest threshold at which ``refused`` of the shifted values is still positive; it falls with the threshold."""
    from scipy.optimize import brentq

    least, most = float(values.min()), float(values.max())
    spread = most - least
    if not refused(values - (least - spread)) > 0:
        return -math.inf
    step = max(1e-9 * spread, 8 * math.ulp(max(-least, most)))
    found = brentq(lambda threshold: refused(values - threshold), least - spread, most + spread, xtol=step)
    # The root may be a step off to either side, and an end must not be beyond what is refused.
    return float(found) - 2 * step
