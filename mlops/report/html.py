"""A self-contained HTML page about a run: verdict, rules with their intervals, metrics, sample answers, cost, lineage.

The page loads nothing: styles and plots are inline. All text from models and data sets is escaped.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from mlops.core.judgement import Judgement, Outcome
from mlops.core.record import Record
from mlops.core.records import Evaluated, Judged, Prepared, Trained, Validated
from mlops.core.run import Run, write_atomically
from mlops.judging.metrics import HEADLINE
from mlops.judging.wording import hidden_share, number
from mlops.report.decision import decision, find_largest_change
from mlops.report.markdown import data_line, difference, find_record, meaning, override_line, roles, self_test_line

__all__ = ["Chart", "Plot", "charts", "plot", "render", "write"]

WIDTH = 260
"""Width of a plot in pixels."""
MOST_MESSAGES = 12
"""Conversations with more messages than this are counted together."""


@dataclass(frozen=True)
class Plot:
    """The positions of an interval plot's parts, in pixels from the left."""

    zero: float
    low: float | None
    high: float | None
    point: float
    limit: float
    good_start: float
    good_width: float


@dataclass(frozen=True)
class Chart:
    """Horizontal bars, one for each label and series."""

    title: str
    labels: tuple[str, ...]
    series: dict[str, tuple[float, ...]]
    """Name → length of the bar at each label, at most 1."""
    values: dict[str, tuple[str, ...]]
    """Name → what is written at each bar."""


def write(run: Run) -> Path:
    """Write ``run/report.html`` from the records that exist, and return its path."""
    path = run.path("report.html")
    write_atomically(path, render(list(run.records())).encode())
    return path


def render(records: Sequence[Record]) -> str:
    """Render the page.

    Args:
        records: the records of one run; sections whose record is missing are omitted.
    """
    from jinja2 import Environment, StrictUndefined

    judged, evaluated = find_record(records, Judged), find_record(records, Evaluated)
    rules = [(judgement, plot(judgement)) for judgement in judged.judgements] if judged else []
    current, changed = find_largest_change(evaluated)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    template = environment.from_string(resources.files("mlops.report").joinpath("report.html.jinja").read_text(encoding="utf-8"))
    return template.render(
        judged=judged,
        decision=decision(judged, records) if judged else [],
        meaning=meaning(judged) if judged else "",
        override=override_line(judged) if judged else "",
        self_test=self_test_line(judged.self_test) if judged else "",
        current=current,
        changed=changed,
        rules=rules,
        unshown=sum(rule.outcome is not Outcome.SHOWN for rule, _ in rules),
        doubtful=[rule for rule in rules if rule[0].critical and rule[0].outcome is not Outcome.SHOWN],
        evaluated=evaluated,
        roles=roles(evaluated),
        metrics=_metrics(evaluated),
        samples=_samples(evaluated),
        charts=charts(find_record(records, Validated)),
        cost=_cost(find_record(records, Prepared), find_record(records, Validated), find_record(records, Trained)),
        lineage=_lineage(records),
        number=number,
        hidden_share=hidden_share,
        difference=difference,
        width=WIDTH,
    )


def plot(judgement: Judgement) -> Plot | None:
    """Place difference, interval, margin and 0 on one axis; None for a rule without a baseline or with values that are not finite."""
    if judgement.difference is None or judgement.margin is None or judgement.test == "tail":
        return None
    limit = judgement.margin if judgement.direction == "lower" else -judgement.margin
    interval = judgement.interval
    # The interval of a wilcoxon rule is that of the typical row.
    point = judgement.difference if judgement.typical_difference is None else judgement.typical_difference
    shown = [0.0, point, limit, *((interval.low, interval.high) if interval else ())]
    if not all(abs(value) < float("inf") for value in shown):  # also False for NaN
        return None
    start, end = min(shown), max(shown)
    reach = (end - start) * 1.2 or 1.0
    start -= (reach - (end - start)) / 2

    def x(value: float) -> float:
        return float(round((value - start) / reach * WIDTH, 1))

    good = (0.0, x(limit)) if judgement.direction == "lower" else (x(limit), round(WIDTH - x(limit), 1))
    return Plot(x(0), x(interval.low) if interval else None, x(interval.high) if interval else None, x(point), x(limit), *good)


