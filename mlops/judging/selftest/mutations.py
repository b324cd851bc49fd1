"""Ways to spoil evidence, one at a time, for the gate's self-test. Each returns new evidence and leaves the old one as it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import fields, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.judging.metrics import Metric, parse

__all__ = [
    "COLUMNS",
    "exchange_models",
    "flatter",
    "keep_rows",
    "move",
    "name_other_suites",
    "on",
    "read_otherwise",
    "recount",
    "rename_row",
    "repeat_row",
    "set_figures",
    "spoil_a_row",
    "take_identity",
    "thin_out",
]

Floats = npt.NDArray[np.float64]
Change = Callable[[ModelEvidence], ModelEvidence]

COLUMNS = {
    "nll": "nll", "perplexity": "nll", "kl_base": "kl", "token_accuracy": "greedy_tokens", "exact_match": "greedy_tokens",
    "rouge_l": "rouge_l",
}  # fmt: skip
"""Measure → the column of :class:`Rows` that it is made of. Counts of rows and tokens have no scores."""


def on(evidence: Evidence, roles: Iterable[str], change: Change) -> Evidence:
    """Change some of the models."""
    wanted = set(roles)
    return replace(evidence, models={role: change(model) if role in wanted else model for role, model in evidence.models.items()})


def set_figures(names: Collection[str], value: float | None) -> Change:
    """Report this value under these names; None reports nothing."""

    def change(model: ModelEvidence) -> ModelEvidence:
        kept = {name: figure for name, figure in model.metrics.items() if name not in names}
        return replace(model, metrics=kept if value is None else kept | dict.fromkeys(names, value))

    return change


def flatter(better: Mapping[str, str]) -> Change:
    """Report figures that are 1 % better than the rows; ``better``: name → ``lower`` or ``higher``."""

    def change(model: ModelEvidence) -> ModelEvidence:
        better_by = {
            name: (abs(figure) or 1.0) * (0.01 if better[name] == "higher" else -0.01)
            for name, figure in model.metrics.items()
            if name in better
        }
        return replace(model, metrics={name: figure + better_by.get(name, 0.0) for name, figure in model.metrics.items()})

    return change


def spoil_a_row(metrics: Iterable[Metric], value: float) -> Change:
    """Put a value into the first row that counts for each metric, and leave the reported figures as they are."""

    def change(model: ModelEvidence) -> ModelEvidence:
        rows = dict(model.rows)
        for metric in metrics:
            if metric.suite in rows and (counted := np.flatnonzero(metric.selects(model.rows[metric.suite]))).size:
                column = _column(rows[metric.suite], metric).copy()
                column[counted[0]] = value
                rows[metric.suite] = _with_column(rows[metric.suite], metric, column)
        return replace(model, rows=rows)

    return change


def keep_rows(keep: Callable[[int], Iterable[int]], names: Collection[str]) -> Change:
    """Keep some rows of every suite, in the order given, and report the figures that follow from them.

    Args:
        keep: number of rows → the places of those that are kept; a place may come twice.
        names: the figures to report anew.
    """

    def change(model: ModelEvidence) -> ModelEvidence:
        return recount(replace(model, rows={suite: _taken(rows, keep(len(rows.ids))) for suite, rows in model.rows.items()}), names)

    return change


def repeat_row(names: Collection[str]) -> Change:
    """The first row of every suite is there twice."""
    return keep_rows(lambda rows: [0, *range(rows)] if rows else [], names)


def rename_row(model: ModelEvidence) -> ModelEvidence:
    """The last row of every suite is another one, with the same scores."""
    # Last and still last: rows are sorted by id.
    return replace(
        model,
        rows={
            suite: replace(rows, ids=(*rows.ids[:-1], f"{rows.ids[-1]}~foreign") if rows.ids else ()) for suite, rows in model.rows.items()
        },
    )


def read_otherwise(model: ModelEvidence) -> ModelEvidence:
    """The first row of every suite was read as other tokens."""
    return replace(
        model,
        rows={suite: replace(rows, inputs=("other tokens", *rows.inputs[1:]) if rows.ids else ()) for suite, rows in model.rows.items()},
    )


def name_other_suites(model: ModelEvidence) -> ModelEvidence:
    """The model was scored on suites with other digests."""
    return replace(model, suite_digests=dict.fromkeys(model.suite_digests, "another"))


def thin_out(evidence: Evidence, metric: Metric, rows: int) -> Evidence:
    """Leave so many of the rows that count for a metric, the same in all models, and report the figure that follows from them."""
    found = evidence.models["candidate"].rows.get(metric.suite)
    if found is None:
        return evidence
    dropped = {found.ids[place] for place in np.flatnonzero(metric.selects(found))[rows:]}

    def change(model: ModelEvidence) -> ModelEvidence:
        old = model.rows[metric.suite]
        left = _taken(old, [place for place, name in enumerate(old.ids) if name not in dropped])
        return recount(replace(model, rows={**model.rows, metric.suite: left}), {metric.name})

    return on(evidence, [role for role, model in evidence.models.items() if metric.suite in model.rows], change)


def take_identity(evidence: Evidence, role: str, what: str) -> Evidence:
    """Make the candidate another model in one respect: ``model``, ``weights_digest``, ``run`` or ``scores``."""
    other = evidence.models[role]
    given: dict[str, Any] = {"rows": other.rows, "metrics": other.metrics} if what == "scores" else {what: getattr(other, what)}
    return on(evidence, ["candidate"], lambda model: replace(model, **given))


def exchange_models(evidence: Evidence, role: str) -> Evidence:
    """The candidate is the baseline, and the other way round."""
    models = dict(evidence.models)
    models["candidate"], models[role] = models[role], models["candidate"]
    return replace(evidence, models=models)


def move(evidence: Evidence, metric: Metric, role: str, target: float, *, relative: bool) -> Evidence:
    """Change the candidate's scores row by row until its figure is ``target``, or as near as scores of this kind can come.

    A figure that grows does so by what the row weighs, or in proportion to the baseline's score where the margin is relative, so that the
    rows' spread stays what it is in the unit of the margin. One that shrinks keeps the rows' proportions. Right and wrong rows flip.
    """
    rows, other = (evidence.models[name].rows[metric.suite] for name in ("candidate", role))
    tokens = rows.tokens[metric.selects(rows)]
    return _rescored(evidence, metric, _moved(metric, metric.sums(rows), metric.sums(other)[0], tokens, target, relative))


def shift(evidence: Evidence, metric: Metric, by: float) -> Evidence:
    """Change every row's own figure of the candidate by so much, and so the typical row's, as far as scores of this kind can go."""
    scores, weight = metric.sums(evidence.models["candidate"].rows[metric.suite])
    return _rescored(evidence, metric, np.clip(scores + by * weight, 0.0, weight if metric.fraction else None))


def recount(model: ModelEvidence, names: Collection[str]) -> ModelEvidence:
    """Report what follows from the rows, under these names."""
    figures = {name: _figure(model.rows, name) for name in names if name in model.metrics}
    kept = {name: figure for name, figure in model.metrics.items() if name not in figures}
    return replace(model, metrics=kept | {name: figure for name, figure in figures.items() if figure is not None})


def _rescored(evidence: Evidence, metric: Metric, scores: Floats) -> Evidence:
    """Give the candidate's rows that count for a metric these scores, and report the figure that follows from them."""
    model = evidence.models["candidate"]
    rows = model.rows[metric.suite]
    column = _column(rows, metric).copy()
    column[metric.selects(rows)] = scores
    changed = replace(model, rows={**model.rows, metric.suite: _with_column(rows, metric, column)})
    return on(evidence, ["candidate"], lambda _: recount(changed, {metric.name}))


