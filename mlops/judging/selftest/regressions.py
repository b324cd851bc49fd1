"""Probes that make the candidate worse than a rule allows: a regression is planted, and the rule must not be shown.

What the report says to be detectable must be detected.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mlops.core.judgement import Outcome, Probe
from mlops.core.settings import Rule
from mlops.judging.evidence import Evidence
from mlops.judging.selftest import checks, mutations
from mlops.judging.selftest.checks import RuleCase
from mlops.judging.selftest.draft import Draft
from mlops.judging.verdict import Decision
from mlops.judging.wording import number

__all__ = ["Judge", "probe_margin"]

Judge = Callable[[Sequence[Rule], Evidence], Decision]
"""The function under test: :func:`mlops.judging.verdict.decide`."""
_STEP = 0.1
"""A fraction of the minimum detectable effect that no test can detect: so close to the margin, both sides look alike."""


def probe_margin(case: RuleCase, evidence: Evidence, judge: Judge) -> list[Probe]:
    """Return the probes of a rule with a test.

    Args:
        case: the rule, and how it was judged.
        evidence: the evidence of this run.
        judge: the function under test.
    """
    if case.has_interval and case.rule.test == "tail":
        return [_spoil_rows(case, evidence, judge)]
    if case.has_interval:
        return [_plant_regression(case, evidence, judge), _next_to_the_margin(case, evidence, judge)]
    invalid = case.judgement.outcome is Outcome.INVALID
    why = "the rule has no valid evidence even without a mutation" if invalid else "these rows have no interval"
    name = f"a planted regression: {case.judgement.rule}"
    return [Probe(name=name, mutation="nothing", expected="failed", actual=why, result="not applicable")]


def _plant_regression(case: RuleCase, evidence: Evidence, judge: Judge) -> Probe:
    """Make the candidate worse than the baseline by twice the margin or, without a margin, by twice the minimum detectable effect."""
    judgement = case.judgement
    margin, mde = case.margin(evidence), judgement.mde or 0.0
    by = 2 * (abs(margin) or mde)
    mutated = _plant(case, evidence, by - margin, checks.distance_beyond_margin)
    mutation = f"the candidate is worse than the {case.role} by {number(by)}, {'twice the margin' if margin else 'twice the MDE'}"
    expected = "failed, or unproven if the report says that these rows can't show it"
    draft = Draft(f"a planted regression: {judgement.rule}", mutation, expected)
    decision = judge([case.rule], mutated)
    if problem := checks.check_decision(decision, 1):
        return draft.judged("", problem)
    replayed = decision.judgements[0]
    if replayed.outcome is Outcome.INVALID:
        return draft.not_planted(replayed.reason)
    beyond, detectable = checks.distance_beyond_margin(case, mutated), checks.detectable(replayed)
    problem = ""
    if replayed.outcome is Outcome.SHOWN:
        if beyond <= 0:
            return draft.not_planted("no score can be that bad")
        problem = f"the rule is shown: {replayed.reason}"
    elif replayed.outcome is Outcome.UNPROVEN and beyond > detectable:
        problem = f"the rule is unproven, although it is {number(beyond)} beyond the margin and {number(detectable)} is detectable"
    actual = f"{replayed.outcome.value}, {number(beyond)} beyond the margin; {number(detectable)} is detectable"
    return draft.judged(actual, problem)


def _spoil_rows(case: RuleCase, evidence: Evidence, judge: Judge) -> Probe:
    """Make one row more than the rule tolerates worse."""
    allowed, rows = case.rule.max_share or 0.0, case.judgement.n or 1
    share = min(1.0, allowed + 1 / rows)
    by = case.worse * 2 * case.rule.margin
    mutated = mutations.spoil_rows(evidence, case.metric, case.role, share, by)
    mutation = f"{number(share * 100)} % of the rows of the candidate are worse than those of the {case.role} by twice the margin"
    draft = Draft(f"spoiled rows: {case.judgement.rule}", mutation, "not shown")
    decision = judge([case.rule], mutated)
    problem = checks.check_decision(decision, 1)
    if not problem and decision.judgements[0].outcome is Outcome.SHOWN:
        if checks.count_spoiled(case, mutated) <= allowed * rows:
            return draft.not_planted("no score can be that bad")
        problem = f"the rule is shown: {decision.judgements[0].reason}"
    return draft.judged(decision.judgements[0].outcome.value if decision.judgements else "", problem)


def _next_to_the_margin(case: RuleCase, evidence: Evidence, judge: Judge) -> Probe:
    """Put the candidate on the good side of the margin by almost nothing: two numbers would show it, an interval can't."""
    # Scores that are moved far have a different spread, and a tenth of the original MDE might be detectable.
    at_margin = judge([case.rule], _plant(case, evidence, 0.0, checks.tested_distance)).judgements
    step = _STEP * min([case.judgement.mde or 0.0, *(judgement.mde for judgement in at_margin if judgement.mde is not None)])
    mutated = _plant(case, evidence, -step, checks.tested_distance)
    decision = judge([case.rule], mutated)
    mutation = f"the candidate is on the good side of its margin by {number(step)}, a tenth of the MDE there"
    draft = Draft(f"next to the margin: {case.judgement.rule}", mutation, "not shown")
    if problem := checks.check_decision(decision, 1):
        return draft.judged("", problem)
    replayed = decision.judgements[0]
    problem = ""
    if replayed.outcome is Outcome.SHOWN:
        if checks.tested_distance(case, mutated) < -2 * step:
            return draft.not_planted("no score can be that bad")
        problem = f"the rule is shown: {replayed.reason}"
    return draft.judged(replayed.outcome.value, problem)


def _plant(case: RuleCase, evidence: Evidence, beyond: float, distance: Callable[[RuleCase, Evidence], float]) -> Evidence:
    """Move the candidate to this distance on the bad side of its margin, as measured by a function of :mod:`checks`."""
    if case.rule.test == "wilcoxon":
        return mutations.shift_rows(evidence, case.metric, case.worse * (beyond - distance(case, evidence)))
    target = case.value(evidence, case.role) + case.worse * (beyond + case.margin(evidence))
    return mutations.move_to(evidence, case.metric, case.role, target, relative=case.rule.margin_kind == "relative")
