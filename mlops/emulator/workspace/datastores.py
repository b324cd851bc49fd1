"""Datastores: the four that every workspace has, and those that users register.

Azure Machine Learning REST, ``datastores`` of 2022-05-01 and later. Jobs read and write the blob datastores of the workspace's own storage
account; a datastore of any other storage is only a record.
"""

from __future__ import annotations

import re
from typing import Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from mlops.emulator.base.azure import Azure, arm_id
from mlops.emulator.base.errors import not_found, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.storage import blobs
from mlops.emulator.wire.app import WS, Answer, Route
from mlops.emulator.wire.resources import Body, SentResource, add_system_data, list_response, parse_body, put_response, render_resource
from mlops.emulator.wire.versions import published_since

__all__ = ["ARTIFACT_STORE", "BLOB_STORE", "ROUTES", "containers", "long_uri"]

VERSIONS = published_since("2022-05-01")
BLOB_STORE = "workspaceblobstore"
"""The default datastore: uploads and job outputs."""
ARTIFACT_STORE = "workspaceartifactstore"
"""Run artifacts and logs."""
FILE_STORES = {
    "workspaceworkingdirectory": "code-391ff5ac-6576-460f-ba4d-7e03433c68b6",
    "workspacefilestore": "azureml-filestore-{workspace}",
}
"""Datastore → file share, in every workspace. The emulator has no file storage: jobs can't use them."""
SHORT_URI = re.compile(r"azureml://datastores/(?P<rest>.+)", re.IGNORECASE)
SECRETS = {"AccountKey": "key", "Sas": "sasToken", "ServicePrincipal": "clientSecret", "Certificate": "certificate"}
"""Type of credentials → the field of the secret."""


class Credentials(Body):
    """``DatastoreCredentials``."""

    credentials_type: Literal["None", "AccountKey", "Sas", "ServicePrincipal", "Certificate"]
    secrets: dict[str, Any] | None = None
    authority_url: str | None = None
    client_id: str | None = None
    resource_url: str | None = None
    tenant_id: str | None = None
    thumbprint: str | None = None


class Properties(Body):
    """``Datastore``: the union of its kinds."""

    datastore_type: Literal["AzureBlob", "AzureFile", "AzureDataLakeGen1", "AzureDataLakeGen2", "OneLake"]
    credentials: Credentials
    description: str | None = None
    tags: dict[str, str | None] | None = None
    properties: dict[str, str | None] | None = None
    is_default: bool | None = None
    account_name: str | None = None
    container_name: str | None = None
    file_share_name: str | None = None
    filesystem: str | None = None
    store_name: str | None = None
    artifact: dict[str, Any] | None = None
    one_lake_workspace_name: str | None = None
    endpoint: str | None = None
    protocol: str | None = None
    service_data_access_auth_identity: str | None = None
    subscription_id: str | None = None
    resource_group: str | None = None


class Put(SentResource):
    """The body of a PUT."""

    properties: Properties


class SecretExpiry(Body):
    """The body of ``listSecrets`` since 2024-07-01-preview."""

    expirable_secret: bool = False
    expire_after_hours: int = Field(default=1, ge=1)


def containers(azure: Azure) -> dict[str, str]:
    """Return blob datastore → container in the workspace's storage account."""
    own = {
        name: stored["properties"]["containerName"]
        for name, stored in azure.store.list("datastore")
        if stored["properties"].get("containerName") and stored["properties"].get("accountName") == azure.identity.account
    }
    return own | {BLOB_STORE: blobs.datastore_container(azure), ARTIFACT_STORE: blobs.ARTIFACTS}


def long_uri(azure: Azure, uri: str) -> str:
    """Return ``azureml://datastores/…`` with the workspace in it, as the service stores it, and any other URI as it is."""
    match = SHORT_URI.fullmatch(uri)
    if match is None:
        return uri
    i = azure.identity
    return f"azureml://subscriptions/{i.subscription}/resourcegroups/{i.group}/workspaces/{i.workspace}/datastores/{match['rest']}"


async def list_datastores(azure: Azure, request: Request) -> Answer:
    """List all datastores, or with ``isDefault=true`` the default one."""
    is_default = request.query_params.get("isDefault")
    if is_default not in (None, "true", "false"):
        raise user_error(f"isDefault must be true or false, not '{is_default}'.")
    names = [*_standard(azure), *(name for name, _ in azure.store.list("datastore"))]
    return list_response([_render(azure, name) for name in names if is_default in (None, str(name == BLOB_STORE).lower())])


async def get_datastore(azure: Azure, request: Request) -> Answer:
    """Return one datastore, without its secrets."""
    return _render(azure, request.path_params["datastore"])


