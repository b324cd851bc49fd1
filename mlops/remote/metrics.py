"""From per-row scores to metrics: token-weighted sums, never means of means."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["aggregate"]


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Metrics of per-row scores (the rows of scores.jsonl).

    Returns:
        ``{suite}.nll`` (nats per token), ``.perplexity``, ``.token_accuracy`` (share of tokens that are the model's first choice),
        ``.exact_match`` (share of rows whose every token is), ``.rows``, ``.tokens``, ``target.rouge_l`` (mean over generated rows),
        ``retention.kl_base`` (nats per token), and the same per kind as ``{suite}.{kind}.nll`` ….
    """
    metrics: dict[str, float] = {}
    for suite in sorted({row["suite"] for row in rows}):
        of_suite = [row for row in rows if row["suite"] == suite]
        metrics |= _group(suite, of_suite)
        for kind in sorted({row["kind"] for row in of_suite if row["kind"]}):
            metrics |= _group(f"{suite}.{kind}", [row for row in of_suite if row["kind"] == kind])
    return metrics


def _group(name: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    tokens = sum(row["tokens"] for row in rows)
    metrics: dict[str, float] = {f"{name}.rows": float(len(rows)), f"{name}.tokens": float(tokens)}
    if tokens:
        nll = math.fsum(row["nll"] for row in rows) / tokens
        metrics[f"{name}.nll"] = nll
        metrics[f"{name}.perplexity"] = _exp(nll)
        metrics[f"{name}.token_accuracy"] = sum(row["greedy_tokens"] for row in rows) / tokens
        matched = [row["greedy_tokens"] == row["tokens"] for row in rows if row["tokens"]]
        metrics[f"{name}.exact_match"] = sum(matched) / len(matched)
        if all(row["kl"] is not None for row in rows):
            metrics[f"{name}.kl_base"] = math.fsum(row["kl"] for row in rows) / tokens
    answered = [row["rouge_l"] for row in rows if row.get("rouge_l") is not None]
    if answered:
        metrics[f"{name}.rouge_l"] = math.fsum(answered) / len(answered)
    return metrics


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
