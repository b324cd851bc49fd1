"""The workspace and its datastores through the real SDK."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from mlops.emulator.base.azure import arm_id
from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.server import Emulator
from mlops.emulator.storage import blobs


def test_the_workspace_is_described(ml: Any, emulator: Emulator) -> None:
    i = emulator.azure.identity
    workspace = ml.workspaces.get(i.workspace)
    assert (workspace.name, workspace.location, workspace.resource_group) == (i.workspace, "eastus", i.group)
    assert workspace.id == emulator.azure.workspace_id
    assert workspace.mlflow_tracking_uri.startswith("azureml://eastus.api.azureml.ms/mlflow/")
    assert workspace.storage_account.endswith(f"/storageAccounts/{i.account}")


def test_discovery_needs_no_token(ml: Any, emulator: Emulator) -> None:
    workspace = ml.workspaces.get(emulator.azure.identity.workspace)
    assert requests.get(workspace.discovery_url, timeout=30).json()["api"] == "https://eastus.api.azureml.ms"


def test_datastores_are_listed(ml: Any, emulator: Emulator) -> None:
    assert ml.datastores.get_default().name == "workspaceblobstore"
    assert [store.name for store in ml.datastores.list()] == ["workspaceblobstore", "workspaceartifactstore"]
    datastore = ml.datastores.get("workspaceblobstore")
    assert (datastore.account_name, datastore.container_name) == (
        emulator.azure.identity.account,
        blobs.datastore_container(emulator.azure),
    )


def test_an_unknown_datastore_is_not_found(ml: Any) -> None:
    with pytest.raises(ResourceNotFoundError, match="Could not find datastore: nowhere"):
        ml.datastores.get("nowhere")


def test_secrets_open_the_container(ml: Any, emulator: Emulator) -> None:
    from azure.storage.blob import ContainerClient

    datastore = ml.datastores.get("workspaceblobstore", include_secrets=True)
    url = f"https://{datastore.account_name}.blob.core.windows.net/{datastore.container_name}"
    with ContainerClient.from_container_url(url, credential=datastore.credentials.sas_token) as container:
        container.upload_blob("by/secret.txt", b"x")
    assert blobs.path(emulator.azure, datastore.container_name, "by/secret.txt").read_bytes() == b"x"


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"expirableSecret": True, "expireAfterHours": 0}, 400),
        ({"expirableSecret": True, "expireAfterHours": "1"}, 400),
        ({"expirableSecret": True, "hours": 1}, 400),
        ({}, 501),
    ],
)
def test_an_invalid_request_for_secrets_is_refused(emulator: Emulator, environment: object, body: dict[str, Any], status: int) -> None:
    answer = requests.post(
        MANAGEMENT + arm_id(emulator.azure, "datastores", "workspaceblobstore", "listSecrets"),
        params={"api-version": "2024-10-01-preview"},
        headers={"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"},
        json=body,
        timeout=30,
    )
    assert answer.status_code == status


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"workspace_name": "elsewhere"}, "ResourceNotFound"),
        ({"resource_group_name": "elsewhere"}, "ResourceGroupNotFound"),
        ({"subscription_id": "11111111-2222-4333-8444-555555555555"}, "SubscriptionNotFound"),
    ],
)
def test_another_workspace_is_not_found(credential: Any, emulator: Emulator, change: dict[str, str], code: str) -> None:
    from azure.ai.ml import MLClient

    i = emulator.azure.identity
    coordinates = {"subscription_id": i.subscription, "resource_group_name": i.group, "workspace_name": i.workspace} | change
    with pytest.raises(HttpResponseError, match=rf"\({code}\)"):
        MLClient(credential, **coordinates).compute.get("x")