def _moved(metric: Metric, scored: tuple[Floats, Floats], reference: Floats, tokens: Floats, target: float, relative: bool) -> Floats:
    scores, weight = scored
    wanted = max(0.0, target) * float(weight.sum())
    if metric.binary:
        return _flipped(scores > 0, tokens, wanted)
    short = wanted - float(scores.sum())
    if short < 0:
        return scores * (wanted / float(scores.sum()))
    share = reference if relative and reference.sum() > 0 else weight
    grown = scores + share * (short / float(share.sum()))
    return np.minimum(grown, weight) if metric.fraction else grown


def _flipped(right: npt.NDArray[np.bool_], tokens: Floats, wanted: float) -> Floats:
    """Greedy tokens of rows of which ``wanted`` are right; the first rows change."""
    more = math.ceil(wanted) - int(right.sum())
    changed = right.copy()
    changed[np.flatnonzero(right if more < 0 else ~right)[: abs(more)]] = more > 0
    return np.where(changed, tokens, tokens - 1)


def _figure(rows: Mapping[str, Rows], name: str) -> float | None:
    metric = parse(name)
    return metric.value(rows[metric.suite]) if metric is not None and metric.suite in rows else None


def _column(rows: Rows, metric: Metric) -> Floats:
    column: Floats = getattr(rows, COLUMNS[metric.measure])
    return column


def _with_column(rows: Rows, metric: Metric, column: Floats) -> Rows:
    changed: dict[str, Any] = {COLUMNS[metric.measure]: column}
    return replace(rows, **changed)


def _taken(rows: Rows, places: Iterable[int]) -> Rows:
    kept = list(places)
    taken: dict[str, Any] = {}
    for field in fields(rows):
        column = getattr(rows, field.name)
        taken[field.name] = column[kept] if isinstance(column, np.ndarray) else tuple(column[place] for place in kept)
    return Rows(**taken)
