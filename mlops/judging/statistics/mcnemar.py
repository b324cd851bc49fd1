"""Wins and losses: exact McNemar test over rows that are right or wrong.

McNemar (1947) asks whether candidate and reference differ on the rows where only one of them is right: under "no difference" a row of
these is a win of the candidate with probability 1/2, whatever the share of rows that both get right. The exact test is a binomial
test, and the interval is that of Clopper and Pearson (1934) for the share of wins among these rows, as a difference of shares of all rows.
"""

from __future__ import annotations

import functools
import math

import numpy as np
import numpy.typing as npt

from mlops.judging.statistics.bootstrap import Estimate, level, nothing_shown

__all__ = ["mcnemar"]

Flags = npt.NDArray[np.bool_]


def mcnemar(candidate: Flags, reference: Flags, *, confidence: float) -> Estimate:
    """Share of rows that the candidate gets right minus that of the reference.

    Interval and p-values are conditional on the number of discordant rows. That number is not known beforehand, so they are a test of
    "no difference" only: hold them against a margin of 0 and no other.

    Args:
        candidate: shape [rows], whether a row is right.
        reference: shape [rows], the same rows.
        confidence: of the two-sided interval, e.g. 0.95; it is at least that (the binomial distribution is discrete).

    Returns:
        The estimate; the interval is infinite without discordant rows.

    Raises:
        ValueError: no rows, not as many of both, or not booleans.
    """
    if len(candidate) != len(reference) or not len(candidate) or candidate.dtype != np.bool_ or reference.dtype != np.bool_:
        raise ValueError(f"McNemar's test needs as many rows of both, right or wrong: {len(candidate)} and {len(reference)}")
    rows, wins, losses = len(candidate), int((candidate & ~reference).sum()), int((reference & ~candidate).sum())
    discordant = wins + losses
    if not discordant:
        return Estimate(0.0, -math.inf, math.inf, 0.0, confidence, nothing_shown)

    share = discordant / rows
    # Under "no difference" the difference of wins and losses has variance `discordant`.
    error = math.sqrt(discordant) / rows
    low, high = _least(wins, discordant, confidence) * share, -_least(losses, discordant, confidence) * share
    return Estimate((wins - losses) / rows, low, high, error, confidence, functools.partial(_tails, wins, losses, rows))


def _tails(wins: int, losses: int, rows: int, threshold: float) -> tuple[float, float]:
    discordant = wins + losses
    excess = threshold * rows / discordant
    return _p(wins, discordant, excess), _p(losses, discordant, -excess)


def _p(wins: int, discordant: int, excess: float) -> float:
    """P-value of "wins − losses, as a share of the discordant rows, is at most ``excess``"."""
    from scipy.stats import binomtest

    if math.isnan(excess):
        return math.nan
    share = min(max((1 + excess) / 2, 0.0), 1.0)
    return float(binomtest(wins, discordant, share, alternative="greater").pvalue)


def _least(wins: int, discordant: int, confidence: float) -> float:
    """Lower end of the interval of wins − losses, as a share of the discordant rows."""
    from scipy.stats import binomtest

    found = binomtest(wins, discordant, alternative="greater").proportion_ci(1 - level(confidence), method="exact")
    return 2 * float(found.low) - 1
