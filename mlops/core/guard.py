"""The lock on everything behind the gate."""

from __future__ import annotations

from mlops.core import console
from mlops.core.config import Config
from mlops.core.errors import NotPromoted
from mlops.core.records import Judged
from mlops.core.run import Run

__all__ = ["admitted"]


def admitted(run: Run, config: Config) -> Judged:
    """The gate's record, if it lets this target's candidate through: PROMOTE, or HOLD with an override. Every stage behind the gate reads
    it again, so that wrong YAML can't open the gate.

    Raises:
        NotPromoted: the verdict is another one, or was given for another target.
        RecordError: there is no verdict, or it is about something else than what is in the run directory now.
    """
    judged = run.read(Judged)
    if not judged.admitted:
        raise NotPromoted(
            f"The gate says {judged.verdict}, so nothing is registered, deployed or promoted. {' '.join(judged.reasons)}",
            "train a better model; `mlops gate --explain` tells what the gate has seen",
        )
    if judged.target != config.target:
        raise NotPromoted(
            f"The gate has judged by the rules of target {judged.target}, and this is target {config.target}.",
            f"run `mlops gate --target {config.target}`",
        )
    if judged.override is not None:
        if not judged.override.environment and not config.endpoint.ephemeral:
            raise NotPromoted(
                "The HOLD was overridden outside GitHub, which only a target with endpoint.ephemeral = true allows.",
                f"override it in a workflow, in the environment {config.gate.override_environment}",
            )
        console.warning(f"The gate says HOLD, and {judged.override.actor} has overridden it: {judged.override.reason}")
    return judged
