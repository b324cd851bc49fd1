"""Mutations of the evidence are evidence that could exist."""

from __future__ import annotations

from dataclasses import replace

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


def test_flattered_values_are_better_by_one_percent_in_the_direction_of_their_metric() -> None:
    model = evidence_of().models["candidate"]
    model = replace(model, metrics={"target.nll": 2.0, "target.rouge_l": 0.5, "retention.kl_base": 0.0, "target.rows": 60.0})
    flattered = mutations.flatter({"target.nll": "lower", "target.rouge_l": "higher", "retention.kl_base": "lower"})(model)
    assert flattered.metrics == pytest.approx(
        {"target.nll": 1.98, "target.rouge_l": 0.505, "retention.kl_base": -0.01, "target.rows": 60.0}
    )


@pytest.mark.parametrize("relative", [True, False])
def test_a_value_is_raised_in_proportion_to_the_unit_of_the_margin(relative: bool) -> None:
    """With a relative margin the rows' distances from it stay as far apart as they are, in multiples of the baseline's scores."""
    evidence, metric = evidence_of(), parse("target.nll")
    assert metric is not None
    moved = mutations.move_to(evidence, metric, "base", 4.0, relative=relative)
    (before, weight), (after, _), (base, _) = (
        metric.sums(each.models[role].rows["target"]) for each, role in ((evidence, "candidate"), (moved, "candidate"), (evidence, "base"))
    )
    shares = (after - before) / (base if relative else weight)
    assert shares == pytest.approx(shares[0])
    assert shares[0] > 0
    # Lowered values are scaled, whatever the unit.
    lowered, _ = metric.sums(mutations.move_to(evidence, metric, "base", 1.0, relative=relative).models["candidate"].rows["target"])
    assert lowered / before == pytest.approx(lowered[0] / before[0])


def test_without_scores_of_the_baseline_a_value_is_raised_in_proportion_to_the_weights() -> None:
    """As with the divergence of the base model from itself, which is 0 everywhere."""
    evidence, metric = evidence_of(), parse("retention.kl_base")
    assert metric is not None
    moved = mutations.move_to(evidence, metric, "base", 1.0, relative=True).models["candidate"]
    (before, weight), (after, _) = (metric.sums(each.rows["retention"]) for each in (evidence.models["candidate"], moved))
    assert (after - before) / weight == pytest.approx((after[0] - before[0]) / weight[0])


def test_other_suite_digests_are_of_the_same_suites() -> None:
    model = evidence_of().models["candidate"]
    changed = mutations.change_suite_digests(model).suite_digests
    assert changed.keys() == model.suite_digests.keys()
    assert all(digest != model.suite_digests[suite] for suite, digest in changed.items())
