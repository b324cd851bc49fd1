"""Mutations of evidence for the gate's self-test. Each returns new evidence and leaves the original unchanged."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt

from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.judging.metric_table import USELESS, Floats
from mlops.judging.metrics import Metric, parse

__all__ = [
    "REGRESSED",
    "change_inputs",
    "change_suite_digests",
    "copy_identity",
    "copy_rows",
    "duplicate_row",
    "flatter",
    "move_to",
    "on_models",
    "recompute",
    "reduce_rows",
    "regress",
    "relabel_kinds",
    "rename_row",
    "ruin",
    "select_rows",
    "set_row_value",
    "set_values",
    "shift_rows",
    "spoil_rows",
    "swap_models",
    "take_rows",
]

ModelMutation = Callable[[ModelEvidence], ModelEvidence]

REGRESSED = ("nll", "greedy_tokens")
"""The columns in which a plainly worse candidate is worse: the likelihoods."""


def on_models(evidence: Evidence, roles: Collection[str], mutation: ModelMutation) -> Evidence:
    """Apply a mutation to some of the models."""
    return replace(evidence, models={role: mutation(model) if role in roles else model for role, model in evidence.models.items()})


def set_values(names: Collection[str], value: float | None) -> ModelMutation:
    """Report this value for these metrics; None removes them."""

    def mutation(model: ModelEvidence) -> ModelEvidence:
        others = {name: reported for name, reported in model.metrics.items() if name not in names}
        return replace(model, metrics=others if value is None else others | dict.fromkeys(names, value))

    return mutation


def flatter(directions: Mapping[str, str]) -> ModelMutation:
    """Report values that are 1 % better than the rows; ``directions``: metric → ``lower`` or ``higher`` is better."""

    def mutation(model: ModelEvidence) -> ModelEvidence:
        better_by = {
            name: (abs(value) or 1.0) * (0.01 if directions[name] == "higher" else -0.01)
            for name, value in model.metrics.items()
            if name in directions
        }
        return replace(model, metrics={name: value + better_by.get(name, 0.0) for name, value in model.metrics.items()})

    return mutation


def set_row_value(metrics: Iterable[Metric], value: float) -> ModelMutation:
    """Set a value in the first row that counts for each metric, and leave the reported values unchanged."""

    def mutation(model: ModelEvidence) -> ModelEvidence:
        rows = dict(model.rows)
        for metric in metrics:
            if metric.suite in rows and (selected := np.flatnonzero(metric.selects(model.rows[metric.suite]))).size:
                column = _column(rows[metric.suite], metric).copy()
                column[selected[0]] = value
                rows[metric.suite] = _with_column(rows[metric.suite], metric, column)
        return replace(model, rows=rows)

    return mutation


def select_rows(select: Callable[[int], Iterable[int]], names: Collection[str]) -> ModelMutation:
    """Keep some rows of every suite, and report the values that follow from them.

    Args:
        select: number of rows → the indices to keep, in this order; an index may occur twice.
        names: the metrics to recompute.
    """

    def mutation(model: ModelEvidence) -> ModelEvidence:
        return recompute(replace(model, rows={suite: take_rows(rows, select(len(rows.ids))) for suite, rows in model.rows.items()}), names)

    return mutation


def duplicate_row(names: Collection[str]) -> ModelMutation:
    """Duplicate the first row of every suite."""
    return select_rows(lambda rows: [0, *range(rows)] if rows else [], names)


def rename_row(model: ModelEvidence) -> ModelEvidence:
    """Replace the last row of every suite with a foreign one that has the same scores."""
    # The new id also sorts last, so the rows stay in order.
    return replace(
        model,
        rows={
            suite: replace(rows, ids=(*rows.ids[:-1], f"{rows.ids[-1]}~foreign") if rows.ids else ()) for suite, rows in model.rows.items()
        },
    )


def change_inputs(model: ModelEvidence) -> ModelEvidence:
    """Pretend that the first row of every suite was read as different tokens."""
    return replace(
        model,
        rows={suite: replace(rows, inputs=("other tokens", *rows.inputs[1:]) if rows.ids else ()) for suite, rows in model.rows.items()},
    )


def relabel_kinds(model: ModelEvidence) -> ModelEvidence:
    """Pretend that the first row of every suite is of another kind."""
    return replace(
        model,
        rows={suite: replace(rows, kinds=("another kind", *rows.kinds[1:]) if rows.ids else ()) for suite, rows in model.rows.items()},
    )


def copy_rows(evidence: Evidence, names: Collection[str]) -> Evidence:
    """Replace the second half of every suite by copies of its first half under other ids, in all models and in the frozen suite alike."""
    sources = {
        suite: dict(zip(rows.ids[len(rows.ids) // 2 :], rows.ids, strict=False))
        for suite, rows in evidence.models["candidate"].rows.items()
    }

    def mutation(model: ModelEvidence) -> ModelEvidence:
        by_suite = {}
        for suite, rows in model.rows.items():
            place = {row: index for index, row in enumerate(rows.ids)}
            selected = take_rows(rows, [place.get(sources.get(suite, {}).get(row, row), index) for row, index in place.items()])
            by_suite[suite] = replace(selected, ids=tuple(place), kinds=rows.kinds)
        return recompute(replace(model, rows=by_suite), names)

    return on_models(evidence, list(evidence.models), mutation)


def ruin(evidence: Evidence, suite: str, names: Collection[str]) -> Evidence:
    """Make the candidate useless on a suite: at least twice the loss of every other model in each row, and no right answer."""
    others = [model.rows[suite] for model in evidence.models.values() if suite in model.rows]

    def mutation(model: ModelEvidence) -> ModelEvidence:
        rows = model.rows[suite]
        columns = dict(rows.columns)
        for name, (better, is_fraction) in USELESS.items():
            if better == "lower" and is_fraction:
                useless = np.ones(len(rows.ids))
            elif better == "lower":
                useless = np.fmax.reduce([np.nan_to_num(each.columns[name]) for each in others]) * 2 + 2 * rows.tokens
            elif better == "higher":
                useless = np.zeros(len(rows.ids))
            else:
                continue
            columns[name] = np.where(rows.measured[name], useless, rows.columns[name])
        return recompute(replace(model, rows={**model.rows, suite: replace(rows, columns=columns)}), names)

    return on_models(evidence, ["candidate"], mutation)


def regress(evidence: Evidence, suite: str, names: Collection[str], nats: float) -> Evidence:
    """Make the candidate plainly worse on a suite: in each row, by this many nats per token worse than every other model.

    It also has at most half as many first choices as any of them. Its answers and its drift stay as they are.
    """
    others = [model.rows[suite].columns for role, model in evidence.models.items() if role != "candidate" and suite in model.rows]

    def mutation(model: ModelEvidence) -> ModelEvidence:
        rows = model.rows[suite]
        loss = np.fmax.reduce([np.nan_to_num(columns["nll"]) for columns in others]) + nats * rows.tokens
        fewer = np.floor(np.fmin.reduce([np.nan_to_num(columns["greedy_tokens"]) for columns in others]) / 2)
        for column, values in zip(REGRESSED, (loss, fewer), strict=True):
            rows = rows.with_column(column, values)
        return recompute(replace(model, rows={**model.rows, suite: rows}), names)

    return on_models(evidence, ["candidate"], mutation)


def change_suite_digests(model: ModelEvidence) -> ModelEvidence:
    """Pretend that the model was scored on different suites."""
    return replace(model, suite_digests=dict.fromkeys(model.suite_digests, "another"))


def reduce_rows(evidence: Evidence, metric: Metric, count: int) -> Evidence:
    """Keep this many of the rows that count for a metric, the same in all models and the suite, and report the value that follows."""
    candidate = evidence.models["candidate"].rows.get(metric.suite)
    if candidate is None:
        return evidence
    dropped = {candidate.ids[index] for index in np.flatnonzero(metric.selects(candidate))[count:]}

    def mutation(model: ModelEvidence) -> ModelEvidence:
        old = model.rows[metric.suite]
        new = take_rows(old, [index for index, row_id in enumerate(old.ids) if row_id not in dropped])
        return recompute(replace(model, rows={**model.rows, metric.suite: new}), {metric.name})

    reduced = on_models(evidence, [role for role, model in evidence.models.items() if metric.suite in model.rows], mutation)
    frozen = evidence.suites.get(metric.suite)
    return reduced if frozen is None else replace(reduced, suites={**evidence.suites, metric.suite: frozen.without(dropped)})


def copy_identity(evidence: Evidence, role: str, what: str) -> Evidence:
    """Make the candidate equal to another model in one respect: ``model``, ``weights_digest``, ``run`` or ``scores``."""
    other = evidence.models[role]
    fields: dict[str, Any] = {"rows": other.rows, "metrics": other.metrics} if what == "scores" else {what: getattr(other, what)}
    return on_models(evidence, ["candidate"], lambda model: replace(model, **fields))


def swap_models(evidence: Evidence, role: str) -> Evidence:
    """Swap the candidate and another model."""
    models = dict(evidence.models)
    models["candidate"], models[role] = models[role], models["candidate"]
    return replace(evidence, models=models)


def move_to(evidence: Evidence, metric: Metric, role: str, target: float, *, relative: bool) -> Evidence:
    """Change the candidate's scores row by row until its metric value is ``target``, or as close as possible for this metric.

    To raise the value, each row is increased in proportion to its weight, or to the baseline's score if the margin is relative; this keeps
    the spread of the rows in the unit of the margin. To lower it, all rows are scaled. For a binary metric, rows flip.
    """
    rows, other = (evidence.models[name].rows[metric.suite] for name in ("candidate", role))
    return _with_scores(evidence, metric, _move(metric, metric.sums(rows), metric.sums(other)[0], target, relative))


def shift_rows(evidence: Evidence, metric: Metric, by: float) -> Evidence:
    """Change every row's own value of the candidate, and so the typical row's, by this amount as far as the metric allows."""
    scores, weight = metric.sums(evidence.models["candidate"].rows[metric.suite])
    return _with_scores(evidence, metric, np.clip(scores + by * weight, 0.0, weight if metric.definition.fraction else None))


def spoil_rows(evidence: Evidence, metric: Metric, role: str, share: float, by: float) -> Evidence:
    """Make this share of the candidate's rows worse than another model's by this amount per unit of weight, and leave the others."""
    scores, weight = metric.sums(evidence.models["candidate"].rows[metric.suite])
    other, _ = metric.sums(evidence.models[role].rows[metric.suite])
    spoiled = np.arange(len(scores)) < math.ceil(share * len(scores))
    worse = np.clip(other + by * weight, 0.0, weight if metric.definition.fraction else None)
    return _with_scores(evidence, metric, np.where(spoiled, worse, scores))


def recompute(model: ModelEvidence, names: Collection[str]) -> ModelEvidence:
    """Report the values of these metrics that follow from the rows."""
    values = {name: _compute(model.rows, name) for name in names if name in model.metrics}
    others = {name: value for name, value in model.metrics.items() if name not in values}
    return replace(model, metrics=others | {name: value for name, value in values.items() if value is not None})


def take_rows(rows: Rows, indices: Iterable[int]) -> Rows:
    """Return the rows at these indices, in this order."""
    selected = list(indices)
    return Rows(
        ids=tuple(rows.ids[index] for index in selected),
        kinds=tuple(rows.kinds[index] for index in selected),
        inputs=tuple(rows.inputs[index] for index in selected),
        texts=tuple(rows.texts[index] for index in selected),
        tokens=rows.tokens[selected],
        columns={name: values[selected] for name, values in rows.columns.items()},
        measured={name: flags[selected] for name, flags in rows.measured.items()},
    )


def _with_scores(evidence: Evidence, metric: Metric, scores: Floats) -> Evidence:
    """Set the scores of the candidate's rows that count for a metric, and report the value that follows from them."""
    model = evidence.models["candidate"]
    rows = model.rows[metric.suite]
    column = _column(rows, metric).copy()
    column[metric.selects(rows)] = scores
    changed = replace(model, rows={**model.rows, metric.suite: _with_column(rows, metric, column)})
    return on_models(evidence, ["candidate"], lambda _: recompute(changed, {metric.name}))


