"""Interval, p-value and power of a ratio of sums over rows: Σ numerator / Σ denominator.

All per-token metrics are such ratios (Σ nll / Σ tokens), and so is a relative change of one (Σ (candidate − baseline) / Σ baseline).

The interval is a studentised bootstrap over rows (Davison & Hinkley 1997, §5.2.1), made to err on the safe side where rows are few, because
alone it is too short for heavy tails and unequal rows at 100 rows:

- The standard error is the jackknife's (Efron & Stein 1981), which counts how far a heavy row pulls the ratio; resamples are studentised
  with the linearised one.
- Resamples hold no row more extreme than the sample does, so they understate how uncertain the standard error is. Their quantiles are
  stretched by 1 + (κ − 1) / n, κ the kurtosis of the residuals: (κ − 1) / n is the relative variance of the squared standard error.
- For the same reason they understate skewness: on the side to which it makes the interval reach, they are stretched by 1 + 0.2 γ / √n, γ
  the skewness of the residuals. The factor was chosen by measurement.
- Each end is at least as far as that of Student's t, whose symmetric ends are right for symmetric rows, however heavy their tails, and
  wrong for skewed ones.

Not BCa: it knows nothing of the uncertain standard error. All this is measured by benchmarks/gate.py: these methods side by side, coverage,
false promotions and power. Everything is computed so that negated numerators give the negated interval to the last bit.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = [
    "POWER",
    "RESAMPLES",
    "SEED",
    "Estimate",
    "level",
    "minimum_detectable_effect",
    "nothing_shown",
    "paired_bootstrap",
    "rows_needed",
]

RESAMPLES = 9_999
"""Odd, so that the quantiles of the usual confidences fall on resamples and not between them."""
SEED = 20240131
"""The same in every run: a verdict can be made again."""
POWER = 0.8

_GROUPS = 512
"""Beyond so many rows, rows are pooled at random into so many groups, which are then resampled: the studentised statistic of sums
over groups has the same distribution to second order, and the cost no longer grows with the rows."""
_SKEWED = 0.2
"""How much of the skewness the resamples are taken to miss."""
_DRAWS_AT_ONCE = 2**20

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A figure with its two-sided interval, and the one-sided tests that the interval inverts."""

    value: float
    low: float
    high: float
    standard_error: float
    confidence: float
    tails: Callable[[float], tuple[float, float]] = field(compare=False, repr=False)
    """Threshold → p-values of "the truth is at or below it" and of "the truth is at or above it"."""

    def p_above(self, threshold: float) -> float:
        """One-sided p-value of "the truth is at or below the threshold": small where it is shown to be above.

        At most ``level(confidence)`` exactly if ``low > threshold``: an end on the threshold shows nothing. 1 where something is NaN.
        """
        return self._p(0, threshold, self.low > threshold)

    def p_below(self, threshold: float) -> float:
        """The same of "the truth is at or above the threshold": small exactly if ``high < threshold``."""
        return self._p(1, threshold, self.high < threshold)

    def _p(self, tail: int, threshold: float, shown: bool) -> float:
        p = float(self.tails(threshold)[tail])
        if math.isnan(p) or math.isnan(threshold):
            return 1.0
        # An end and a p-value are rounded apart; the interval decides.
        limit = level(self.confidence)
        return min(p, limit) if shown else max(p, math.nextafter(limit, 1.0))


def nothing_shown(_: float) -> tuple[float, float]:
    """The tails where there is no interval."""
    return 1.0, 1.0


def level(confidence: float) -> float:
    """What a one-sided p-value must not exceed to agree with an interval of this confidence: 0.025 for 0.95."""
    # (1 − 0.9) / 2 is a hair below 0.05, and 500 / 10,000 resamples are not.
    return round((1 - confidence) / 2, 12)


def paired_bootstrap(
    numerator: Floats, denominator: Floats, *, confidence: float, resamples: int = RESAMPLES, seed: int = SEED
) -> Estimate:
    """Σ numerator / Σ denominator with its bootstrap interval.

    Args:
        numerator: shape [rows]; for a paired comparison the rows' differences.
        denominator: shape [rows], not negative: the rows' weights.
        confidence: of the two-sided interval, e.g. 0.95.
        resamples: of the bootstrap; no p-value is below 1 / (resamples + 1).
        seed: of the bootstrap.

    Returns:
        The estimate. The interval is infinite where the rows are too alike to tell, where one is not finite, and where the resamples are
        too few for the confidence.

    Raises:
        ValueError: fewer than two rows, or weights that are negative or sum to 0.
    """
    rows = len(numerator)
    if rows < 2 or len(denominator) != rows:
        raise ValueError(f"a bootstrap needs two or more rows, and as many weights: {rows} and {len(denominator)}")
    if not denominator.sum() > 0 or (denominator < 0).any():
        raise ValueError("weights must not be negative and their sum must be positive")
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        value = float(numerator.sum() / denominator.sum())
        residuals = numerator - value * denominator
        spread = math.sqrt((residuals**2).mean())
        error = _jackknife(residuals, denominator)
    if not 0 < error < math.inf:
        return Estimate(value, -math.inf, math.inf, error, confidence, nothing_shown)
    scaled = residuals / spread
    kurtosis = float(((scaled**2) ** 2).mean())
    pivots = _pivots(*_pooled(scaled, denominator / denominator.mean(), seed), resamples, seed)
    skewness = float((scaled**3).mean()) / math.sqrt(rows)
    pivots *= (1 + (kurtosis - 1) / rows) * np.where(pivots < 0, 1 + _SKEWED * max(skewness, 0.0), 1 + _SKEWED * max(-skewness, 0.0))
    farthest, nearest = _quantiles(pivots, rows, level(confidence))
    tails = functools.partial(_tails, pivots, rows, value, error)
    return Estimate(value, value - error * farthest, value - error * nearest, error, confidence, tails)


