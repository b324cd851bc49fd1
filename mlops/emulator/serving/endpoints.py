"""Managed online endpoints: the address, its keys, and which deployment gets how much of its traffic.

Azure Machine Learning REST, ``onlineEndpoints`` of 2022-02-01-preview and 2023-04-01-preview. Traffic is all or nothing (percentages sum to
0 or 100) and goes only to deployments that have Succeeded. Mirrored traffic is refused: the emulator would not mirror it.
"""

from __future__ import annotations

import re
import secrets
import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from mlops.emulator.base.azure import LOCATION, SCORING_SUFFIX, Azure, arm_id
from mlops.emulator.base.errors import AzureFault, not_implemented, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.identity import entra
from mlops.emulator.serving import containers
from mlops.emulator.wire import operations
from mlops.emulator.wire.app import PROVIDER, WS, Answer, Route
from mlops.emulator.wire.resources import Body, conflict, document, page, read, refused, resource

__all__ = ["ROUTES", "VERSIONS", "audience", "endpoint", "startup"]

VERSIONS = {"2022-02-01-preview", "2023-04-01-preview"}
NAME = re.compile(r"[a-zA-Z](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?")
BUSY = ("Creating", "Updating", "Deleting")
OWN_PROPERTIES = ("azureml.onlineendpointid", "AzureAsyncOperationUri")
"""Under ``properties.properties``: set by the service, whatever a client sends back."""

Traffic = dict[str, Annotated[int, Field(ge=0, le=100)]]


class Keys(Body):
    """``EndpointAuthKeys``."""

    primary_key: str | None = None
    secondary_key: str | None = None


class Properties(Body):
    """``OnlineEndpoint``. Read-only fields are accepted, as they are in what a client has read, and left alone."""

    auth_mode: Literal["Key", "AMLToken", "AADToken"]
    description: str | None = None
    properties: dict[str, str | None] | None = None
    traffic: Traffic | None = None
    mirror_traffic: Traffic | None = None
    public_network_access: Literal["Enabled", "Disabled"] | None = None
    keys: Keys | None = None
    compute: str | None = None
    scoring_uri: str | None = None
    swagger_uri: str | None = None
    provisioning_state: str | None = None


class Identity(Body):
    """``ManagedServiceIdentity``."""

    type: str
    principal_id: str | None = None
    tenant_id: str | None = None
    user_assigned_identities: dict[str, Any] | None = None


class Put(Body):
    """``OnlineEndpointTrackedResource``."""

    location: str
    properties: Properties
    identity: Identity | None = None
    kind: str | None = None
    tags: dict[str, str | None] | None = None


class PatchProperties(Body):
    """``PartialOnlineEndpoint``."""

    traffic: Traffic | None = None
    mirror_traffic: Traffic | None = None
    public_network_access: Literal["Enabled", "Disabled"] | None = None


class Patch(Body):
    """``PartialOnlineEndpointPartialTrackedResource``; a field that is absent stays as it is."""

    properties: PatchProperties | None = None
    tags: dict[str, str | None] | None = None


class Regenerate(Body):
    """``RegenerateEndpointKeysRequest``."""

    key_type: Literal["Primary", "Secondary"]
    key_value: str | None = None


def endpoint(azure: Azure, name: str) -> Document:
    """What is stored of an endpoint; names don't know case.

    Raises:
        AzureFault: 404.
    """
    stored = azure.store.get("endpoint", name.lower())
    if stored is None:
        raise AzureFault(
            404,
            "NotFound",
            "The specified resource was not found.",
            details=[("NoSuchEndpoint", f"There is no endpoint with name: {name} in {azure.identity.workspace}")],
        )
    return stored


def audience(name: str) -> str:
    """Audience of the access tokens that an endpoint of authMode AMLToken issues."""
    return f"https://{name.lower()}.{SCORING_SUFFIX}"


