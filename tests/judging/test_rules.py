"""Rules: when they are shown, when they fail, and above all that invalid evidence never shows anything."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pytest

from mlops.core.judgement import Outcome, Verdict
from mlops.core.settings import Rule
from mlops.judging.evidence import ModelEvidence
from mlops.judging.metric_table import METRICS
from mlops.judging.metrics import parse
from mlops.judging.rules import expand, judge_rule
from mlops.judging.statistics.bootstrap import SEED, paired_bootstrap
from mlops.judging.statistics.estimate import minimum_detectable_effect
from mlops.judging.statistics.tail import tail
from mlops.judging.verdict import decide
from mlops.remote.metrics import aggregate
from tests.support.evidence import CANDIDATE, RULES, change_model, make_evidence, make_model, make_rows, make_rule


@pytest.mark.parametrize("each", RULES, ids=lambda each: each.metric)
def test_good_evidence_shows_every_rule(each: Rule) -> None:
    judgement = judge_rule(each, make_evidence())
    assert judgement.outcome is Outcome.SHOWN, judgement.reason


def test_a_judgement_records_the_numbers_that_it_follows_from() -> None:
    evidence = make_evidence()
    judgement = judge_rule(make_rule(baseline="base", margin=0.1, test="paired_bootstrap"), evidence)
    candidate, base = (evidence.models[role].metrics["target.nll"] for role in ("candidate", "base"))
    assert (judgement.candidate, judgement.reference, judgement.difference) == (candidate, base, candidate - base)
    assert judgement.margin == pytest.approx(0.1 * base)
    assert judgement.n == 60
    assert judgement.seed is not None
    assert judgement.interval is not None
    assert judgement.interval.low < candidate - base < judgement.interval.high
    assert judgement.mde is not None
    assert 0 < judgement.mde < judgement.interval.high - judgement.interval.low


# Two numbers ----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("direction", "margin", "kind", "candidate", "outcome"),
    [
        ("lower", 0.0, "relative", 2.0, Outcome.SHOWN),
        ("lower", 0.0, "relative", 2.0001, Outcome.FAILED),
        ("lower", 0.5, "relative", 3.0, Outcome.SHOWN),
        ("lower", 0.5, "relative", 3.01, Outcome.FAILED),
        ("lower", -0.25, "relative", 1.5, Outcome.SHOWN),
        ("lower", -0.25, "relative", 1.51, Outcome.FAILED),
        ("lower", 0.5, "absolute", 2.5, Outcome.SHOWN),
        ("lower", 0.5, "absolute", 2.51, Outcome.FAILED),
        ("higher", 0.0, "relative", 2.0, Outcome.SHOWN),
        ("higher", 0.0, "relative", 1.99, Outcome.FAILED),
        ("higher", 0.25, "relative", 1.5, Outcome.SHOWN),
        ("higher", 0.25, "relative", 1.49, Outcome.FAILED),
        ("higher", -0.5, "absolute", 2.5, Outcome.SHOWN),
        ("higher", -0.5, "absolute", 2.49, Outcome.FAILED),
    ],
)
def test_margins_are_inclusive_and_signed(direction: str, margin: float, kind: str, candidate: float, outcome: Outcome) -> None:
    def flat(value: float, role: str) -> ModelEvidence:
        return change_model(lambda row: row.update(nll=value * row["tokens"]), role)

    champion = flat(2.0, "champion")
    retention = make_model("candidate", CANDIDATE).rows["retention"]
    model = flat(candidate, "candidate")
    # The retention rows differ, or both models would be the same.
    model = replace(model, rows={**model.rows, "retention": retention})
    judgement = judge_rule(
        make_rule(direction=direction, baseline="champion", margin=margin, margin_kind=kind), make_evidence(model, champion)
    )
    assert judgement.outcome is outcome, judgement.reason


@pytest.mark.parametrize(
    ("bounds", "outcome"),
    [
        ({"ceiling": 2.0}, Outcome.SHOWN),
        ({"ceiling": 1.99}, Outcome.FAILED),
        ({"floor": 2.0}, Outcome.SHOWN),
        ({"floor": 2.01}, Outcome.FAILED),
        ({"floor": 1.0, "ceiling": 3.0}, Outcome.SHOWN),
        ({"floor": 1.0, "ceiling": 1.5}, Outcome.FAILED),
    ],
)
def test_floor_and_ceiling_are_inclusive(bounds: dict[str, Any], outcome: Outcome) -> None:
    model = change_model(lambda row: row.update(nll=2.0 * row["tokens"]))
    assert judge_rule(make_rule(**bounds), make_evidence(model)).outcome is outcome


def test_a_floor_also_applies_to_a_rule_with_a_baseline() -> None:
    assert judge_rule(make_rule(baseline="champion", floor=19.0), make_evidence()).outcome is Outcome.FAILED


# The whole interval ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "margin", "outcome"),
    [
        (-0.4, 0.0, Outcome.SHOWN),
        (0.0, 0.0, Outcome.UNPROVEN),
        (0.0, 0.05, Outcome.SHOWN),
        (0.0, -0.05, Outcome.FAILED),
        (0.4, 0.0, Outcome.FAILED),
        (0.4, 0.05, Outcome.FAILED),
        (0.2, 0.2, Outcome.SHOWN),
    ],
)
@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_only_a_whole_interval_shows_or_fails(shift: float, margin: float, kind: str, outcome: Outcome) -> None:
    model = make_model("candidate", make_rows("candidate", shift=shift))
    margin = margin if kind == "relative" else margin * 2
    rule = make_rule(baseline="champion", margin=margin, margin_kind=kind, test="paired_bootstrap")
    judgement = judge_rule(rule, make_evidence(model))
    assert judgement.outcome is outcome, judgement.reason


def test_a_relative_rule_has_its_distance_in_multiples_of_the_baseline_and_its_mde_in_the_unit_of_the_metric() -> None:
    evidence, metric = make_evidence(), parse("target.nll")
    assert metric is not None
    (x, weight), (y, _) = (metric.sums(evidence.models[role].rows["target"]) for role in ("candidate", "champion"))
    reference = y.sum() / weight.sum()
    plain, relative = (paired_bootstrap(x - y, other, confidence=0.95) for other in (weight, y))
    judgement = judge_rule(make_rule(baseline="champion", margin=0.1, test="paired_bootstrap"), evidence)
    assert judgement.distance_interval is not None
    ends = (judgement.distance_interval.low, judgement.distance_interval.high)
    assert ends == pytest.approx((0.1 - relative.high, 0.1 - relative.low))
    assert judgement.distance == pytest.approx(0.1 - relative.value)
    assert judgement.mde == pytest.approx(max(minimum_detectable_effect(plain), minimum_detectable_effect(relative) * reference))


@pytest.mark.parametrize(
    ("spoiled", "outcome"), [(0, Outcome.SHOWN), (3, Outcome.SHOWN), (4, Outcome.UNPROVEN), (12, Outcome.UNPROVEN), (25, Outcome.FAILED)]
)
def test_a_few_rows_that_got_much_worse_are_seen_although_the_mean_is_better(spoiled: int, outcome: Outcome) -> None:
    rows = make_rows("candidate", n=1_000, shift=-0.4)
    for row in rows:
        if int(row["id"].rpartition("-")[2]) < spoiled:
            row["nll"] += 1.5 * row["tokens"]
    models = (make_model(role, make_rows(role, n=1_000)) for role in ("champion", "base"))
    evidence = make_evidence(make_model("candidate", rows), *models)
    rule = make_rule(baseline="champion", margin=0.5, margin_kind="absolute", test="tail", max_share=0.01)
    judgement = judge_rule(rule, evidence)
    assert judgement.outcome is outcome, judgement.reason
    assert judgement.distance == pytest.approx(0.01 - spoiled / 1_000)
    measured = tail(np.arange(1_000) < spoiled, 0.01, confidence=0.95)
    assert judgement.distance_interval is not None
    ends = (judgement.distance_interval.low, judgement.distance_interval.high)
    assert ends == pytest.approx((0.01 - measured.high, 0.01 - measured.low))
    assert f"{spoiled / 10:g} % of the rows are worse by more than 0.5" in judgement.reason
    assert judge_rule(make_rule(baseline="champion", test="paired_bootstrap"), evidence).outcome is Outcome.SHOWN


def test_rows_that_got_worse_by_less_than_the_margin_per_token_are_within_it_however_long_they_are() -> None:
    evidence = make_evidence(make_model("candidate", make_rows("candidate", shift=0.2)))
    rule = make_rule(baseline="champion", margin=0.5, margin_kind="absolute", test="tail", max_share=0.1)
    judgement = judge_rule(rule, evidence)
    assert (judgement.outcome, judgement.distance) == (Outcome.SHOWN, 0.1), judgement.reason


def test_a_single_row_has_no_interval() -> None:
    single = make_evidence(*(make_model(role, make_rows(role, n=1)) for role in ("candidate", "champion", "base")))
    judgement = judge_rule(make_rule(baseline="champion", test="paired_bootstrap"), single)
    assert (judgement.outcome, judgement.seed, judgement.interval) == (Outcome.UNPROVEN, SEED, None)
    assert "a single row has no interval" in judgement.reason
    assert judge_rule(make_rule(baseline="champion", test="wilcoxon"), single).seed is None


def test_an_unproven_rule_says_how_many_rows_would_be_enough() -> None:
    few = (
        make_model("candidate", make_rows("candidate", n=6, shift=-0.02)),
        make_model("champion", make_rows("champion", n=6)),
        make_model("base", make_rows("base", n=6)),
    )
    judgement = judge_rule(make_rule(baseline="champion", margin=0.01, test="paired_bootstrap"), make_evidence(*few))
    assert judgement.outcome is Outcome.UNPROVEN
    assert "rows would show it, but there are only 6" in judgement.reason


def test_rows_that_all_differ_by_the_same_amount_prove_nothing() -> None:
    def flat(role: str, value: float) -> ModelEvidence:
        return change_model(lambda row: row.update(nll=value * row["tokens"]) if row["suite"] == "target" else None, role)

    evidence = make_evidence(flat("candidate", 1.0), flat("champion", 2.0))
    judgement = judge_rule(make_rule(baseline="champion", test="paired_bootstrap", margin_kind="absolute"), evidence)
    assert judgement.outcome is Outcome.UNPROVEN
    assert "there is no interval because" in judgement.reason


def test_a_suspicious_gain_is_unproven() -> None:
    judgement = judge_rule(make_rule(baseline="champion", max_gain=0.1, test="paired_bootstrap"), make_evidence())
    assert judgement.outcome is Outcome.UNPROVEN
    assert "too good to be true" in judgement.reason
    assert judge_rule(make_rule(baseline="champion", max_gain=0.9), make_evidence()).outcome is Outcome.SHOWN


def set_loss(per_token: float, row: dict[str, Any]) -> None:
    row["nll"] = per_token * row["tokens"]


def test_a_gain_that_is_as_large_as_allowed_is_not_suspicious() -> None:
    candidate, champion = (change_model(partial(set_loss, nll), role) for nll, role in ((1.5, "candidate"), (2.0, "champion")))
    rule = make_rule(baseline="champion", max_gain=0.5, margin_kind="absolute")
    assert judge_rule(rule, make_evidence(candidate, champion)).outcome is Outcome.SHOWN
    assert judge_rule(rule.model_copy(update={"max_gain": 0.49}), make_evidence(candidate, champion)).outcome is Outcome.UNPROVEN


def test_rouge_is_judged_on_answered_rows_only() -> None:
    better = change_model(lambda row: row.update(rouge_l=None if row["rouge_l"] is None else 0.9 + row["rouge_l"] / 10))
    judgement = judge_rule(make_rule("target.rouge_l", "higher", baseline="champion", test="paired_bootstrap"), make_evidence(better))
    assert (judgement.outcome, judgement.n) == (Outcome.SHOWN, 20)


def test_without_a_champion_the_base_replaces_it_and_the_reason_says_so() -> None:
    evidence = make_evidence()
    first = replace(evidence, models={role: evidence.models[role] for role in ("candidate", "base")})
    judgement = judge_rule(make_rule(baseline="champion", test="paired_bootstrap"), first)
    assert (judgement.outcome, judgement.baseline, judgement.compared_with) == (Outcome.SHOWN, "champion", "base")
    assert "no champion yet" in judgement.reason
    worse = make_model("candidate", make_rows("candidate", shift=0.4))
    assert judge_rule(make_rule(baseline="champion"), replace(first, models={**first.models, "candidate": worse})).outcome is Outcome.FAILED


# Rows -----------------------------------------------------------------------------------------------------------------------------


def test_too_few_rows_are_unproven_and_never_promote() -> None:
    rule = make_rule(baseline="champion", min_rows=61)
    judgement = judge_rule(rule, make_evidence())
    assert judgement.outcome is Outcome.UNPROVEN
    assert "the rule requires 61 rows, but only 60 count" in judgement.reason
    assert judge_rule(make_rule(baseline="champion", min_rows=60), make_evidence()).outcome is Outcome.SHOWN
    worse = make_model("candidate", make_rows("candidate", shift=1.0))
    assert judge_rule(rule, make_evidence(worse)).outcome is Outcome.UNPROVEN


def test_a_kind_counts_its_own_rows() -> None:
    assert (
        judge_rule(make_rule("retention.facts.nll", baseline="base", margin=0.1, min_rows=31), make_evidence()).outcome is Outcome.UNPROVEN
    )
    assert judge_rule(make_rule("retention.facts.nll", baseline="base", margin=0.1, min_rows=30), make_evidence()).outcome is Outcome.SHOWN


# Wilcoxon -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("shift", "margin", "outcome"),
    [
        (-0.4, 0.0, Outcome.SHOWN),
        (0.0, 0.0, Outcome.UNPROVEN),
        (0.0, 0.05, Outcome.SHOWN),
        (0.0, -0.05, Outcome.FAILED),
        (0.4, 0.05, Outcome.FAILED),
        (0.2, 0.2, Outcome.SHOWN),
    ],
)
@pytest.mark.parametrize("kind", ["relative", "absolute"])
def test_wilcoxon_shows_and_fails_like_the_bootstrap(shift: float, margin: float, kind: str, outcome: Outcome) -> None:
    model = make_model("candidate", make_rows("candidate", shift=shift))
    margin = margin if kind == "relative" else margin * 2
    judgement = judge_rule(make_rule(baseline="champion", margin=margin, margin_kind=kind, test="wilcoxon"), make_evidence(model))
    assert judgement.outcome is outcome, judgement.reason
    assert judgement.seed is None
    assert judgement.interval is not None
    assert judgement.typical_difference is not None
    assert judgement.interval.low < judgement.typical_difference < judgement.interval.high


def test_wilcoxon_ranks_values_per_token() -> None:
    """Rows of very unequal length that all differ by about 0.1 nats a token."""

    def stretched(role: str, shift: float) -> ModelEvidence:
        rows = make_rows(role)
        for number, row in enumerate(rows):
            row.update(tokens=1 + number * 50, nll=(1 + number * 50) * (2.0 + shift + 0.001 * (number % 7)))
        return make_model(role, rows)

    evidence = make_evidence(stretched("candidate", -0.1), stretched("champion", 0.0), stretched("base", 0.01))
    evidence.models["candidate"].rows["target"].columns["nll"][0] -= 0.01  # they must not all differ by the same amount
    judgement = judge_rule(
        make_rule(baseline="champion", test="wilcoxon"), make_evidence(*(evidence.models[role] for role in evidence.models))
    )
    assert judgement.typical_difference == pytest.approx(-0.1, abs=1e-6)
    assert "the typical row differs by -0.1 per token" in judgement.reason


def test_the_typical_row_does_not_outvote_the_tokens() -> None:
    """Most rows are slightly better and a few are much worse: by ranks the candidate is better, by the metric it is worse."""
    rows = make_rows("champion")
    for number, row in enumerate(row for row in rows if row["suite"] == "target"):
        row["nll"] += -0.1 * row["tokens"] if number % 10 else 3.0 * row["tokens"]
    judgement = judge_rule(
        make_rule(baseline="champion", test="wilcoxon", margin_kind="absolute"), make_evidence(make_model("candidate", rows))
    )
    assert judgement.interval is not None
    assert judgement.difference is not None
    assert judgement.interval.high < 0 < judgement.difference
    assert judgement.outcome is Outcome.UNPROVEN
    assert "entirely on one side of the margin, but the values over all tokens are not" in judgement.reason


@pytest.mark.parametrize("test", ["paired_bootstrap", "wilcoxon"])
def test_a_relative_margin_includes_the_uncertainty_of_the_baseline(test: str) -> None:
    """Every row is worse by a little less than 10 % of the average baseline: whether it is less depends on which rows were drawn."""
    base, candidate = make_rows("base", n=20), make_rows("base", n=20)
    for number, (row, worse) in enumerate(zip(base, candidate, strict=True)):
        row["nll"] = row["tokens"] * (0.5 if number % 2 else 3.5)
        worse["nll"] = row["nll"] + row["tokens"] * (0.17 + 0.0001 * (number % 5))
    evidence = make_evidence(make_model("candidate", candidate), base=make_model("base", base))
    relative = judge_rule(make_rule(baseline="base", margin=0.1, test=test), evidence)
    absolute = judge_rule(make_rule(baseline="base", margin=relative.margin, margin_kind="absolute", test=test), evidence)
    assert absolute.outcome is Outcome.SHOWN
    assert relative.outcome is Outcome.UNPROVEN
    assert relative.distance_interval is not None
    assert relative.distance_interval.low < 0 < relative.distance_interval.high


# Right and wrong rows --------------------------------------------------------------------------------------------------------------------


def matching(role: str, right: Callable[[int], bool]) -> ModelEvidence:
    """Make a model that passes exactly these rows of the retention suite, and whose first choices match only them in the target suite."""

    def change(row: dict[str, Any]) -> None:
        is_right = right(int(row["id"].rpartition("-")[2]))
        row["greedy_tokens"] = row["tokens"] - (not is_right)
        row["passed"] = float(is_right) if row["suite"] == "retention" else None

    return change_model(change, role)


@pytest.mark.parametrize("test", ["mcnemar", "paired_bootstrap"])
@pytest.mark.parametrize(
    ("right", "outcome"),
    [
        (lambda number: number < 45, Outcome.SHOWN),
        (lambda number: number < 31, Outcome.UNPROVEN),
        (lambda number: 29 <= number < 59, Outcome.UNPROVEN),  # as many wins as losses
        (lambda number: number < 15, Outcome.FAILED),
    ],
)
def test_right_and_wrong_rows_are_compared_row_by_row(right: Callable[[int], bool], outcome: Outcome, test: str) -> None:
    evidence = make_evidence(matching("candidate", right), matching("champion", lambda number: number < 30))
    judgement = judge_rule(make_rule("retention.passed", "higher", baseline="champion", test=test), evidence)
    assert judgement.outcome is outcome, judgement.reason
    assert judgement.reference == 0.5


def test_token_accuracy_is_judged_with_a_margin() -> None:
    evidence = make_evidence(matching("candidate", lambda number: number < 15), matching("champion", lambda number: number < 30))
    rule = make_rule("target.token_accuracy", "higher", baseline="champion", margin=0.05, margin_kind="absolute", test="paired_bootstrap")
    assert judge_rule(rule, evidence).outcome is Outcome.SHOWN
    assert judge_rule(rule.model_copy(update={"margin": 0.001}), evidence).outcome is Outcome.FAILED


# Metrics --------------------------------------------------------------------------------------------------------------------------


def test_every_reported_metric_can_be_judged_and_follows_from_its_rows() -> None:
    model = change_model()
    assert model.metrics == aggregate(CANDIDATE)
    for name, value in model.metrics.items():
        metric = parse(name)
        assert metric is not None, name
        assert metric.value(model.rows[metric.suite]) == pytest.approx(value, rel=1e-12), name
    computed = {tuple(name.split(".")) for name in model.metrics if name.count(".") == 1}
    assert computed == {(suite, metric.name) for metric in METRICS.values() if not metric.by_judge for suite in metric.suites}


# Every kind -----------------------------------------------------------------------------------------------------------------------

EVERY_KIND = make_rule("retention.*.nll", baseline="base", margin=0.1, test="paired_bootstrap", min_rows=30)


def with_kinds(role: str, kind: Callable[[int], str]) -> ModelEvidence:
    return change_model(lambda row: row.update(kind=kind(int(row["id"].rpartition("-")[2])) if row["suite"] == "retention" else ""), role)


def test_a_rule_for_every_kind_is_expanded_into_one_per_kind() -> None:
    expanded = expand(EVERY_KIND, make_evidence())
    assert [each.metric for each in expanded] == ["retention.facts.nll", "retention.refusal.nll"]
    nll = make_rule(baseline="champion", test="paired_bootstrap")
    judgements = decide([nll, EVERY_KIND], make_evidence()).judgements
    assert [judgement.metric for judgement in judgements] == ["target.nll", "retention.facts.nll", "retention.refusal.nll"]
    assert [judgement.n for judgement in judgements] == [60, 30, 30]
    assert decide([EVERY_KIND], make_evidence()).verdict is Verdict.PROMOTE
    assert expand(nll, make_evidence()) == (nll,)


def test_one_forgotten_kind_is_enough_to_reject() -> None:
    def forget(row: dict[str, Any]) -> None:
        row["nll"] *= 2 if row["kind"] == "refusal" else 0.8

    decision = decide([EVERY_KIND], make_evidence(change_model(forget)))
    assert decision.verdict is Verdict.REJECT
    assert [judgement.outcome for judgement in decision.judgements] == [Outcome.SHOWN, Outcome.FAILED]
    assert "retention.refusal.nll" in decision.reasons[0]


def test_every_kind_counts_its_own_rows() -> None:
    decision = decide([EVERY_KIND.model_copy(update={"min_rows": 31})], make_evidence())
    assert {judgement.outcome for judgement in decision.judgements} == {Outcome.UNPROVEN}
    assert [judgement.rows_needed for judgement in decision.judgements] == [31, 31]


@pytest.mark.parametrize("role", ["candidate", "base"])
def test_a_kind_that_one_side_lacks_is_invalid(role: str) -> None:
    evidence = make_evidence()
    odd = with_kinds(role, lambda number: "poems" if number == 3 else ("facts", "refusal")[number % 2])
    decision = decide([EVERY_KIND], replace(evidence, models={**evidence.models, role: odd}))
    assert [judgement.metric for judgement in decision.judgements] == [f"retention.{kind}.nll" for kind in ("facts", "poems", "refusal")]
    assert {judgement.outcome for judgement in decision.judgements} == {Outcome.INVALID}
    assert decision.verdict is Verdict.HOLD


def test_rows_without_a_kind_are_not_silently_ignored() -> None:
    def kind(number: int) -> str:
        return "" if number == 3 else "facts"

    evidence = make_evidence(*(with_kinds(role, kind) for role in ("candidate", "champion", "base")))
    (judgement,) = decide([EVERY_KIND], evidence).judgements
    assert judgement.outcome is Outcome.INVALID
    assert "1 rows of the retention suite have no kind" in judgement.reason


# The record -----------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "shift"),
    [
        (make_rule(baseline="champion", margin=0.02, test="paired_bootstrap"), -0.4),
        (make_rule(baseline="champion", margin=0.02, test="paired_bootstrap"), 0.4),
        (make_rule(baseline="champion", margin=0.02, test="wilcoxon"), 0.0),
        (make_rule(baseline="champion", margin=0.02, margin_kind="absolute", test="wilcoxon"), 0.4),
        (make_rule("retention.passed", "higher", baseline="champion", test="mcnemar"), -0.4),
        (make_rule("retention.passed", "higher", baseline="champion", margin=0.1, test="paired_bootstrap"), 0.0),
    ],
)
def test_an_outcome_follows_from_the_numbers_in_the_record(rule: Rule, shift: float) -> None:
    judgement = judge_rule(rule, make_evidence(make_model("candidate", make_rows("candidate", shift=shift))))
    interval, distance = judgement.distance_interval, judgement.distance
    assert interval is not None
    assert distance is not None
    assert judgement.p_value is not None
    sides = {distance > 0 for distance in (distance, interval.low, interval.high)}
    expected = Outcome.UNPROVEN if len(sides) > 1 else (Outcome.SHOWN if sides == {True} else Outcome.FAILED)
    assert judgement.outcome is expected
    assert (judgement.p_value <= 0.025) == (expected is Outcome.FAILED)
    assert (judgement.confidence, judgement.margin_kind) == (0.95, rule.margin_kind)


def test_the_reason_says_how_many_rows_are_needed_on_either_side_of_the_margin() -> None:
    for shift, text in ((-0.005, "rows would show it,"), (0.005, "rows would show that it fails,")):
        judgement = judge_rule(
            make_rule(baseline="champion", test="paired_bootstrap"),
            make_evidence(make_model("candidate", make_rows("candidate", shift=shift))),
        )
        assert judgement.outcome is Outcome.UNPROVEN
        assert judgement.rows_needed is not None
        assert judgement.rows_needed > 60
        assert f"about {judgement.rows_needed:,} {text} but there are only 60" in judgement.reason


# Generated answers ----------------------------------------------------------------------------------------------------------------------

HEALTH = ("empty", "truncated", "looping", "other_language", "refused")


def health_rule(metric: str, **fields: Any) -> Rule:
    return make_rule(f"target.{metric}", **{"baseline": "champion", "margin": 0.2, "margin_kind": "absolute", "test": "tango", **fields})


@pytest.mark.parametrize("metric", HEALTH)
def test_answers_that_are_worse_than_the_champions_fail_although_the_likelihood_is_better(metric: str) -> None:
    broken = change_model(lambda row: row.update({metric: 1.0}) if row.get(metric) is not None else None)
    evidence = make_evidence(broken)
    assert judge_rule(make_rule(baseline="champion", test="paired_bootstrap"), evidence).outcome is Outcome.SHOWN
    judgement = judge_rule(health_rule(metric), evidence)
    assert (judgement.outcome, judgement.n) == (Outcome.FAILED, 20)
    assert judge_rule(health_rule(metric), make_evidence()).outcome is Outcome.SHOWN


def test_equal_answers_are_shown_only_if_there_are_enough_of_them() -> None:
    """Without a differing row a difference of 3.8 / n can't be excluded: 16 points with 20 answers."""
    for margin, outcome in ((0.2, Outcome.SHOWN), (0.15, Outcome.UNPROVEN)):
        judgement = judge_rule(health_rule("looping", margin=margin), make_evidence())
        assert judgement.outcome is outcome
        assert judgement.interval is not None
        assert judgement.interval.high == pytest.approx(0.161, abs=1e-3)


