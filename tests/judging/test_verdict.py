"""The verdict: critical rules alone decide, and doubt holds."""

from __future__ import annotations

import itertools

import pytest

from mlops.core.records import Judgement, Outcome, Verdict
from mlops.judging.verdict import combine


def judgement(outcome: Outcome, critical: bool = True) -> Judgement:
    return Judgement(
        rule=f"rule {outcome.value}", metric="target.nll", direction="lower", test="none", baseline="base", answered_against="base",
        critical=critical, candidate=1.0, reference=1.0, difference=0.0, margin=0.0, n=10,
        outcome=outcome, reason=f"because {outcome.value}",
    )  # fmt: skip


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
def test_other_rules_decide_nothing(outcome: Outcome) -> None:
    verdict, _ = combine([judgement(Outcome.SHOWN), judgement(outcome, critical=False)])
    assert verdict is Verdict.PROMOTE


def test_exit_codes() -> None:
    assert [verdict.exit_code for verdict in (Verdict.PROMOTE, Verdict.HOLD, Verdict.REJECT)] == [0, 10, 20]
