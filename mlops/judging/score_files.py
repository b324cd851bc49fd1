"""Judge two score files that any program wrote: one JSON object a line, with the row's ``id`` and the values of metrics.

    {"id": "q-17", "accuracy": 1, "latency_s": 0.31}

Both files must have the same rows. The rules are those of pipeline.toml, and so are the tests and the way to a verdict; ``base`` is the
second file. A row may name its ``input``: rows with the same input are copies, and count once. Without inputs only scores can show copies.
"""

from __future__ import annotations

import math
import tomllib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import compress
from pathlib import Path

import numpy as np
import numpy.typing as npt
from pydantic import TypeAdapter, ValidationError

from mlops.core import console
from mlops.core.errors import ConfigError, SelfTestFailed
from mlops.core.judgement import Judgement, Outcome
from mlops.core.settings import Rule, RuleName
from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.judging.metric_table import Column, Floats, MetricDefinition
from mlops.judging.metrics import Metric
from mlops.judging.rules import judge_metric
from mlops.judging.score_copies import describe_copies
from mlops.judging.score_outliers import find_outliers
from mlops.judging.score_rows import Scores
from mlops.judging.score_ruin import is_binary, ruin
from mlops.judging.validity import MAX_REPEATED, are_equal, check_rule
from mlops.judging.verdict import Decision, combine, correct

__all__ = ["judge_scores", "read_rules"]

SUITE = "file"
_LARGEST = 1e50
"""Larger values are refused: their squares and sums overflow."""
_TELLING_ROWS = 8
"""Two models that differ in a third of the difficult rows agree in all of 8 such rows only once in 26 times."""


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
        raise ConfigError(f"{path}: {unknown[0]} is not a table of a rules file{console.did_you_mean(unknown[0], ['rules'])}.", fix)
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
        ConfigError: a rule is meaningless.
        SelfTestFailed: the gate promotes a candidate without any value.
    """
    for name, rule in rules.items():
        metric = _metric(rule, candidate, base)
        if metric is None:
            continue
        if problem := _find_mismatch(rule, metric, candidate, base) or next(check_rule(rule, metric), None):
            raise ConfigError(f"rules.{name}: {problem}", f"correct rule {name}; nothing was judged")
    nothing = replace(candidate, columns={name: np.full(len(candidate.ids), np.nan) for name in candidate.columns})
    if _decide(rules, nothing, base).verdict.exit_code == 0:
        raise SelfTestFailed(
            "The gate would promote a candidate without any value, so there is no verdict.", "this is a bug in the gate: please report it"
        )
    return _decide(rules, candidate, base)


def _find_mismatch(rule: Rule, metric: Metric, candidate: Scores, base: Scores | None) -> str | None:
    """Return which field of a rule doesn't fit the values, or None."""
    if rule.test in ("mcnemar", "tango") and not metric.definition.binary:
        scores = base if is_binary(candidate.columns[rule.metric]) else candidate
        assert scores is not None  # otherwise all values are 0 or 1
        column = scores.columns[rule.metric]
        wrong = int(np.flatnonzero(np.isfinite(column) & ~np.isin(column, (0.0, 1.0)))[0])
        return (
            f'test = "{rule.test}" needs 0 or 1 in every row, but {rule.metric} is {column[wrong]:g} in row {scores.ids[wrong]} of '
            f'{scores.path}: use test = "paired_bootstrap"'
        )
    if rule.baseline == "none" or rule.margin_kind != "relative" or base is None or rule.metric not in base.columns:
        return None
    values = base.columns[rule.metric]
    if not (values < 0).any() or not (values > 0).any():
        return None
    return f'margin_kind = "relative" needs values of one sign, but {rule.metric} of the base has both: set margin_kind = "absolute"'


def _decide(rules: Mapping[str, Rule], candidate: Scores, base: Scores | None) -> Decision:
    problems = {name: _find_problem(rule, candidate, base) for name, rule in rules.items()}
    problems |= _find_lenient(rules, problems, candidate, base)
    problems = {name: problem or _find_dependence(rules[name], candidate, base) for name, problem in problems.items()}
    if not candidate.has_inputs:
        problems = {name: problem or _find_default_rows(rules[name], candidate) for name, problem in problems.items()}
    corrected = correct([_judge(name, rule, problems[name], candidate, base) for name, rule in rules.items()])
    return Decision(*combine(corrected), corrected)


def _judge(name: str, rule: Rule, problem: str | None, candidate: Scores, base: Scores | None, metric: Metric | None = None) -> Judgement:
    metric = metric or _metric(rule, candidate, base)
    evidence = _evidence(metric, candidate, base) if metric is not None and problem is None else Evidence({}, {}, {})
    return judge_metric(rule, metric, problem, evidence).model_copy(update={"name": name})


