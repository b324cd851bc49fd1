"""Several tests at once: Holm's step-down correction."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["holm"]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjusted p-values (Holm 1979), in the order given.

    Rejecting those that are at most α makes a false rejection anywhere with probability α at most, however the tests depend on each
    other. NaN counts as 1.

    Args:
        p_values: each in [0, 1] or NaN.

    Raises:
        ValueError: a p-value outside [0, 1].
    """
    known = [1.0 if math.isnan(p) else p for p in p_values]
    if any(not 0 <= p <= 1 for p in known):
        raise ValueError(f"a p-value lies in [0, 1]: {list(p_values)}")
    adjusted, largest = [1.0] * len(known), 0.0
    for done, place in enumerate(sorted(range(len(known)), key=known.__getitem__)):
        largest = max(largest, min(1.0, (len(known) - done) * known[place]))
        adjusted[place] = largest
    return adjusted
