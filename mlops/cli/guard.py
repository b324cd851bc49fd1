"""The check in front of every stage after the gate."""

from __future__ import annotations

from mlops.cli import plan
from mlops.cli.tries import recount_tries
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import NotPromoted
from mlops.core.judgement import Override, Verdict
from mlops.core.records import Judged
from mlops.core.run import Run
from mlops.core.settings import Config
from mlops.github import override as overrides
from mlops.judging.replay import check_verdict

__all__ = ["require_admission"]


def require_admission(run: Run, config: Config, workspace: Workspace) -> Judged:
    """Return the gate's record if it admits this target's candidate: PROMOTE, or HOLD with an override.

    Every stage after the gate calls this, so that a mistake in a workflow can't open the gate. It doesn't trust the record: the verdict is
    derived again from the evidence, with the number of candidates that were judged on the same data by now, and GitHub is asked again who
    approved an override.

    Raises:
        NotPromoted: the verdict is another one, is for another target, or does not follow from the evidence; or the override is not
            confirmed.
        AzureError: MLflow can't be read.
        ConfigError, RecordError, EvidenceError: there is no verdict, or it is out of date or can't be checked.
    """
    judged = run.read(Judged)
    if not judged.is_admitted:
        raise NotPromoted(
            f"The gate says {judged.verdict}, so nothing is registered, deployed or promoted. {' '.join(judged.reasons)}",
            "train a better model; `mlops gate --explain` shows the evidence",
        )
    planned = plan.read(run).get("target", config.target)
    for what, target in (("The gate judged by the rules", judged.target), ("The records are from a plan", planned)):
        if target != config.target:
            raise NotPromoted(
                f"{what} of target {target}, but this is target {config.target}.", f"run `mlops gate --target {config.target}`"
            )
    check_verdict(config, run, judged)
    if judged.verdict is Verdict.PROMOTE:
        recount_tries(config, run, workspace)
    if judged.override is not None:
        _check_override(config, judged.override)
        console.warning(f"The gate says HOLD, and {judged.override.actor} has overridden it: {judged.override.reason}")
    return judged


def _check_override(config: Config, override: Override) -> None:
    if not override.environment and not config.endpoint.ephemeral:
        raise NotPromoted(
            "The HOLD was overridden outside GitHub, which is only allowed for a target with endpoint.ephemeral = true.",
            f"override it in a workflow, in environment {config.gate.override_environment}",
        )
    if override.environment:
        try:
            overrides.confirm(config, override)
        except overrides.OverrideRefused as refusal:
            raise NotPromoted(f"The override in the gate's record is not confirmed: {refusal}", "override the HOLD again") from refusal