def _find_lenient(
    rules: Mapping[str, Rule], problems: Mapping[str, str | None], candidate: Scores, base: Scores | None
) -> dict[str, str | None]:
    """Run the self-test of the rules: return the critical rules that let a ruined candidate through, with a reason.

    One metric is ruined at a time, because otherwise a rule about another metric would stop the candidate and hide the gap. Rules about one
    metric may complement each other, so it is enough if one of them stops it.
    """
    lenient: dict[str, str | None] = {}
    critical = {name: rule for name, rule in rules.items() if rule.critical}
    for metric, direction in dict.fromkeys((rule.metric, rule.direction) for rule in critical.values()):
        group = {name: rule for name, rule in critical.items() if rule.metric == metric}
        if any(problems[name] for name in group):
            continue
        compared = base if any(rule.baseline != "none" for rule in group.values()) else None
        for ruined in ruin(candidate.columns[metric], compared.columns[metric] if compared else None, direction):
            scores = replace(candidate, columns={**candidate.columns, metric: ruined.values})
            outcomes = [_judge(name, rule, None, scores, base, _metric(rule, candidate, base)).outcome for name, rule in group.items()]
            if all(outcome is Outcome.SHOWN for outcome in outcomes):
                why = f"the self-test failed, because {_name_rules(group)} would promote a candidate {ruined.description}: make it stricter"
                lenient |= {name: why for name in group if name not in lenient}
    return lenient


def _name_rules(names: Iterable[str]) -> str:
    names = list(names)
    return f"rule {names[0]}" if len(names) == 1 else f"rules {', '.join(names[:-1])} and {names[-1]} together"


def _metric(rule: Rule, candidate: Scores, base: Scores | None) -> Metric | None:
    """Return the metric of a rule: a mean over rows; None if the candidate has no such field."""
    if rule.metric not in candidate.columns:
        return None
    binary = is_binary(_values(rule, candidate, base))
    definition = MetricDefinition(
        rule.metric, rule.metric, "mean over rows", None, column=Column(rule.metric), fraction=binary, binary=binary,
        smallest=-math.inf, largest=math.inf,
    )  # fmt: skip
    return Metric(rule.metric, SUITE, None, definition)


def _values(rule: Rule, candidate: Scores, base: Scores | None) -> Floats:
    """Return all values of a rule's metric in both files."""
    return np.concatenate([scores.columns[rule.metric] for scores in (candidate, base) if scores and rule.metric in scores.columns])


def _find_problem(rule: Rule, candidate: Scores, base: Scores | None) -> str | None:
    """Return why a rule can't be judged on these files, or None."""
    compared = [candidate] if rule.baseline == "none" else [candidate, base]
    for scores in compared:
        if scores is None:
            return "there is no second file to compare with"
        if problem := _find_bad_values(rule.metric, scores) or _find_copies(scores):
            return problem
    if problem := _find_equal_scores(rule, candidate, base):
        return problem
    if base is None or rule.baseline == "none":
        return None
    if candidate.ids != base.ids:
        return f"the files have different rows: {len(set(candidate.ids) ^ set(base.ids)):,} ids occur in only one of them"
    if candidate.inputs != base.inputs:
        return "the files have different inputs for the same ids"
    if why := _find_identity(rule.metric, candidate, base):
        return f"the candidate is the base: {why}"
    if rule.margin_kind == "relative" and abs(float(base.columns[rule.metric].mean())) < 1 / _LARGEST:
        return f'{rule.metric} of the base is 0, and a margin relative to 0 is meaningless: use margin_kind = "absolute"'
    return None


def _find_bad_values(metric: str, scores: Scores) -> str | None:
    if metric not in scores.columns:
        return f"{scores.path} has no {metric}{console.did_you_mean(metric, scores.columns)}"
    values = scores.columns[metric]
    for bad, what in ((~np.isfinite(values), f"no finite {metric}"), (np.abs(values) > _LARGEST, f"a {metric} beyond {_LARGEST:g}")):
        if bad.any():
            return f"{int(bad.sum()):,} rows of {scores.path} have {what}, the first one is {scores.ids[int(bad.argmax())]}"
    return None


def _find_copies(scores: Scores) -> str | None:
    """Return why rows may not be independent evidence, or None. A few copies are tolerated, and count once."""
    count = len(scores.ids)
    if scores.has_inputs and not all(scores.inputs):
        without = [row for row, text in zip(scores.ids, scores.inputs, strict=True) if not text]
        return f"{len(without):,} rows of {scores.path} have no input, the first one is {without[0]}: give each row its input, or none"
    keys, what = scores.keys, "input" if scores.has_inputs else "id"
    if count - len(set(keys)) <= MAX_REPEATED * count:
        return None
    seen: dict[str, str] = {}
    first = next((row, seen[key]) for row, key in zip(scores.ids, keys, strict=True) if seen.setdefault(key, row) != row)
    return (
        f"{count - len(set(keys)):,} of {count:,} rows of {scores.path} repeat the {what} of another row, apart from case, space and "
        f"punctuation, so they add no evidence: remove the copies. {first[0]} is a copy of {first[1]}"
    )


