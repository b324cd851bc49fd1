"""Register the fine-tuned model in the workspace, with its lineage. Only if the gate admits it.

python -m mlops.register --target local
"""

from __future__ import annotations

import re
import sys
from datetime import UTC, datetime

from mlops.cli import stage
from mlops.cloud.assets import RegisteredModel
from mlops.cloud.jobs import JobView
from mlops.cloud.tags import (
    BASE_MODEL,
    COMMIT,
    COMPONENT,
    DATA_FINGERPRINT,
    GATE_RECORD,
    OVERRIDE,
    REGISTRATION_KEY,
    RUN_KEY,
    TRAINING_JOB,
    VERDICT,
)
from mlops.cloud.workspace import Workspace
from mlops.core import console, guard
from mlops.core.config import Config
from mlops.core.errors import ConfigError, RegistrationError
from mlops.core.git import commit
from mlops.core.records import Evaluated, Judged, Registered, Trained
from mlops.core.reuse import reuse_key
from mlops.core.run import Run

__all__ = ["EXCLUDED", "main", "register", "registration_key", "version"]

NAME = re.compile(r"[a-zA-Z0-9][-a-zA-Z0-9._]{0,254}")
"""Names that Azure ML accepts for a model."""

EXCLUDED = {"registration.name": "versions are looked up under this name"}
"""Settings that do not decide whether a registered version can be reused, and why."""


def register(config: Config, run: Run, workspace: Workspace) -> Registered:
    """Register the job's output as an MLflow model, or find the version that was made from this job.

    Raises:
        NotPromoted: the gate does not admit the candidate.
        RegistrationError: the verdict is about another job, the job is not Completed, or the service stores something else.
    """
    judged, trained, evaluated = guard.require_admission(run, config), run.read(Trained), run.read(Evaluated)
    name = config.registration.name
    if not NAME.fullmatch(name):
        raise ConfigError(
            f"registration.name {name!r} is not a valid model name.", "use letters, digits, '-', '.', '_', starting with a letter or digit"
        )
    job = _completed_job(workspace, judged, trained)
    key = registration_key(config, trained)
    model = workspace.assets.find_model(name, {TRAINING_JOB: trained.job, REGISTRATION_KEY: key})
    verdict = _verdict_tags(judged)
    if model is not None and any(model.tags.get(tag) != value for tag, value in verdict.items()):
        # Registered under an earlier verdict: its tags must show the verdict that it goes live under.
        model = workspace.assets.tag_model(model.name, model.version, verdict)
    before = run.find(Registered)
    if before is not None and model is not None and (before.model, before.identity) == (model.id, model.identity):
        console.info(f"  nothing to do: {model.name}:{model.version} is registered")
        return before
    reused = model is not None
    if model is None:
        tags = {REGISTRATION_KEY: key, **_lineage_tags(trained, evaluated, judged)}
        new_version = version(job.created_at, key)
        workspace.assets.register_model(
            name=name, version=new_version, path=trained.model_output, description=f"Fine-tuned by {trained.job}", tags=tags
        )
        model = _read_back(workspace, name, new_version, trained.job)
    console.info(f"  {model.name}:{model.version} ← {trained.job}")
    return run.write(
        Registered(
            inputs={"train": trained.digest(), "gate": judged.digest()},
            name=model.name,
            version=model.version,
            model=model.id,
            identity=model.identity,
            tags=dict(model.tags),
            reused=reused,
        )
    )


def registration_key(config: Config, trained: Trained) -> str:
    """Return the sha256 over everything that decides the registered version: the very job, and the settings of [registration]."""
    return reuse_key({"registration": config.registration}, EXCLUDED, job=trained.job, identity=trained.identity, run_key=trained.run_key)


def version(created_at: datetime | None, key: str) -> str:
    """Return the version of a model: when its job was created, as the tutorial's time stamp, and the beginning of the registration key.

    The same job always gets the same version, and two jobs created in the same second get two.
    """
    moment = created_at if created_at is not None else datetime.fromtimestamp(0, UTC)
    return f"{moment.astimezone(UTC):%Y%m%d%H%M%S}-{key[:8]}"


def _completed_job(workspace: Workspace, judged: Judged, trained: Trained) -> JobView:
    """Return the job, checked: the service would also register the output of a failed job, or of another one with the same name."""
    if judged.candidate_job != trained.job:
        raise RegistrationError(
            f"The gate has judged {judged.candidate_job}, but the trained model is from {trained.job}.", "run `mlops evaluate-gate`"
        )
    job = workspace.jobs.get(trained.job)
    if job.status != "Completed":
        raise RegistrationError(f"Job {job.name} is {job.status}, so its output is not a model.", "run `mlops train`")
    if job.identity != trained.identity:
        raise RegistrationError(
            f"Job {job.name} was created again at {job.identity}, after the gate judged an earlier one.",
            "run `mlops run --from train`",
        )
    return job


def _read_back(workspace: Workspace, name: str, new_version: str, job: str) -> RegisteredModel:
    model = workspace.assets.get_model(name, new_version)
    if model.tags.get(TRAINING_JOB) != job or not workspace.session.trusts(model.creator):
        raise RegistrationError(
            f"Model {name}:{new_version} exists already and is not from job {job} of this pipeline.",
            "set another registration.name in pipeline.toml",
        )
    return model


def _lineage_tags(trained: Trained, evaluated: Evaluated, judged: Judged) -> dict[str, str]:
    metrics = evaluated.models["candidate"].metrics
    return {
        TRAINING_JOB: trained.job,
        RUN_KEY: trained.run_key,
        BASE_MODEL: trained.base_model,
        COMPONENT: trained.component,
        DATA_FINGERPRINT: trained.data_fingerprint,
        COMMIT: commit(),
        **_verdict_tags(judged),
        **{f"metric.{key}": f"{value:.6g}" for key, value in sorted(metrics.items())},
    }


def _verdict_tags(judged: Judged) -> dict[str, str]:
    override = judged.override
    reason = f"{override.reason} ({', '.join((override.actor, *override.approvers))})" if override else "none"
    # Azure accepts 256 characters in a tag.
    return {VERDICT: judged.verdict.value, GATE_RECORD: judged.digest(), OVERRIDE: reason[:256]}


main = stage.command(register, needs=(Trained, Evaluated, Judged))


if __name__ == "__main__":
    sys.exit(main())