def charts(validated: Validated | None) -> list[Chart]:
    """Return charts of the data: rows of each split, and the lengths of training and test rows beside each other."""
    if validated is None or not validated.statistics:
        return []
    splits = {name: each for name, each in validated.statistics.items() if each.rows}
    most = max((each.rows for each in splits.values()), default=1)
    counts = {"rows": tuple(each.rows / most for each in splits.values())}
    rows = Chart("Rows of each split", tuple(splits), counts, {"rows": tuple(f"{each.rows:,}" for each in splits.values())})
    shown = {name: each for name, each in splits.items() if name.endswith("_sft") and each.sampled}
    messages = {name: _merge(each.messages, MOST_MESSAGES) for name, each in shown.items()}
    return [
        rows,
        _compare("Words of a prompt", {name: each.prompt_words for name, each in shown.items()}, _words_label),
        _compare("Words of an answer", {name: each.answer_words for name, each in shown.items()}, _words_label),
        _compare("Messages of a conversation", messages, lambda count: f"{count}{' or more' if count == MOST_MESSAGES else ''}"),
    ]


def _compare(title: str, counts: Mapping[str, Mapping[int, int]], label: Callable[[int], str]) -> Chart:
    """Compare fractions of the splits, since they have different numbers of rows."""
    bins = sorted({start for each in counts.values() for start in each})
    shares = {name: [each.get(start, 0) / (sum(each.values()) or 1) for start in bins] for name, each in counts.items()}
    most = max((share for each in shares.values() for share in each), default=1.0)
    return Chart(
        title,
        tuple(label(start) for start in bins),
        {name: tuple(share / most for share in each) for name, each in shares.items()},
        {name: tuple(f"{share:.1%}" if share else "" for share in each) for name, each in shares.items()},
    )


def _words_label(smallest: int) -> str:
    return f"{smallest:,}" if smallest < 2 else f"{smallest:,}–{2 * smallest - 1:,}"


def _merge(counts: Mapping[int, int], limit: int) -> dict[int, int]:
    merged: Counter[int] = Counter()
    for size, count in counts.items():
        merged[min(size, limit)] += count
    return dict(merged)


def _metrics(evaluated: Evaluated | None) -> list[tuple[str, list[str]]]:
    if evaluated is None:
        return []
    others = {name for model in evaluated.models.values() for name in model.metrics} - set(HEADLINE)
    return [
        (name, [number(evaluated.models[role].metrics.get(name)) for role in roles(evaluated)]) for name in (*HEADLINE, *sorted(others))
    ]


def _samples(evaluated: Evaluated | None) -> list[dict[str, Any]]:
    """Return the questions that all models answered, with their answers."""
    if evaluated is None:
        return []
    by_role: Mapping[str, Mapping[str, str]] = {
        role: {sample.prompt: sample.answer for sample in evaluated.models[role].samples} for role in roles(evaluated)
    }
    first = evaluated.models[roles(evaluated)[0]].samples if by_role else ()
    return [
        {"prompt": sample.prompt, "reference": sample.reference, "answers": [by_role[role][sample.prompt] for role in by_role]}
        for sample in first
        if all(sample.prompt in answers for answers in by_role.values())
    ]


def _cost(prepared: Prepared | None, validated: Validated | None, trained: Trained | None) -> list[tuple[str, str]]:
    rows = [("data", data_line(prepared).replace("`", ""))] if prepared is not None and prepared.formats else []
    if validated is not None:
        estimate = validated.cost_estimate_usd
        rows.append(("estimated on Azure", f"{'unknown' if estimate is None else f'{estimate:,.2f} USD'} ({validated.cost_note})"))
        rows.append(("compute", f"{validated.compute} ({validated.compute_size}, {validated.gpus_per_node or 'unknown'} GPU a node)"))
    if trained is not None:
        hours = "unknown" if trained.gpu_hours is None else f"{trained.gpu_hours:.3g} GPU hours"
        rows.append(("training used", f"{hours} on {trained.gpus} GPU{', reused from an earlier run' if trained.reused else ''}"))
    return rows


def _lineage(records: Sequence[Record]) -> list[tuple[str, list[tuple[str, str]]]]:
    """Return the scalar fields of each record. Tables and texts have their own sections."""
    skipped = {"schema_version", "reasons", "champion_note", "cost_note", "verdict", "first_run", "cost_estimate_usd", "override_refused"}
    lineage = []
    for record in records:
        plain = record.model_dump(mode="json", exclude=skipped)
        lineage.append((record.stage, [(name, str(value)) for name, value in plain.items() if isinstance(value, (str, int, float))]))
    return lineage
