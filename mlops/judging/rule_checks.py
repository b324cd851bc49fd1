"""Gate rules that can never hold, found before the training is paid for."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mlops.core.records import Finding
from mlops.core.settings import Config, Rule
from mlops.judging.metrics import EVERY_KIND, parse
from mlops.judging.selftest.mutations import REGRESSED
from mlops.judging.validity import rule_problem
from mlops.judging.wording import describe

__all__ = ["check_judge_rules", "check_rules", "count_kinds"]


def count_kinds(suite: Path, limit: int | None = None) -> Counter[str]:
    """Count the rows of a frozen suite, or the first ones, by kind; rows without a kind count as the empty kind."""
    return Counter(json.loads(line).get("kind", "") for line in suite.read_bytes().splitlines()[:limit])


def check_rules(config: Config, counts: Mapping[str, Counter[str]], answered: Mapping[str, Counter[str]]) -> list[Finding]:
    """Find gate rules that can never hold, before the training is paid for.

    Args:
        config: the settings.
        counts: suite → its rows, by kind.
        answered: suite → its rows with a generated answer, by kind.
    """
    findings = []
    for name, rule in config.gate.enabled_rules.items():
        finding = partial(Finding, where=config.locate(f"gate.rules.{name}"))
        if (problem := rule_problem(rule)) is not None:
            findings.append(finding(rule="gate.rule", severity="error", message=f"{describe(rule)}: {problem}"))
        elif (shortage := _find_row_shortage(rule, counts, answered)) is not None:
            severity = "error" if rule.critical else "warning"
            findings.append(finding(rule="gate.rows", severity=severity, message=f"{describe(rule)}: {shortage}"))
    critical = [metric for rule in config.gate.enabled_rules.values() if rule.critical and (metric := parse(rule.metric)) is not None]
    judged = {metric.suite for metric in critical if metric.column is not None and metric.column.name in REGRESSED}
    for suite in counts.keys() - judged if critical else ():
        message = (
            f"no critical rule is about the likelihoods of the {suite} suite, so the gate's self-test would fail: add one about {suite}.nll"
        )
        findings.append(Finding(rule="gate.suite", severity="error", where=config.locate("gate.rules"), message=message))
    return findings


def check_judge_rules(config: Config) -> list[Finding]:
    """Find rules about the judge's metric without a judge."""
    findings = []
    for name, rule in config.gate.enabled_rules.items():
        metric = parse(rule.metric)
        if metric is not None and metric.definition.by_judge and not config.evaluation.judge.url:
            where, severity = config.locate(f"gate.rules.{name}"), "error" if rule.critical else "warning"
            message = f"{describe(rule)}: there is no judge to compute it: set evaluation.judge.url and evaluation.judge.model"
            findings.append(Finding(rule="gate.judge", severity=severity, where=where, message=message))
    return findings


def _find_row_shortage(rule: Rule, counts: Mapping[str, Counter[str]], answered: Mapping[str, Counter[str]]) -> str | None:
    """Return why a valid rule can never have enough rows, or None."""
    metric = parse(rule.metric)
    assert metric is not None  # rule_problem has checked it
    kinds = counts[metric.suite]
    if metric.kind == EVERY_KIND and "" in kinds:
        return f"{kinds['']:,} rows of the {metric.suite} suite have no kind, so it can't be judged kind by kind"
    numbers = answered[metric.suite] if metric.is_sampled else kinds
    names = kinds if metric.kind == EVERY_KIND else [metric.kind] if metric.kind else []
    kind, rows = min(((name, numbers[name]) for name in names), key=lambda counted: counted[1], default=("", numbers.total()))
    if rows >= rule.min_rows:
        return None
    of_what = f"{metric.suite} suite" + (f" of kind {kind}" if kind else "") + (" with an answer" if metric.is_sampled else "")
    setting = {"target": "generate_rows", "retention": "task_rows"}[metric.suite] if metric.is_sampled else f"{metric.suite}_rows"
    return (
        f"it needs {rule.min_rows:,} rows, but there are {rows:,} in the {of_what}, so it could never be shown to hold: "
        f"lower min_rows or raise evaluation.{setting}"
    )
