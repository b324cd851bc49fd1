"""What a person sees of a scoring run in MLflow."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["log"]


def log(metrics: Mapping[str, float], tags: Mapping[str, str], scores: Path) -> str:
    """Log to the run of the job that this process is in, and return the run's id; empty where there is no tracking server.

    In an Azure ML job MLFLOW_TRACKING_URI and MLFLOW_RUN_ID are set, and ``start_run`` attaches to the job's own run.
    """
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        return ""
    import mlflow

    with mlflow.start_run() as run:
        mlflow.set_tags(dict(tags))
        mlflow.log_metrics(dict(metrics))
        mlflow.log_artifact(str(scores))
    return str(run.info.run_id)
