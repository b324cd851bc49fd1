"""The queries of `mlops gate`, which don't judge: explain a verdict, try other rules, list past verdicts, run the self-test."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import ValidationError

from mlops.cli.stage import Answer
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.config import parse_override
from mlops.core.errors import UsageError
from mlops.core.judgement import Verdict
from mlops.core.records import Judged
from mlops.core.run import Run
from mlops.core.settings import Config, Rule
from mlops.judging import judge
from mlops.report import explain as explanation
from mlops.report import verdict_tags

__all__ = ["edit_rules", "explain", "history", "self_test", "what_if"]


def explain(run: Run, metric: str = "") -> Answer:
    """Explain how the verdict in run/gate.json follows from the numbers in it, without judging again.

    Raises:
        RecordError: the gate has not judged.
        UsageError: no rule is about this metric.
    """
    judged = run.read_unchecked(Judged)
    if not (text := explanation.explain(judged, metric)):
        metrics = ", ".join(sorted({judgement.metric for judgement in judged.judgements}))
        raise UsageError(
            f"The gate has not judged a metric {metric!r}.",
            f"choose one of {metrics or 'none'}; `target.*` selects all of the target suite",
        )
    return Answer(judged.model_copy(update={"judgements": tuple(explanation.select(judged, metric))}), text)


def what_if(config: Config, run: Run, edits: Sequence[str] = ()) -> Answer:
    """Judge the stored evaluation by the current rules and say what would change. Nothing is written.

    Raises:
        RecordError, EvidenceError, SelfTestFailed: as :func:`mlops.judging.judge.judge`.
        UsageError: an edit is not valid.
    """
    gate = config.gate.model_copy(update={"rules": edit_rules(config.gate.rules, edits)})
    judged = judge.judge(config.model_copy(update={"gate": gate}), run)
    before = run.read_unchecked(Judged) if run.has(Judged) else None
    return Answer({"before": before, "now": judged}, explanation.what_if(before, judged))


def history(config: Config, workspace: Workspace, limit: int) -> Answer:
    """Return the last verdicts on training jobs of this experiment, from MLflow."""
    experiment = config.training.experiment
    runs = workspace.tracking.find_runs(experiment, verdict_tags.VERDICT, [verdict.value for verdict in Verdict], limit)
    decisions = verdict_tags.past(runs)[:limit]
    return Answer(decisions, verdict_tags.screen(decisions) if decisions else f"MLflow has no verdict in experiment {experiment} yet.")


def self_test(config: Config, run: Run) -> Answer:
    """Say how the gate judges each mutation of the stored evidence.

    Raises:
        SelfTestFailed: it misses one.
    """
    probes = judge.run_self_test(config, run)
    text = explanation.probes(probes)
    if any(probe.result == "missed" for probe in probes):
        console.info(text)
    judge.require_all_detected(probes)
    return Answer(probes, text)


def edit_rules(rules: Mapping[str, Rule], edits: Sequence[str]) -> dict[str, Rule]:
    """Return the rules with some of their settings changed.

    Args:
        rules: name → rule, as configured.
        edits: ``RULE KEY=VALUE …``, values as in TOML. RULE is a name, or ``METRIC[@BASELINE]`` for all rules about the metric (with
            this baseline).

    Raises:
        UsageError: there is no such rule, or the setting or its value is not valid.
    """
    edited = dict(rules)
    for edit in edits:
        # Keep quotes, because they are TOML's, not the shell's.
        selector, *settings = shlex.split(edit, posix=False) or [""]
        metric, _, baseline = selector.partition("@")
        names = [name for name, rule in rules.items() if name == selector or (rule.metric == metric and baseline in ("", rule.baseline))]
        if not names or not settings:
            available = ", ".join(f"{name} ({rule.metric}@{rule.baseline})" for name, rule in rules.items())
            problem = "changes nothing" if names else "matches no rule"
            raise UsageError(
                f"--rule {edit!r} {problem}.", f"for example --rule 'target.nll@base margin=0.02'; the rules are {available or 'none'}"
            )
        for name in names:
            edited[name] = _edit_rule(edited[name], settings, edit)
    return edited


def _edit_rule(rule: Rule, settings: Sequence[str], edit: str) -> Rule:
    fields: dict[str, Any] = rule.model_dump()
    for setting in settings:
        keys, value = parse_override(setting, f"--rule {edit!r}")
        fields[".".join(keys)] = value
    try:
        return Rule.model_validate(fields)
    except ValidationError as problem:
        details = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in problem.errors())
        raise UsageError(f"--rule {edit!r} is not valid: {details}.", f"a rule has {', '.join(Rule.model_fields)}") from problem
