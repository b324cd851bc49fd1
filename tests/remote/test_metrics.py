"""Metrics of rows, compared with values calculated by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest

from mlops.remote.metrics import aggregate


def row(tokens: int, nll: float, greedy_tokens: int, **fields: Any) -> dict[str, Any]:
    return {"suite": "target", "kind": "", "tokens": tokens, "nll": nll, "kl": None, "greedy_tokens": greedy_tokens, **fields}


def test_metrics_are_sums_over_tokens_and_shares_of_rows() -> None:
    metrics = aggregate([row(1, 2.0, 1), row(3, 1.0, 2), row(6, 3.0, 6, rouge_l=0.5)])
    assert metrics == pytest.approx(
        {
            "target.rows": 3.0,
            "target.tokens": 10.0,
            "target.nll": 0.6,
            "target.perplexity": math.exp(0.6),
            "target.token_accuracy": 0.9,
            "target.rouge_l": 0.5,
        }
    )


def test_only_rows_with_a_generated_answer_can_pass() -> None:
    answered = [row(2, 1.0, 1, suite="retention", kind="facts", passed=passed) for passed in (1.0, 0.0, 1.0, 1.0)]
    metrics = aggregate([*answered, row(2, 1.0, 1, suite="retention", kind="poems")])
    assert metrics["retention.passed"] == metrics["retention.facts.passed"] == 0.75
    assert "retention.poems.passed" not in metrics


def test_without_scored_tokens_there_are_only_counts() -> None:
    assert aggregate([row(0, 0.0, 0)]) == {"target.rows": 1.0, "target.tokens": 0.0}


def test_each_kind_has_its_own_metrics() -> None:
    metrics = aggregate([row(2, 1.0, 2, kind="facts", suite="retention", kl=0.2), row(2, 3.0, 0, kind="poems", suite="retention", kl=0.6)])
    assert (metrics["retention.facts.token_accuracy"], metrics["retention.poems.token_accuracy"]) == (1.0, 0.0)
    assert (metrics["retention.facts.kl_base"], metrics["retention.poems.kl_base"]) == pytest.approx((0.1, 0.3))
    assert metrics["retention.kl_base"] == pytest.approx(0.2)
