"""Checks of a judge's decisions for the gate's self-test. Each function returns what is wrong, or an empty string."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

from mlops.core.judgement import Interval, Judgement, Outcome, Verdict
from mlops.core.settings import Rule
from mlops.judging.evidence import Evidence, Reference
from mlops.judging.metrics import Metric
from mlops.judging.statistics.wilcoxon import signed_rank
from mlops.judging.verdict import Decision

__all__ = [
    "RuleCase",
    "check_all",
    "check_consistency",
    "check_count",
    "check_decision",
    "check_outcomes",
    "check_reversed",
    "check_swapped",
    "count_spoiled",
    "detectable",
    "distance_beyond_margin",
    "tested_distance",
]


@dataclass(frozen=True)
class RuleCase:
    """A critical rule about one metric, and how it was judged on the original evidence.

    The requirement and the metric values come from the rule and the evidence, because the judge may have them wrong.
    """

    rule: Rule
    metric: Metric
    role: Reference
    judgement: Judgement

    @property
    def compares(self) -> bool:
        """Whether the rule compares two models."""
        return self.role != "none"

    @property
    def has_interval(self) -> bool:
        """Whether it was judged row by row."""
        if self.rule.test == "tail":
            return self.judgement.distance_interval is not None
        return self.rule.test != "none" and self.judgement.interval is not None and self.judgement.mde is not None

    @property
    def worse(self) -> int:
        """The sign of a change for the worse."""
        return 1 if self.rule.direction == "lower" else -1

    def value(self, evidence: Evidence, role: str) -> float:
        """Return the reported metric value of a model."""
        return evidence.models[role].metrics[self.metric.name]

    def margin(self, evidence: Evidence) -> float:
        """Return the margin in the metric's unit."""
        return self.rule.margin * (abs(self.value(evidence, self.role)) if self.rule.margin_kind == "relative" else 1.0)


def check_outcomes(decision: Decision, allowed: Collection[Outcome], rules: int) -> str:
    """Check that all judgements have one of these outcomes and that the verdict is not PROMOTE."""
    wrong = [f"{judgement.rule} is {judgement.outcome.value}" for judgement in decision.judgements if judgement.outcome not in allowed]
    if problem := check_count(decision, rules):
        wrong.append(problem)
    if decision.verdict is Verdict.PROMOTE:
        wrong.append("the verdict is PROMOTE")
    return "; ".join(wrong) or check_consistency(decision)


def check_count(decision: Decision, rules: int) -> str:
    """Check that there are as many judgements as rules."""
    judgements = len(decision.judgements)
    why = f" ({' '.join(decision.reasons)})" if not judgements else ""
    return "" if judgements == rules else f"{rules} rules have {judgements} judgements{why}"


def check_consistency(decision: Decision) -> str:
    """Check that the verdict follows from the judgements."""
    critical = [judgement for judgement in decision.judgements if judgement.critical]
    shown = bool(critical) and all(judgement.outcome is Outcome.SHOWN for judgement in critical)
    failed = any(judgement.outcome is Outcome.FAILED for judgement in critical)
    expected = Verdict.REJECT if failed else Verdict.PROMOTE if shown else Verdict.HOLD
    return "" if decision.verdict is expected else f"the verdict is {decision.verdict}, but {expected} follows from the judgements"


def check_decision(decision: Decision, rules: int) -> str:
    """Check that there are as many judgements as rules, and that the verdict follows from them."""
    return check_count(decision, rules) or check_consistency(decision)


def check_all(decision: Decision, cases: Sequence[RuleCase], check: Callable[[RuleCase, Judgement], str]) -> str:
    """Check each new judgement together with the original one."""
    if problem := check_count(decision, len(cases)):
        return problem
    problems = [(case, check(case, judgement)) for case, judgement in zip(cases, decision.judgements, strict=True)]
    return "; ".join(f"{case.judgement.rule}: {problem}" for case, problem in problems if problem) or check_consistency(decision)


