"""Checks of a judge's decisions, on judgements that are wrong in one respect."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from mlops.core.judgement import Interval, Judgement, Outcome, Verdict
from mlops.core.settings import Rule
from mlops.judging.evidence import Evidence, ModelEvidence
from mlops.judging.metric_table import Floats
from mlops.judging.metrics import parse
from mlops.judging.selftest import checks, mutations
from mlops.judging.selftest.checks import RuleCase
from mlops.judging.verdict import Decision, decide
from tests.judging.selftest.test_probes import evidence_of
from tests.support.evidence import make_rule

EVIDENCE = evidence_of()
LOSS = make_rule(baseline="base", margin=0.1, test="paired_bootstrap")
TYPICAL = make_rule(baseline="base", margin=0.1, test="wilcoxon")
TAIL = make_rule(baseline="base", margin=0.5, margin_kind="absolute", test="tail", max_share=0.2)
SHARE = make_rule("retention.token_accuracy", "higher", baseline="base", margin=0.02, margin_kind="absolute", test="paired_bootstrap")


def case_of(rule: Rule, evidence: Evidence = EVIDENCE, **changes: Any) -> RuleCase:
    metric = parse(rule.metric)
    assert metric is not None
    [judgement] = decide([rule], evidence).judgements
    return RuleCase(rule, metric, evidence.reference(rule), judgement.model_copy(update=changes))


def with_losses(losses: Floats) -> Evidence:
    """Give the candidate these losses on the target suite."""

    def mutation(model: ModelEvidence) -> ModelEvidence:
        rows = {**model.rows, "target": model.rows["target"].with_column("nll", losses)}
        return mutations.recompute(replace(model, rows=rows), {"target.nll"})

    return mutations.on_models(EVIDENCE, ["candidate"], mutation)


def decision_of(verdict: Verdict, *outcomes: Outcome, critical: bool = True) -> Decision:
    judgement = case_of(LOSS).judgement
    judgements = tuple(judgement.model_copy(update={"outcome": outcome, "critical": critical}) for outcome in outcomes)
    return Decision(verdict, ("Because.",), judgements)


@pytest.mark.parametrize(
    ("verdict", "outcomes", "says"),
    [
        (Verdict.PROMOTE, (Outcome.SHOWN, Outcome.SHOWN), ""),
        (Verdict.HOLD, (Outcome.SHOWN, Outcome.UNPROVEN), ""),
        (Verdict.HOLD, (Outcome.INVALID,), ""),
        (Verdict.REJECT, (Outcome.SHOWN, Outcome.FAILED), ""),
        (Verdict.PROMOTE, (Outcome.SHOWN, Outcome.UNPROVEN), "the verdict is PROMOTE, but HOLD follows from the judgements"),
        (Verdict.HOLD, (Outcome.SHOWN,), "the verdict is HOLD, but PROMOTE follows from the judgements"),
        (Verdict.HOLD, (Outcome.FAILED,), "the verdict is HOLD, but REJECT follows from the judgements"),
        (Verdict.PROMOTE, (), "the verdict is PROMOTE, but HOLD follows from the judgements"),
    ],
)
def test_the_verdict_must_follow_from_the_critical_judgements(verdict: Verdict, outcomes: tuple[Outcome, ...], says: str) -> None:
    assert checks.check_consistency(decision_of(verdict, *outcomes)) == says


def test_judgements_that_are_not_critical_decide_nothing() -> None:
    assert checks.check_consistency(decision_of(Verdict.HOLD, Outcome.FAILED, critical=False)) == ""
    assert "HOLD follows" in checks.check_consistency(decision_of(Verdict.PROMOTE, Outcome.SHOWN, critical=False))


def test_outcomes_counts_and_verdicts_that_must_not_be_are_named_together() -> None:
    rule = case_of(LOSS).judgement.rule
    allowed = {Outcome.INVALID, Outcome.UNPROVEN}
    assert checks.check_outcomes(decision_of(Verdict.HOLD, Outcome.INVALID), allowed, 1) == ""
    assert checks.check_outcomes(decision_of(Verdict.REJECT, Outcome.FAILED), allowed, 1) == f"{rule} is failed"
    wrong = checks.check_outcomes(decision_of(Verdict.PROMOTE, Outcome.SHOWN), allowed, 2)
    assert wrong == f"{rule} is shown; 2 rules have 1 judgements; the verdict is PROMOTE"
    assert checks.check_outcomes(decision_of(Verdict.PROMOTE, Outcome.INVALID), allowed, 1) == "the verdict is PROMOTE"
    assert "REJECT, but HOLD" in checks.check_outcomes(decision_of(Verdict.REJECT, Outcome.INVALID), allowed, 1)
    assert checks.check_count(decision_of(Verdict.HOLD), 3) == "3 rules have 0 judgements (Because.)"


def test_swapped_models_must_negate_differences_and_both_ends_of_the_interval() -> None:
    case = case_of(LOSS)
    [swapped] = decide([LOSS], mutations.swap_models(EVIDENCE, "base")).judgements
    assert checks.check_swapped(case, swapped) == ""
    assert swapped.difference is not None
    assert swapped.interval is not None
    low, high = swapped.interval.low, swapped.interval.high

    def check(**changes: Any) -> str:
        return checks.check_swapped(case, swapped.model_copy(update=changes))

    assert check(difference=-swapped.difference).startswith("the difference was")
    for interval in ({"low": low * 1.01}, {"high": high * 1.01}, {"low": -high, "high": -low}):
        assert check(interval=swapped.interval.model_copy(update=interval)).startswith("the interval was [")
    assert check(interval=None, difference=None) == ""
    typical = case_of(TYPICAL)
    assert typical.judgement.typical_difference is not None
    again = typical.judgement.model_copy(update={"difference": -(typical.judgement.difference or 0.0)})
    assert checks.check_swapped(typical, again).startswith("the typical difference was")


def test_a_reversed_direction_must_change_neither_difference_nor_interval() -> None:
    case = case_of(LOSS)
    assert checks.check_reversed(case, case.judgement) == ""
    other: tuple[dict[str, Any], ...] = ({"difference": 0.5}, {"interval": Interval(low=0.0, high=1.0, confidence=0.95)})
    for changes in other:
        wrong = checks.check_reversed(case, case.judgement.model_copy(update=changes))
        assert wrong.startswith("the difference was")
        assert wrong.endswith("although both models are unchanged")
    assert checks.check_reversed(case, case.judgement.model_copy(update={"interval": None})) == ""


@pytest.mark.parametrize(
    ("margin", "difference", "says"),
    [(0.1, -0.4, ""), (0.0, -0.4, "it is shown in both directions"), (0.0, 0.0, ""), (-0.1, -0.4, "it is shown in both directions"),
     (-0.1, 0.0, "it is shown in both directions")],
)  # fmt: skip
def test_only_a_demand_for_an_improvement_can_not_hold_both_ways(margin: float, difference: float, says: str) -> None:
    shown: dict[str, Any] = {"outcome": Outcome.SHOWN, "difference": difference, "interval": None}
    case = case_of(make_rule(baseline="base", margin=margin, test="paired_bootstrap"), **shown)
    assert checks.check_reversed(case, case.judgement) == says
    for other in (Outcome.FAILED, Outcome.UNPROVEN):
        assert checks.check_reversed(case, case.judgement.model_copy(update={"outcome": other})) == ""
        once = replace(case, judgement=case.judgement.model_copy(update={"outcome": other}))
        assert checks.check_reversed(once, case.judgement) == ""


def test_all_cases_are_checked_and_the_rule_is_named() -> None:
    cases = [case_of(LOSS), case_of(SHARE)]
    decision = decide([LOSS, SHARE], EVIDENCE)

    def only_share(case: RuleCase, judgement: Judgement) -> str:
        return "wrong" if judgement.metric == "retention.token_accuracy" else ""

    assert checks.check_all(decision, cases, lambda *_: "") == ""
    assert checks.check_all(decision, cases, only_share) == f"{cases[1].judgement.rule}: wrong"
    assert checks.check_all(decision, cases[:1], lambda *_: "") == "1 rules have 2 judgements"
    assert "follows from the judgements" in checks.check_all(replace(decision, verdict=Verdict.HOLD), cases, lambda *_: "")


def test_margins_and_distances_are_in_the_unit_of_the_metric() -> None:
    candidate, base = (EVIDENCE.models[role].metrics["target.nll"] for role in ("candidate", "base"))
    case = case_of(LOSS)
    assert case.margin(EVIDENCE) == pytest.approx(0.1 * base)
    assert checks.distance_beyond_margin(case, EVIDENCE) == pytest.approx(candidate - base - 0.1 * base)
    assert checks.tested_distance(case, EVIDENCE) == checks.distance_beyond_margin(case, EVIDENCE)
    candidate, base = (EVIDENCE.models[role].metrics["retention.token_accuracy"] for role in ("candidate", "base"))
    assert case_of(SHARE).margin(EVIDENCE) == 0.02
    assert checks.distance_beyond_margin(case_of(SHARE), EVIDENCE) == pytest.approx(base - candidate - 0.02)


@pytest.mark.parametrize("kind", ["relative", "absolute"])
@pytest.mark.parametrize("direction", ["lower", "higher"])
def test_a_signed_rank_test_is_about_the_typical_row(direction: str, kind: str) -> None:
    """Rows with equal differences have an exact pseudo-median; one long row moves the value over all tokens only."""
    sign, margin = (1 if direction == "lower" else -1), 0.1
    rule = make_rule("target.nll", direction, baseline="base", margin=margin, margin_kind=kind, test="wilcoxon")
    metric = parse("target.nll")
    assert metric is not None
    base, weight = metric.sums(EVIDENCE.models["base"].rows["target"])
    reference = base / weight
    unit = reference if kind == "relative" else 1.0
    moved = with_losses((reference + sign * (0.3 + margin * unit)) * weight)
    assert checks.tested_distance(case_of(rule, moved), moved) == pytest.approx(0.3)
    assert checks.distance_beyond_margin(case_of(rule, moved), moved) <= checks.tested_distance(case_of(rule, moved), moved)
    # The smaller of both distances counts: here that over all tokens is.
    scores, _ = metric.sums(moved.models["candidate"].rows["target"])
    scores[0] = max(0.0, scores[0] - sign * 0.5 * weight.sum())
    other = with_losses(scores)
    if direction == "lower":
        assert checks.distance_beyond_margin(case_of(rule, other), other) < checks.tested_distance(case_of(rule, other), other) - 0.01


@pytest.mark.parametrize(("by", "spoiled"), [(0.4, 0), (0.6, 15), (3.0, 15)])
def test_only_rows_that_are_worse_by_more_than_the_margin_are_spoiled(by: float, spoiled: int) -> None:
    metric = parse("target.nll")
    assert metric is not None
    case = case_of(TAIL)
    assert checks.count_spoiled(case, EVIDENCE) == 0
    assert checks.count_spoiled(case, mutations.spoil_rows(EVIDENCE, metric, "base", 0.25, by)) == spoiled


def test_the_detectable_effect_is_the_largest_of_mde_and_widths() -> None:
    judgement = case_of(LOSS).judgement.model_copy(
        update={
            "reference": -2.0, "mde": 0.1, "interval": Interval(low=-0.2, high=0.2, confidence=0.95),
            "distance_interval": Interval(low=0.1, high=0.4, confidence=0.95),
        }
    )  # fmt: skip

    def detectable(**changes: Any) -> float:
        return checks.detectable(judgement.model_copy(update=changes))

    assert detectable() == pytest.approx(0.6)
    assert detectable(margin_kind="absolute") == pytest.approx(0.4)
    assert detectable(mde=0.7) == 0.7
    assert detectable(reference=None) == pytest.approx(0.4)
    for missing in ("mde", "interval", "distance_interval"):
        assert detectable(**{missing: None}) == math.inf


def test_a_case_has_an_interval_if_its_test_has_one() -> None:
    assert case_of(LOSS).has_interval
    assert case_of(TAIL).has_interval
    assert not case_of(LOSS, mde=None).has_interval
    assert not case_of(LOSS, interval=None).has_interval
    assert not case_of(TAIL, distance_interval=None).has_interval
    assert not case_of(make_rule(baseline="base")).has_interval
    assert case_of(make_rule(baseline="base")).compares
    assert not case_of(make_rule(ceiling=3.0)).compares
