"""Rows of a score file that are far from all others. A mean that is compared without a test may depend on one such row."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from mlops.judging.metric_table import Floats

__all__ = ["find_outliers"]

_FEW, _SHARE = 3, 0.01
"""Outliers are at most this number of rows, or this share of them. If there are more, they are typical of the metric."""
_FAR = 10.0
"""In standard deviations of the other rows."""
_ROUNDING = 1e-6
"""A standard deviation below this fraction of the mean is a rounding error."""


def find_outliers(values: Floats) -> npt.NDArray[np.bool_]:
    """Return which rows are outliers: shape [rows], as the values, which are finite."""
    outliers = np.zeros(len(values), dtype=np.bool_)
    few = min(max(_FEW, int(_SHARE * len(values))), len(values) // 4)
    if not few:
        return outliers
    order = np.argsort(np.abs(values - np.median(values)), kind="stable")
    others, extreme = values[order[:-few]], order[-few:]
    # The smallest step of a count is 1, even if nearly all counts are equal.
    smallest = max(_ROUNDING * abs(float(others.mean())), float((values == np.round(values)).all()))
    outliers[extreme] = np.abs(values[extreme] - others.mean()) > _FAR * max(float(others.std()), smallest)
    return outliers