async def put_endpoint(azure: Azure, request: Request) -> Answer:
    """Create an endpoint, or change its traffic, tags or description."""
    name, key = request.path_params["endpoint"], request.path_params["endpoint"].lower()
    if not 3 <= len(name) <= 32 or not NAME.fullmatch(name):
        raise refused(f"Endpoint name [{name}] must have 3 to 32 letters, digits and '-', begin with a letter and end with none of '-'.")
    content = await read(request, Put)
    known = azure.store.get("endpoint", key)
    if known is not None and known["state"] in BUSY:
        raise conflict(f"Endpoint {name}", known["state"])
    _check(content, known)
    given = content.properties
    traffic = checked_traffic(azure, key, given.traffic or {}, given.mirror_traffic or {})
    changed = document(
        azure,
        known,
        {
            "name": known["name"] if known else name,
            "auth_mode": given.auth_mode,
            "description": given.description,
            "properties": {k: v for k, v in (given.properties or {}).items() if k not in OWN_PROPERTIES},
            "traffic": traffic,
            "public_network_access": given.public_network_access or "Enabled",
            "tags": content.tags or {},
            "principal": known["principal"] if known else _principal(),
            "keys": known["keys"] if known else _keys(given.keys),
        },
    )
    return _change(azure, request, key, changed, known)


async def patch_endpoint(azure: Azure, request: Request) -> Answer:
    """Change tags, traffic or network access, at once."""
    stored = endpoint(azure, request.path_params["endpoint"])
    key = stored["name"].lower()
    if stored["state"] in BUSY:
        raise conflict(f"Endpoint {stored['name']}", stored["state"])
    content = await read(request, Patch)
    if content.tags is not None:
        stored["tags"] = content.tags
    if given := content.properties:
        if given.traffic is not None or given.mirror_traffic is not None:
            current = stored["traffic"] if given.traffic is None else given.traffic
            stored["traffic"] = checked_traffic(azure, key, current, given.mirror_traffic or {})
        stored["public_network_access"] = given.public_network_access or stored["public_network_access"]
    return shown(azure, azure.store.put("endpoint", key, document(azure, stored, stored)))


async def get_endpoint(azure: Azure, request: Request) -> Answer:
    """One endpoint."""
    return shown(azure, endpoint(azure, request.path_params["endpoint"]))


async def list_endpoints(azure: Azure, request: Request) -> Answer:
    """All endpoints, newest first as Azure orders them."""
    unknown = set(request.query_params) - {"api-version"}
    if unknown:
        raise not_implemented(f"listing endpoints by {', '.join(sorted(unknown))}")
    return page([shown(azure, stored) for _, stored in reversed(azure.store.list("endpoint"))])


async def delete_endpoint(azure: Azure, request: Request) -> Answer:
    """Delete the endpoint and everything deployed to it."""
    key = request.path_params["endpoint"].lower()
    stored = azure.store.get("endpoint", key)
    if stored is None:
        return Response(status_code=204)
    if stored["state"] in BUSY:
        raise conflict(f"Endpoint {stored['name']}", stored["state"])
    for _, deployed in azure.store.list("deployment", f"{key}/"):
        if deployed["state"] in BUSY:
            raise conflict(f"Deployment {deployed['name']}", deployed["state"])
    azure.store.put("endpoint", key, stored | {"state": "Deleting"})
    return operations.deletion(azure, request, "oe:", delete(azure, key), stored["name"])


async def list_keys(azure: Azure, request: Request) -> Answer:
    """The two keys."""
    stored = endpoint(azure, request.path_params["endpoint"])
    _check_mode(stored, "Key", "keys")
    return {"primaryKey": stored["keys"]["primary"], "secondaryKey": stored["keys"]["secondary"]}


