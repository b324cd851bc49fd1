"""Logging of a scoring run to MLflow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["log"]


def log(metrics: Mapping[str, float], tags: Mapping[str, str], scores: Path) -> str:
    """Log to this job's MLflow run and return the run's id, or an empty string if no tracking server is configured.

    An Azure ML job sets MLFLOW_TRACKING_URI and MLFLOW_RUN_ID, so ``start_run`` attaches to the job's own run.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return ""
    import mlflow

    with mlflow.start_run() as run:
        mlflow.set_tags(dict(tags))
        mlflow.log_metrics(dict(metrics))
        mlflow.log_artifact(str(scores))
    return str(run.info.run_id)
