"""Managed online endpoints: the address, its keys, and the distribution of its traffic over deployments.

Azure Machine Learning REST, ``onlineEndpoints`` of 2022-02-01-preview and 2023-04-01-preview.
"""

from __future__ import annotations

import re
import secrets
import time
import uuid
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator
from starlette.requests import Request
from starlette.responses import Response

from mlops.emulator.base.azure import LOCATION, SCORING_SUFFIX, Azure, arm_id
from mlops.emulator.base.errors import AzureFault, not_implemented
from mlops.emulator.base.store import Document
from mlops.emulator.identity import entra
from mlops.emulator.serving import containers
from mlops.emulator.serving.traffic import Traffic, validate_traffic
from mlops.emulator.wire import operations
from mlops.emulator.wire.app import WS, Answer, Route, arm_url
from mlops.emulator.wire.limits import ResourceTags
from mlops.emulator.wire.resources import (
    Body,
    SentResource,
    add_system_data,
    check_location,
    conflict,
    inference_error,
    list_response,
    parse_body,
    render_resource,
)
from mlops.emulator.wire.versions import published_since

__all__ = ["BUSY", "ROUTES", "VERSIONS", "audience", "is_valid_name", "load_endpoint", "startup"]

VERSIONS = published_since("2022-02-01-preview")
NAME = re.compile(r"[a-zA-Z](?:[-a-zA-Z0-9]*[a-zA-Z0-9])?")
NAME_TAKEN = "There is already an endpoint with this name, Endpoint name needs to be unique within a region. Try some other name."
BUSY = ("Creating", "Updating", "Deleting")
"""Provisioning states in which an operation is in progress."""
TOKEN_LIFETIME_S = 24 * 3600
SYSTEM_PROPERTIES = ("azureml.onlineendpointid", "AzureAsyncOperationUri")
"""Entries of ``properties.properties`` that the service sets, whatever a client sends."""

NetworkAccess = Annotated[
    Literal["Enabled", "Disabled"], BeforeValidator(lambda value: value.capitalize() if isinstance(value, str) else value)
]
"""Microsoft's examples for Python send it in lower case."""


class Keys(Body):
    """``EndpointAuthKeys``."""

    primary_key: str | None = None
    secondary_key: str | None = None


class Properties(Body):
    """``OnlineEndpoint``. Read-only fields are accepted, because clients send back what they have read, and ignored."""

    auth_mode: Literal["Key", "AMLToken", "AADToken"]
    description: str | None = None
    properties: dict[str, str | None] | None = None
    traffic: Traffic | None = None
    mirror_traffic: Traffic | None = None
    public_network_access: NetworkAccess | None = None
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


class Put(SentResource):
    """``OnlineEndpointTrackedResource``."""

    location: str
    properties: Properties
    identity: Identity | None = None
    kind: str | None = None
    tags: ResourceTags = None


class PatchProperties(Body):
    """``PartialOnlineEndpoint``."""

    traffic: Traffic | None = None
    mirror_traffic: Traffic | None = None
    public_network_access: NetworkAccess | None = None


class Patch(Body):
    """``PartialOnlineEndpointPartialTrackedResource``. A missing field is left unchanged; a location must be the endpoint's."""

    properties: PatchProperties | None = None
    tags: ResourceTags = None
    location: str | None = None


class Regenerate(Body):
    """``RegenerateEndpointKeysRequest``."""

    key_type: Literal["Primary", "Secondary"]
    key_value: str | None = None


def is_valid_name(name: str) -> bool:
    """Return whether this is a valid name of an endpoint or a deployment."""
    return 3 <= len(name) <= 32 and NAME.fullmatch(name) is not None


