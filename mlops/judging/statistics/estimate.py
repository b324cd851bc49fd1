"""An estimate with its interval and p-values, and what follows from it about power."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

__all__ = ["POWER", "Estimate", "Floats", "minimum_detectable_effect", "no_evidence", "rows_needed", "significance_level"]

Floats = npt.NDArray[np.float64]

POWER = 0.8


@dataclass(frozen=True)
class Estimate:
    """A value with its two-sided interval and the one-sided tests that correspond to the interval."""

    value: float
    low: float
    high: float
    standard_error: float
    confidence: float
    tails: Callable[[float], tuple[float, float]] = field(compare=False, repr=False)
    """Threshold → p-values of "the true value is at or below it" and of "the true value is at or above it"."""

    def p_above(self, threshold: float) -> float:
        """Return the one-sided p-value of "the true value is at or below the threshold": small if it is shown to be above.

        It is at most ``significance_level(confidence)`` exactly if ``low > threshold``: an end on the threshold shows nothing. It is 1 if
        anything is NaN.
        """
        return self._p(0, threshold, self.low > threshold)

    def p_below(self, threshold: float) -> float:
        """Return the p-value of "the true value is at or above the threshold": small exactly if ``high < threshold``."""
        return self._p(1, threshold, self.high < threshold)

    def _p(self, tail: int, threshold: float, is_shown: bool) -> float:
        p = float(self.tails(threshold)[tail])
        if math.isnan(p) or math.isnan(threshold):
            return 1.0
        # The interval's end and the p-value are rounded separately. The interval decides.
        limit = significance_level(self.confidence)
        return min(p, limit) if is_shown else max(p, math.nextafter(limit, 1.0))


def no_evidence(_: float) -> tuple[float, float]:
    """Return the p-values of an estimate without an interval."""
    return 1.0, 1.0


def significance_level(confidence: float) -> float:
    """Return the largest one-sided p-value that agrees with an interval of this confidence: 0.025 for 0.95."""
    # (1 − 0.9) / 2 is slightly below 0.05, and 500 / 10,000 resamples are not.
    return round((1 - confidence) / 2, 12)


def minimum_detectable_effect(estimate: Estimate, power: float = POWER) -> float:
    """Return the smallest true distance from a threshold that rows like these show with this power, in the estimate's unit.

    The true value must be half an interval away, plus the amount by which chance reduces the distance in all but ``power`` of the cases.
    """
    return (estimate.high - estimate.low) / 2 + NormalDist().inv_cdf(power) * estimate.standard_error


def rows_needed(rows: int, distance: float, estimate: Estimate, power: float = POWER) -> int:
    """Return how many rows like these would show a distance from the threshold with this power; ``distance`` > 0.

    An interval narrows with the square root of the number of rows. With few rows the interval is conservative, so this tends to be too
    many.
    """
    return math.ceil(rows * (minimum_detectable_effect(estimate, power) / distance) ** 2)
