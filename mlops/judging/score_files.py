"""Judge two score files that any program wrote: one JSON object a line, with the row's ``id`` and the values of metrics.

    {"id": "q-17", "accuracy": 1, "latency_s": 0.31}

Both files must have the same rows. The rules are those of pipeline.toml, and so are the tests and the way to a verdict; ``base`` is the
second file. A row may name its ``input``: rows with the same input are copies, and count once.
"""

from __future__ import annotations

import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mlops.core import console
from mlops.core.errors import ConfigError, EvidenceError, SelfTestFailed
from mlops.core.records import Judgement
from mlops.core.settings import Rule, RuleName
from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.judging.judge import reject_duplicates
from mlops.judging.metric_table import Column, Floats, MetricDefinition
from mlops.judging.metrics import Metric
from mlops.judging.rules import judge_metric
from mlops.judging.validity import check_rule
from mlops.judging.verdict import Decision, combine, correct

__all__ = ["Scores", "judge_scores", "read_rules", "read_scores"]

SUITE = "file"
LABELS = ("id", "input")
"""Fields of a row that are no metrics."""


@dataclass(frozen=True)
class Scores:
    """The rows of a file, sorted by id. Each column has shape [rows]; NaN where a row has no value."""

    path: Path
    ids: tuple[str, ...]
    inputs: tuple[str, ...]
    columns: Mapping[str, Floats]


def read_scores(path: Path) -> Scores:
    """Read a file.

    Raises:
        EvidenceError: it can't be read, or a row is not valid; with its line.
    """
    rows: dict[str, dict[str, Any]] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as problem:
        raise EvidenceError(f"{path} can't be read: {problem.strerror}.", "correct the path") from problem
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=reject_duplicates)
            if not isinstance(row, dict):
                raise ValueError("it is not a JSON object")
            _check(row, rows)
        except (ValueError, RecursionError) as problem:
            fix = 'write one JSON object a line, such as {"id": "q-17", "accuracy": 1}'
            raise EvidenceError(f"{path}:{number}: {problem}.", fix) from problem
        rows[str(row["id"])] = row
    if not rows:
        raise EvidenceError(f"{path} has no rows.", "write one JSON object a line")
    ids = tuple(sorted(rows))
    names = dict.fromkeys(name for row in rows.values() for name in row if name not in LABELS)
    columns = {name: np.array([_value(rows[each].get(name)) for each in ids], dtype=np.float64) for name in names}
    return Scores(path, ids, tuple(str(rows[each].get("input", each)) for each in ids), columns)


def _check(row: Mapping[str, Any], earlier: Mapping[str, object]) -> None:
    identity = row.get("id")
    if isinstance(identity, bool) or not isinstance(identity, (str, int)) or identity == "":
        raise ValueError("the row has no id (a string or an integer)")
    if str(identity) in earlier:
        raise ValueError(f"the id {identity!r} appears twice")
    for name, value in row.items():
        if name not in LABELS and value is not None and not isinstance(value, (bool, int, float)):
            raise ValueError(f"{name} is {json.dumps(value)[:40]}, but a metric is a number, true, false or null")


def _value(value: float | None) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:
        return math.inf


def read_rules(path: Path) -> dict[str, Rule]:
    """Read the tables ``[rules.NAME]`` of a TOML file. Their fields are those of ``[defaults.gate.rules.NAME]``.

    Raises:
        ConfigError: the file can't be read, or a rule is not valid.
    """
    fix = 'write tables such as [rules.accuracy] with metric = "accuracy", direction = "higher", baseline = "base"'
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as problem:
        raise ConfigError(f"{path} can't be read: {problem}.", fix) from problem
    if unknown := sorted(content.keys() - {"rules"}):
        raise ConfigError(f"{path}: {unknown[0]} is no table of a rules file{console.did_you_mean(unknown[0], ['rules'])}.", fix)
    try:
        rules = TypeAdapter(dict[RuleName, Rule]).validate_python(content.get("rules", {}))
    except ValidationError as problem:
        first = problem.errors()[0]
        raise ConfigError(f"{path}: rules.{'.'.join(map(str, first['loc']))}: {first['msg']}.", fix) from problem
    rules = {name: rule for name, rule in rules.items() if rule.enabled}
    if not rules:
        raise ConfigError(f"{path} has no rules.", fix)
    for name, rule in rules.items():
        if rule.baseline in ("champion", "anchor"):
            raise ConfigError(f'{path}: rules.{name}: there is no {rule.baseline}, only two files: the second is baseline = "base".', fix)
    return rules


def judge_scores(rules: Mapping[str, Rule], candidate: Scores, base: Scores | None) -> Decision:
    """Judge the candidate's scores, after a self-test on the same scores.

    Args:
        rules: by name.
        candidate: the scores to be judged.
        base: what they are compared with; without it, rules with ``baseline = "base"`` have no evidence.

    Raises:
        ConfigError: a rule can't mean anything.
        SelfTestFailed: the rules would let a ruined candidate through.
    """
    for name, rule in rules.items():
        metric = _metric(rule, candidate, base)
        if metric is not None and (problem := next(check_rule(rule, metric), None)):
            raise ConfigError(f"rules.{name}: {problem}", f"correct rule {name}; nothing was judged")
    decision = _decide(rules, candidate, base)
    for how, ruined in _ruin(rules, candidate, base):
        if _decide(rules, ruined, base).verdict.exit_code == 0:
            raise SelfTestFailed(
                f"The rules would promote a candidate {how}, so there is no verdict.",
                "add rules that compare with the base, or with a floor or ceiling that a bad candidate does not reach",
            )
    return decision