async def regenerate_keys(azure: Azure, request: Request) -> Answer:
    """Replace one key, at once."""
    content = await read(request, Regenerate)
    stored = endpoint(azure, request.path_params["endpoint"])
    _check_mode(stored, "Key", "keys")
    which = content.key_type.lower()
    # The SDK sends the key that is to be replaced: keeping it would make every regeneration a lie.
    value = content.key_value if content.key_value != stored["keys"][which] else None
    stored["keys"][which] = value or _key()
    azure.store.put("endpoint", stored["name"].lower(), stored)
    return None


async def get_token(azure: Azure, request: Request) -> Answer:
    """An access token for an endpoint of authMode AMLToken; valid for an hour."""
    stored = endpoint(azure, request.path_params["endpoint"])
    _check_mode(stored, "AMLToken", "tokens")
    seconds = int(time.time())
    return {
        "accessToken": entra.issue(azure, audience(stored["name"])),
        "expiryTimeUtc": seconds + 3600,
        "refreshAfterTimeUtc": seconds + 1800,
        "tokenType": "Bearer",
    }


async def get_deleted(azure: Azure, request: Request) -> Answer:
    """Where the Location of a deletion points: 202 while it is under way, then 204."""
    operation = azure.store.get("operation", request.path_params["operation"])
    if operation is None:
        raise user_error(f"Operation {request.path_params['operation']} not found.", "NotFound", "OperationNotFound", status=404)
    return Response(status_code=202 if operation["status"] == "InProgress" else 204, headers=operations.RETRY_AFTER)


def checked_traffic(azure: Azure, key: str, traffic: dict[str, int], mirror: dict[str, int]) -> dict[str, int]:
    """Traffic under the deployments' own names (the SDK lower-cases them).

    Raises:
        AzureFault: 400, it doesn't sum to 0 or 100, or goes to a deployment that isn't there or hasn't Succeeded; 501 for mirrored traffic.
    """
    if any(mirror.values()):
        raise not_implemented("mirrored traffic")
    deployments = {stored["name"].lower(): stored for _, stored in azure.store.list("deployment", f"{key}/")}
    named: dict[str, int] = {}
    for given, percent in traffic.items():
        stored = deployments.get(given.lower())
        if stored is None:
            raise refused(f"Traffic refers to deployment [{given}], which does not exist in endpoint [{key}].")
        if percent and stored["state"] != "Succeeded":
            raise refused(f"Traffic refers to deployment [{given}], whose provisioning state is {stored['state']}, not Succeeded.")
        named[stored["name"]] = percent
    total = sum(named.values())
    if total not in (0, 100):
        raise refused(f"Traffic percentages must sum to 0 or 100, but sum to {total}.")
    return named


def shown(azure: Azure, stored: Document) -> dict[str, Any]:
    """An endpoint as Azure answers it."""
    name, path = stored["name"], arm_id(azure, "onlineEndpoints", stored["name"])
    address = None if stored["state"] == "Creating" else audience(name)
    return resource(
        path,
        "onlineEndpoints",
        name,
        stored,
        location=LOCATION,
        kind="Managed",
        tags=stored["tags"],
        identity={"type": "SystemAssigned", "principalId": stored["principal"], "tenantId": azure.identity.tenant},
        properties={
            "authMode": stored["auth_mode"],
            "description": stored["description"],
            "properties": stored["properties"] | {OWN_PROPERTIES[0]: path.lower(), OWN_PROPERTIES[1]: stored["operation"]},
            "traffic": stored["traffic"],
            "mirrorTraffic": {},
            "compute": None,
            "publicNetworkAccess": stored["public_network_access"],
            "provisioningState": stored["state"],
            "scoringUri": address and f"{address}/score",
            "swaggerUri": address and f"{address}/swagger.json",
        },
    )


async def delete(azure: Azure, key: str) -> None:
    """End an endpoint's containers and forget it and its deployments."""
    for name, _ in azure.store.list("deployment", f"{key}/"):
        await containers.stop(azure, name, remove=True)
        azure.store.delete("deployment", name)
    azure.store.delete("endpoint", key)


