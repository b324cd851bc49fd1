"""Answer one rule of the gate.

Whatever makes the evidence invalid is looked for first (:mod:`mlops.judging.faults`); then a rule is shown, failed or unproven.
Nothing is shown but what is certain: doubt never helps the candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from mlops.core.records import Judgement, Outcome
from mlops.judging.comparison import Comparison, paired, pointwise
from mlops.judging.evidence import Evidence, ModelEvidence
from mlops.judging.faults import first_fault
from mlops.judging.metrics import Metric, parse
from mlops.judging.wording import demand, describe, number, percent

if TYPE_CHECKING:
    from mlops.core.config import Rule

__all__ = ["answer"]

Role = Literal["champion", "base", "none"]


@dataclass(frozen=True)
class _Figures:
    """The two numbers, as far as they are known."""

    candidate: float | None
    reference: float | None
    rows: int | None


def answer(rule: Rule, evidence: Evidence) -> Judgement:
    """One rule's answer, with the numbers it follows from.

    Without a champion (a first run), a rule against it is answered against the base model.
    """
    role: Role = "base" if rule.baseline == "champion" and "champion" not in evidence.models else rule.baseline
    metric = parse(rule.metric)
    fault = first_fault(rule, metric, role, evidence)
    figures = _figures(rule.metric, metric, evidence.models.get("candidate"), evidence.models.get(role))
    if fault is not None or metric is None:
        comparison = Comparison(Outcome.INVALID, fault or "")
        reason = f"No valid evidence: {comparison.why}."
    else:
        comparison = _compare(rule, metric, role, figures, evidence)
        reason = _reason(comparison, demand(rule, role))
    if role != rule.baseline:
        reason += f" There is no {rule.baseline} yet, so the {role} answers for it."
    return _judgement(rule, role, figures, comparison, reason)


def _compare(rule: Rule, metric: Metric, role: Role, figures: _Figures, evidence: Evidence) -> Comparison:
    candidate, reference, rows = figures.candidate, figures.reference, figures.rows
    assert candidate is not None  # first_fault has seen to this and to what follows
    assert rows is not None
    if rows < rule.min_rows:
        return Comparison(Outcome.UNPROVEN, f"{rows:,} rows count, and the rule wants {rule.min_rows:,}")
    if (rule.floor is not None and candidate < rule.floor) or (rule.ceiling is not None and candidate > rule.ceiling):
        return Comparison(Outcome.FAILED, f"it is at {number(candidate)}")
    if role == "none":
        return Comparison(Outcome.SHOWN, f"it is at {number(candidate)}")
    assert reference is not None
    if rule.test == "none":
        found = pointwise(rule, candidate, reference)
    else:
        models = evidence.models
        found = paired(rule, metric, models["candidate"].rows[metric.suite], models[role].rows[metric.suite])
    gain = (candidate - reference) * (1 if rule.direction == "higher" else -1)
    relative = rule.margin_kind == "relative"
    gain = gain / abs(reference) if relative else gain
    if found.outcome is Outcome.SHOWN and rule.max_gain is not None and gain > rule.max_gain:
        told = percent(gain) if relative else number(gain)
        return replace(
            found, outcome=Outcome.UNPROVEN, why=f"{told} better is too good to be true: look for test data in the training data"
        )
    return found


def _reason(comparison: Comparison, asked: str) -> str:
    opening = {
        Outcome.SHOWN: f"The candidate is {asked}",
        Outcome.FAILED: f"The candidate had to be {asked}, and is not",
    }.get(comparison.outcome, f"It is not shown that the candidate is {asked}")
    return f"{opening}: {comparison.why}."


def _figures(name: str, metric: Metric | None, candidate: ModelEvidence | None, reference: ModelEvidence | None) -> _Figures:
    values = [model.metrics.get(name) if model is not None else None for model in (candidate, reference)]
    rows = candidate.rows.get(metric.suite) if candidate is not None and metric is not None else None
    return _Figures(values[0], values[1], None if rows is None or metric is None else int(metric.selects(rows).sum()))


def _judgement(rule: Rule, role: Role, figures: _Figures, comparison: Comparison, reason: str) -> Judgement:
    candidate, reference = figures.candidate, figures.reference
    difference = candidate - reference if candidate is not None and reference is not None else None
    margin = rule.margin if rule.margin_kind == "absolute" else (None if reference is None else rule.margin * abs(reference))
    return Judgement(
        rule=describe(rule),
        metric=rule.metric,
        direction=rule.direction,
        test=rule.test,
        seed=comparison.seed,
        baseline=rule.baseline,
        answered_against=role,
        critical=rule.critical,
        candidate=candidate,
        reference=reference,
        difference=difference,
        interval=comparison.interval,
        margin=None if role == "none" else margin,
        n=figures.rows,
        mde=comparison.mde,
        outcome=comparison.outcome,
        reason=reason,
    )