def _ruin(rules: Mapping[str, Rule], candidate: Scores, base: Scores | None) -> list[tuple[str, Scores]]:
    """Return candidates that must never be promoted, each with a description."""
    worst = dict(candidate.columns)
    for rule in rules.values():
        if rule.metric in worst:
            values = _values(rule, candidate, base)
            low, high = float(np.nanmin(values, initial=0.0)), float(np.nanmax(values, initial=1.0))
            bad = low - (high - low) if rule.direction == "higher" else high + (high - low)
            if _is_binary(values):
                bad = 0.0 if rule.direction == "higher" else 1.0
            worst[rule.metric] = np.full(len(candidate.ids), bad)
    nothing = {name: np.full(len(candidate.ids), np.nan) for name in candidate.columns}
    return [
        ("with the worst values in every row", replace(candidate, columns=worst)),
        ("without any value", replace(candidate, columns=nothing)),
    ]


def _decide(rules: Mapping[str, Rule], candidate: Scores, base: Scores | None) -> Decision:
    judgements: list[Judgement] = []
    for name, rule in rules.items():
        metric = _metric(rule, candidate, base)
        problem = _find_problem(rule, candidate, base)
        evidence = _evidence(metric, candidate, base) if metric is not None and problem is None else Evidence({}, {}, {})
        judgements.append(judge_metric(rule, metric, problem, evidence).model_copy(update={"name": name}))
    corrected = correct(judgements)
    return Decision(*combine(corrected), corrected)


def _metric(rule: Rule, candidate: Scores, base: Scores | None) -> Metric | None:
    """Return the metric of a rule: a mean over rows; None if the candidate has no such field."""
    if rule.metric not in candidate.columns:
        return None
    binary = _is_binary(_values(rule, candidate, base))
    definition = MetricDefinition(
        rule.metric, rule.metric, "mean over rows", None, column=Column(rule.metric), fraction=binary, binary=binary,
        smallest=-math.inf, largest=math.inf,
    )  # fmt: skip
    return Metric(rule.metric, SUITE, None, definition)


def _values(rule: Rule, candidate: Scores, base: Scores | None) -> Floats:
    """Return all values of a rule's metric in both files."""
    return np.concatenate([scores.columns[rule.metric] for scores in (candidate, base) if scores and rule.metric in scores.columns])


def _is_binary(values: Floats) -> bool:
    return bool(np.isin(values, (0.0, 1.0)).all())


def _find_problem(rule: Rule, candidate: Scores, base: Scores | None) -> str | None:
    """Return why a rule can't be judged on these files, or None."""
    compared = [candidate] if rule.baseline == "none" else [candidate, base]
    for scores in compared:
        if scores is None:
            return "there is no second file to compare with"
        if rule.metric not in scores.columns:
            return f"{scores.path} has no {rule.metric}{console.did_you_mean(rule.metric, scores.columns)}"
        bad = np.flatnonzero(~np.isfinite(scores.columns[rule.metric]))
        if bad.size:
            return f"{bad.size:,} rows of {scores.path} have no finite {rule.metric}, the first one is {scores.ids[bad[0]]}"
    if base is None or rule.baseline == "none":
        return None
    if candidate.ids != base.ids:
        return f"the files have different rows: {len(set(candidate.ids) ^ set(base.ids)):,} ids occur in only one of them"
    if candidate.inputs != base.inputs:
        return "the files have different inputs for the same ids"
    shared = candidate.columns.keys() & base.columns.keys()
    if all(np.array_equal(candidate.columns[name], base.columns[name], equal_nan=True) for name in shared):
        return "the candidate is the base: the files have the same values in every row"
    if rule.margin_kind == "relative" and not float(base.columns[rule.metric].mean()):
        return f'{rule.metric} of the base is 0, and a margin relative to 0 is meaningless: use margin_kind = "absolute"'
    return None


def _evidence(metric: Metric, candidate: Scores, base: Scores | None) -> Evidence:
    models = {"candidate": candidate, **({"base": base} if base is not None and metric.name in base.columns else {})}
    return Evidence({role: _model(metric, scores) for role, scores in models.items()}, {}, {})


def _model(metric: Metric, scores: Scores) -> ModelEvidence:
    count = len(scores.ids)
    values = scores.columns[metric.name]
    rows = Rows(
        ids=scores.ids,
        kinds=("",) * count,
        inputs=scores.inputs,
        texts=("",) * count,
        tokens=np.ones(count),
        columns={metric.name: values},
        measured={metric.name: np.isfinite(values)},
    )
    name = str(scores.path)
    return ModelEvidence(name, name, name, {metric.name: float(values.mean())}, {}, {SUITE: rows})