async def startup(azure: Azure) -> None:
    """Bring to an end what the last emulator left half done."""
    for key, stored in azure.store.list("endpoint"):
        if stored["state"] == "Deleting":
            await delete(azure, key)
        elif stored["state"] in BUSY:
            azure.store.put("endpoint", key, stored | {"state": "Failed" if stored["state"] == "Creating" else "Succeeded"})


def _change(azure: Azure, request: Request, key: str, changed: Document, known: Document | None) -> Response:
    before = known or changed

    async def work() -> None:
        if azure.faults.take("endpoint-failed", changed["name"]):
            # A failed update leaves the endpoint as it was; a failed creation leaves a ruin that can only be deleted.
            azure.store.put("endpoint", key, before | {"state": "Failed", "operation": url, "ruined": known is None})
            raise AzureFault(500, "InternalServerError", f"Provisioning of endpoint {changed['name']} failed.")
        azure.store.put("endpoint", key, changed | {"state": "Succeeded", "operation": url, "ruined": False})

    version = request.query_params["api-version"]
    path = operations.start(azure, "mfeOperationsStatus", "oe:", work(), changed["name"])
    url = f"https://management.azure.com{path}?api-version={version}"
    state = "Updating" if known else "Creating"
    stored = azure.store.put(
        "endpoint", key, before | {"state": state, "operation": url, "ruined": known is None, "modified": changed["modified"]}
    )
    here = f"https://management.azure.com{request.url.path}?api-version={version}"
    return operations.accepted(200 if known else 201, path, version, shown(azure, stored), here)


def _check(content: Put, known: Document | None) -> None:
    if known is not None and known["ruined"]:
        raise refused(f"Specified endpoint [{known['name']}] has not been created successfully. Please recreate the endpoint.")
    if content.location.replace(" ", "").lower() != LOCATION:
        raise user_error(f"The location {content.location} is not the workspace's location {LOCATION}.")
    if content.identity is not None and content.identity.type != "SystemAssigned":
        raise not_implemented(f"endpoints with an identity of type {content.identity.type}")
    if content.properties.compute is not None or (content.kind or "Managed") != "Managed":
        raise not_implemented("endpoints that are not managed")
    if known is not None and known["auth_mode"] != content.properties.auth_mode:
        raise not_implemented("changing the authMode of an endpoint")


def _check_mode(stored: Document, mode: str, what: str) -> None:
    if stored["auth_mode"] != mode:
        raise refused(f"Endpoint [{stored['name']}] has authMode {stored['auth_mode']}: it has no {what}.")


def _keys(given: Keys | None) -> dict[str, str]:
    return {"primary": (given and given.primary_key) or _key(), "secondary": (given and given.secondary_key) or _key()}


def _key() -> str:
    return secrets.token_hex(16)


def _principal() -> str:
    return str(uuid.uuid4())


_ENDPOINT = WS + "/onlineEndpoints/{endpoint}"
ROUTES = [
    Route("arm", "GET", WS + "/onlineEndpoints", list_endpoints, VERSIONS),
    Route("arm", "GET", _ENDPOINT, get_endpoint, VERSIONS),
    Route("arm", "PUT", _ENDPOINT, put_endpoint, VERSIONS),
    Route("arm", "PATCH", _ENDPOINT, patch_endpoint, VERSIONS),
    Route("arm", "DELETE", _ENDPOINT, delete_endpoint, VERSIONS),
    Route("arm", "POST", _ENDPOINT + "/listKeys", list_keys, VERSIONS),
    Route("arm", "POST", _ENDPOINT + "/regenerateKeys", regenerate_keys, VERSIONS),
    Route("arm", "POST", _ENDPOINT + "/token", get_token, VERSIONS),
    Route("arm", "GET", "/subscriptions/{subscription}" + PROVIDER + "/locations/{location}/mfeOperationResults/{operation}", get_deleted),
]