def _move(metric: Metric, sums: tuple[Floats, Floats], reference: Floats, target: float, relative: bool) -> Floats:
    scores, weight = sums
    target_sum = max(0.0, target) * float(weight.sum())
    if metric.definition.binary:
        return _flip(scores > 0, target_sum)
    increase = target_sum - float(scores.sum())
    if increase < 0:
        return scores * (target_sum / float(scores.sum()))
    share = reference if relative and reference.sum() > 0 else weight
    raised = scores + share * (increase / float(share.sum()))
    return np.minimum(raised, weight) if metric.definition.fraction else raised


def _flip(right: npt.NDArray[np.bool_], target_sum: float) -> Floats:
    """Return column values with which ``target_sum`` rows are right. The first rows change."""
    more = math.ceil(target_sum) - int(right.sum())
    changed = right.copy()
    changed[np.flatnonzero(right if more < 0 else ~right)[: abs(more)]] = more > 0
    return changed.astype(np.float64)


def _compute(rows: Mapping[str, Rows], name: str) -> float | None:
    metric = parse(name)
    return metric.value(rows[metric.suite]) if metric is not None and metric.suite in rows else None


def _column(rows: Rows, metric: Metric) -> Floats:
    assert metric.column is not None
    return rows.columns[metric.column.name]


def _with_column(rows: Rows, metric: Metric, values: Floats) -> Rows:
    assert metric.column is not None
    return rows.with_column(metric.column.name, values)
