"""Every tag that the pipeline writes on a job, model, endpoint or deployment, and what it means.

Scoring jobs (``mlops.remote``) and verdicts (``mlops.report.verdict_tags``) write MLflow tags under names of their own, because those rooms
may not import this one; a test holds the shared names equal.
"""

from __future__ import annotations

PIPELINE = "mlops.pipeline"
"""On everything that we create; its value is :data:`MARK`. Nothing without it is ever deleted."""
MARK = "azureml-chat-mlops"
TARGET = "mlops.target"
"""The target that something was created for."""
OWNER = "mlops.owner"
"""Who started the pipeline; on GitHub the actor."""
RUN = "mlops.run"
"""Which run of the pipeline: on GitHub ``owner/repository/run id``, elsewhere ``host:folder``."""

RUN_KEY = "mlops.run_key"
"""On every job: hex sha256 over everything that decides the job's result. On a model: that of its training."""
DETACHED = "mlops.detached"
"""On a training whose runner detached: :data:`WAITING` until a run continues the pipeline, then the name of that run."""
WAITING = "waiting"
DISPATCHED = "mlops.dispatched"
"""On a detached training that has completed: when a run was dispatched to continue the pipeline (ISO 8601, UTC)."""
COMMIT = "mlops.commit"
"""On a detached training: the commit whose pipeline it belongs to. On a model: the commit that registered it."""
SETTINGS = "mlops.settings"
"""On a detached training: the ``--set`` options of its pipeline, one a line."""
BASE_MODEL = "mlops.base_model"
"""On trainings and models: id of the model that is fine-tuned."""
COMPONENT = "mlops.component"
"""On trainings and models: id of the registry component that trains."""
DATA_FINGERPRINT = "mlops.data_fingerprint"
"""On trainings and models: digest of the training data."""

EVALUATION_VERSION = "mlops.evaluation_version"
"""On scoring jobs: digest of the code that scores."""
ROLE = "mlops.role"
"""On scoring jobs: candidate, champion or base."""

TRAINING_JOB = "mlops.job"
"""On models: the training job that made it."""
VERDICT = "mlops.verdict"
"""On models: what the gate decided."""
GATE_RECORD = "mlops.gate_record"
"""On models: digest of the gate's record."""
OVERRIDE = "mlops.override"
"""On models: why a HOLD was overridden and by whom, or ``none``."""

SERVED_MODEL = "mlops.model"
"""On deployments: id of the model that they serve."""
EXPIRES = "mlops.expires_at"
"""On endpoints: when the reaper may delete them (ISO 8601)."""
PREVIOUS = "mlops.previous"
"""On endpoints: the deployment that is kept at 0 % for a rollback."""
ROLLED_BACK_BY = "mlops.rollback"
"""On endpoints: the run of the pipeline that last rolled the traffic back."""
