"""The check in front of every stage after the gate."""

from __future__ import annotations

from mlops.core import console
from mlops.core.config import Config
from mlops.core.errors import NotPromoted
from mlops.core.records import Judged
from mlops.core.run import Run

__all__ = ["require_admission"]


def require_admission(run: Run, config: Config) -> Judged:
    """Return the gate's record if it admits this target's candidate: PROMOTE, or HOLD with an override.

    Every stage after the gate calls this, so that a mistake in a workflow can't open the gate.

    Raises:
        NotPromoted: the verdict is another one, or is for another target.
        RecordError: there is no verdict, or it is out of date.
    """
    judged = run.read(Judged)
    if not judged.is_admitted:
        raise NotPromoted(
            f"The gate says {judged.verdict}, so nothing is registered, deployed or promoted. {' '.join(judged.reasons)}",
            "train a better model; `mlops gate --explain` shows the evidence",
        )
    if judged.target != config.target:
        raise NotPromoted(
            f"The gate judged by the rules of target {judged.target}, but this is target {config.target}.",
            f"run `mlops gate --target {config.target}`",
        )
    if judged.override is not None:
        if not judged.override.environment and not config.endpoint.ephemeral:
            raise NotPromoted(
                "The HOLD was overridden outside GitHub, which is allowed only for a target with endpoint.ephemeral = true.",
                f"override it in a workflow, in environment {config.gate.override_environment}",
            )
        console.warning(f"The gate says HOLD, and {judged.override.actor} has overridden it: {judged.override.reason}")
    return judged
