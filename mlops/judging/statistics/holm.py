"""Several tests at once: Holm's step-down correction."""

from __future__ import annotations

import math
from collections.abc import Sequence

__all__ = ["holm"]


def holm(p_values: Sequence[float]) -> list[float]:
    """Adjust p-values (Holm 1979), in the same order.

    If the hypotheses whose adjusted p-value is at most α are rejected, the probability of any false rejection is at most α, however the
    tests depend on each other. NaN counts as 1.

    Args:
        p_values: each in [0, 1] or NaN.

    Raises:
        ValueError: a p-value is outside [0, 1].
    """
    values = [1.0 if math.isnan(p) else p for p in p_values]
    if any(not 0 <= p <= 1 for p in values):
        raise ValueError(f"a p-value must lie in [0, 1]: {list(p_values)}")
    adjusted, largest = [1.0] * len(values), 0.0
    for rank, index in enumerate(sorted(range(len(values)), key=values.__getitem__)):
        largest = max(largest, min(1.0, (len(values) - rank) * values[index]))
        adjusted[index] = largest
    return adjusted
