"""Metrics from per-row scores: token-weighted sums, never means of means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["MEANS", "aggregate"]

MEANS = (
    "overlong",
    "rouge_l",
    "empty",
    "truncated",
    "looping",
    "other_language",
    "refused",
    "length_ratio",
    "passed",
)
"""Fields whose metric is the mean over the rows that have them. All but the first are about generated answers."""


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Compute metrics from per-row scores (the rows of scores.jsonl).

    Returns:
        ``{suite}.nll`` (nats per token), ``.perplexity``, ``.token_accuracy`` (share of tokens that are the model's first choice),
        ``.rows``, ``.tokens``, the means of :data:`MEANS` (``target.rouge_l``, ``retention.passed``, …), ``retention.kl_base`` (nats per
        token), and the same for each kind, as in ``{suite}.{kind}.nll``.
    """
    metrics: dict[str, float] = {}
    for suite in sorted({row["suite"] for row in rows}):
        suite_rows = [row for row in rows if row["suite"] == suite]
        metrics |= _aggregate_group(suite, suite_rows)
        for kind in sorted({row["kind"] for row in suite_rows if row["kind"]}):
            metrics |= _aggregate_group(f"{suite}.{kind}", [row for row in suite_rows if row["kind"] == kind])
    return metrics


def _aggregate_group(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    tokens = sum(row["tokens"] for row in rows)
    metrics: dict[str, float] = {f"{name}.rows": float(len(rows)), f"{name}.tokens": float(tokens)}
    if tokens:
        nll = math.fsum(row["nll"] for row in rows) / tokens
        metrics[f"{name}.nll"] = nll
        metrics[f"{name}.perplexity"] = _exp(nll)
        metrics[f"{name}.token_accuracy"] = sum(row["greedy_tokens"] for row in rows) / tokens
        if all(row["kl"] is not None for row in rows):
            metrics[f"{name}.kl_base"] = math.fsum(row["kl"] for row in rows) / tokens
    for measure in MEANS:
        values = [row[measure] for row in rows if row.get(measure) is not None]
        if values:
            metrics[f"{name}.{measure}"] = math.fsum(values) / len(values)
    return metrics


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
