"""Ruined candidates for the self-test on score files.

A rule that lets through a candidate that is plainly worse says nothing about any other. How bad "plainly worse" is depends on the scores:
from their own range if they lie between 0 and 1, otherwise from their size.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlops.judging.metric_table import Floats
from mlops.judging.wording import number

__all__ = ["Ruin", "is_binary", "ruin"]

_STEP = 0.25
"""A loss that no margin may tolerate: this much of a score from 0 to 1; of any other, this fraction of its mean size."""


@dataclass(frozen=True)
class Ruin:
    """A ruined candidate's values, shape [rows], and a description of them."""

    description: str
    values: Floats


def is_binary(values: Floats) -> bool:
    """Whether each value is 0 or 1; missing ones don't count."""
    return bool(np.isin(values[np.isfinite(values)], (0.0, 1.0)).all())


def ruin(candidate: Floats, base: Floats | None, direction: str) -> list[Ruin]:
    """Return values with which no candidate may be promoted.

    Args:
        candidate: the candidate's values, shape [rows], finite.
        base: those of the model that it is compared with, the same rows; None if rules have only floors and ceilings.
        direction: which values are better, ``lower`` or ``higher``.
    """
    values = candidate if base is None else np.concatenate([candidate, base])
    low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
    is_bounded = low >= 0 and high <= 1
    beyond = 0.0 if is_bounded else high - low
    worst = low - beyond if direction == "higher" else max(high, 1.0 if is_bounded else high) + beyond
    ruined = []
    # If the base has the worst value in every row, no candidate is worse.
    if base is None or float(base.mean()) != worst:
        ruined.append(Ruin(f"whose value is {number(worst)} in every row", np.full(len(candidate), worst)))
    if base is not None and (worse := _worsen(candidate, base, direction, worst if is_bounded else None)) is not None:
        ruined.append(Ruin(f"with a mean of {number(float(worse.mean()))}, where the base has {number(float(base.mean()))}", worse))
    return ruined


def _worsen(candidate: Floats, base: Floats, direction: str, worst: float | None) -> Floats | None:
    """Return values that are worse than the base's by a step, but at most half as bad as possible; None if nothing can be worse."""
    reference = float(base.mean())
    step = _STEP * float(np.abs(base).mean()) if worst is None else min(_STEP, abs(worst - reference) / 2)
    if not step:
        return None
    if worst is not None and is_binary(np.concatenate([candidate, base])):
        spoiled = base.copy()
        spoiled[np.flatnonzero(base != worst)[: math.ceil(step * len(base))]] = worst
        return spoiled
    # The candidate's own values, so that the differences from row to row stay.
    return candidate + (reference + (-step if direction == "higher" else step) - float(candidate.mean()))
