"""Exact McNemar test over rows that are right or wrong.

McNemar (1947) looks only at discordant rows, which one model gets right and the other gets wrong. Under "no difference" each of these is a
win for the candidate with probability 1/2, whatever the share of rows that both get right. The exact test is a binomial test. The interval
is that of Clopper and Pearson (1934) for the share of wins among discordant rows, expressed as a difference between shares of all rows.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from mlops.judging.statistics.estimate import Estimate, no_evidence, significance_level

__all__ = ["mcnemar"]

Flags = npt.NDArray[np.bool_]


def mcnemar(candidate: Flags, reference: Flags, *, confidence: float) -> Estimate:
    """Estimate the share of rows that the candidate gets right minus that of the reference.

    The interval and the p-values are conditional on the number of discordant rows, which is not known in advance. They only test "no
    difference": compare them with a margin of 0 and no other.

    Args:
        candidate: shape [rows], whether each row is right.
        reference: shape [rows], the same rows.
        confidence: of the two-sided interval, e.g. 0.95; the actual coverage is at least that (the binomial distribution is discrete).

    Returns:
        The estimate. Without discordant rows the interval is infinite.

    Raises:
        ValueError: there are no rows, the models have different numbers of rows, or the rows are not booleans.
    """
    if len(candidate) != len(reference) or not len(candidate) or candidate.dtype != np.bool_ or reference.dtype != np.bool_:
        raise ValueError(f"McNemar's test needs the same rows of both models as booleans, not {len(candidate)} and {len(reference)} rows")
    rows, wins, losses = len(candidate), int((candidate & ~reference).sum()), int((reference & ~candidate).sum())
    discordant = wins + losses
    if not discordant:
        return Estimate(0.0, -math.inf, math.inf, 0.0, confidence, no_evidence)

    share = discordant / rows
    # Under "no difference", wins − losses has variance `discordant`.
    error = math.sqrt(discordant) / rows
    low, high = _lower_end(wins, discordant, confidence) * share, -_lower_end(losses, discordant, confidence) * share
    return Estimate((wins - losses) / rows, low, high, error, confidence, functools.partial(_tails, wins, losses, rows))


def _tails(wins: int, losses: int, rows: int, threshold: float) -> tuple[float, float]:
    discordant = wins + losses
    excess = threshold * rows / discordant
    return _p(wins, discordant, excess), _p(losses, discordant, -excess)


def _p(wins: int, discordant: int, excess: float) -> float:
    """Return the p-value of "wins − losses, as a share of the discordant rows, is at most ``excess``"."""
    from scipy.stats import binomtest

    if math.isnan(excess):
        return math.nan
    share = min(max((1 + excess) / 2, 0.0), 1.0)
    return float(binomtest(wins, discordant, share, alternative="greater").pvalue)


def _lower_end(wins: int, discordant: int, confidence: float) -> float:
    """Return the lower end of the interval of wins − losses, as a share of the discordant rows."""
    from scipy.stats import binomtest

    interval = binomtest(wins, discordant, alternative="greater").proportion_ci(1 - significance_level(confidence), method="exact")
    return 2 * float(interval.low) - 1