def load_endpoint(azure: Azure, name: str) -> Document:
    """Return the document of an endpoint. Names are case-insensitive.

    Raises:
        AzureFault: 404, the endpoint does not exist.
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
    """Return the audience of the access tokens of an endpoint with authMode AMLToken, which is also its address."""
    return f"https://{name.lower()}.{SCORING_SUFFIX}"


async def put_endpoint(azure: Azure, request: Request) -> Answer:
    """Create an endpoint, or change its traffic, tags or description."""
    name, key = request.path_params["endpoint"], request.path_params["endpoint"].lower()
    if not is_valid_name(name):
        raise inference_error(
            f"Endpoint name [{name}] must have 3 to 32 letters, digits and '-', begin with a letter and not end with '-'."
        )
    body = await parse_body(request, Put)
    previous = azure.store.get("endpoint", key)
    if previous is not None and previous["state"] in BUSY:
        raise conflict(f"Endpoint {name}", previous["state"])
    _validate(body, previous)
    if previous is None and key in {taken.lower() for taken in azure.options.endpoints_taken}:
        raise inference_error(NAME_TAKEN)
    properties = body.properties
    changed = add_system_data(
        azure,
        previous,
        {
            "name": previous["name"] if previous else name,
            "auth_mode": properties.auth_mode,
            "description": properties.description,
            "properties": {k: v for k, v in (properties.properties or {}).items() if k not in SYSTEM_PROPERTIES},
            **validate_traffic(azure, key, properties.traffic or {}, properties.mirror_traffic or {}),
            "public_network_access": properties.public_network_access or "Enabled",
            "tags": body.tags or {},
            "principal": previous["principal"] if previous else str(uuid.uuid4()),
            "keys": previous["keys"] if previous else _create_keys(properties.keys or Keys()),
        },
    )
    return _start_provisioning(azure, request, key, changed, previous)


async def patch_endpoint(azure: Azure, request: Request) -> Answer:
    """Change tags, traffic or network access. The change is immediate."""
    stored = load_endpoint(azure, request.path_params["endpoint"])
    key = stored["name"].lower()
    if stored["state"] in BUSY:
        raise conflict(f"Endpoint {stored['name']}", stored["state"])
    body = await parse_body(request, Patch)
    check_location(body.location)
    if body.tags is not None:
        stored["tags"] = body.tags
    if properties := body.properties:
        if properties.traffic is not None or properties.mirror_traffic is not None:
            traffic = stored["traffic"] if properties.traffic is None else properties.traffic
            mirror = stored["mirror"] if properties.mirror_traffic is None else properties.mirror_traffic
            stored |= validate_traffic(azure, key, traffic, mirror)
        stored["public_network_access"] = properties.public_network_access or stored["public_network_access"]
    return _render(azure, azure.store.put("endpoint", key, add_system_data(azure, stored, stored)))


async def get_endpoint(azure: Azure, request: Request) -> Answer:
    """Return one endpoint."""
    return _render(azure, load_endpoint(azure, request.path_params["endpoint"]))


async def list_endpoints(azure: Azure, request: Request) -> Answer:
    """List all endpoints, newest first as on Azure."""
    unsupported = set(request.query_params) - {"api-version"}
    if unsupported:
        raise not_implemented(f"listing endpoints by {', '.join(sorted(unsupported))}")
    return list_response([_render(azure, stored) for _, stored in reversed(azure.store.list("endpoint"))])


async def delete_endpoint(azure: Azure, request: Request) -> Answer:
    """Delete the endpoint and everything deployed to it."""
    key = request.path_params["endpoint"].lower()
    stored = azure.store.get("endpoint", key)
    if stored is None:
        return Response(status_code=204)
    if stored["state"] in BUSY:
        raise conflict(f"Endpoint {stored['name']}", stored["state"])
    for _, deployment in azure.store.list("deployment", f"{key}/"):
        if deployment["state"] in BUSY:
            raise conflict(f"Deployment {deployment['name']}", deployment["state"])
    azure.store.put("endpoint", key, stored | {"state": "Deleting"})

    def end(state: str) -> None:
        azure.store.put("endpoint", key, stored | {"state": state})

    return operations.start_deletion(azure, request, "oe:", _delete(azure, key), stored["name"], end)


async def list_keys(azure: Azure, request: Request) -> Answer:
    """Return the two keys."""
    stored = load_endpoint(azure, request.path_params["endpoint"])
    _check_auth_mode(stored, "Key", "keys")
    return {"primaryKey": stored["keys"]["primary"], "secondaryKey": stored["keys"]["secondary"]}


async def regenerate_keys(azure: Azure, request: Request) -> Answer:
    """Replace one of the keys. The change is immediate."""
    body = await parse_body(request, Regenerate)
    stored = load_endpoint(azure, request.path_params["endpoint"])
    _check_auth_mode(stored, "Key", "keys")
    which = body.key_type.lower()
    # The SDK sends the current key as the new value, which must not be kept.
    value = body.key_value if body.key_value != stored["keys"][which] else None
    stored["keys"][which] = value or _create_key()
    azure.store.put("endpoint", stored["name"].lower(), stored)
    return None


async def get_token(azure: Azure, request: Request) -> Answer:
    """Return an access token for an endpoint with authMode AMLToken. It is valid for a day."""
    stored = load_endpoint(azure, request.path_params["endpoint"])
    _check_auth_mode(stored, "AMLToken", "tokens")
    now = int(time.time())
    return {
        "accessToken": entra.issue(azure, audience(stored["name"]), TOKEN_LIFETIME_S / 60),
        "expiryTimeUtc": now + TOKEN_LIFETIME_S,
        "refreshAfterTimeUtc": now + TOKEN_LIFETIME_S // 2,
        "tokenType": "Bearer",
    }


async def startup(azure: Azure) -> None:
    """Finish the operations that were interrupted when the emulator stopped."""
    for key, stored in azure.store.list("endpoint"):
        if stored["state"] == "Deleting":
            await _delete(azure, key)
        elif stored["state"] in BUSY:
            azure.store.put("endpoint", key, stored | {"state": "Failed" if stored["state"] == "Creating" else "Succeeded"})


def _render(azure: Azure, stored: Document) -> dict[str, Any]:
    name, path = stored["name"], arm_id(azure, "onlineEndpoints", stored["name"])
    address = None if stored["state"] == "Creating" else audience(name)
    return render_resource(
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
            "properties": stored["properties"] | {SYSTEM_PROPERTIES[0]: path.lower(), SYSTEM_PROPERTIES[1]: stored["operation"]},
            "traffic": stored["traffic"],
            "mirrorTraffic": stored["mirror"],
            "compute": None,
            "publicNetworkAccess": stored["public_network_access"],
            "provisioningState": stored["state"],
            "scoringUri": address and f"{address}/score",
            "swaggerUri": address and f"{address}/swagger.json",
        },
    )


def _start_provisioning(azure: Azure, request: Request, key: str, changed: Document, previous: Document | None) -> Response:
    before = previous or changed

    def end(state: str) -> None:
        """After a failed update the endpoint is unchanged; after a failed creation it can only be deleted."""
        azure.store.put("endpoint", key, before | {"state": state, "operation": url, "unrecoverable": previous is None})

    async def provision() -> None:
        if azure.faults.take("endpoint-failed", changed["name"]):
            end("Failed")
            raise AzureFault(500, "InternalServerError", f"Provisioning of endpoint {changed['name']} failed.")
        azure.store.put("endpoint", key, changed | {"state": "Succeeded", "operation": url, "unrecoverable": False})

    path = operations.start(azure, "mfeOperationsStatus", "oe:", provision(), changed["name"], end=end)
    url = arm_url(request, path)
    state = {"state": "Updating" if previous else "Creating", "operation": url, "unrecoverable": previous is None}
    azure.store.put("endpoint", key, before | state | {"modified": changed["modified"]})
    # The response has the new values at once; until the operation has succeeded, reads have the previous ones.
    return operations.accept(request, 201, path, _render(azure, changed | state), request.url.path)


async def _delete(azure: Azure, key: str) -> None:
    """Delete an endpoint with its deployments and their containers."""
    for name, _ in azure.store.list("deployment", f"{key}/"):
        await containers.stop(azure, name)
        azure.store.delete("deployment", name)
    azure.store.delete("endpoint", key)


def _validate(body: Put, previous: Document | None) -> None:
    if previous is not None and previous["unrecoverable"]:
        raise inference_error(f"Specified endpoint [{previous['name']}] has not been created successfully. Please recreate the endpoint.")
    check_location(body.location)
    if body.identity is not None and body.identity.type != "SystemAssigned":
        raise not_implemented(f"endpoints with an identity of type {body.identity.type}")
    if body.properties.compute is not None or (body.kind or "Managed") != "Managed":
        raise not_implemented("endpoints that are not managed")
    if previous is not None and previous["auth_mode"] != body.properties.auth_mode:
        raise not_implemented("changing the authMode of an endpoint")


def _check_auth_mode(stored: Document, mode: str, what: str) -> None:
    if stored["auth_mode"] != mode:
        raise inference_error(f"Endpoint [{stored['name']}] has authMode {stored['auth_mode']}: it has no {what}.")


def _create_keys(requested: Keys) -> dict[str, str]:
    return {"primary": requested.primary_key or _create_key(), "secondary": requested.secondary_key or _create_key()}


def _create_key() -> str:
    return secrets.token_hex(16)


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
]
