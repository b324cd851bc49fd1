"""Coverage of the gate's interval compared with common methods, on the same pairs and the same resamples."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy.special import ndtr, ndtri, stdtrit

from benchmarks.gate_pairs import Cell, pair
from mlops.judging.statistics import bootstrap
from mlops.judging.statistics.bootstrap import RESAMPLES, SEED, paired_bootstrap

__all__ = ["METHODS", "miss_rates"]

METHODS = ("percentile", "BCa", "Student's t", "studentized", "the gate's")
_TAIL = 0.025

Floats = npt.NDArray[np.float64]


def miss_rates(trials: int, cell: Cell) -> Floats:
    """Measure how often each method's interval lies above and below the true difference of equal models: shape [methods, 2]."""
    generator = cell.generator(5)
    misses = np.zeros((len(METHODS), 2))
    for _ in range(trials):
        models = pair(cell, generator).models
        candidate, base = (models[role].rows["target"] for role in ("candidate", "base"))
        ends = np.array(intervals(candidate.columns["nll"] - base.columns["nll"], candidate.tokens))
        misses += np.stack([ends[:, 0] > 0, ends[:, 1] < 0], axis=1)
    return misses / trials


def intervals(difference: Floats, tokens: Floats) -> list[tuple[float, float]]:
    """Compute the 95 % intervals of Σ difference / Σ tokens, in the order of METHODS."""
    gate = paired_bootstrap(difference, tokens, confidence=1 - 2 * _TAIL)
    residuals = difference - gate.value * tokens
    counts = bootstrap._counts(len(tokens), RESAMPLES, SEED)
    top, bottom, squares, crossed, lengths = moments(residuals, tokens) @ counts
    shift = top / bottom
    error = np.sqrt((squares - 2 * shift * crossed + shift**2 * lengths) * len(tokens) / (len(tokens) - 1)) / bottom
    students = float(stdtrit(len(tokens) - 1, 1 - _TAIL)) * gate.standard_error
    low, high = np.quantile(shift / error, [_TAIL, 1 - _TAIL])
    return [
        around(gate.value, *np.quantile(shift, [_TAIL, 1 - _TAIL])),
        around(gate.value, *np.quantile(shift, bca_quantiles(shift, residuals, tokens))),
        around(gate.value, -students, students),
        around(gate.value, -high * gate.standard_error, -low * gate.standard_error),
        (gate.low, gate.high),
    ]


def around(value: float, low: float, high: float) -> tuple[float, float]:
    """Return the interval with these ends, relative to a value."""
    return value + low, value + high


def moments(residuals: Floats, tokens: Floats) -> npt.NDArray[np.float32]:
    """Stack the terms of the ratio's variance: shape [5, rows]."""
    return np.stack([residuals, tokens, residuals**2, residuals * tokens, tokens**2]).astype(np.float32)


def bca_quantiles(shift: Floats, residuals: Floats, tokens: Floats) -> Floats:
    """Compute the quantiles of BCa (Efron & Tibshirani 1993, §14.3)."""
    left_out = -residuals / (tokens.sum() - tokens)
    influence = left_out.mean() - left_out
    acceleration = (influence**3).sum() / (6 * (influence**2).sum() ** 1.5)
    bias, tails = ndtri((shift < 0).mean()), ndtri(np.array([_TAIL, 1 - _TAIL]))
    return np.asarray(ndtr(bias + (bias + tails) / (1 - acceleration * (bias + tails))))
