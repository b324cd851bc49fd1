"""A paired comparison that may be looked at after every pair and stopped at any moment.

Each direction bets against its null hypothesis on the mean of the differences. If the hypothesis is true, the wealth is a nonnegative
martingale that starts at 1, so the probability that it ever reaches 1/α is at most α (Ville 1939), however often one looks. The bets are
fixed fractions of the wealth, mixed with equal weights: "grid Kelly" of Waudby-Smith and Ramdas, "Estimating means of bounded random
variables by betting" (JRSS B 86(1), 2024, https://doi.org/10.1093/jrsssb/qkad009). Nothing is assumed about the distribution except its
bounds.
"""

from __future__ import annotations

import math
from enum import StrEnum

__all__ = ["Finding", "SequentialComparison", "pairs_needed"]

FRACTIONS = (0.02, 0.05, 0.1, 0.2, 0.4, 0.95)
"""Fractions of the largest bet that can't lose everything. Large bets are fast if pairs hardly differ, small ones if they differ a lot."""


class Finding(StrEnum):
    """The result of a comparison."""

    WORSE = "worse"
    """The mean of the differences is below 0."""
    NOT_WORSE = "not worse"
    """It is above −margin."""
    OPEN = "open"
    """Neither has been shown so far."""


class _Bets:
    """The wealth of bets that the mean of values in [−1, 1] is above ``bound``."""

    def __init__(self, bound: float) -> None:
        self._bound = bound
        self._log_wealth = [0.0] * len(FRACTIONS)

    def add(self, value: float) -> None:
        for number, fraction in enumerate(FRACTIONS):
            self._log_wealth[number] += math.log1p(fraction * (value - self._bound) / (1 + self._bound))

    @property
    def log_wealth(self) -> float:
        largest = max(self._log_wealth)
        return largest + math.log(sum(math.exp(each - largest) for each in self._log_wealth) / len(FRACTIONS))


class SequentialComparison:
    """Whether differences (new − old, larger is better) show that the new one is worse, or that it is not worse by the margin.

    Both errors are rare: with a probability of at most ``alpha``, a deployment whose mean is 0 or better is ever called worse, and with a
        probability of at most ``alpha``, one that is worse by the margin is ever called not worse.

    Args:
        margin: the difference that must be excluded, in (0, 1).
        alpha: the probability of each error.
        comparisons: number of comparisons that share ``alpha``, because WORSE in any of them decides.
    """

    def __init__(self, margin: float, alpha: float, comparisons: int = 1) -> None:
        self.pairs = 0
        self.mean = 0.0
        self._threshold, self._threshold_of_worse = math.log(1 / alpha), math.log(comparisons / alpha)
        self._worse = _Bets(0.0)
        self._not_worse = _Bets(-margin)
        self._is_worse = self._has_excluded_margin = False

    def add(self, difference: float) -> None:
        """Take the next pair into account.

        Args:
            difference: new − old, in [−1, 1].

        Raises:
            ValueError: it is outside of these bounds.
        """
        if not -1 <= difference <= 1:
            raise ValueError(f"a difference of {difference} is outside [-1, 1]")
        self.pairs += 1
        self.mean += (difference - self.mean) / self.pairs
        self._worse.add(-difference)
        self._not_worse.add(difference)
        self._is_worse = self._is_worse or self._worse.log_wealth >= self._threshold_of_worse
        self._has_excluded_margin = self._has_excluded_margin or self._not_worse.log_wealth >= self._threshold

    @property
    def finding(self) -> Finding:
        """What has been shown. WORSE is final, and replaces NOT_WORSE if later pairs show it."""
        if self._is_worse:
            return Finding.WORSE
        return Finding.NOT_WORSE if self._has_excluded_margin else Finding.OPEN


def pairs_needed(margin: float, alpha: float) -> int:
    """Return how many pairs without any difference rule out the margin. Fewer pairs never can."""
    comparison = SequentialComparison(margin, alpha)
    while comparison.finding is Finding.OPEN:
        comparison.add(0.0)
    return comparison.pairs