def test_a_relative_margin_of_shares_is_refused() -> None:
    judgement = judge_rule(health_rule("looping", margin_kind="relative"), make_evidence())
    assert judgement.outcome is Outcome.INVALID
    assert 'set margin_kind = "absolute"' in judgement.reason


def test_the_score_test_needs_rows_that_are_right_or_wrong() -> None:
    judgement = judge_rule(make_rule(baseline="champion", margin=0.1, margin_kind="absolute", test="tango"), make_evidence())
    assert judgement.outcome is Outcome.INVALID
    assert 'test = "tango" needs rows that are right or wrong' in judgement.reason


# A judge model -------------------------------------------------------------------------------------------------------------------


def with_opinions(role: str, wins: float) -> ModelEvidence:
    def prefer(row: dict[str, Any]) -> None:
        if row["suite"] == "target":
            row["judge_win"] = 0.5 if role == "base" else float(int(row["id"].rpartition("-")[2]) < wins)

    changed = change_model(prefer, role)
    metric = parse("target.judge_win")
    value = metric.value(changed.rows["target"]) if metric is not None else None
    assert value is not None
    return replace(changed, metrics={**changed.metrics, "target.judge_win": value})


@pytest.mark.parametrize(("wins", "outcome"), [(50, Outcome.SHOWN), (32, Outcome.UNPROVEN), (5, Outcome.FAILED)])
def test_a_judges_preference_is_compared_with_the_champions(wins: int, outcome: Outcome) -> None:
    rule = make_rule("target.judge_win", "higher", baseline="champion", margin=0.1, margin_kind="absolute", test="paired_bootstrap")
    models = [with_opinions(role, wins if role == "candidate" else 30) for role in ("candidate", "champion", "base")]
    judgement = judge_rule(rule, make_evidence(*models))
    assert (judgement.outcome, judgement.n) == (outcome, 60), judgement.reason
    missing = judge_rule(rule, make_evidence())
    assert (missing.outcome, "target.judge_win of the candidate is missing" in missing.reason) == (Outcome.INVALID, True)
