"""Mutations of the evidence are evidence that could exist."""

from __future__ import annotations

import pytest

from mlops.judging.metrics import parse
from mlops.judging.selftest import mutations
from tests.judging.selftest.test_probes import evidence_of


@pytest.mark.parametrize(
    ("name", "by"), [("target.truncated", 1.0), ("target.rouge_l", -1.0), ("target.rouge_l", 1.0), ("target.nll", 2.0)]
)
def test_spoiled_rows_get_worse_by_the_amount_as_far_as_the_metric_allows(name: str, by: float) -> None:
    evidence, metric = evidence_of(), parse(name)
    assert metric is not None
    changed = mutations.spoil_rows(evidence, metric, "base", 0.25, by)
    (before, weight), (after, _), (base, _) = (
        metric.sums(each.models[role].rows["target"])
        for each, role in ((evidence, "candidate"), (changed, "candidate"), (evidence, "base"))
    )
    spoiled = len(before) // 4
    expected = (base + by * weight).clip(0.0, weight if metric.definition.fraction else None)
    assert after[:spoiled].tolist() == expected[:spoiled].tolist()
    assert after[spoiled:].tolist() == before[spoiled:].tolist()
    assert not metric.definition.fraction or after.max() <= 1.0
