"""Interval, p-value and power of a ratio of sums over rows: Σ numerator / Σ denominator.

All per-token metrics are such ratios (Σ nll / Σ tokens), and so is a relative change of one (Σ (candidate − baseline) / Σ baseline).

The interval is a studentized bootstrap over rows (Davison & Hinkley 1997, §5.2.1). On its own it is too short for 100 rows with heavy tails
and unequal weights, so it is widened:

- The standard error is the jackknife's (Efron & Stein 1981), which accounts for the influence of heavy rows. Resamples are studentized
  with the linearized standard error.
- Resamples contain no row more extreme than those of the sample, so they understate the uncertainty of the standard error. Their quantiles
  are stretched by 1 + (κ − 1) / n, where κ is the kurtosis of the residuals: (κ − 1) / n is the relative variance of the squared standard
  error.
- For the same reason resamples understate skewness. On the side of the long tail they are stretched by 1 + 0.2 γ / √n, where γ is the
  skewness of the residuals. The factor was chosen by measurement.
- Each end is at least as far away as that of Student's t. Its symmetric ends are correct for symmetric rows, however heavy their tails, and
  wrong for skewed ones.

BCa is not used because it ignores the uncertainty of the standard error. benchmarks/gate.py measures all of this: the methods side by side,
coverage, false promotions and power. Negated numerators give exactly the negated interval.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from mlops.judging.statistics.estimate import Estimate, Floats, no_evidence, significance_level

__all__ = ["RESAMPLES", "SEED", "paired_bootstrap"]

RESAMPLES = 9_999
"""Odd, so that the quantiles for the usual confidences are resamples and need no interpolation."""
SEED = 20240131
"""Seed of every run, so that a verdict can be reproduced."""

_GROUPS = 512
"""If there are more rows than this, they are pooled at random into this many groups, and the groups are resampled. The studentized
statistic of sums over groups has the same distribution to second order, and the cost no longer grows with the number of rows."""
_SKEWNESS_CORRECTION = 0.2
"""The share of the skewness that the resamples are assumed to miss."""
_DRAWS_AT_ONCE = 2**20


def paired_bootstrap(
    numerator: Floats, denominator: Floats, *, confidence: float, resamples: int = RESAMPLES, seed: int = SEED
) -> Estimate:
    """Estimate Σ numerator / Σ denominator with a bootstrap interval.

    Args:
        numerator: shape [rows]; in a paired comparison, the rows' differences.
        denominator: shape [rows]; the rows' weights, which must not be negative.
        confidence: of the two-sided interval, e.g. 0.95.
        resamples: of the bootstrap; no p-value is below 1 / (resamples + 1).
        seed: of the bootstrap.

    Returns:
        The estimate. The interval is infinite if the rows differ too little, if a row is not finite, or if there are too few resamples for
        the confidence.

    Raises:
        ValueError: there are fewer than two rows, or weights are negative or sum to 0.
    """
    rows = len(numerator)
    if rows < 2 or len(denominator) != rows:
        raise ValueError(f"the bootstrap needs at least two rows and one weight per row, not {rows} rows and {len(denominator)} weights")
    if not denominator.sum() > 0 or (denominator < 0).any():
        raise ValueError("weights must not be negative, and their sum must be positive")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        value = float(numerator.sum() / denominator.sum())
        residuals = numerator - value * denominator
        spread = math.sqrt((residuals**2).mean())
        error = _jackknife(residuals, denominator)
    if not 0 < error < math.inf:
        return Estimate(value, -math.inf, math.inf, error, confidence, no_evidence)
    scaled = residuals / spread
    kurtosis = float(((scaled**2) ** 2).mean())
    pivots = _pivots(*_pool_groups(scaled, denominator / denominator.mean(), seed), resamples, seed)
    # With AVX-512, NumPy's third power of -x is not exactly that of x, negated. A product is.
    skewness = float((scaled**2 * scaled).mean()) / math.sqrt(rows)
    pivots *= (1 + (kurtosis - 1) / rows) * np.where(
        pivots < 0, 1 + _SKEWNESS_CORRECTION * max(skewness, 0.0), 1 + _SKEWNESS_CORRECTION * max(-skewness, 0.0)
    )
    farthest, nearest = _quantiles(pivots, rows, significance_level(confidence))
    tails = functools.partial(_tails, pivots, rows, value, error)
    return Estimate(value, value - error * farthest, value - error * nearest, error, confidence, tails)


def _jackknife(residuals: Floats, denominator: Floats) -> float:
    """Return the standard error of the ratio by leaving out one row at a time. It is not finite if one row has all the weight."""
    rows = len(residuals)
    moves = residuals / (denominator.sum() - denominator)
    return math.sqrt((rows - 1) / rows * float(((moves - moves.mean()) ** 2).sum()))


def _quantiles(pivots: Floats, rows: int, tail: float) -> tuple[float, float]:
    """Return the upper and lower quantile: the more extreme of the bootstrap's (order statistics, not interpolated) and Student's."""
    from scipy.special import stdtrit

    student = float(stdtrit(rows - 1, 1 - tail))
    # The k-th from above and from below. A small number is added because tail × 10,000 may be 249.99….
    k = math.floor(tail * (len(pivots) + 1) + 1e-6)
    return (max(float(pivots[-k]), student), min(float(pivots[k - 1]), -student)) if k else (math.inf, -math.inf)


def _tails(pivots: Floats, rows: int, value: float, error: float, threshold: float) -> tuple[float, float]:
    """Return the larger of the bootstrap's p-value and Student's, for each side."""
    from scipy.special import stdtr

    distance = (value - threshold) / error
    above, below = np.count_nonzero(pivots >= distance), np.count_nonzero(pivots <= distance)
    # Davison & Hinkley 1997, eq. 4.11: the sample itself counts as one of the resamples.
    return (
        max((1 + above) / (len(pivots) + 1), float(stdtr(rows - 1, -distance))),
        max((1 + below) / (len(pivots) + 1), float(stdtr(rows - 1, distance))),
    )


def _pool_groups(residuals: Floats, denominator: Floats, seed: int) -> tuple[Floats, Floats]:
    rows = len(residuals)
    if rows <= _GROUPS:
        return residuals, denominator
    order = np.random.default_rng(seed).permutation(rows)
    starts = np.arange(_GROUPS) * rows // _GROUPS
    return np.add.reduceat(residuals[order], starts), np.add.reduceat(denominator[order], starts)


def _pivots(residuals: Floats, denominator: Floats, resamples: int, seed: int) -> Floats:
    """Return each resample's ratio, whose true value is 0, over its linearized standard error (Cochran 1977, §6.4): sorted, [resamples]."""
    rows = len(residuals)
    moments = np.stack([residuals, denominator, residuals**2, residuals * denominator, denominator**2])
    # Single precision is accurate enough for quantiles and halves the time. The caller has scaled the moments to about 1.
    top, bottom, top_top, top_bottom, bottom_bottom = (moments.astype(np.float32) @ _counts(rows, resamples, seed)).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = top / bottom
        squares = top_top - 2 * ratio * top_bottom + ratio**2 * bottom_bottom
        # If all rows of a resample have the same ratio, the squares sum to 0 except for rounding. Such a resample contains no information
        # about the spread, so it counts as infinitely far away on its side.
        pivots = top / np.sqrt(np.where(squares > 1e-5 * rows, squares, 0) * rows / (rows - 1))
    pivots[np.isnan(pivots) & (top == 0)] = 0.0
    return np.sort(pivots)


@functools.lru_cache(maxsize=8)
def _counts(rows: int, resamples: int, seed: int) -> npt.NDArray[np.float32]:
    """Return how often each row is drawn in each resample: shape [rows, resamples]. Cached because the rules of a gate share their rows."""
    generator = np.random.default_rng(seed)
    counts = np.empty((rows, resamples), dtype=np.float32)
    step = max(1, _DRAWS_AT_ONCE // rows)
    for start in range(0, resamples, step):
        part = min(step, resamples - start)
        drawn = generator.integers(0, rows, size=(part, rows)) + np.arange(part)[:, None] * rows
        counts[:, start : start + part] = np.bincount(drawn.ravel(), minlength=part * rows).reshape(part, rows).T
    counts.setflags(write=False)
    return counts
