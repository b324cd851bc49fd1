"""Register the fine-tuned model in the workspace, with where it comes from. Only what the gate lets through.

python -m mlops.register --target local
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from mlops.cli import stage
from mlops.cloud.tags import BASE_MODEL, COMMIT, COMPONENT, DATA_FINGERPRINT, GATE_RECORD, OVERRIDE, RUN_KEY, TRAINING_JOB, VERDICT
from mlops.core import console, guard
from mlops.core.config import Config
from mlops.core.errors import ConfigError, RegistrationError
from mlops.core.git import commit
from mlops.core.records import Evaluated, Judged, Registered, Trained
from mlops.core.run import Run

if TYPE_CHECKING:
    from mlops.cloud.assets import RegisteredModel
    from mlops.cloud.jobs import JobView
    from mlops.cloud.workspace import Workspace

__all__ = ["main", "register", "version"]

NAME = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9._]{0,254}")
"""What Azure ML takes as the name of a model."""


def register(config: Config, run: Run, workspace: Workspace) -> Registered:
    """Register the job's output as an MLflow model, or find the version that was made from this job.

    Raises:
        NotPromoted: the gate does not let the candidate through.
        RegistrationError: the verdict is about another job, the job is not Completed, or the service has something else afterwards.
    """
    judged, trained, evaluated = guard.admitted(run, config), run.read(Trained), run.read(Evaluated)
    name = config.registration.name
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"registration.name {name!r} is no name for a model.", "use letters, digits, '-', '.', '_', beginning with a letter or digit"
        )
    job = _completed(workspace, judged, trained)
    found = workspace.assets.find_model(name, {TRAINING_JOB: trained.job})
    verdict = _verdict(judged)
    if found is not None and any(found.tags.get(tag) != value for tag, value in verdict.items()):
        # Registered under an earlier verdict: who looks at the model must see the one that it is live under.
        found = workspace.assets.tag_model(found.name, found.version, verdict)
    before = run.find(Registered)
    if before is not None and found is not None and before.model == found.id:
        console.info(f"  nothing to do: {found.name}:{found.version} is registered")
        return before
    reused = found is not None
    if found is None:
        tags = _lineage(trained, evaluated, judged)
        wanted = version(job.created_at, trained.run_key)
        workspace.assets.register_model(
            name=name, version=wanted, path=trained.model_output, description=f"Fine-tuned by {trained.job}", tags=tags
        )
        found = _verified(workspace, name, wanted, trained.job)
    console.info(f"  {found.name}:{found.version} ← {trained.job}")
    return run.write(
        Registered(
            inputs={"train": trained.digest(), "gate": judged.digest()},
            name=found.name,
            version=found.version,
            model=found.id,
            tags=dict(found.tags),
            reused=reused,
        )
    )


def version(created_at: datetime | None, run_key: str) -> str:
    """When the job was made, as the tutorial's time stamp, and the beginning of its run key: the same job always gets the same version,
    and two jobs of the same second get two."""
    moment = created_at if created_at is not None else datetime.fromtimestamp(0, UTC)
    return f"{moment.astimezone(UTC):%Y%m%d%H%M%S}-{run_key[:8]}"


def _completed(workspace: Workspace, judged: Judged, trained: Trained) -> JobView:
    """The job, still Completed: the service would register the output of a failed job, too."""
    if judged.candidate_job != trained.job:
        raise RegistrationError(
            f"The gate has judged {judged.candidate_job}, but the trained model is of {trained.job}.", "run `mlops evaluate-gate`"
        )
    job = workspace.jobs.get(trained.job)
    if job.status != "Completed":
        raise RegistrationError(f"Job {job.name} is {job.status}, so its output is not a model.", "run `mlops train`")
    return job


def _verified(workspace: Workspace, name: str, wanted: str, job: str) -> RegisteredModel:
    found = workspace.assets.model(name, wanted)
    if found.tags.get(TRAINING_JOB) != job:
        raise RegistrationError(f"Model {name}:{wanted} exists and is not of job {job}.", "set another registration.name in pipeline.toml")
    return found


def _lineage(trained: Trained, evaluated: Evaluated, judged: Judged) -> dict[str, str]:
    metrics = evaluated.models["candidate"].metrics
    return {
        TRAINING_JOB: trained.job,
        RUN_KEY: trained.run_key,
        BASE_MODEL: trained.base_model,
        COMPONENT: trained.component,
        DATA_FINGERPRINT: trained.data_fingerprint,
        COMMIT: commit(),
        **_verdict(judged),
        **{f"metric.{key}": f"{value:.6g}" for key, value in sorted(metrics.items())},
    }


def _verdict(judged: Judged) -> dict[str, str]:
    override = judged.override
    told = f"{override.reason} ({', '.join((override.actor, *override.approvers))})" if override else "none"
    # Azure takes 256 characters in a tag.
    return {VERDICT: judged.verdict.value, GATE_RECORD: judged.digest(), OVERRIDE: told[:256]}


main = stage.command(register, needs=(Trained, Evaluated, Judged))


if __name__ == "__main__":
    sys.exit(main())
