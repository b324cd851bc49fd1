"""Judge two score files that any program wrote: one JSON object a line, with the row's ``id`` and the values of metrics.

    {"id": "q-17", "accuracy": 1, "latency_s": 0.31}

Both files must have the same rows. The rules are those of pipeline.toml, and so are the tests and the way to a verdict; ``base`` is the
second file. A row may name its ``input``: rows with the same input are copies, and count once. Without inputs copies can't be told apart.
"""

from __future__ import annotations

import json
import math
import re
import tomllib
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter, ValidationError

from mlops.core import console
from mlops.core.errors import ConfigError, EvidenceError, SelfTestFailed
from mlops.core.records import Judgement, Outcome
from mlops.core.settings import Rule, RuleName
from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.judging.judge import reject_duplicates
from mlops.judging.metric_table import Column, Floats, MetricDefinition
from mlops.judging.metrics import Metric
from mlops.judging.rules import judge_metric
from mlops.judging.score_ruin import is_binary, ruin
from mlops.judging.validity import MAX_REPEATED, are_equal, check_rule
from mlops.judging.verdict import Decision, combine, correct

__all__ = ["Scores", "describe_rows", "judge_scores", "read_rules", "read_scores"]

SUITE = "file"
LABELS = ("id", "input")
"""Fields of a row that aren't metrics."""
_LARGEST = 1e50
"""Larger values are refused: their squares and sums overflow."""
_INVISIBLE = re.compile(r"\s|[\x00-\x1f\x7f\xad\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")


@dataclass(frozen=True)
class Scores:
    """The rows of a file, sorted by id. Each column has shape [rows]; NaN where a row has no value."""

    path: Path
    ids: tuple[str, ...]
    inputs: tuple[str, ...]
    """Inputs as text; empty where a row has none."""
    columns: Mapping[str, Floats]

    keys: tuple[str, ...]
    """Identities of the rows' contents:  the normalized input, which copies share, or the id if no row has an input."""

    @property
    def has_inputs(self) -> bool:
        """Whether any row has an input."""
        return any(self.inputs)


def describe_rows(scores: Scores) -> str:
    """Describe how many rows there are, and how many of them are different."""
    count, distinct = len(scores.ids), len(set(scores.keys))
    if scores.has_inputs:
        return f"{count:,} with {distinct:,} different inputs"
    return f"{count:,} with {distinct:,} different ids; they have no input, so copies can't be told apart"


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
            fix = 'write one JSON object per line, such as {"id": "q-17", "accuracy": 1}'
            raise EvidenceError(f"{path}:{number}: {problem}.", fix) from problem
        rows[str(row["id"])] = row
    if not rows:
        raise EvidenceError(f"{path} has no rows.", "write one JSON object per line")
    ids = tuple(sorted(rows))
    names = dict.fromkeys(name for row in rows.values() for name in row if name not in LABELS)
    columns = {name: np.array([_value(rows[each].get(name)) for each in ids], dtype=np.float64) for name in names}
    inputs = tuple(_text(rows[each].get("input")) for each in ids)
    return Scores(path, ids, inputs, columns, tuple(_key(each) for each in (inputs if any(inputs) else ids)))


def _check(row: Mapping[str, Any], earlier: Mapping[str, object]) -> None:
    identity = row.get("id")
    if isinstance(identity, bool) or not isinstance(identity, (str, int)) or identity == "":
        raise ValueError("the row has no id (a string or an integer)")
    if str(identity) in earlier:
        raise ValueError(f"the id {identity!r} appears twice")
    for name, value in row.items():
        if name not in LABELS and value is not None and not isinstance(value, (bool, int, float)):
            raise ValueError(f"{name} is {json.dumps(value)[:40]}, but a metric is a number, true, false or null")


def _text(value: object) -> str:
    """Return an input as text; empty if it is null, or has nothing visible."""
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if _INVISIBLE.sub("", text) else ""


def _key(text: str) -> str:
    """Return the text without differences in case, Unicode form, space and punctuation at its ends.

    Signs inside stay, unlike in :func:`mlops.dataset.hashes.normalize`: 3 + 4 is not 3 - 4.
    """
    bare = _INVISIBLE.sub("", unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()))
    return re.sub(r"^[\W_]+|[\W_]+$", "", bare) or bare


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


def _find_default_rows(rule: Rule, scores: Scores) -> str | None:
    """Return why rows without inputs prove nothing, or None: the rule must state how many different ids are enough."""
    if rule.min_rows > 1:
        return None
    return f"the rows of {scores.path} have no input, so copies can't be told apart: add inputs, or set min_rows to how many ids are enough"


def _find_identity(metric: str, candidate: Scores, base: Scores) -> str:
    """Return why both files are about the same model; empty if they aren't. Scores of the same model are equal up to rounding."""
    equal = {name for name in candidate.columns.keys() & base.columns.keys() if are_equal(candidate.columns[name], base.columns[name])}
    if equal == candidate.columns.keys() & base.columns.keys():
        return "the files have the same values in every row, except for rounding"
    values = base.columns[metric]
    # Times, for example, differ in each run. Two models can get the same rows right, and any number of rows can have the same value.
    if metric in equal and not is_binary(values) and np.ptp(values):
        return f"they have the same {metric} in every row, except for rounding"
    return ""


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
