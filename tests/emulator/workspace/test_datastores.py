"""Datastores through the real SDK."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from mlops.emulator.base.azure import arm_id
from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.server import Emulator
from mlops.emulator.storage import blobs

STANDARD = ["workspaceblobstore", "workspaceartifactstore", "workspaceworkingdirectory", "workspacefilestore"]


def post_secrets(emulator: Emulator, name: str, body: Any) -> requests.Response:
    return requests.post(
        MANAGEMENT + arm_id(emulator.azure, "datastores", name, "listSecrets"),
        params={"api-version": "2024-10-01-preview"},
        headers={"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"},
        json=body,
        timeout=30,
    )


def test_every_workspace_has_four_datastores(ml: Any, emulator: Emulator) -> None:
    assert ml.datastores.get_default().name == "workspaceblobstore"
    assert [store.name for store in ml.datastores.list()] == STANDARD
    datastore = ml.datastores.get("workspaceblobstore")
    assert (datastore.account_name, datastore.container_name) == (
        emulator.azure.identity.account,
        blobs.datastore_container(emulator.azure),
    )
    assert ml.datastores.get("workspacefilestore").file_share_name == f"azureml-filestore-{emulator.azure.identity.workspace_guid}"


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


def test_storage_without_keys_gives_access_to_identities_only(start_emulator: Callable[..., Emulator]) -> None:
    from azure.ai.ml import MLClient
    from azure.ai.ml.entities import NoneCredentialConfiguration
    from azure.identity import EnvironmentCredential
    from azure.storage.blob import ContainerClient

    emulator = start_emulator(storage="identity")
    identity, credential = emulator.azure.identity, EnvironmentCredential()
    datastore = MLClient(credential, identity.subscription, identity.group, identity.workspace).datastores.get_default()
    assert isinstance(datastore.credentials, NoneCredentialConfiguration)
    for expiry in (None, {"expirableSecret": True}):
        refused = post_secrets(emulator, datastore.name, expiry)
        assert (refused.status_code, refused.json()["error"]["code"]) == (400, "UserError")
    url = f"https://{datastore.account_name}.blob.core.windows.net/{datastore.container_name}"
    with (
        ContainerClient.from_container_url(url, credential=identity.account_key) as container,
        pytest.raises(HttpResponseError) as caught,
    ):
        container.upload_blob("by/key.txt", b"x")
    assert getattr(caught.value, "error_code", None) == "KeyBasedAuthenticationNotPermitted"
    with ContainerClient.from_container_url(url, credential=credential) as container:
        container.upload_blob("by/identity.txt", b"x")
    assert blobs.path(emulator.azure, datastore.container_name, "by/identity.txt").read_bytes() == b"x"


def test_without_an_expiry_the_secret_is_the_key_of_the_account(ml: Any, emulator: Emulator) -> None:
    from azure.storage.blob import ContainerClient

    secret = post_secrets(emulator, "workspaceblobstore", None).json()
    assert secret["secretsType"] == "AccountKey"
    url = f"https://{emulator.azure.identity.account}.blob.core.windows.net/{blobs.datastore_container(emulator.azure)}"
    with ContainerClient.from_container_url(url, credential=secret["key"], max_single_put_size=2, max_block_size=2) as container:
        container.upload_blob("by key/ü+%.txt", b"12345", metadata={"a": "b"}, overwrite=True)
        assert container.download_blob("by key/ü+%.txt").readall() == b"12345"
        assert [blob.name for blob in container.list_blobs(name_starts_with="by key/")] == ["by key/ü+%.txt"]
        container.delete_blob("by key/ü+%.txt")
    wrong = ContainerClient.from_container_url(url, credential="AAAA", retry_total=0)
    with wrong, pytest.raises(HttpResponseError) as refused:
        wrong.upload_blob("by key/x", b"")
    assert (refused.value.status_code, refused.value.error_code) == (403, "AuthenticationFailed")


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"expirableSecret": True, "expireAfterHours": 0}, 400),
        ({"expirableSecret": True, "expireAfterHours": "1"}, 400),
        ({"expirableSecret": True, "hours": 1}, 400),
        ({}, 200),
    ],
)
def test_an_invalid_request_for_secrets_is_refused(emulator: Emulator, environment: object, body: dict[str, Any], status: int) -> None:
    assert post_secrets(emulator, "workspaceblobstore", body).status_code == status


def test_a_datastore_can_be_registered_and_removed(ml: Any, emulator: Emulator) -> None:
    from azure.ai.ml.entities import AccountKeyConfiguration, AzureBlobDatastore

    store = AzureBlobDatastore(
        name="own", account_name="elsewhere", container_name="c", credentials=AccountKeyConfiguration(account_key="c2VjcmV0")
    )
    assert ml.datastores.create_or_update(store).container_name == "c"
    read = ml.datastores.get("own", include_secrets=True)
    assert (read.account_name, read.credentials.account_key) == ("elsewhere", "c2VjcmV0")
    assert [store.name for store in ml.datastores.list()] == [*STANDARD, "own"]
    ml.datastores.delete("own")
    with pytest.raises(ResourceNotFoundError):
        ml.datastores.get("own")


def test_a_datastore_without_credentials_has_no_secrets(ml: Any, emulator: Emulator) -> None:
    from azure.ai.ml.entities import AzureBlobDatastore

    ml.datastores.create_or_update(AzureBlobDatastore(name="identity", account_name="elsewhere", container_name="c"))
    answer = post_secrets(emulator, "identity", None)
    assert (answer.status_code, "has no secrets" in answer.text) == (400, True)
    ml.datastores.delete("identity")


def test_a_lake_of_fabric_can_be_registered(ml: Any) -> None:
    from azure.ai.ml.entities import OneLakeArtifact, OneLakeDatastore

    lake = OneLakeDatastore(name="lake", one_lake_workspace_name="fabric", artifact=OneLakeArtifact(name="house"), endpoint="onelake")
    assert ml.datastores.create_or_update(lake).one_lake_workspace_name == "fabric"
    assert (ml.datastores.get("lake").artifact.name, ml.datastores.get("lake").endpoint) == ("house", "onelake")
    ml.datastores.delete("lake")


def test_the_standard_datastores_stay(ml: Any) -> None:
    with pytest.raises(HttpResponseError, match="managed by the workspace"):
        ml.datastores.delete("workspaceblobstore")
