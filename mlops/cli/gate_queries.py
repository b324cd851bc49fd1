"""The gate's commands beside the judging: explain a verdict, try other rules, look at past ones, and what the self-test does."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from mlops.core import console
from mlops.core.config import Config, Rule, parse_override
from mlops.core.errors import UsageError
from mlops.core.records import Judged, Verdict
from mlops.core.run import Run
from mlops.judging import judge
from mlops.report import explain as explaining
from mlops.report import verdict_tags as tagging

if TYPE_CHECKING:
    from mlops.cloud.workspace import Workspace

__all__ = ["edited", "explain", "history", "self_test", "what_if"]


def explain(run: Run, metric: str = "") -> None:
    """Tell how the verdict in run/gate.json follows from the numbers in it. Nothing is compared again.

    Raises:
        RecordError: the gate has not judged.
        UsageError: no rule is about this metric.
    """
    judged = run.glance(Judged)
    told = explaining.explain(judged, metric)
    if not told:
        metrics = ", ".join(sorted({judgement.metric for judgement in judged.judgements}))
        raise UsageError(
            f"The gate has judged no metric {metric!r}.", f"it has judged {metrics or 'none'}; `target.*` means all that begin so"
        )
    console.info(told)


def what_if(config: Config, run: Run, edits: Sequence[str] = ()) -> None:
    """Judge the stored evaluation by the rules as they are now, and tell what would change. Nothing is written.

    Raises:
        RecordError, EvidenceError, SelfTestFailed: as :func:`mlops.judging.judge.judge`.
        UsageError: an edit that can't be.
    """
    gate = config.gate.model_copy(update={"rules": edited(config.gate.rules, edits)})
    now = judge.judge(config.model_copy(update={"gate": gate}), run)
    console.info(explaining.what_if(run.glance(Judged) if run.has(Judged) else None, now))


def history(config: Config, workspace: Workspace, most: int) -> None:
    """Tell the last verdicts on trainings of this experiment, from MLflow."""
    experiment = config.training.experiment
    runs = workspace.tracking.tagged(experiment, tagging.VERDICT, [verdict.value for verdict in Verdict], most)
    decisions = tagging.past(runs)[:most]
    console.info(tagging.screen(decisions) if decisions else f"MLflow has no verdict in experiment {experiment} yet.")


def self_test(config: Config, run: Run) -> None:
    """Tell what the gate says of each sabotage of the stored evidence.

    Raises:
        SelfTestFailed: it does not notice one.
    """
    probes = judge.probe(config, run)
    console.info(explaining.probes(probes))
    judge.none_missed(probes)


def edited(rules: Sequence[Rule], edits: Sequence[str]) -> tuple[Rule, ...]:
    """Rules with some of their settings changed.

    Args:
        rules: as configured.
        edits: ``METRIC[@BASELINE] KEY=VALUE …``, values as in TOML; all rules about the metric (and held against the baseline) change.

    Raises:
        UsageError: no such rule, or a setting that a rule does not have or take.
    """
    changed = list(rules)
    for edit in edits:
        # Quotes are TOML's, not a shell's: they stay.
        name, *settings = shlex.split(edit, posix=False) or [""]
        metric, _, baseline = name.partition("@")
        places = [place for place, rule in enumerate(rules) if rule.metric == metric and baseline in ("", rule.baseline)]
        if not places or not settings:
            known = ", ".join(f"{rule.metric}@{rule.baseline}" for rule in rules)
            what = "says nothing to change" if places else "is about no rule"
            raise UsageError(
                f"--rule {edit!r} {what}.", f"for example --rule 'target.nll@base margin=0.02'; the rules are {known or 'none'}"
            )
        for place in places:
            changed[place] = _changed(changed[place], settings, edit)
    return tuple(changed)


def _changed(rule: Rule, settings: Sequence[str], edit: str) -> Rule:
    given: dict[str, Any] = rule.model_dump()
    for setting in settings:
        (key, *deeper), value = parse_override(setting, f"--rule {edit!r}")
        given[".".join((key, *deeper))] = value
    try:
        return Rule.model_validate(given)
    except ValidationError as problem:
        told = "; ".join(f"{'.'.join(map(str, error['loc']))}: {error['msg']}" for error in problem.errors())
        raise UsageError(f"--rule {edit!r} makes no rule: {told}.", f"a rule has {', '.join(Rule.model_fields)}") from problem
