"""A workspace without public network access, for clients inside and outside of its virtual network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
import requests
from azure.core.exceptions import HttpResponseError

from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.server import Emulator
from mlops.emulator.storage import blobs
from mlops.emulator.wire.network import REFUSAL
from tests.support.network import Network

NETWORKS = ("public", "private", "private-outside")


@pytest.fixture
def network(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Network:
    """Sets the network of the workspace, for this test."""
    return Network(emulator, monkeypatch)


@pytest.mark.parametrize(
    ("name", "managed", "expected"),
    [
        ("public", True, ("Enabled", "Disabled", 0)),
        ("private", True, ("Disabled", "AllowInternetOutbound", 1)),
        ("private", False, ("Disabled", "Disabled", 1)),
        ("private-outside", True, ("Disabled", "AllowInternetOutbound", 1)),
    ],
)
def test_the_workspace_says_how_it_is_reached(
    name: str, managed: bool, expected: tuple[str, str, int], emulator: Emulator, ml: Any, network: Network
) -> None:
    network(name, managed=managed)
    workspace = ml.workspaces.get(ml.workspace_name)
    raw = requests.get(
        f"{MANAGEMENT}{emulator.azure.workspace_id}?api-version=2024-04-01",
        headers={"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"},
        timeout=30,
    ).json()["properties"]
    assert (workspace.public_network_access, raw["managedNetwork"]["isolationMode"], len(raw["privateEndpointConnections"])) == expected


@pytest.mark.parametrize(("name", "status"), [("public", 404), ("private", 404), ("private-outside", 403)])
def test_only_the_data_plane_refuses_who_is_outside(
    name: str, status: int, emulator: Emulator, ml: Any, azureml: Any, network: Network
) -> None:
    network(name)
    url = f"https://eastus.api.azureml.ms/history/v1.0{emulator.azure.workspace_id}/runs/nothing"
    tokens = {"user": issue(emulator.azure, MANAGEMENT), "job": issue(emulator.azure, MANAGEMENT, run="job-1")}
    answers = {who: requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30) for who, token in tokens.items()}
    assert (answers["user"].status_code, answers["job"].status_code) == (status, 404)
    assert (REFUSAL in answers["user"].text) is (status == 403)
    assert requests.get(url, timeout=30).status_code == 401
    assert list(ml.jobs.list()) == []
    assert azureml.models.get("Phi-4", label="latest").name == "Phi-4"
    assert requests.get("https://eastus.api.azureml.ms/discovery", timeout=30).status_code == 200


def test_storage_refuses_who_is_outside(emulator: Emulator, environment: Mapping[str, str], network: Network) -> None:
    container = blobs.datastore_container(emulator.azure)
    token = blobs.sas_token(emulator.azure, container, permissions="rl", hours=1)
    url = f"https://{emulator.azure.identity.account}.blob.core.windows.net/{container}?restype=container&comp=list&{token}"
    for name in ("public", "private"):
        network(name)
        assert requests.get(url, timeout=30).status_code == 200
    network("private-outside")
    refused = requests.get(url, timeout=30)
    assert (refused.status_code, refused.headers["x-ms-error-code"]) == (403, "AuthorizationFailure")
    assert "This request is not authorized to perform this operation." in refused.text


def test_the_scoring_of_a_private_endpoint_is_reached_from_inside_only(ml: Any, network: Network) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    statuses = {}
    for access in ("enabled", "disabled"):
        endpoint = ManagedOnlineEndpoint(name=f"is-{access}", auth_mode="key", public_network_access=access)
        created = ml.online_endpoints.begin_create_or_update(endpoint).result()
        assert created.public_network_access.lower() == access
        key = ml.online_endpoints.get_keys(created.name).primary_key
        for name in NETWORKS:
            network(name)
            statuses[access, name] = requests.post(
                created.scoring_uri, headers={"Authorization": f"Bearer {key}"}, json={}, timeout=30
            ).status_code
    # 404: no deployment.
    assert [statuses["enabled", name] for name in NETWORKS] == [404, 404, 404]
    assert [statuses["disabled", name] for name in NETWORKS] == [403, 404, 403]


def test_a_deployment_reaches_a_private_workspace_by_its_managed_network_only(ml: Any, network: Network) -> None:
    from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint

    ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="served", auth_mode="key")).result()

    def deploy() -> None:
        settings = {"endpoint_name": "served", "instance_type": "Standard_DS3_v2", "instance_count": 1}
        model = f"azureml:{ml.workspace_name}-nothing:1"
        deployment = ManagedOnlineDeployment(name="blue", model=model, **settings)
        deployment.model = f"{ml.workspaces.get(ml.workspace_name).id}/models/nothing/versions/1"
        ml.online_deployments.begin_create_or_update(deployment).result()

    network("private", managed=False)
    with pytest.raises(HttpResponseError, match="needs a workspace that allows public network access or has a managed network"):
        deploy()
    network("private")
    with pytest.raises(HttpResponseError, match="nothing"):
        deploy()
