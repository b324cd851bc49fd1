"""Compute of the workspace: clusters and compute instances, and their VM sizes.

Bodies follow ``Microsoft.MachineLearningServices`` 2023-08-01-preview. A cluster has no nodes here: jobs that name it run as child
processes. Its provisioning still is an operation, with the states and errors that a client must handle.
"""

from __future__ import annotations

import re
import uuid
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from mlops.emulator.base.azure import LOCATION, Azure, arm_id, object_id
from mlops.emulator.base.clock import now
from mlops.emulator.base.errors import AzureFault, not_implemented
from mlops.emulator.base.store import Document
from mlops.emulator.history import runstore
from mlops.emulator.wire import operations
from mlops.emulator.wire.app import PROVIDER, WS, Answer, Route
from mlops.emulator.wire.limits import ResourceTags
from mlops.emulator.wire.resources import (
    Body,
    SentResource,
    add_system_data,
    conflict,
    list_response,
    parse_body,
    render_resource,
    validate_body,
)
from mlops.emulator.wire.versions import published_since
from mlops.emulator.workspace import instances, quota, vm_sizes

__all__ = ["ROUTES", "find", "get_vm_size", "startup", "user_identities"]

VERSIONS = published_since("2022-01-01-preview")
NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]")
BUSY = ("Creating", "Updating", "Deleting")
"""States in which a cluster can't be changed."""
DURATION = r"^P(\d+D|(\d+D)?T(\d+H(\d+M)?(\d+S)?|\d+M(\d+S)?|\d+S))$"
FIXED = ("vmSize", "vmPriority", "osType", "enableNodePublicIp", "subnet")
"""The parts of a cluster that a second PUT can't change."""


def _normalize_priority(priority: Any) -> Any:
    # The SDK turns the tutorial's tier="LowPriority" into "Lowpriority", and Azure accepts it.
    return {"dedicated": "Dedicated", "lowpriority": "LowPriority"}.get(str(priority).lower(), priority)


class ScaleSettings(Body):
    """``scaleSettings``: how many nodes."""

    max_node_count: int = Field(ge=0, le=65000)
    min_node_count: int = Field(default=0, ge=0)
    node_idle_time_before_scale_down: str = Field(default="PT2M", pattern=DURATION)


class UserAccount(Body):
    """``userAccountCredentials``: who may sign in to a node. The password is never returned."""

    admin_user_name: str
    admin_user_password: str | None = None
    admin_user_ssh_public_key: str | None = None


class ResourceId(Body):
    """A reference to another resource, e.g. a subnet."""

    id: str


class AmlProperties(Body):
    """``properties.properties`` of an AmlCompute."""

    vm_size: str
    vm_priority: Annotated[Literal["Dedicated", "LowPriority"], BeforeValidator(_normalize_priority)] = "Dedicated"
    scale_settings: ScaleSettings
    os_type: Literal["Linux"] = "Linux"
    remote_login_port_public_access: Literal["Enabled", "Disabled", "NotSpecified"] = "NotSpecified"
    enable_node_public_ip: bool = True
    isolated_network: bool = False
    subnet: ResourceId | None = None
    user_account_credentials: UserAccount | None = None
    virtual_machine_image: ResourceId | None = None
    property_bag: dict[str, Any] = Field(default_factory=dict)
    # Read-only fields: accepted, because a client sends back what it has read, and ignored.
    allocation_state: str | None = Field(default=None, exclude=True)
    allocation_state_transition_time: str | None = Field(default=None, exclude=True)
    current_node_count: int | None = Field(default=None, exclude=True)
    target_node_count: int | None = Field(default=None, exclude=True)
    node_state_counts: dict[str, int] | None = Field(default=None, exclude=True)
    errors: list[Any] | None = Field(default=None, exclude=True)
    enable_batch_private_link: bool | None = Field(default=None, exclude=True)


class ComputeProperties(Body):
    """``properties`` of a compute resource."""

    compute_type: str
    description: str | None = None
    disable_local_auth: bool = False
    compute_location: str | None = None
    properties: dict[str, Any] | None = None
    # Read-only fields, as above.
    created_on: str | None = None
    modified_on: str | None = None
    is_attached_compute: bool | None = None
    provisioning_errors: list[Any] | None = None
    provisioning_state: str | None = None
    resource_id: str | None = None


