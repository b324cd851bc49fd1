"""How many candidates have been judged on the same data. The gate needs more confidence for each further one."""

from __future__ import annotations

from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import NotPromoted
from mlops.core.records import Evaluated, Trained, Validated, Verdict
from mlops.core.run import Run
from mlops.core.settings import Config
from mlops.judging.judge import decide_as_try
from mlops.report import verdict_tags

__all__ = ["find_other_tries", "recount_tries"]

_MOST_TRIES = 1_000
"""More verdicts about one target suite are not counted; the correction for so many is beyond any test."""
_NAMED = 5
"""How many runs a message names."""


def find_other_tries(target: str, workspace: Workspace, validated: Validated, trained: Trained, champion: str) -> list[str]:
    """Return the MLflow runs of the other candidates that were judged on this target suite against this champion (id, or empty).

    They are looked up in the experiment that the training was run in, whatever the settings of this stage say.
    """
    suite = validated.suites["target"].digest
    judged = workspace.tracking.find_runs(trained.experiment, verdict_tags.SUITE, [suite], _MOST_TRIES)
    return verdict_tags.find_tries(judged, target, champion, trained.mlflow_run_id)


def recount_tries(config: Config, run: Run, workspace: Workspace) -> None:
    """Check that a PROMOTE still holds if candidates were judged that the evaluation could not count yet.

    Of two candidates that are evaluated at the same moment, neither counts the other. Each is tagged before it gets here, so at least one
    of them finds the other now.

    Raises:
        NotPromoted: with the confidence that so many candidates need, the verdict is no PROMOTE.
        AzureError: MLflow can't be read, so nobody knows how many there are.
    """
    if not config.gate.correct_retries:
        return
    evaluated = run.read(Evaluated)
    others = find_other_tries(config.target, workspace, run.read(Validated), run.read(Trained), evaluated.champion)
    tries = 1 + len(others)
    if tries <= evaluated.tries:
        return
    names = ", ".join(others[:_NAMED]) + (f" and {len(others) - _NAMED} more" if len(others) > _NAMED else "")
    counted = f"The evaluation counted {evaluated.tries} on this target suite against this champion, but there are {tries} by now: {names}"
    decision = decide_as_try(config, run, tries)
    if decision.verdict is not Verdict.PROMOTE:
        raise NotPromoted(
            f"Further candidates were judged on the same data at the same time. {counted} and this one. With the confidence that so many "
            f"candidates need, the verdict is {decision.verdict}. Nothing was registered, deployed or promoted. "
            f"{' '.join(decision.reasons)}",
            "train a better model, or evaluate on a target suite that these candidates have not been judged on",
        )
    console.info(f"  {counted} and this one. The verdict is PROMOTE with the confidence that so many need, too.")
