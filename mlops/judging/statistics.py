"""Interval and power of a ratio of sums over rows: Σ numerator / Σ denominator.

All per-token metrics are such ratios (Σ nll / Σ tokens), and so is a relative change of one (Σ (candidate − baseline) / Σ baseline).
The interval is a studentised bootstrap over rows (Davison & Hinkley 1997, §5.2.1), with the linearised standard error of a ratio:
unlike the percentile bootstrap it keeps its coverage for few rows and skewed scores, and unlike BCa it needs no jackknife. It is
computed so that negated numerators give the negated interval to the last bit.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = ["POWER", "RESAMPLES", "SEED", "Estimate", "minimum_detectable_effect", "paired_bootstrap", "rows_needed"]

RESAMPLES = 9_999
"""Odd, so that the quantiles of the usual confidences fall on resamples and not between them."""
SEED = 20240131
"""The same in every run: a verdict can be made again."""
POWER = 0.8

_GROUPS = 1_024
"""Beyond so many rows, rows are pooled at random into so many groups, which are then resampled: the studentised statistic of sums
over groups has the same distribution to second order, and the cost no longer grows with the rows."""
_COUNTS_AT_ONCE = 2**22

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A ratio of sums with its two-sided interval."""

    value: float
    low: float
    high: float
    standard_error: float


def paired_bootstrap(
    numerator: Floats, denominator: Floats, *, confidence: float, resamples: int = RESAMPLES, seed: int = SEED
) -> Estimate:
    """Σ numerator / Σ denominator with a studentised bootstrap interval.

    Args:
        numerator: shape [rows]; for a paired comparison the rows' differences.
        denominator: shape [rows], not negative: the rows' weights.
        confidence: of the two-sided interval, e.g. 0.95.
        resamples: of the bootstrap.
        seed: of the bootstrap.

    Returns:
        The estimate. The interval is infinite where the rows are too alike or too few to tell, and NaN where a value is.

    Raises:
        ValueError: fewer than two rows, or weights that are negative or sum to 0.
    """
    rows = len(numerator)
    if rows < 2 or len(denominator) != rows:
        raise ValueError(f"a bootstrap needs two or more rows, and as many weights: {rows} and {len(denominator)}")
    if not denominator.sum() > 0 or (denominator < 0).any():
        raise ValueError("weights must not be negative and their sum must be positive")
    value = float(numerator.sum() / denominator.sum())
    error = float(_standard_errors(*_moments(numerator, denominator), rows))
    pivots = _pivots(*_pooled(numerator, denominator, seed), resamples, seed)
    # Order statistics, not interpolation: the k-th from below and the k-th from above.
    tail = max(1, round((1 - confidence) / 2 * (resamples + 1)))
    return Estimate(value, value - error * float(pivots[-tail]), value - error * float(pivots[tail - 1]), error)


def minimum_detectable_effect(standard_error: float, confidence: float, power: float = POWER) -> float:
    """The smallest true distance from the margin that a two-sided interval shows with this power, in the estimate's unit."""
    return (_z(1 - (1 - confidence) / 2) + _z(power)) * standard_error


def rows_needed(rows: int, distance: float, standard_error: float, confidence: float, power: float = POWER) -> int:
    """How many rows like these would show a distance from the margin with this power; ``distance`` > 0."""
    return math.ceil(rows * (minimum_detectable_effect(standard_error, confidence, power) / distance) ** 2)


def _z(probability: float) -> float:
    return NormalDist().inv_cdf(probability)


def _moments(numerator: Floats, denominator: Floats) -> tuple[Floats, Floats, Floats, Floats, Floats]:
    columns = _columns(numerator, denominator)
    sums = columns.sum(axis=0)
    return sums[0], sums[1], sums[2], sums[3], sums[4]


def _columns(numerator: Floats, denominator: Floats) -> Floats:
    """What sums over rows are needed for a ratio and its standard error: shape [rows, 5]."""
    return np.stack([numerator, denominator, numerator**2, numerator * denominator, denominator**2], axis=1)


def _standard_errors(top: Floats, bottom: Floats, top_top: Floats, top_bottom: Floats, bottom_bottom: Floats, rows: int) -> Floats:
    """Linearised standard error of top / bottom (Cochran 1977, §6.4), elementwise over resamples."""
    ratio = top / bottom
    squares = top_top - 2 * ratio * top_bottom + ratio**2 * bottom_bottom
    # Rounding can leave a tiny negative sum where all rows have the same ratio.
    return np.asarray(np.sqrt(np.maximum(squares, 0) * rows / (rows - 1)) / bottom)


def _pooled(numerator: Floats, denominator: Floats, seed: int) -> tuple[Floats, Floats]:
    rows = len(numerator)
    if rows <= _GROUPS:
        return numerator, denominator
    order = np.random.default_rng(seed).permutation(rows)
    starts = np.arange(_GROUPS) * rows // _GROUPS
    return np.add.reduceat(numerator[order], starts), np.add.reduceat(denominator[order], starts)


def _pivots(numerator: Floats, denominator: Floats, resamples: int, seed: int) -> Floats:
    """(resampled ratio − ratio) / resampled standard error, sorted."""
    rows = len(numerator)
    value = numerator.sum() / denominator.sum()
    columns = _columns(numerator, denominator)
    counts = _resampled_counts(rows, resamples, seed)
    step = max(1, _COUNTS_AT_ONCE // rows)
    sums = np.concatenate([counts[start : start + step].astype(np.float64) @ columns for start in range(0, resamples, step)])
    with np.errstate(divide="ignore", invalid="ignore"):
        shift = sums[:, 0] / sums[:, 1] - value
        pivots = shift / _standard_errors(sums[:, 0], sums[:, 1], sums[:, 2], sums[:, 3], sums[:, 4], rows)
    # A resample of equal rows says nothing about the spread: it counts as infinitely far on the side where it lies.
    pivots[np.isnan(pivots) & (shift == 0)] = 0.0
    return np.sort(pivots)


@functools.lru_cache(maxsize=4)
def _resampled_counts(rows: int, resamples: int, seed: int) -> npt.NDArray[np.uint16]:
    """How often each row is drawn in each resample: shape [resamples, rows]. Kept, since a gate's rules share their rows."""
    generator = np.random.default_rng(seed)
    counts = np.empty((resamples, rows), dtype=np.uint16)
    step = max(1, _COUNTS_AT_ONCE // rows)
    for start in range(0, resamples, step):
        part = min(step, resamples - start)
        drawn = generator.integers(0, rows, size=(part, rows)) + np.arange(part)[:, None] * rows
        counts[start : start + part] = np.bincount(drawn.ravel(), minlength=part * rows).reshape(part, rows)
    counts.setflags(write=False)
    return counts
