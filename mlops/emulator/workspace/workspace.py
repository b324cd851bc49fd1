"""The workspace itself, and the addresses of its services."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request

from mlops.emulator.base.azure import API_HOST, LOCATION, Azure
from mlops.emulator.wire.app import PROVIDER, WS, Answer, Route
from mlops.emulator.wire.resources import add_system_data, list_response, render_resource
from mlops.emulator.wire.versions import published_since

__all__ = ["ROUTES", "startup"]

VERSIONS = published_since("2022-01-01-preview")
DISCOVERY = "/discovery"


async def startup(azure: Azure) -> None:
    """Create the workspace's document at the first start of this state folder."""
    if azure.store.get("workspace", "self") is None:
        azure.store.put("workspace", "self", add_system_data(azure, None, {}))


async def get_workspace(azure: Azure, request: Request) -> Answer:
    """Return the workspace."""
    return _render(azure)


async def list_workspaces(azure: Azure, request: Request) -> Answer:
    """List the workspaces of the resource group or of the subscription: there is one."""
    return list_response([_render(azure)])


async def get_discovery(azure: Azure, request: Request) -> Answer:
    """Return the addresses of the workspace's services, all on one host."""
    host = f"https://{API_HOST}"
    names = (
        "api", "catalog", "experimentation", "gallery", "history", "hyperdrive", "labeling", "modelmanagement", "pipelines",
        "quota-manager",
    )  # fmt: skip
    return dict.fromkeys(names, host) | {"studio": "https://ml.azure.com"}


def _render(azure: Azure) -> dict[str, Any]:
    i, stored = azure.identity, _load_workspace(azure)
    group = f"/subscriptions/{i.subscription}/resourceGroups/{i.group}/providers"
    return render_resource(
        azure.workspace_id,
        "",
        i.workspace,
        stored,
        type="Microsoft.MachineLearningServices/workspaces",
        location=LOCATION,
        kind="Default",
        tags={"createdByToolkit": "sdk-v2"},
        etag=None,
        identity={"type": "SystemAssigned", "principalId": i.workspace_guid, "tenantId": i.tenant},
        sku={"name": "Basic", "tier": "Basic"},
        properties={
            "friendlyName": i.workspace,
            "description": "",
            "storageAccount": f"{group}/Microsoft.Storage/storageAccounts/{i.account}",
            "keyVault": f"{group}/Microsoft.Keyvault/vaults/{i.account}",
            "applicationInsights": f"{group}/Microsoft.insights/components/{i.account}",
            "containerRegistry": f"{group}/Microsoft.ContainerRegistry/registries/{i.account}",
            "hbiWorkspace": False,
            "tenantId": i.tenant,
            "imageBuildCompute": None,
            "provisioningState": "Succeeded",
            "creationTime": stored["created"]["at"],
            **_describe_network(azure),
            "discoveryUrl": f"https://{API_HOST}{DISCOVERY}",
            "mlFlowTrackingUri": azure.tracking_uri,
            "workspaceId": i.workspace_guid,
            "storageHnsEnabled": False,
            "systemDatastoresAuthMode": "accessKey",
            "v1LegacyMode": False,
            "softDeleteEnabled": False,
            "enableDataIsolation": False,
            "linkedModelInventoryArmId": None,
            "sasGetterUri": "",
            "sdkTelemetryAppInsightsKey": None,
            "notebookInfo": {
                "resourceId": i.workspace_guid.replace("-", ""),
                "fqdn": f"{i.workspace}-{i.workspace_guid}.{LOCATION}.notebooks.azure.net",
                "isPrivateLinkEnabled": False,
                "notebookPreparationError": None,
            },
        },
    )


def _describe_network(azure: Azure) -> dict[str, Any]:
    options = azure.options
    isolation = "AllowInternetOutbound" if options.is_private and options.managed_network else "Disabled"
    connections = [_private_endpoint(azure)] if options.is_private else []
    return {
        "publicNetworkAccess": "Disabled" if options.is_private else "Enabled",
        "managedNetwork": {"isolationMode": isolation, "outboundRules": {}},
        "privateLinkCount": len(connections),
        "privateEndpointConnections": connections,
    }


def _private_endpoint(azure: Azure) -> dict[str, Any]:
    i, name = azure.identity, f"{azure.identity.workspace}-endpoint"
    endpoint = f"/subscriptions/{i.subscription}/resourceGroups/{i.group}/providers/Microsoft.Network/privateEndpoints/{name}"
    state = {"status": "Approved", "description": "Auto-Approved", "actionsRequired": "None"}
    return {
        "id": f"{azure.workspace_id}/privateEndpointConnections/{name}",
        "name": name,
        "type": "Microsoft.MachineLearningServices/workspaces/privateEndpointConnections",
        "location": LOCATION,
        "properties": {
            "privateEndpoint": {"id": endpoint},
            "privateLinkServiceConnectionState": state,
            "provisioningState": "Succeeded",
        },
    }


def _load_workspace(azure: Azure) -> dict[str, Any]:
    stored = azure.store.get("workspace", "self")
    assert stored is not None
    return stored


ROUTES = [
    Route("arm", "GET", WS, get_workspace, VERSIONS),
    Route("arm", "GET", "/subscriptions/{subscription}/resourceGroups/{group}" + PROVIDER + "/workspaces", list_workspaces, VERSIONS),
    Route("arm", "GET", "/subscriptions/{subscription}" + PROVIDER + "/workspaces", list_workspaces, VERSIONS),
    Route("api", "GET", DISCOVERY, get_discovery, public=True),
]