def check_swapped(case: RuleCase, judgement: Judgement) -> str:
    """Check that differences and intervals are negated after the models were swapped."""
    original = case.judgement
    for name in ("difference", "typical_difference"):
        before, after = getattr(original, name), getattr(judgement, name)
        if before is not None and after is not None and before != -after:
            return f"the {name.replace('_', ' ')} was {before} and is now {after}"
    one, other = original.interval, judgement.interval
    if one is not None and other is not None and (one.low, one.high) != (-other.high, -other.low):
        return f"the interval was {_format_interval(one)} and is now {_format_interval(other)}"
    return _check_not_both_shown(case, judgement)


def check_reversed(case: RuleCase, judgement: Judgement) -> str:
    """Check that differences and intervals don't depend on the direction of the rule, and that it isn't shown in both directions."""
    original = case.judgement
    moved = original.interval and judgement.interval and original.interval != judgement.interval
    if original.difference != judgement.difference or moved:
        return f"the difference was {original.difference} and is now {judgement.difference}, although both models are unchanged"
    return _check_not_both_shown(case, judgement)


def _check_not_both_shown(case: RuleCase, judgement: Judgement) -> str:
    """A rule that requires an improvement can't hold in both directions. A rule with a tolerance can, and so can equal values."""
    demands_improvement = case.rule.margin < 0 or (case.rule.margin == 0 and case.judgement.difference != 0)
    if demands_improvement and case.judgement.outcome is Outcome.SHOWN and judgement.outcome is Outcome.SHOWN:
        return "it is shown in both directions"
    return ""


def _format_interval(interval: Interval) -> str:
    return f"[{interval.low}, {interval.high}]"


def distance_beyond_margin(case: RuleCase, evidence: Evidence) -> float:
    """Return how far the candidate is on the bad side of the margin, in the metric's unit; for wilcoxon, the smaller of both distances."""
    difference = case.value(evidence, "candidate") - case.value(evidence, case.role)
    distance = case.worse * difference - case.margin(evidence)
    return min(distance, _typical_distance(case, evidence)) if case.rule.test == "wilcoxon" else distance


def tested_distance(case: RuleCase, evidence: Evidence) -> float:
    """Return the distance that the rule's test is about: the typical row's for wilcoxon, else that of the metric."""
    return _typical_distance(case, evidence) if case.rule.test == "wilcoxon" else distance_beyond_margin(case, evidence)


def _typical_distance(case: RuleCase, evidence: Evidence) -> float:
    """Return the pseudo-median of the rows' distances from the margin. A relative margin differs from row to row."""
    pairs = [case.metric.sums(evidence.models[role].rows[case.metric.suite]) for role in ("candidate", case.role)]
    candidate, reference = (scores / weight for scores, weight in pairs)
    tolerance = case.worse * case.rule.margin * (reference if case.rule.margin_kind == "relative" else 1.0)
    return case.worse * signed_rank(candidate - reference - tolerance, confidence=case.rule.confidence).value


def count_spoiled(case: RuleCase, evidence: Evidence) -> int:
    """Count the rows in which the candidate is worse by more than the rule's margin."""
    pairs = [case.metric.sums(evidence.models[role].rows[case.metric.suite]) for role in ("candidate", case.role)]
    candidate, reference = (scores / weight for scores, weight in pairs)
    return int((case.worse * (candidate - reference) > case.rule.margin).sum())


def detectable(judgement: Judgement) -> float:
    """Return the detectable effect according to the report, in the metric's unit: the MDE, or the width of the intervals if larger.

    With few rows an interval extends much farther on one side than on the other, so its whole width counts.
    """
    if judgement.mde is None or judgement.interval is None or judgement.distance_interval is None:
        return math.inf
    unit = abs(judgement.reference or 0.0) if judgement.margin_kind == "relative" else 1.0
    interval, distance_interval = judgement.interval, judgement.distance_interval
    return max(judgement.mde, interval.high - interval.low, (distance_interval.high - distance_interval.low) * unit)
