"""What is wrong with a judge's answers, for the gate's self-test. Each function tells it in words; empty where nothing is."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops.core.records import Interval, Judgement, Outcome, Verdict
from mlops.judging.evidence import Evidence
from mlops.judging.metrics import Metric
from mlops.judging.statistics.wilcoxon import signed_rank
from mlops.judging.verdict import Decision

if TYPE_CHECKING:
    from mlops.core.config import Rule

__all__ = ["Asked", "beyond", "complaints", "exchanged", "inconsistent", "others", "role_of", "tested", "turned", "unanswered", "visible"]


@dataclass(frozen=True)
class Asked:
    """A critical rule, about one metric, and how it was answered on the evidence as it is.

    What the rule asks and the figures are taken from the rule and the evidence: the judge may have them wrong.
    """

    rule: Rule
    metric: Metric
    role: str
    answer: Judgement

    @property
    def compares(self) -> bool:
        """Whether it is about two models."""
        return self.role != "none"

    @property
    def paired(self) -> bool:
        """Whether it was answered row by row."""
        return self.rule.test != "none" and self.answer.interval is not None and self.answer.mde is not None

    @property
    def worse(self) -> int:
        """Which way is worse: 1 is up."""
        return 1 if self.rule.direction == "lower" else -1

    def figure(self, evidence: Evidence, role: str) -> float:
        """What is reported of a model."""
        return evidence.models[role].metrics[self.metric.name]

    def margin(self, evidence: Evidence) -> float:
        """In the metric's unit."""
        return self.rule.margin * (abs(self.figure(evidence, self.role)) if self.rule.margin_kind == "relative" else 1.0)


def role_of(rule: Rule, evidence: Evidence) -> str:
    """Against whom a rule is to be answered: on a first run the base model stands in for the champion."""
    first_run = "champion" not in evidence.models and "champion" not in evidence.missing
    return "base" if rule.baseline == "champion" and first_run else rule.baseline


def others(decision: Decision, allowed: Collection[Outcome], asked: int) -> str:
    """What is wrong with a decision that must not go beyond these outcomes; empty where nothing is."""
    wrong = [f"{answer.rule} is {answer.outcome.value}" for answer in decision.judgements if answer.outcome not in allowed]
    if told := unanswered(decision, asked):
        wrong.append(told)
    if decision.verdict is Verdict.PROMOTE:
        wrong.append("the verdict is PROMOTE")
    return "; ".join(wrong) or inconsistent(decision)


def unanswered(decision: Decision, asked: int) -> str:
    """Where there are not as many answers as rules."""
    found = len(decision.judgements)
    why = f" ({' '.join(decision.reasons)})" if not found else ""
    return "" if found == asked else f"{asked} rules have {found} answers{why}"


def inconsistent(decision: Decision) -> str:
    """Where a verdict does not follow from its answers."""
    critical = [answer for answer in decision.judgements if answer.critical]
    shown = bool(critical) and all(answer.outcome is Outcome.SHOWN for answer in critical)
    failed = any(answer.outcome is Outcome.FAILED for answer in critical)
    follows = Verdict.REJECT if failed else Verdict.PROMOTE if shown else Verdict.HOLD
    return "" if decision.verdict is follows else f"the verdict is {decision.verdict}, and from the answers {follows} follows"


def complaints(decision: Decision, asked: Sequence[Asked], complaint: Callable[[Asked, Judgement], str]) -> str:
    """What is wrong with the answers to some rules, each beside its answer before."""
    if told := unanswered(decision, len(asked)):
        return told
    found = [(each, complaint(each, now)) for each, now in zip(asked, decision.judgements, strict=True)]
    return "; ".join(f"{each.answer.rule}: {wrong}" for each, wrong in found if wrong) or inconsistent(decision)


def exchanged(asked: Asked, now: Judgement) -> str:
    """Where the answer does not turn round with the models."""
    before = asked.answer
    for what in ("difference", "typical_difference"):
        one, other = getattr(before, what), getattr(now, what)
        if one is not None and other is not None and one != -other:
            return f"the {what.replace('_', ' ')} was {one} and is {other}"
    one, other = before.interval, now.interval
    if one is not None and other is not None and (one.low, one.high) != (-other.high, -other.low):
        return f"the interval was {_ends(one)} and is {_ends(other)}"
    return _both_ways(asked, now)


def turned(asked: Asked, now: Judgement) -> str:
    """Where the figures move with what is asked of them, or both directions are shown."""
    before = asked.answer
    if before.difference != now.difference or (before.interval and now.interval and before.interval != now.interval):
        return f"the difference was {before.difference} and is {now.difference}, though both models are what they were"
    return _both_ways(asked, now)


def _both_ways(asked: Asked, now: Judgement) -> str:
    """A rule that asks for an improvement can't hold of both sides. One that tolerates a margin can, and so can equal figures."""
    improvement = asked.rule.margin < 0 or (asked.rule.margin == 0 and asked.answer.difference != 0)
    if improvement and asked.answer.outcome is Outcome.SHOWN and now.outcome is Outcome.SHOWN:
        return "it is shown both ways"
    return ""


def _ends(interval: Interval) -> str:
    return f"[{interval.low}, {interval.high}]"


def beyond(asked: Asked, evidence: Evidence) -> float:
    """How far on the bad side of the margin a candidate is, in the metric's unit, by whichever of its figures says the least."""
    found = asked.worse * (asked.figure(evidence, "candidate") - asked.figure(evidence, asked.role)) - asked.margin(evidence)
    return min(found, _typical(asked, evidence)) if asked.rule.test == "wilcoxon" else found


def tested(asked: Asked, evidence: Evidence) -> float:
    """The same by the figure that the rule's test is about: the typical row's for wilcoxon, else the metric's own."""
    return _typical(asked, evidence) if asked.rule.test == "wilcoxon" else beyond(asked, evidence)


def _typical(asked: Asked, evidence: Evidence) -> float:
    """The pseudo-median of the rows' distances from the margin, which a relative margin moves row by row."""
    pairs = [asked.metric.sums(evidence.models[role].rows[asked.metric.suite]) for role in ("candidate", asked.role)]
    candidate, reference = (scores / weight for scores, weight in pairs)
    tolerated = asked.worse * asked.rule.margin * (reference if asked.rule.margin_kind == "relative" else 1.0)
    return asked.worse * signed_rank(candidate - reference - tolerated, confidence=asked.rule.confidence).value


def visible(seen: Judgement) -> float:
    """What the report says can be seen, in the metric's unit: its minimum detectable effect, or the width of its intervals.

    With few rows an interval reaches much further to one side than to the other, so all of its width counts.
    """
    if seen.mde is None or seen.interval is None or seen.distance_interval is None:
        return math.inf
    unit = abs(seen.reference or 0.0) if seen.margin_kind == "relative" else 1.0
    widths = (seen.interval.high - seen.interval.low, (seen.distance_interval.high - seen.distance_interval.low) * unit)
    return max(seen.mde, *widths)