def _find_equal_scores(rule: Rule, candidate: Scores, base: Scores | None) -> str | None:
    """Return why the scores show that rows without inputs are copies, or None. Compares the rule's scores, then all scores."""
    if candidate.has_inputs:
        return None
    files = [candidate, *([base] if base is not None and base.ids == candidate.ids else [])]
    judged = [scores.columns[rule.metric] for scores in (files if rule.baseline != "none" else files[:1]) if rule.metric in scores.columns]
    for columns in (judged, [column for scores in files for column in scores.columns.values()]):
        if copies := describe_copies(columns, candidate.ids):
            return (
                f"{copies}. Without inputs, rows with the same scores are not additional evidence: remove the copies from "
                f"{candidate.path}, or give each row its input"
            )
    return None


def _find_default_rows(rule: Rule, scores: Scores) -> str | None:
    """Return why rows without inputs prove nothing, or None: the rule must state how many different ids are enough."""
    if rule.min_rows > 1:
        return None
    return f"the rows of {scores.path} have no input, so copies can't be recognized: add inputs, or set min_rows to how many ids are enough"


def _find_identity(metric: str, candidate: Scores, base: Scores) -> str:
    """Return why both files are about the same model; empty if they aren't. Scores of the same model are equal up to rounding."""
    equal = {name for name in candidate.columns.keys() & base.columns.keys() if are_equal(candidate.columns[name], base.columns[name])}
    if equal == candidate.columns.keys() & base.columns.keys():
        return "the files have the same values in every row, except for rounding"
    # Times, for example, differ in each run, so another column that differs proves nothing.
    if metric in equal and _tells_models_apart(base.columns[metric]):
        return f"they have the same {metric} in every row, except for rounding"
    return ""


def _tells_models_apart(values: Floats) -> bool:
    """Return whether two models hardly have these values in common: enough rows don't have the most frequent value.

    Two models can get all rows right, or all but a few very hard ones.
    """
    ((_, most),) = Counter(f"{value:.6g}" for value in values.tolist()).most_common(1)
    return len(values) - most >= min(_TELLING_ROWS, len(values) / 2)


def _find_dependence(rule: Rule, candidate: Scores, base: Scores | None) -> str | None:
    """Return why a comparison of means without a test depends on a few rows, or None."""
    has_limit = rule.floor is not None or rule.ceiling is not None
    if rule.test != "none" and not has_limit:
        return None
    if rule.test != "none":  # The test allows for outliers, but its limits are compared with the mean.
        rule = rule.model_copy(update={"baseline": "none", "margin": 0.0, "test": "none", "max_gain": None, "max_share": None})
    values = candidate.columns[rule.metric]
    outliers = find_outliers(values)
    if rule.baseline != "none":
        assert base is not None  # otherwise there is a problem already
        outliers |= find_outliers(values - base.columns[rule.metric])
    if not outliers.any() or _judge("", rule, None, candidate, base).outcome is not Outcome.SHOWN:
        return None
    fewer = rule.model_copy(update={"min_rows": 1})
    rest, base_rest = _select(candidate, ~outliers), None if base is None or base.ids != candidate.ids else _select(base, ~outliers)
    if _find_problem(fewer, rest, base_rest) is None and _judge("", fewer, None, rest, base_rest).outcome is Outcome.SHOWN:
        return None
    first = candidate.ids[int(outliers.argmax())]
    return (
        f"it depends on {int(outliers.sum()):,} of {len(values):,} rows that are far from all others, and does not hold without them; the "
        f"first one is {first}: check these rows, and compare models with a test, such as paired_bootstrap"
    )


def _select(scores: Scores, chosen: npt.NDArray[np.bool_]) -> Scores:
    """Return the chosen rows."""
    ids, inputs, keys = (tuple(compress(texts, chosen)) for texts in (scores.ids, scores.inputs, scores.keys))
    columns = {name: values[chosen] for name, values in scores.columns.items()}
    return Scores(scores.path, ids, inputs, columns, keys)


def _evidence(metric: Metric, candidate: Scores, base: Scores | None) -> Evidence:
    models = {"candidate": candidate, **({"base": base} if base is not None and metric.name in base.columns else {})}
    return Evidence({role: _model(metric, scores) for role, scores in models.items()}, {}, {})


def _model(metric: Metric, scores: Scores) -> ModelEvidence:
    count = len(scores.ids)
    values = scores.columns[metric.name]
    rows = Rows(
        ids=scores.ids,
        kinds=("",) * count,
        inputs=scores.keys,
        texts=("",) * count,
        tokens=np.ones(count),
        columns={metric.name: values},
        measured={metric.name: np.isfinite(values)},
    )
    name = str(scores.path)
    return ModelEvidence(name, name, name, {metric.name: float(values.mean())}, {}, {SUITE: rows})
