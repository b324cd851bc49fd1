"""The decision in a few lines, which every report begins with: what was judged, what was closest, what else got worse, and the cost."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from mlops.core.judgement import Judgement, Outcome
from mlops.core.record import Record
from mlops.core.records import Evaluated, Judged, Trained, Validated
from mlops.judging.metrics import parse
from mlops.judging.wording import number, percent
from mlops.report.markdown import find_record
from mlops.report.samples import Exchange, exchanges

__all__ = ["MAX_CHANGES", "NOTICEABLE", "decision", "describe_change", "describe_margin_distance", "find_largest_change", "find_nearest"]

NOTICEABLE = 0.02
"""A metric that no critical rule is about is mentioned from this relative change on."""
MAX_CHANGES = 4
"""At most this many of these metrics are named."""


def decision(judged: Judged, records: Sequence[Record]) -> list[tuple[str, str]]:
    """Return (label, text) of each line.

    Args:
        judged: the gate's record.
        records: of the run; lines whose record is missing are omitted.
    """
    evaluated, trained, validated = find_record(records, Evaluated), find_record(records, Trained), find_record(records, Validated)
    model = f"{judged.candidate_model}{f' @ {trained.commit[:12]}' if trained is not None and trained.commit else ''}"
    lines = [("target", judged.target), ("candidate", f"{model}, compared with {_baselines(judged, evaluated)}")]
    if (nearest := find_nearest(judged.judgements)) is not None:
        lines.append(("closest rule", f"{nearest.title}: {describe_margin_distance(nearest)}"))
    if evaluated is not None:
        lines.append(("also worse", ", ".join(find_worse(judged, evaluated)) or "nothing by 2 % or more"))
    cost = []
    if validated is not None and validated.cost_estimate_usd is not None:
        cost.append(f"estimated {validated.cost_estimate_usd:,.2f} USD")
    if trained is not None and trained.gpu_hours is not None:
        cost.append(f"{trained.gpu_hours:.3g} GPU hours of training{', reused' if trained.reused else ''}")
    return [*lines, *([("cost", ", ".join(cost))] if cost else [])]


def find_nearest(judgements: Sequence[Judgement]) -> Judgement | None:
    """Return the critical rule that is closest to its margin, in half widths of its interval; None if no rule has an interval."""
    distances = [(_half_widths_away(judgement), index) for index, judgement in enumerate(judgements) if judgement.critical]
    measured = [(distance, index) for distance, index in distances if distance is not None]
    return judgements[min(measured)[1]] if measured else None


def _half_widths_away(judgement: Judgement) -> float | None:
    interval = judgement.distance_interval
    if interval is None or judgement.distance is None or not interval.high > interval.low:
        return None
    return 2 * judgement.distance / (interval.high - interval.low)


def describe_margin_distance(judgement: Judgement) -> str:
    """Describe how far a rule with an interval is from its margin."""
    interval = judgement.distance_interval
    assert interval is not None  # find_nearest has checked it
    form = percent if judgement.margin_kind == "relative" or judgement.test == "tail" else number
    where = "inside" if (judgement.distance or 0.0) >= 0 else "beyond"
    return f"{form(abs(judgement.distance or 0.0))} {where} its margin, {percent(interval.confidence)} interval from {form(interval.low)}"


def find_worse(judged: Judged, evaluated: Evaluated) -> list[str]:
    """Describe the metrics that got worse by 2 % or more although no critical rule is about them, the largest change first."""
    reference = "champion" if "champion" in evaluated.models else "base"
    if reference not in evaluated.models or "candidate" not in evaluated.models:
        return []
    judged_metrics = {each.metric for each in judged.judgements if each.critical and each.outcome is not Outcome.INVALID}
    before, after = evaluated.models[reference].metrics, evaluated.models["candidate"].metrics
    worse = []
    for name in sorted((before.keys() & after.keys()) - judged_metrics):
        metric = parse(name)
        better = metric.definition.better if metric is not None and metric.kind is None and not metric.definition.zero_for_base else None
        if better is None:
            continue
        change = after[name] - before[name]
        loss = (change if better == "lower" else -change) / (abs(before[name]) or 1.0)
        if loss >= NOTICEABLE:
            worse.append((loss, describe_change(name, before[name], after[name])))
    return [text for _, text in sorted(worse, reverse=True)[:MAX_CHANGES]]


def describe_change(name: str, before: float, after: float) -> str:
    """Write a metric's two values and their difference."""
    return f"{name} {number(before)} → {number(after)} (Δ {number(after - before)})"


def find_largest_change(evaluated: Evaluated | None) -> tuple[str, Exchange | None]:
    """Return the current model's role, and the question whose two answers have the least in common; None if no question has two answers."""
    current, samples = exchanges(evaluated)
    if not samples:
        return current, None
    return current, min(samples, key=lambda sample: difflib.SequenceMatcher(None, sample.before, sample.after).ratio())


def _baselines(judged: Judged, evaluated: Evaluated | None) -> str:
    """Name the models that the candidate was compared with, with their ids as far as they are recorded."""
    roles = sorted({judgement.compared_with for judgement in judged.judgements} - {"none"}, reverse=True)
    models = {role: scores.model for role, scores in evaluated.models.items()} if evaluated is not None else {}
    named = [f"{role} {models[role]}" if role in models else role for role in roles]
    return f"{' and '.join(named)}{' (first run)' if judged.first_run else ''}" if named else "no other model"
