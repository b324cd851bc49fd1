"""Answer one rule of the gate.

Whatever makes the evidence invalid is looked for first (:mod:`mlops.judging.validity`); then a rule is shown, failed or unproven.
Nothing is shown but what is certain: doubt never helps the candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from mlops.core.records import Judgement, Outcome
from mlops.judging.comparison import Comparison, Figures, distance, gain, paired, pointwise
from mlops.judging.evidence import Evidence, ModelEvidence
from mlops.judging.metrics import EVERY_KIND, Metric, parse
from mlops.judging.validity import first_fault
from mlops.judging.wording import demand, describe, number, percent

if TYPE_CHECKING:
    from mlops.core.config import Rule

__all__ = ["answer", "expand"]

Role = Literal["champion", "base", "none"]


@dataclass(frozen=True)
class _Reported:
    """The two reported numbers and the rows, as far as they are known."""

    candidate: float | None
    reference: float | None
    rows: int | None


def expand(rule: Rule, evidence: Evidence) -> tuple[Rule, ...]:
    """The rules that a rule stands for: one per kind where its metric says ``*``, else itself.

    The kinds are those of any model's rows, so a kind that one side lacks gets its rule, and fails to answer it. A suite without kinds, or
    with rows that have none, leaves the rule as it is, and no evidence answers that.
    """
    metric = parse(rule.metric)
    if metric is None or metric.kind != EVERY_KIND:
        return (rule,)
    kinds = {kind for model in evidence.models.values() if metric.suite in model.rows for kind in model.rows[metric.suite].kinds}
    if not kinds or "" in kinds:
        return (rule,)
    return tuple(rule.model_copy(update={"metric": f"{metric.suite}.{kind}.{metric.measure}"}) for kind in sorted(kinds))


def answer(rule: Rule, evidence: Evidence) -> Judgement:
    """One rule's answer on its own, with the numbers it follows from.

    Without a champion (a first run), a rule against it is answered against the base model. A champion that exists and could not be
    evaluated is not replaced.
    """
    first_run = "champion" not in evidence.models and "champion" not in evidence.missing
    role: Role = "base" if rule.baseline == "champion" and first_run else rule.baseline
    metric = parse(rule.metric)
    fault = first_fault(rule, metric, role, evidence)
    reported = _reported(rule.metric, metric, evidence.models.get("candidate"), evidence.models.get(role))
    if fault is not None or metric is None:
        comparison = Comparison(Outcome.INVALID, fault or "")
        reason = f"No valid evidence: {comparison.why}."
    else:
        comparison = _compare(rule, metric, role, reported, evidence)
        reason = _reason(comparison, demand(rule, role))
    if role != rule.baseline:
        reason += f" There is no {rule.baseline} yet, so the {role} answers for it."
    return _judgement(rule, role, reported, comparison, reason)


def _compare(rule: Rule, metric: Metric, role: Role, reported: _Reported, evidence: Evidence) -> Comparison:
    candidate, reference, rows = reported.candidate, reported.reference, reported.rows
    assert candidate is not None  # first_fault has seen to this and to what follows
    assert rows is not None
    if rows < rule.min_rows:
        why = f"{rows:,} rows count, and the rule wants {rule.min_rows:,}"
        return Comparison(Outcome.UNPROVEN, why, rows_needed=rule.min_rows)
    if (rule.floor is not None and candidate < rule.floor) or (rule.ceiling is not None and candidate > rule.ceiling):
        return Comparison(Outcome.FAILED, f"it is at {number(candidate)}")
    if role == "none":
        return Comparison(Outcome.SHOWN, f"it is at {number(candidate)}")
    assert reference is not None
    figures = Figures(candidate, reference)
    if rule.test == "none":
        found = pointwise(rule, figures)
    else:
        models = evidence.models
        found = paired(rule, metric, models["candidate"].rows[metric.suite], models[role].rows[metric.suite], figures)
    gained = gain(rule, figures)
    if found.outcome is Outcome.SHOWN and rule.max_gain is not None and gained > rule.max_gain:
        told = percent(gained) if rule.margin_kind == "relative" else number(gained)
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


def _reported(name: str, metric: Metric | None, candidate: ModelEvidence | None, reference: ModelEvidence | None) -> _Reported:
    values = [model.metrics.get(name) if model is not None else None for model in (candidate, reference)]
    rows = candidate.rows.get(metric.suite) if candidate is not None and metric is not None else None
    return _Reported(values[0], values[1], None if rows is None or metric is None else int(metric.selects(rows).sum()))


def _judgement(rule: Rule, role: Role, reported: _Reported, comparison: Comparison, reason: str) -> Judgement:
    candidate, reference = reported.candidate, reported.reference
    figures = Figures(candidate, reference) if candidate is not None and reference is not None else None
    margin = rule.margin if rule.margin_kind == "absolute" else (None if reference is None else rule.margin * abs(reference))
    return Judgement(
        rule=describe(rule),
        metric=rule.metric,
        direction=rule.direction,
        test=rule.test,
        seed=comparison.seed,
        confidence=None if rule.test == "none" else rule.confidence,
        min_rows=rule.min_rows,
        baseline=rule.baseline,
        answered_against=role,
        critical=rule.critical,
        candidate=candidate,
        reference=reference,
        difference=figures.candidate - figures.reference if figures else None,
        typical_difference=comparison.typical_difference,
        interval=comparison.interval,
        margin=None if role == "none" else margin,
        margin_kind=None if role == "none" else rule.margin_kind,
        distance=distance(rule, figures) if figures and comparison.outcome is not Outcome.INVALID else None,
        distance_interval=comparison.distance_interval,
        p_value=comparison.p_value,
        floor=rule.floor,
        ceiling=rule.ceiling,
        max_gain=rule.max_gain,
        n=reported.rows,
        mde=comparison.mde,
        rows_needed=comparison.rows_needed,
        outcome=comparison.outcome,
        reason=reason,
    )
