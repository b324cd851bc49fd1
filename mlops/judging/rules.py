"""Judge one rule of the gate.

Problems that make the evidence invalid come first (:mod:`mlops.judging.validity`). Only then is a rule shown, failed or unproven. In case
of doubt, nothing is shown: doubt never helps the candidate.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from mlops.core.judgement import Judgement, Outcome
from mlops.core.settings import Rule
from mlops.judging.comparison import Comparison, MetricValues, compare_rows, compare_values, distance, gain
from mlops.judging.evidence import Evidence, Reference, Rows
from mlops.judging.metrics import EVERY_KIND, Metric, parse
from mlops.judging.validity import evidence_problem
from mlops.judging.wording import describe, describe_requirement, number, percent

__all__ = ["expand", "judge_metric", "judge_rule"]


@dataclass(frozen=True)
class _ReportedValues:
    """The two reported values and the number of distinct rows, as far as they exist."""

    candidate: float | None
    reference: float | None
    rows: int | None


def expand(rule: Rule, evidence: Evidence) -> tuple[Rule, ...]:
    """Expand a rule whose metric has ``*`` into one rule per kind; return any other rule unchanged.

    The kinds are those of all models' rows, so a kind that one model lacks also gets a rule, which is invalid. If the suite has no kinds,
    or rows without a kind, the rule stays as it is and is invalid.
    """
    metric = parse(rule.metric)
    if metric is None or metric.kind != EVERY_KIND:
        return (rule,)
    kinds = {kind for model in evidence.models.values() if metric.suite in model.rows for kind in model.rows[metric.suite].kinds}
    if not kinds or "" in kinds:
        return (rule,)
    return tuple(rule.model_copy(update={"metric": f"{metric.suite}.{kind}.{metric.definition.name}"}) for kind in sorted(kinds))


def judge_rule(rule: Rule, evidence: Evidence) -> Judgement:
    """Judge one rule on its own, and record the numbers that the judgement follows from."""
    metric = parse(rule.metric)
    return judge_metric(rule, metric, evidence_problem(rule, metric, evidence.reference(rule), evidence), evidence)


def judge_metric(rule: Rule, metric: Metric | None, problem: str | None, evidence: Evidence) -> Judgement:
    """Judge a rule about a metric. A ``problem`` with the evidence makes it invalid."""
    role = evidence.reference(rule)
    reported = _read_reported_values(rule.metric, metric, evidence, role)
    if problem is not None or metric is None:
        comparison = Comparison(Outcome.INVALID, problem or "")
        reason = f"No valid evidence: {comparison.why}."
    else:
        comparison = _compare(rule, metric, role, reported, evidence)
        reason = _reason(comparison, describe_requirement(rule, role))
    if role != rule.baseline:
        reason += (
            " The champion is the best model so far."
            if role == "champion"
            else f" There is no {rule.baseline} yet, so the {role} model replaces it."
        )
    return _judgement(rule, role, reported, comparison, reason)


def _compare(rule: Rule, metric: Metric, role: Reference, reported: _ReportedValues, evidence: Evidence) -> Comparison:
    candidate, reference, rows = reported.candidate, reported.reference, reported.rows
    assert candidate is not None  # evidence_problem has checked this and the two below
    assert rows is not None
    if rows < rule.min_rows:
        why = f"the rule requires {rule.min_rows:,} rows, but only {rows:,} count"
        return Comparison(Outcome.UNPROVEN, why, rows_needed=rule.min_rows)
    if (rule.floor is not None and candidate < rule.floor) or (rule.ceiling is not None and candidate > rule.ceiling):
        return Comparison(Outcome.FAILED, f"its value is {number(candidate)}")
    if role == "none":
        return Comparison(Outcome.SHOWN, f"its value is {number(candidate)}")
    assert reference is not None
    values = MetricValues(candidate, reference)
    if rule.test == "none":
        comparison = compare_values(rule, values)
    else:
        models = evidence.models
        comparison = compare_rows(rule, metric, models["candidate"].rows[metric.suite], models[role].rows[metric.suite], values)
    better_by = gain(rule, values)
    if comparison.outcome is Outcome.SHOWN and rule.max_gain is not None and better_by > rule.max_gain:
        amount = percent(better_by) if rule.margin_kind == "relative" else number(better_by)
        why = f"{amount} better is too good to be true: look for test data in the training data"
        return replace(comparison, outcome=Outcome.UNPROVEN, why=why)
    return comparison


def _reason(comparison: Comparison, requirement: str) -> str:
    opening = {
        Outcome.SHOWN: f"The candidate is {requirement}",
        Outcome.FAILED: f"The candidate must be {requirement}, but is not",
    }.get(comparison.outcome, f"It is not shown that the candidate is {requirement}")
    return f"{opening}: {comparison.why}."


def _read_reported_values(name: str, metric: Metric | None, evidence: Evidence, role: Reference) -> _ReportedValues:
    candidate, reference = evidence.models.get("candidate"), evidence.models.get(role)
    values = [model.metrics.get(name) if model is not None else None for model in (candidate, reference)]
    rows = candidate.rows.get(metric.suite) if candidate is not None and metric is not None else None
    return _ReportedValues(values[0], values[1], None if rows is None or metric is None else _count_distinct(metric, rows, evidence))


def _distance(rule: Rule, values: MetricValues | None, comparison: Comparison) -> float | None:
    if comparison.distance is not None or values is None or comparison.outcome is Outcome.INVALID:
        return comparison.distance
    return None if rule.test == "tail" else distance(rule, values)


def _count_distinct(metric: Metric, rows: Rows, evidence: Evidence) -> int:
    """Count the rows that count for the metric, and copies of a row only once."""
    counted = metric.selects(rows) & ~rows.is_copy
    frozen = evidence.suites.get(metric.suite)
    return int((counted & ~frozen.is_copy if frozen is not None and len(frozen.ids) == len(rows.ids) else counted).sum())


def _judgement(rule: Rule, role: Reference, reported: _ReportedValues, comparison: Comparison, reason: str) -> Judgement:
    candidate, reference = reported.candidate, reported.reference
    values = MetricValues(candidate, reference) if candidate is not None and reference is not None else None
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
        compared_with=role,
        critical=rule.critical,
        candidate=candidate,
        reference=reference,
        difference=values.candidate - values.reference if values else None,
        typical_difference=comparison.typical_difference,
        interval=comparison.interval,
        margin=None if role == "none" else margin,
        margin_kind=None if role == "none" else rule.margin_kind,
        distance=_distance(rule, values, comparison),
        distance_interval=comparison.distance_interval,
        p_value=comparison.p_value,
        floor=rule.floor,
        ceiling=rule.ceiling,
        max_gain=rule.max_gain,
        max_share=rule.max_share,
        n=reported.rows,
        mde=comparison.mde,
        rows_needed=comparison.rows_needed,
        outcome=comparison.outcome,
        reason=reason,
    )
