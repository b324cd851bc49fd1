"""The workspace itself, the addresses of its services, and its datastores."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from mlops.emulator.base.azure import API_HOST, LOCATION, Azure, arm_id
from mlops.emulator.base.errors import AzureFault, not_found, user_error
from mlops.emulator.storage import blobs
from mlops.emulator.wire.app import WS, Answer, Route, read_json
from mlops.emulator.wire.resources import add_system_data, list_response, render_resource

__all__ = ["ARTIFACT_STORE", "BLOB_STORE", "ROUTES", "datastores", "startup"]

VERSIONS = {"2024-10-01-preview", "2023-08-01-preview"}
DATASTORE_VERSIONS = {"2024-10-01-preview"}
BLOB_STORE = "workspaceblobstore"
"""The default datastore: uploads and job outputs."""
ARTIFACT_STORE = "workspaceartifactstore"
"""Run artifacts and logs."""
DISCOVERY = "/discovery"


async def startup(azure: Azure) -> None:
    """Create the workspace's document at the first start of this state folder."""
    if azure.store.get("workspace", "self") is None:
        azure.store.put("workspace", "self", add_system_data(azure, None, {}))


def datastores(azure: Azure) -> dict[str, str]:
    """Return datastore → container."""
    return {BLOB_STORE: blobs.datastore_container(azure), ARTIFACT_STORE: blobs.ARTIFACTS}


async def get_workspace(azure: Azure, request: Request) -> Answer:
    """Return the workspace."""
    i = azure.identity
    group = f"/subscriptions/{i.subscription}/resourceGroups/{i.group}/providers"
    return render_resource(
        azure.workspace_id,
        "",
        i.workspace,
        _stored(azure),
        type="Microsoft.MachineLearningServices/workspaces",
        location=LOCATION,
        kind="Default",
        tags={},
        identity={"type": "SystemAssigned", "principalId": i.workspace_guid, "tenantId": i.tenant},
        sku={"name": "Basic", "tier": "Basic"},
        properties={
            "friendlyName": i.workspace,
            "description": "",
            "storageAccount": f"{group}/Microsoft.Storage/storageAccounts/{i.account}",
            "keyVault": f"{group}/Microsoft.Keyvault/vaults/{i.account}",
            "applicationInsights": f"{group}/Microsoft.insights/components/{i.account}",
            "containerRegistry": None,
            "hbiWorkspace": False,
            "tenantId": i.tenant,
            "imageBuildCompute": None,
            "provisioningState": "Succeeded",
            "creationTime": _stored(azure)["created"]["at"],
            "publicNetworkAccess": "Enabled",
            "managedNetwork": {"isolationMode": "Disabled", "outboundRules": {}},
            "discoveryUrl": f"https://{API_HOST}{DISCOVERY}",
            "mlFlowTrackingUri": azure.tracking_uri,
            "workspaceId": i.workspace_guid,
            "storageHnsEnabled": False,
            "systemDatastoresAuthMode": "accessKey",
            "v1LegacyMode": False,
        },
    )


async def get_discovery(azure: Azure, request: Request) -> Answer:
    """Return the addresses of the workspace's services, all on one host."""
    host = f"https://{API_HOST}"
    names = ("api", "experimentation", "history", "hyperdrive", "modelmanagement", "pipelines")
    return dict.fromkeys(names, host) | {"studio": "https://ml.azure.com"}


async def list_datastores(azure: Azure, request: Request) -> Answer:
    """List all datastores, or with ``isDefault=true`` the default one."""
    is_default = request.query_params.get("isDefault")
    if is_default not in (None, "true", "false"):
        raise user_error(f"isDefault must be true or false, not '{is_default}'.")
    return list_response([_datastore(azure, name) for name in datastores(azure) if is_default in (None, str(name == BLOB_STORE).lower())])


async def get_datastore(azure: Azure, request: Request) -> Answer:
    """Return one datastore, without its secrets."""
    return _datastore(azure, request.path_params["datastore"])


async def post_secrets(azure: Azure, request: Request) -> Answer:
    """Return a shared access signature for the datastore's container."""
    container = _container(azure, request.path_params["datastore"])
    content = await read_json(request) if await request.body() else {}
    hours = content.get("expireAfterHours", 1)
    if set(content) - {"expirableSecret", "expireAfterHours"} or isinstance(hours, bool) or not isinstance(hours, int) or hours < 1:
        raise user_error(f"The request body of listSecrets is invalid: {content}.")
    if content.get("expirableSecret") is not True:
        raise AzureFault(
            501, "NotImplementedByEmulator", "The emulator issues expiring signatures, not account keys: send expirableSecret=true."
        )
    return {"secretsType": "Sas", "sasToken": blobs.sas_token(azure, container, permissions="racwdl", hours=hours)}


def _datastore(azure: Azure, name: str) -> dict[str, Any]:
    container = _container(azure, name)
    return render_resource(
        arm_id(azure, "datastores", name),
        "datastores",
        name,
        _stored(azure),
        properties={
            "description": None,
            "tags": None,
            "properties": None,
            "isDefault": name == BLOB_STORE,
            "credentials": {"credentialsType": "AccountKey"},
            "datastoreType": "AzureBlob",
            "accountName": azure.identity.account,
            "containerName": container,
            "endpoint": "core.windows.net",
            "protocol": "https",
            "serviceDataAccessAuthIdentity": "None",
        },
    )


def _container(azure: Azure, name: str) -> str:
    container = datastores(azure).get(name)
    if container is None:
        raise not_found(f"Could not find datastore: {name}.", "NotFoundError")
    return container


def _stored(azure: Azure) -> dict[str, Any]:
    stored = azure.store.get("workspace", "self")
    assert stored is not None
    return stored


_STORE = WS + "/datastores/{datastore}"
ROUTES = [
    Route("arm", "GET", WS, get_workspace, VERSIONS),
    Route("api", "GET", DISCOVERY, get_discovery, public=True),
    Route("arm", "GET", WS + "/datastores", list_datastores, DATASTORE_VERSIONS),
    Route("arm", "GET", _STORE, get_datastore, DATASTORE_VERSIONS),
    Route("arm", "POST", _STORE + "/listSecrets", post_secrets, DATASTORE_VERSIONS),
]
