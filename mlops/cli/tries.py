"""Count the candidates that were judged on the same data. Each further one needs more confidence to pass the gate."""

from __future__ import annotations

from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import NotPromoted
from mlops.core.judgement import Verdict
from mlops.core.records import Evaluated, Trained, Validated
from mlops.core.run import Run
from mlops.core.settings import Config
from mlops.judging.judge import decide_as_try
from mlops.report import verdict_tags

__all__ = ["find_other_tries", "recount_tries"]

_MOST_TRIES = 1_000
"""Verdicts about one target suite beyond this number aren't counted: no candidate could pass with the correction for that many."""
_NAMED = 5
"""A message names at most this many runs."""


def find_other_tries(target: str, workspace: Workspace, validated: Validated, trained: Trained, champion: str) -> list[str]:
    """Return the MLflow runs of the other candidates that were judged on this target suite against this champion (id, or empty).

    They are looked up in the experiment of the training, whatever the settings of this stage say.
    """
    suite = validated.suites["target"].digest
    judged = workspace.tracking.find_runs(trained.experiment, verdict_tags.SUITE, [suite], _MOST_TRIES)
    return verdict_tags.find_tries(judged, target, champion, trained.mlflow_run_id)


def recount_tries(config: Config, run: Run, workspace: Workspace) -> None:
    """Check that a PROMOTE still holds if further candidates have been judged since the evaluation.

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
    counts = f"The evaluation counted {evaluated.tries} on this target suite against this champion, but there are {tries} by now: {names}"
    decision = decide_as_try(config, run, tries)
    if decision.verdict is not Verdict.PROMOTE:
        raise NotPromoted(
            f"Further candidates were judged on the same data at the same time. {counts} and this one. With the confidence that this many "
            f"candidates need, the verdict is {decision.verdict}. Nothing was registered, deployed or promoted. "
            f"{' '.join(decision.reasons)}",
            "train a better model, or evaluate on a target suite that these candidates have not been judged on",
        )
    console.info(f"  {counts} and this one. The verdict is still PROMOTE with the confidence that this many need.")