class ComputeBody(SentResource):
    """The body of a PUT."""

    location: str
    properties: ComputeProperties
    identity: dict[str, Any] | None = None
    tags: ResourceTags = None


async def startup(azure: Azure) -> None:
    """Mark clusters as failed that were being provisioned or deleted when the emulator stopped."""
    for kind in ("compute", instances.KIND):
        for name, stored in azure.store.list(kind):
            if stored["state"] in BUSY:
                azure.store.put(kind, name, stored | {"state": "Failed"})


def find(azure: Azure, name: str) -> Document | None:
    """Return a compute's document (``name``, ``state``, ``size``, ``priority``, ``nodes``: the maximum), or None; names ignore case."""
    return azure.store.get("compute", name.lower()) or azure.store.get(instances.KIND, name.lower())


def user_identities(document: Document) -> tuple[str, ...]:
    """Return the ids of the user-assigned managed identities of a compute."""
    return tuple((document.get("identity") or {}).get("userAssignedIdentities") or {})


def get_vm_size(name: str) -> dict[str, Any]:
    """Return a VM size as ``vmSizes`` lists it (``name``, ``vCPUs``, ``gpus``, …).

    Raises:
        AzureFault: 400, the region has no such size.
    """
    size = vm_sizes.find(name)
    if size is None:
        raise _bad_request(f"The specified VM size '{name}' is not supported in {LOCATION}. See the sizes that vmSizes lists.")
    return size.to_wire()


async def list_sizes(azure: Azure, request: Request) -> Answer:
    """List the VM sizes of the region."""
    if request.path_params["location"].lower() != LOCATION:
        raise AzureFault(400, "LocationNotAvailableForResourceType", f"The emulator exists only in {LOCATION}.")
    return {"value": [size.to_wire() for size in vm_sizes.SIZES]}


async def list_computes(azure: Azure, request: Request) -> Answer:
    """List the clusters and compute instances."""
    documents = [*azure.store.list("compute"), *azure.store.list(instances.KIND)]
    return list_response([_resource(azure, stored) for _, stored in documents])


async def get_compute(azure: Azure, request: Request) -> Answer:
    """Return one compute. An absent one is answered without a body."""
    stored = find(azure, request.path_params["compute"])
    return Response(status_code=404) if stored is None else _resource(azure, stored)


async def put_compute(azure: Azure, request: Request) -> Answer:
    """Create a compute, or change a cluster's number of nodes."""
    name = request.path_params["compute"]
    if not NAME.fullmatch(name):
        raise _bad_request(f"Compute name '{name}' is invalid: 3 to 24 letters, digits and dashes, a letter first, no dash last.")
    content = await parse_body(request, ComputeBody)
    kind = content.properties.compute_type
    if kind not in ("AmlCompute", "ComputeInstance") or content.properties.properties is None:
        raise not_implemented(f"compute of type {kind}: AmlCompute and ComputeInstance only")
    existing = find(azure, name)
    if existing is not None and existing["state"] in BUSY:
        raise conflict(f"Compute {name}", existing["state"])
    if existing is not None and ("instance" in existing) != (kind == "ComputeInstance"):
        raise _bad_request(f"Compute {name} exists already, and its type can't be changed. Delete it first, or use another name.")
    if kind == "ComputeInstance":
        document = instances.read(content.properties.properties, existing)
        size = document["size"]
    else:
        document = _read_cluster(content, existing)
        size = document["size"]
        if existing and (changed := [key for key in FIXED if document["aml"][key] != existing["aml"][key]]):
            raise _bad_request(
                f"Compute {name} exists already, and its {', '.join(changed)} can't be changed. Delete it first, or use another name."
            )
    get_vm_size(size)
    document |= {
        "name": existing["name"] if existing else name,
        "location": content.location.replace(" ", "").lower(),
        "description": content.properties.description,
        "disableLocalAuth": content.properties.disable_local_auth,
        "identity": content.identity,
        "tags": content.tags,
        "state": "Creating",
        "error": None,
    }
    stored = azure.store.put(_kind(document), name.lower(), add_system_data(azure, existing, document))
    work = _provision(azure, name) if "aml" in stored else instances.operate(azure, name, "Create")

    def end(state: str) -> None:
        azure.store.put(_kind(stored), name.lower(), stored | {"state": state})

    path = operations.start(azure, "computeOperationsStatus", "", work, subject=name, end=end)
    # The answer shows the new values at once, but no node yet.
    return operations.accept(request, 201, path, _resource(azure, stored))


