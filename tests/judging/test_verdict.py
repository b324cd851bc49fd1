"""The verdict: only critical rules decide, doubt means HOLD, and a failure by chance among many rules does not reject."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest

from mlops.core.errors import RecordError
from mlops.core.judgement import Judgement, Outcome, Verdict
from mlops.core.records import Judged
from mlops.core.run import Run
from mlops.judging.verdict import combine, correct, decide
from tests.support.evidence import RULES, make_evidence, make_model, make_rows, make_rule


def judgement(outcome: Outcome, critical: bool = True, **fields: Any) -> Judgement:
    return Judgement(
        rule=f"rule {outcome.value}", metric="target.nll", direction="lower", test="none", baseline="base", compared_with="base",
        critical=critical, candidate=1.0, reference=1.0, difference=0.0, margin=0.0, n=10,
        outcome=outcome, reason=f"because {outcome.value}", **fields,
    )  # fmt: skip


def with_p(p_value: float, critical: bool = True) -> Judgement:
    """Make the judgement of a rule with a test: it fails on its own if its p-value is at most 0.025."""
    return judgement(Outcome.FAILED if p_value <= 0.025 else Outcome.UNPROVEN, critical, p_value=p_value, confidence=0.95)


@pytest.mark.parametrize("outcomes", [each for n in (1, 2, 3) for each in itertools.product(Outcome, repeat=n)])
def test_every_combination(outcomes: tuple[Outcome, ...]) -> None:
    verdict, reasons = combine([judgement(outcome) for outcome in outcomes])
    if Outcome.FAILED in outcomes:
        assert verdict is Verdict.REJECT
        assert "because failed" in reasons[0]
    elif set(outcomes) == {Outcome.SHOWN}:
        assert verdict is Verdict.PROMOTE
    else:
        assert verdict is Verdict.HOLD
        assert len(reasons) == sum(outcome is not Outcome.SHOWN for outcome in outcomes)
    assert reasons


@pytest.mark.parametrize("outcomes", [(), (Outcome.SHOWN,), (Outcome.FAILED, Outcome.SHOWN)])
def test_without_critical_rules_it_holds(outcomes: tuple[Outcome, ...]) -> None:
    verdict, reasons = combine([judgement(outcome, critical=False) for outcome in outcomes])
    assert verdict is Verdict.HOLD
    assert "no critical rule" in reasons[0]


@pytest.mark.parametrize("outcome", Outcome)
def test_other_rules_do_not_decide(outcome: Outcome) -> None:
    verdict, _ = combine([judgement(Outcome.SHOWN), judgement(outcome, critical=False)])
    assert verdict is Verdict.PROMOTE


def test_exit_codes() -> None:
    assert [verdict.exit_code for verdict in (Verdict.PROMOTE, Verdict.HOLD, Verdict.REJECT)] == [0, 10, 20]


# Holm -----------------------------------------------------------------------------------------------------------------------------


def test_a_failure_that_may_be_chance_among_many_rules_is_unproven() -> None:
    corrected = correct([with_p(0.02), with_p(0.5), with_p(0.9)])
    assert [each.outcome for each in corrected] == [Outcome.UNPROVEN] * 3
    assert corrected[0].p_holm == pytest.approx(0.06)
    assert corrected[0].reason.startswith("because failed This rule fails on its own (p = 0.02), but not among all 3 critical rules")
    assert "(p = 0.06 after Holm's correction, and 0.025 is required)" in corrected[0].reason
    assert combine(corrected)[0] is Verdict.HOLD


def test_the_same_failure_alone_rejects() -> None:
    (corrected,) = correct([with_p(0.02)])
    assert (corrected.outcome, corrected.p_holm) == (Outcome.FAILED, 0.02)
    assert combine([corrected])[0] is Verdict.REJECT


def test_a_clear_failure_relaxes_the_limit_for_the_next() -> None:
    """Step-down: 0.001 × 3, then 0.012 × 2, then 0.5; Bonferroni would refuse the second with 0.036."""
    corrected = correct([with_p(0.012), with_p(0.001), with_p(0.5)])
    assert [each.outcome for each in corrected] == [Outcome.FAILED, Outcome.FAILED, Outcome.UNPROVEN]
    assert [each.p_holm for each in corrected] == pytest.approx([0.024, 0.003, 0.5])


@pytest.mark.parametrize("outsider", [judgement(Outcome.SHOWN), judgement(Outcome.FAILED), judgement(Outcome.INVALID), with_p(0.9, False)])
def test_rules_without_p_value_and_non_critical_rules_are_not_corrected(outsider: Judgement) -> None:
    corrected = correct([with_p(0.02), outsider])
    assert (corrected[0].outcome, corrected[0].p_holm) == (Outcome.FAILED, 0.02)
    assert corrected[1] == outsider


def test_each_rule_uses_its_own_confidence() -> None:
    strict = with_p(0.02).model_copy(update={"confidence": 0.99, "outcome": Outcome.UNPROVEN})
    lax = with_p(0.045).model_copy(update={"confidence": 0.9, "outcome": Outcome.FAILED})
    assert [each.outcome for each in correct([strict, lax])] == [Outcome.UNPROVEN, Outcome.FAILED]
    assert [each.outcome for each in correct([with_p(0.02), lax])] == [Outcome.UNPROVEN, Outcome.FAILED]


@pytest.mark.parametrize(
    ("fields", "needed"),
    [
        # One-sided 2.5 % and 80 % power: z = 1.960 + 0.842. Bonferroni for three tests: z = 2.394 + 0.842, which is 1.155 times as much.
        ({"mde": 1.0, "distance": -0.5}, 54),
        ({"mde": 1.0, "distance": -0.5, "margin_kind": "absolute", "reference": -2.0}, 54),
        ({"mde": 2.0, "distance": -0.5, "margin_kind": "relative", "reference": -2.0}, 54),
        ({"mde": 0.1, "distance": -5.0}, 11),
        ({"mde": None, "distance": -0.5}, None),
        ({"mde": 1.0, "distance": 0.0}, None),
        ({"mde": 1.0, "distance": None}, None),
        ({"mde": 1.0, "distance": -0.5, "n": None}, None),
    ],
)
def test_a_failure_that_may_be_chance_says_how_many_rows_would_be_enough(fields: dict[str, Any], needed: int | None) -> None:
    corrected = correct([with_p(0.02).model_copy(update={"margin_kind": "absolute", **fields}), with_p(0.5), with_p(0.9)])
    assert corrected[0].rows_needed == needed
    assert ("about" in corrected[0].reason) is (needed is not None)


def test_real_evidence_is_corrected_too() -> None:
    """A candidate that is slightly worse on the target: enough for one rule alone, but not for one of eight."""
    evidence = make_evidence(make_model("candidate", make_rows("candidate", shift=0.025)))
    rule = make_rule(baseline="champion", test="paired_bootstrap")
    others = [make_rule("retention.nll", baseline="base", margin=0.1 + 0.01 * number, test="paired_bootstrap") for number in range(7)]
    alone, among = decide([rule], evidence), decide([rule, *others], evidence)
    assert (alone.verdict, alone.judgements[0].outcome) == (Verdict.REJECT, Outcome.FAILED)
    assert (among.verdict, among.judgements[0].outcome) == (Verdict.HOLD, Outcome.UNPROVEN)
    assert among.judgements[0].p_value == alone.judgements[0].p_value
    assert "not among all 8 critical rules" in among.reasons[0]
    needed = among.judgements[0].rows_needed
    assert needed is not None
    assert f"about {needed:,} rows would be enough." in among.reasons[0]
    assert 60 < needed < 1_000


# Complete decisions ---------------------------------------------------------------------------------------------------------------


def test_good_evidence_promotes() -> None:
    decision = decide(RULES, make_evidence())
    assert decision.verdict is Verdict.PROMOTE
    assert decision.reasons == (f"All {len(RULES)} critical rules are shown to hold.",)
    assert [each.metric for each in decision.judgements] == [each.metric for each in RULES]


def test_a_floor_rejects_without_statistics() -> None:
    decision = decide([*RULES, make_rule("target.nll", ceiling=0.1)], make_evidence())
    assert decision.verdict is Verdict.REJECT
    assert decision.judgements[-1].p_value is None
    assert decision.judgements[-1].p_holm is None


def test_a_decision_of_an_older_schema_is_refused(tmp_path: Path) -> None:
    """Version 2 had other names in the self-test."""
    run = Run(tmp_path)
    corrected = Judged(
        target="prod", verdict=Verdict.PROMOTE, reasons=(), judgements=(), candidate_job="j", candidate_model="m", first_run=False,
    )  # fmt: skip
    run.write(corrected)
    assert run.read_unchecked(Judged) == corrected
    path = tmp_path / "gate.json"
    path.write_text(path.read_text().replace('"schema_version": 4', '"schema_version": 2'))
    with pytest.raises(RecordError, match=r"(?s)schema_version.*run `mlops gate` again"):
        run.read_unchecked(Judged)