async def put_datastore(azure: Azure, request: Request) -> Answer:
    """Register a datastore. Nothing checks whether its storage exists, as on Azure with ``skipValidation=true``."""
    name = request.path_params["datastore"]
    if name in _standard(azure):
        raise user_error(f"The datastore {name} is managed by the workspace and can't be changed.")
    body = await parse_body(request, Put)
    existing = azure.store.get("datastore", name)
    properties = body.properties.model_dump(by_alias=True, exclude_none=True)
    azure.store.put("datastore", name, add_system_data(azure, existing, {"properties": properties}))
    return put_response(request, _render(azure, name), is_new=existing is None)


async def delete_datastore(azure: Azure, request: Request) -> Answer:
    """Remove a datastore; its storage stays."""
    name = request.path_params["datastore"]
    if name in _standard(azure):
        raise user_error(f"The datastore {name} is managed by the workspace and can't be deleted.")
    return Response(status_code=200 if azure.store.delete("datastore", name) else 204)


async def post_secrets(azure: Azure, request: Request) -> Answer:
    """Return the account's key, or a signature that expires if the request asks for one and the storage has them."""
    name = request.path_params["datastore"]
    expiry = await parse_body(request, SecretExpiry) if (await request.body()).strip() not in (b"", b"null") else SecretExpiry()
    if stored := azure.store.get("datastore", name):
        return _stored_secret(name, stored["properties"]["credentials"])
    container = containers(azure).get(name)
    if name in _standard(azure) and azure.options.storage == "identity":
        raise _no_secrets(name, "None")
    if container is not None and expiry.expirable_secret:
        token = blobs.sas_token(azure, container, permissions="racwdl", hours=expiry.expire_after_hours)
        return {"secretsType": "Sas", "sasToken": token}
    if name not in _standard(azure):
        raise _not_found(name)
    return {"secretsType": "AccountKey", "key": azure.identity.account_key}


def _stored_secret(name: str, credentials: Document) -> dict[str, Any]:
    kind, secrets = credentials["credentialsType"], credentials.get("secrets") or {}
    if kind not in SECRETS or SECRETS[kind] not in secrets:
        raise _no_secrets(name, kind)
    return {"secretsType": kind, SECRETS[kind]: secrets[SECRETS[kind]]}


def _no_secrets(name: str, kind: str) -> Exception:
    return user_error(f"The datastore {name} has no secrets: its credentials are of type {kind}.")


def _standard(azure: Azure) -> dict[str, dict[str, Any]]:
    """Return name → properties of the datastores that every workspace has."""
    stores: dict[str, dict[str, Any]] = {
        name: {"datastoreType": "AzureBlob", "containerName": container}
        for name, container in ((BLOB_STORE, blobs.datastore_container(azure)), (ARTIFACT_STORE, blobs.ARTIFACTS))
    }
    for name, share in FILE_STORES.items():
        stores[name] = {"datastoreType": "AzureFile", "fileShareName": share.format(workspace=azure.identity.workspace_guid)}
    shared = {
        "accountName": azure.identity.account,
        "endpoint": "core.windows.net",
        "protocol": "https",
        "serviceDataAccessAuthIdentity": "WorkspaceSystemAssignedIdentity",
        "credentials": {"credentialsType": "None" if azure.options.storage == "identity" else "AccountKey"},
        "tags": None,
    }
    return {name: properties | shared for name, properties in stores.items()}


def _render(azure: Azure, name: str) -> dict[str, Any]:
    standard, stored = _standard(azure).get(name), azure.store.get("datastore", name)
    if standard is None and stored is None:
        raise _not_found(name)
    workspace = azure.store.get("workspace", "self")
    assert workspace is not None
    properties: dict[str, Any] = {"description": None, "tags": {}, "properties": None, "serviceDataAccessAuthIdentity": "None"}
    properties |= standard or (stored or {})["properties"]
    credentials = {key: value for key, value in properties["credentials"].items() if key != "secrets"}
    properties |= {"isDefault": name == BLOB_STORE, "credentials": credentials}
    return render_resource(arm_id(azure, "datastores", name), "datastores", name, stored or workspace, properties=properties)


def _not_found(name: str) -> Exception:
    return not_found(f"Could not find datastore: {name}.", "NotFoundError")


_STORE = WS + "/datastores/{datastore}"
ROUTES = [
    Route("arm", "GET", WS + "/datastores", list_datastores, VERSIONS),
    Route("arm", "GET", _STORE, get_datastore, VERSIONS),
    Route("arm", "PUT", _STORE, put_datastore, VERSIONS),
    Route("arm", "DELETE", _STORE, delete_datastore, VERSIONS),
    Route("arm", "POST", _STORE + "/listSecrets", post_secrets, VERSIONS),
]