async def delete_compute(azure: Azure, request: Request) -> Answer:
    """Delete a cluster."""
    action = request.query_params.get("underlyingResourceAction")
    if action not in ("Delete", "Detach"):
        raise _bad_request("The query parameter 'underlyingResourceAction' must be 'Delete' or 'Detach'.")
    if action == "Detach":
        raise not_implemented("detaching a compute: clusters and compute instances can only be deleted")
    stored = find(azure, request.path_params["compute"])
    if stored is None:
        return Response(status_code=204)
    if stored["state"] == "Deleting":
        raise conflict(f"Compute {stored['name']}", "Deleting")

    def end(state: str) -> None:
        azure.store.put(_kind(stored), stored["name"].lower(), stored | {"state": state})

    end("Deleting")
    path = operations.start(azure, "computeOperationsStatus", "", _remove(azure, stored), subject=stored["name"], end=end)
    return operations.accept(request, 202, path, None)


async def post_operation(azure: Azure, request: Request) -> Answer:
    """Start, stop or restart a compute instance."""
    name, operation = request.path_params["compute"], request.url.path.rpartition("/")[2].capitalize()
    stored = find(azure, name)
    if stored is None:
        return Response(status_code=404)
    if "instance" not in stored:
        raise _bad_request(f"Compute {name} is a cluster: only a compute instance can be started and stopped.")
    if stored["state"] in BUSY:
        raise conflict(f"Compute {name}", stored["state"])
    path = operations.start(azure, "computeOperationsStatus", "", instances.operate(azure, name, operation), subject=name)
    return operations.accept(request, 202, path, None)


async def list_nodes(azure: Azure, request: Request) -> Answer:
    """List the nodes of a cluster: those that jobs are running on, since others are released at once."""
    name = request.path_params["compute"]
    stored = find(azure, name)
    if stored is None:
        return Response(status_code=404)
    if "aml" not in stored:
        raise not_implemented(f"the nodes of a compute instance, {name}")
    runs = [run for run in runstore.list_all(azure) if str(run["compute"]).lower() == name.lower() and run["status"] in runstore.ACTIVE]
    busy = [(run["name"], number) for run in runs for number in range(run["nodes"])]
    return {"nodes": [_render_node(run, number, position) for position, (run, number) in enumerate(busy)], "nextLink": None}


def _render_node(run: str, number: int, position: int) -> dict[str, Any]:
    return {
        "nodeId": f"tvmps_{uuid.uuid5(uuid.NAMESPACE_OID, f'{run}/{number}').hex}_d",
        "privateIpAddress": f"10.0.0.{4 + position}",
        "publicIpAddress": None,
        "port": None,
        "nodeState": "running",
        "runId": run,
    }


async def _provision(azure: Azure, name: str) -> None:
    fault = _find_fault(azure, name)
    with azure.store.change("compute", name.lower()) as stored:
        stored["state"] = "Failed" if fault else "Succeeded"
        stored["error"] = fault.envelope(LOCATION) if fault else None
        stored["modified"]["at"] = now()
    if fault:
        raise fault


def _find_fault(azure: Azure, name: str) -> AzureFault | None:
    """Return why a cluster can't be provisioned, or None. As on Azure, the cluster then exists, and is Failed."""
    cluster = azure.store.get("compute", name.lower())
    assert cluster is not None
    if azure.faults.take("compute-failed", name):
        return AzureFault(500, "AllocationFailed", f"Provisioning of compute {name} failed: the region has no capacity for its VM size.")
    size = vm_sizes.find(cluster["size"])
    assert size is not None
    if azure.faults.take("compute-quota", f"{cluster['priority']} {name}") or azure.faults.take("compute-quota", name):
        return quota.cluster_fault("total", 0, 1, size)
    try:
        quota.check_cluster(azure, cluster)
    except AzureFault as fault:
        return fault
    return None


async def _remove(azure: Azure, stored: Document) -> None:
    azure.store.delete(_kind(stored), stored["name"].lower())


def _kind(stored: Document) -> str:
    return instances.KIND if "instance" in stored else "compute"


