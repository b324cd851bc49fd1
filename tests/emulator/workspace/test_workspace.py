"""The workspace and its datastores through the real SDK."""

from __future__ import annotations

from typing import Any

import pytest
import requests
from azure.core.exceptions import HttpResponseError

from mlops.emulator.server import Emulator


def test_the_workspace_is_described(ml: Any, emulator: Emulator) -> None:
    i = emulator.azure.identity
    workspace = ml.workspaces.get(i.workspace)
    assert (workspace.name, workspace.location, workspace.resource_group) == (i.workspace, "eastus", i.group)
    assert workspace.id == emulator.azure.workspace_id
    assert workspace.mlflow_tracking_uri.startswith("azureml://eastus.api.azureml.ms/mlflow/")
    assert workspace.storage_account.endswith(f"/storageAccounts/{i.account}")


def test_the_workspace_is_listed(ml: Any, emulator: Emulator, credential: Any) -> None:
    from azure.ai.ml import MLClient
    from azure.ai.ml.constants import Scope

    i = emulator.azure.identity
    for scope in (Scope.RESOURCE_GROUP, Scope.SUBSCRIPTION):
        assert [workspace.name for workspace in ml.workspaces.list(scope=scope)] == [i.workspace]
    with pytest.raises(HttpResponseError, match=r"\(ResourceGroupNotFound\)"):
        list(MLClient(credential, i.subscription, "elsewhere").workspaces.list())


def test_discovery_needs_no_token(ml: Any, emulator: Emulator) -> None:
    workspace = ml.workspaces.get(emulator.azure.identity.workspace)
    assert requests.get(workspace.discovery_url, timeout=30).json()["api"] == "https://eastus.api.azureml.ms"


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