def minimum_detectable_effect(estimate: Estimate, power: float = POWER) -> float:
    """The smallest true distance from a threshold that rows like these show with this power, in the estimate's unit.

    The truth must be half an interval away, and farther by what chance takes off in all but ``power`` of the cases.
    """
    return (estimate.high - estimate.low) / 2 + NormalDist().inv_cdf(power) * estimate.standard_error


def rows_needed(rows: int, distance: float, estimate: Estimate, power: float = POWER) -> int:
    """How many rows like these would show a distance from the threshold with this power; ``distance`` > 0.

    An interval narrows with the square root of its rows. One of few rows is cautious, so of few rows this says rather too many.
    """
    return math.ceil(rows * (minimum_detectable_effect(estimate, power) / distance) ** 2)


def _jackknife(residuals: Floats, denominator: Floats) -> float:
    """Standard error of the ratio, from what becomes of it when each row in turn is left out. Not finite where one row has all weight."""
    rows = len(residuals)
    moves = residuals / (denominator.sum() - denominator)
    return math.sqrt((rows - 1) / rows * float(((moves - moves.mean()) ** 2).sum()))


def _quantiles(pivots: Floats, rows: int, tail: float) -> tuple[float, float]:
    """Upper and lower quantile: the farther of the bootstrap's and Student's. Order statistics of the pivots, not interpolated."""
    from scipy.special import stdtrit

    student = float(stdtrit(rows - 1, 1 - tail))
    # The k-th from above and from below; a hair is added because tail × 10,000 may be 249.99….
    k = math.floor(tail * (len(pivots) + 1) + 1e-6)
    return (max(float(pivots[-k]), student), min(float(pivots[k - 1]), -student)) if k else (math.inf, -math.inf)


def _tails(pivots: Floats, rows: int, value: float, error: float, threshold: float) -> tuple[float, float]:
    """The larger of the bootstrap's p-value and Student's, for either side."""
    from scipy.special import stdtr

    distance = (value - threshold) / error
    above, below = np.count_nonzero(pivots >= distance), np.count_nonzero(pivots <= distance)
    # Davison & Hinkley 1997, eq. 4.11: the sample itself counts as one of the resamples.
    return (
        max((1 + above) / (len(pivots) + 1), float(stdtr(rows - 1, -distance))),
        max((1 + below) / (len(pivots) + 1), float(stdtr(rows - 1, distance))),
    )


def _pooled(residuals: Floats, denominator: Floats, seed: int) -> tuple[Floats, Floats]:
    rows = len(residuals)
    if rows <= _GROUPS:
        return residuals, denominator
    order = np.random.default_rng(seed).permutation(rows)
    starts = np.arange(_GROUPS) * rows // _GROUPS
    return np.add.reduceat(residuals[order], starts), np.add.reduceat(denominator[order], starts)


def _pivots(residuals: Floats, denominator: Floats, resamples: int, seed: int) -> Floats:
    """Ratio of a resample, of which the truth is 0, over its linearised standard error (Cochran 1977, §6.4): sorted, shape [resamples]."""
    rows = len(residuals)
    moments = np.stack([residuals, denominator, residuals**2, residuals * denominator, denominator**2])
    # Single precision is enough for quantiles, and halves the time; the caller has scaled the moments to about 1.
    top, bottom, top_top, top_bottom, bottom_bottom = (moments.astype(np.float32) @ _counts(rows, resamples, seed)).astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = top / bottom
        squares = top_top - 2 * ratio * top_bottom + ratio**2 * bottom_bottom
        # Where all drawn rows have the same ratio, the squares sum to 0 but for rounding. Such a resample says nothing about the spread: it
        # counts as infinitely far on the side where it lies.
        pivots = top / np.sqrt(np.where(squares > 1e-5 * rows, squares, 0) * rows / (rows - 1))
    pivots[np.isnan(pivots) & (top == 0)] = 0.0
    return np.sort(pivots)


@functools.lru_cache(maxsize=8)
def _counts(rows: int, resamples: int, seed: int) -> npt.NDArray[np.float32]:
    """How often each row is drawn in each resample: shape [rows, resamples]. Kept, since a gate's rules share their rows."""
    generator = np.random.default_rng(seed)
    counts = np.empty((rows, resamples), dtype=np.float32)
    step = max(1, _DRAWS_AT_ONCE // rows)
    for start in range(0, resamples, step):
        part = min(step, resamples - start)
        drawn = generator.integers(0, rows, size=(part, rows)) + np.arange(part)[:, None] * rows
        counts[:, start : start + part] = np.bincount(drawn.ravel(), minlength=part * rows).reshape(part, rows).T
    counts.setflags(write=False)
    return counts
