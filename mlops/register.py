"""Register the fine-tuned model in the workspace, with its lineage, if the gate admits it.

mlops register --target local
"""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Mapping

from mlops.cli import guard, stage
from mlops.cloud.assets import RegisteredModel
from mlops.cloud.errors import NotFound
from mlops.cloud.jobs import JobView
from mlops.cloud.tags import (
    BASE_MODEL,
    COMMIT,
    COMPONENT,
    DATA_FINGERPRINT,
    GATE_RECORD,
    LINEAGE,
    OVERRIDE,
    REGISTRATION_KEY,
    RUN_KEY,
    TRAINING_JOB,
    VERDICT,
    fit,
)
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import RegistrationError
from mlops.core.git import commit
from mlops.core.records import Evaluated, Judged, Registered, Trained
from mlops.core.reuse import reuse_key
from mlops.core.run import Run
from mlops.core.settings import Config

__all__ = ["EXCLUDED", "main", "register", "registration_key"]

EXCLUDED = {"registration.name": "versions are looked up under this name"}
"""Settings that don't affect whether a registered version can be reused, and why."""


def register(config: Config, run: Run, workspace: Workspace) -> Registered:
    """Register the job's output as an MLflow model, or find the version that was made from this job.

    Raises:
        NotPromoted: the gate does not admit the candidate.
        RegistrationError: the verdict is about another job, the job is not Completed, or the service stores something else.
    """
    judged, trained, evaluated = guard.require_admission(run, config, workspace), run.read(Trained), run.read(Evaluated)
    name = config.registration.name
    job = _require_completed_job(workspace, judged, trained)
    key = registration_key(config, trained)
    model = workspace.assets.find_model(name, {TRAINING_JOB: trained.job, REGISTRATION_KEY: key})
    lineage = _describe_lineage(trained, evaluated, judged)
    verdict = {**_verdict_tags(judged), LINEAGE: hashlib.sha256(lineage.encode()).hexdigest()}
    before = run.find(Registered)
    is_current = model is not None and verdict.items() <= model.tags.items()
    if before is not None and model is not None and is_current and (before.model, before.identity) == (model.id, model.identity):
        console.info(f"  nothing to do: {model.name}:{model.version} is registered")
        return before
    reused = model is not None
    if model is None:
        tags = {REGISTRATION_KEY: key, **_origin_tags(trained), **_verdict_tags(judged)}
        model = _register(workspace, name, job, trained.model_output, tags)
    path = f"mlops/models/{model.name}/{model.version}.json"
    uri = workspace.outputs.write_text(path, lineage)
    if not is_current:
        # New, or registered under an earlier verdict: its tags must show the verdict that it goes live under. The file's digest comes
        # last, so a model that has it has the file.
        model = workspace.assets.tag_model(model.name, model.version, verdict)
    console.info(f"  {model.name}:{model.version} ← {trained.job}")
    return run.write(
        Registered(
            inputs={"train": trained.digest(), "gate": judged.digest()},
            name=model.name,
            version=model.version,
            model=model.id,
            identity=model.identity,
            tags=dict(model.tags),
            lineage=uri,
            reused=reused,
        )
    )


def registration_key(config: Config, trained: Trained) -> str:
    """Return the sha256 over what determines the registered version: the exact job, [registration], and the target, whose gate decided."""
    return reuse_key(
        {"registration": config.registration},
        EXCLUDED,
        target=config.target,
        job=trained.job,
        identity=trained.identity,
        run_key=trained.run_key,
    )


def _require_completed_job(workspace: Workspace, judged: Judged, trained: Trained) -> JobView:
    """Return the job after checking it: the service would also register the output of a failed job, or of another one with its name."""
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


def _register(workspace: Workspace, name: str, job: JobView, path: str, tags: Mapping[str, str]) -> RegisteredModel:
    """Register a version and return it as the service stores it.

    Azure only accepts positive integers. The version is when the job was created, in seconds since 1970, or the next one that is free:
    another job may have been created in the same second, and a version with other files can't be replaced.
    """
    version = int(job.created_at.timestamp()) if job.created_at else 1
    while not _is_available(workspace, name, str(version), tags[REGISTRATION_KEY]):
        version += 1
    workspace.assets.register_model(name=name, version=str(version), path=path, description=f"Fine-tuned by {job.name}", tags=tags)
    model = workspace.assets.get_model(name, str(version))
    if model.tags.get(REGISTRATION_KEY) != tags[REGISTRATION_KEY] or not workspace.session.trusts(model.creator):
        raise RegistrationError(f"Model {name}:{version} was registered by another run at the same moment.", "run `mlops register` again")
    return model


def _is_available(workspace: Workspace, name: str, version: str, key: str) -> bool:
    """Return whether a version does not exist, or was made from the same job and settings and has been archived since."""
    try:
        model = workspace.assets.get_model(name, version)
    except NotFound:
        return True
    return model.tags.get(REGISTRATION_KEY) == key and workspace.session.trusts(model.creator)


def _describe_lineage(trained: Trained, evaluated: Evaluated, judged: Judged) -> str:
    """Return, as JSON, what doesn't fit into a model's tags, of which Azure allows 50."""
    scores = {
        role: model.model_dump(mode="json", include={"model", "job", "metrics", "suite_digests"})
        for role, model in evaluated.models.items()
    }
    content = {
        "training": trained.model_dump(
            mode="json", include={"job", "run_key", "base_model", "component", "data_fingerprint", "parameters"}
        ),
        "evaluation": {"version": evaluated.evaluation_version, "models": scores},
        "gate": {"record": judged.digest()}
        | judged.model_dump(mode="json", include={"target", "verdict", "reasons", "judgements", "override", "first_run", "notes"}),
    }
    return json.dumps(content, indent=1, ensure_ascii=False, sort_keys=True)


def _origin_tags(trained: Trained) -> dict[str, str]:
    return {
        TRAINING_JOB: trained.job,
        RUN_KEY: trained.run_key,
        BASE_MODEL: trained.base_model,
        COMPONENT: trained.component,
        DATA_FINGERPRINT: trained.data_fingerprint,
        COMMIT: commit(),
    }


def _verdict_tags(judged: Judged) -> dict[str, str]:
    override = judged.override
    reason = f"{override.reason} ({', '.join((override.actor, *override.approvers))})" if override else "none"
    return {VERDICT: judged.verdict.value, GATE_RECORD: judged.digest(), OVERRIDE: fit(reason)}


main = stage.command(register, needs=(Trained, Evaluated, Judged))


if __name__ == "__main__":
    sys.exit(main())