def _read_cluster(content: ComputeBody, existing: Document | None) -> Document:
    aml = validate_body(content.properties.properties, AmlProperties, "properties.properties.")
    size = get_vm_size(aml.vm_size)
    if aml.remote_login_port_public_access == "NotSpecified":
        # Azure decides at creation: open, except in a virtual network.
        default: Literal["Enabled", "Disabled"] = "Disabled" if aml.subnet else "Enabled"
        aml.remote_login_port_public_access = existing["aml"]["remoteLoginPortPublicAccess"] if existing else default
    if aml.user_account_credentials:
        aml.user_account_credentials.admin_user_password = None
    if aml.scale_settings.min_node_count > aml.scale_settings.max_node_count:
        raise _bad_request("scaleSettings.minNodeCount must not be greater than scaleSettings.maxNodeCount.")
    return {
        "size": size["name"],
        "priority": aml.vm_priority,
        "nodes": aml.scale_settings.max_node_count,
        "aml": aml.model_dump(by_alias=True) | {"vmSize": size["name"].upper()},
    }


def _bad_request(message: str) -> AzureFault:
    return AzureFault(400, "BadRequest", message, inner=("BadArgument", "ArgumentInvalid"))


def _resource(azure: Azure, stored: Document) -> dict[str, Any]:
    is_created = stored["state"] != "Creating"
    path = arm_id(azure, "computes", stored["name"])
    return render_resource(
        path,
        "computes",
        stored["name"],
        stored,
        location=stored.get("location", LOCATION),
        tags=(stored["tags"] or {}) if is_created else stored["tags"],
        identity=_render_identity(azure, stored),
        properties={
            "computeType": "ComputeInstance" if "instance" in stored else "AmlCompute",
            "computeLocation": stored.get("location", LOCATION),
            "provisioningState": stored["state"],
            "description": stored["description"],
            "createdOn": stored["created"]["at"],
            "modifiedOn": stored["modified"]["at"],
            "resourceId": None,
            "provisioningErrors": [stored["error"]] if stored["error"] else None,
            "isAttachedCompute": False,
            "disableLocalAuth": stored["disableLocalAuth"],
            "properties": instances.render(azure, stored, is_created) if "instance" in stored else _render_cluster(stored, is_created),
        },
    )


def _render_identity(azure: Azure, stored: Document) -> dict[str, Any] | None:
    """Return ``identity``, with the ids that Azure adds."""
    identity = stored.get("identity")
    if not identity or identity.get("type") == "None":
        return identity
    principal = {"principalId": object_id(stored["name"]), "tenantId": azure.identity.tenant} if "System" in identity["type"] else {}
    users = {each: {"principalId": object_id(each), "clientId": object_id(f"{each}/client")} for each in user_identities(stored)}
    return {"type": identity["type"], **principal, **({"userAssignedIdentities": users} if users else {})}


def _render_cluster(stored: Document, is_created: bool) -> dict[str, Any]:
    """Return ``properties.properties`` of a cluster. It has no nodes here, and no numbers of nodes while it is being created."""
    aml: dict[str, Any] = stored["aml"]
    counts = ("preparingNodeCount", "runningNodeCount", "idleNodeCount", "unusableNodeCount", "leavingNodeCount", "preemptedNodeCount")
    state = {
        "allocationState": "Steady",
        "allocationStateTransitionTime": stored["modified"]["at"],
        "currentNodeCount": 0,
        "targetNodeCount": aml["scaleSettings"]["minNodeCount"],
        "nodeStateCounts": dict.fromkeys(counts, 0),
        "enableBatchPrivateLink": False,
    }
    return aml | (state if is_created else dict.fromkeys(state)) | {"errors": None}


_COMPUTE = WS + "/computes/{compute}"
ROUTES = [
    Route("arm", "GET", "/subscriptions/{subscription}" + PROVIDER + "/locations/{location}/vmSizes", list_sizes, VERSIONS),
    Route("arm", "GET", WS + "/computes", list_computes, VERSIONS),
    Route("arm", "GET", _COMPUTE, get_compute, VERSIONS),
    Route("arm", "PUT", _COMPUTE, put_compute, VERSIONS),
    Route("arm", "DELETE", _COMPUTE, delete_compute, VERSIONS),
    Route("arm", "POST", _COMPUTE + "/listNodes", list_nodes, VERSIONS),
    *(Route("arm", "POST", f"{_COMPUTE}/{operation}", post_operation, VERSIONS) for operation in ("start", "stop", "restart")),
]
