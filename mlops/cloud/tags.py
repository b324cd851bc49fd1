"""Every tag that the pipeline sets on a job, model, endpoint or deployment, and its meaning.

Scoring jobs (``mlops.remote``) and verdicts (``mlops.report.verdict_tags``) define the names of their MLflow tags themselves, because those
packages may not import this one; a test keeps the shared names equal.
"""

from __future__ import annotations

import hashlib
import re

__all__ = [
    "ANCHOR", "ANCHOR_ID", "BASE_MODEL", "COMMIT", "COMPONENT", "CREATION_ID", "DATA_FINGERPRINT", "DETACHED", "DISPATCHED",
    "EVALUATION_VERSION", "EXPIRES", "GATE_RECORD", "LINEAGE", "MARK", "MODEL_IDENTITY", "OVERRIDE", "OWNER", "PIPELINE", "PREVIOUS",
    "PREVIOUS_ID", "REGISTRATION_KEY", "RESERVED", "ROLE", "ROLLED_BACK_BY", "RUN", "RUN_KEY", "SERVED_MODEL", "SETTINGS", "TARGET",
    "TRAINING_JOB", "VERDICT", "WAITING", "fit", "shorten_model",
]  # fmt: skip

PIPELINE = "mlops.pipeline"
"""On everything that the pipeline creates; its value is :data:`MARK`. Resources without it are never deleted."""
MARK = "azureml-chat-mlops"
TARGET = "mlops.target"
"""The target that a resource was created for."""
OWNER = "mlops.owner"
"""Who started the pipeline; on GitHub the actor."""
RUN = "mlops.run"
"""The run of the pipeline: on GitHub ``owner/repository/run id``, elsewhere ``host:folder``."""

RUN_KEY = "mlops.run_key"
"""On every job: hex sha256 of everything that determines the job's result. On a model: the key of its training."""
DETACHED = "mlops.detached"
"""On a training whose runner detached: :data:`WAITING` until a run continues the pipeline, then the name of that run."""
WAITING = "waiting"
DISPATCHED = "mlops.dispatched"
"""On a detached training that has completed: when a run was dispatched to continue the pipeline (ISO 8601, UTC)."""
COMMIT = "mlops.commit"
"""On a detached training: the commit whose pipeline it belongs to. On a model: the commit that registered it."""
SETTINGS = "mlops.settings"
"""On a detached training: the ``--set`` options of its pipeline, one per line."""
BASE_MODEL = "mlops.base_model"
"""On trainings and models: id of the model that was fine-tuned."""
COMPONENT = "mlops.component"
"""On trainings and models: id of the registry component that trains."""
DATA_FINGERPRINT = "mlops.data_fingerprint"
"""On trainings and models: digest of the training data."""

EVALUATION_VERSION = "mlops.evaluation_version"
"""On scoring jobs: digest of the code that scores."""
ROLE = "mlops.role"
"""On scoring jobs: candidate, champion or base."""
MODEL_IDENTITY = "mlops.model_identity"
"""On scoring jobs: when the model was created, which distinguishes it from others with the same id. Not for registry models."""

TRAINING_JOB = "mlops.job"
"""On models: the training job that produced it."""
REGISTRATION_KEY = "mlops.registration_key"
"""On models: hex sha256 of the training job and every setting that determines the registered version."""
VERDICT = "mlops.verdict"
"""On models: the gate's decision."""
GATE_RECORD = "mlops.gate_record"
"""On models: digest of the gate's record."""
LINEAGE = "mlops.lineage"
"""On models: sha256 of the file beside the model that says what it was made from and why it was admitted."""
OVERRIDE = "mlops.override"
"""On models: why a HOLD was overridden and by whom, or ``none``."""

CREATION_ID = "mlops.creation_id"
"""On endpoints and deployments: a random id chosen at creation, which distinguishes them from others of the same name."""
SERVED_MODEL = "mlops.model"
"""On deployments: id of the model that they serve, as :func:`fit` returns it."""
RESERVED = "mlops.reserved"
"""On endpoints: created by validate before anything was paid for, because there is no other way to learn whether the name is free in the
region. As long as it has no deployment, whoever deploys to it treats it like an endpoint that it has created itself."""
EXPIRES = "mlops.expires_at"
"""On endpoints: when the reaper may delete them (ISO 8601)."""
PREVIOUS = "mlops.previous"
"""On endpoints: the deployment that is kept at 0 % for a rollback."""
PREVIOUS_ID = "mlops.previous_id"
"""On endpoints: the :data:`CREATION_ID` of that deployment; missing if it has none."""
PREVIOUS_UNTIL = "mlops.previous_until"
"""On endpoints: when the reaper may delete that deployment (ISO 8601, UTC); missing or empty: never."""
PREVIOUS_MODEL = "mlops.previous_model"
"""On endpoints: the model that was live before (``NAME:VERSION``, or a full id), to deploy it again if its deployment is gone."""
ANCHOR = "mlops.anchor"
"""On endpoints: the best model that they have served (``NAME:VERSION``, or a full id); missing: the one that is live."""
ANCHOR_ID = "mlops.anchor_id"
"""On endpoints: when that model was created, which distinguishes it from another one of the same name and version."""
CHANGE = "mlops.change"
"""On endpoints: an unfinished change of the traffic, as JSON (see :mod:`mlops.cloud.traffic`)."""
ROLLED_BACK = "mlops.rolled_back"
"""On endpoints: the deployment that a rollback replaced. Until the next promotion, only a rollback that names it goes back to it."""
ROLLED_BACK_BY = "mlops.rollback"
"""On endpoints: the run of the pipeline that last rolled the traffic back."""

MAX_VALUE = 256
"""Characters in the value of a resource's tag (Azure Resource Manager)."""


def fit(value: str) -> str:
    """Return a tag's value, shortened if Azure would refuse it; different values stay different, and the same value stays the same."""
    return value if len(value) <= MAX_VALUE else f"{value[: MAX_VALUE - 65]}…{hashlib.sha256(value.encode()).hexdigest()}"


def shorten_model(model: str) -> str:
    """Return ``NAME:VERSION`` of a model of the workspace, otherwise its full id as far as a tag can hold it."""
    match = re.fullmatch(r".*/workspaces/[^/]+/models/([^/]+)/versions/([^/]+)", model, re.IGNORECASE)
    return f"{match[1]}:{match[2]}" if match else model[:MAX_VALUE]
