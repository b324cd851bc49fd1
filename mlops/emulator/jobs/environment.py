"""What a job's processes find in their environment: the way to the emulator as Azure, who they are, and where their run is tracked.

The names are those of a real Azure ML job, so ``import mlflow; mlflow.log_metric(…)`` works unchanged. The caller's client secret is not
among them: a job has a token for its own run, as on Azure.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

from mlops.emulator.base.azure import API_HOST, Azure
from mlops.emulator.base.store import Document
from mlops.emulator.identity import entra

__all__ = ["base", "for_component", "for_job"]

KEPT = ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "OMP_NUM_THREADS")
TOKEN_MIN = 60 * 48
"""Longer than a job may run here."""


def base() -> dict[str, str]:
    """Of any child: the emulator's own Python first on the path, and little else."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return {name: os.environ[name] for name in KEPT if name in os.environ} | {"PATH": path, "PYTHONUNBUFFERED": "1"}


def for_component() -> dict[str, str]:
    """Of a child that runs this very package: a step of the component, or the making of weights."""
    return base() | {"PYTHONPATH": str(Path(__file__).parents[3])}


def for_job(azure: Azure, run: Document) -> dict[str, str]:
    """Of a command job's process."""
    i = azure.identity
    token = entra.issue(azure, entra.ML, TOKEN_MIN)
    # The way only: who the caller is and what workspace it has in mind is not the job's to know.
    proxied = {name: value for name, value in azure.environment.items() if not name.startswith("AZURE")}
    return (
        base()
        | proxied
        | {
            "AZUREML_RUN_ID": run["name"],
            "AZUREML_ROOT_RUN_ID": run["root"],
            "AZUREML_RUN_TOKEN": token,
            "AZUREML_ARM_SUBSCRIPTION": i.subscription,
            "AZUREML_ARM_RESOURCEGROUP": i.group,
            "AZUREML_ARM_WORKSPACE_NAME": i.workspace,
            "AZUREML_ARM_PROJECT_NAME": run["experiment"],
            "AZUREML_EXPERIMENT_ID": run["experiment_id"],
            "AZUREML_EXPERIMENT_SCOPE": f"{azure.workspace_id}/experiments/{run['experiment']}",
            "AZUREML_WORKSPACE_ID": i.workspace_guid,
            "AZUREML_WORKSPACE_SCOPE": azure.workspace_id,
            "AZUREML_SERVICE_ENDPOINT": f"https://{API_HOST}",
            "AZUREML_DISCOVERY_SERVICE_ENDPOINT": f"https://{API_HOST}/discovery",
            "AZUREML_FRAMEWORK": "Python",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "MLFLOW_TRACKING_URI": azure.tracking_uri,
            "MLFLOW_TRACKING_TOKEN": token,
            "MLFLOW_RUN_ID": run["name"],
            "MLFLOW_EXPERIMENT_NAME": run["experiment"],
            "MLFLOW_EXPERIMENT_ID": run["experiment_id"],
        }
    )
