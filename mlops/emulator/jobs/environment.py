"""Environment variables of a command job: how to reach the emulator as Azure, an identity, and where to track the run.

The names are those of a real Azure ML job, so ``import mlflow; mlflow.log_metric(…)`` works unchanged. The client secret of the user who
submitted the job isn't among them: a job has a token for its own run, as on Azure.
"""

from __future__ import annotations

from mlops.emulator.base.azure import API_HOST, Azure
from mlops.emulator.base.children import base_environment
from mlops.emulator.base.store import Document
from mlops.emulator.identity import entra

__all__ = ["job_environment"]

TOKEN_LIFETIME_MIN = 60 * 48
"""Lifetime of a job's token, longer than any job runs here."""


def job_environment(azure: Azure, run: Document) -> dict[str, str]:
    """Return the environment of the process that runs a command job."""
    i = azure.identity
    token = entra.issue(azure, entra.ML, TOKEN_LIFETIME_MIN, run=run["name"])
    # The proxy variables only: a job knows neither who submitted it nor with which settings.
    proxy = {name: value for name, value in azure.environment.items() if not name.startswith("AZURE")}
    return (
        base_environment()
        | proxy
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
