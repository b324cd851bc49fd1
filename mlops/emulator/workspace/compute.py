"""Compute clusters of the workspace, and their VM sizes.

Bodies follow ``Microsoft.MachineLearningServices`` 2023-08-01-preview. A cluster has no nodes here: jobs that name it run as child
processes. Its provisioning still is an operation, with the states and errors that a client must handle.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field
from starlette.requests import Request
from starlette.responses import Response

from mlops.emulator.base.azure import LOCATION, Azure, arm_id
from mlops.emulator.base.errors import AzureFault, not_found, not_implemented
from mlops.emulator.base.store import Document
from mlops.emulator.wire import operations
from mlops.emulator.wire.app import PROVIDER, WS, Answer, Route
from mlops.emulator.wire.resources import Body, add_system_data, conflict, list_response, now, parse_body, render_resource
from mlops.emulator.workspace import vm_sizes

__all__ = ["ROUTES", "find", "get_vm_size", "startup"]

VERSION = "2023-08-01-preview"
NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]")
BUSY = ("Creating", "Updating", "Deleting")
"""States in which a cluster can't be changed."""
DURATION = r"^P(\d+D|(\d+D)?T(\d+H(\d+M)?(\d+S)?|\d+M(\d+S)?|\d+S))$"
CHANGEABLE = {"scaleSettings"}
"""The parts of a cluster that a second PUT may change."""


def _normalize_priority(priority: Any) -> Any:
    # The SDK turns the tutorial's tier="LowPriority" into "Lowpriority", and Azure accepts it.
    return {"dedicated": "Dedicated", "lowpriority": "LowPriority"}.get(str(priority).lower(), priority)


class ScaleSettings(Body):
    """``scaleSettings``: how many nodes."""

    max_node_count: int = Field(ge=0, le=65000)
    min_node_count: int = Field(default=0, ge=0)
    node_idle_time_before_scale_down: str = Field(default="PT2M", pattern=DURATION)


class AmlProperties(Body):
    """``properties.properties`` of an AmlCompute."""

    vm_size: str
    vm_priority: Annotated[Literal["Dedicated", "LowPriority"], BeforeValidator(_normalize_priority)] = "Dedicated"
    scale_settings: ScaleSettings
    os_type: Literal["Linux"] = "Linux"
    remote_login_port_public_access: Literal["Enabled", "Disabled", "NotSpecified"] = "NotSpecified"
    enable_node_public_ip: bool = True
    isolated_network: bool | None = None


class ComputeProperties(Body):
    """``properties`` of a compute resource."""

    compute_type: str
    description: str | None = None
    disable_local_auth: bool = True
    compute_location: str | None = None
    properties: AmlProperties | None = None


class ComputeBody(Body):
    """The body of a PUT."""

    location: str
    properties: ComputeProperties
    tags: dict[str, str] | None = None


async def startup(azure: Azure) -> None:
    """Mark clusters as failed that were being provisioned or deleted when the emulator stopped."""
    for name, stored in azure.store.list("compute"):
        if stored["state"] in BUSY:
            azure.store.put("compute", name, stored | {"state": "Failed"})


def find(azure: Azure, name: str) -> Document | None:
    """Return a cluster's document (``name``, ``state``, ``size``, ``priority``, ``nodes``: the maximum), or None; names ignore case."""
    return azure.store.get("compute", name.lower())


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
    """List the clusters."""
    return list_response([_resource(azure, stored) for _, stored in azure.store.list("compute")])


async def get_compute(azure: Azure, request: Request) -> Answer:
    """Return one cluster."""
    name = request.path_params["compute"]
    stored = find(azure, name)
    if stored is None:
        raise not_found(f"Compute with name {name} not found.", "NotFound", "ComputeNotFound")
    return _resource(azure, stored)


async def put_compute(azure: Azure, request: Request) -> Answer:
    """Create a cluster, or change its number of nodes."""
    name = request.path_params["compute"]
    if not NAME.fullmatch(name):
        raise _bad_request(f"Compute name '{name}' is invalid: 3 to 24 letters, digits and dashes, a letter first, no dash last.")
    content = await parse_body(request, ComputeBody)
    if content.properties.compute_type != "AmlCompute" or content.properties.properties is None:
        raise not_implemented(f"compute of type {content.properties.compute_type}: AmlCompute only")
    existing = find(azure, name)
    if existing is not None and existing["state"] in BUSY:
        raise conflict(f"Compute {name}", existing["state"])
    cluster = _read_cluster(name, content)
    if existing is None:
        _check_quota(azure, name, cluster)
    elif changed := [key for key in cluster["aml"] if key not in CHANGEABLE and cluster["aml"][key] != existing["aml"][key]]:
        raise _bad_request(
            f"Compute {name} exists already, and its {', '.join(changed)} can't be changed. Delete it first, or use another name."
        )
    state = "Creating" if existing is None else "Updating"
    stored = add_system_data(azure, existing, cluster | {"name": existing["name"] if existing else name, "state": state, "error": None})
    azure.store.put("compute", name.lower(), stored)
    path = operations.start(azure, "computeOperationsStatus", "", _provision(azure, name), subject=name)
    return operations.accept(201 if existing is None else 200, path, VERSION, _resource(azure, stored))


async def delete_compute(azure: Azure, request: Request) -> Answer:
    """Delete a cluster."""
    action = request.query_params.get("underlyingResourceAction")
    if action not in ("Delete", "Detach"):
        raise _bad_request("The query parameter 'underlyingResourceAction' must be 'Delete' or 'Detach'.")
    if action == "Detach":
        raise not_implemented("detaching a compute: an AmlCompute can only be deleted")
    stored = find(azure, request.path_params["compute"])
    if stored is None:
        return Response(status_code=204)
    if stored["state"] == "Deleting":
        raise conflict(f"Compute {stored['name']}", "Deleting")
    azure.store.put("compute", stored["name"].lower(), stored | {"state": "Deleting"})
    path = operations.start(azure, "computeOperationsStatus", "", _remove(azure, stored["name"]), subject=stored["name"])
    return operations.accept(202, path, VERSION, None)


async def _provision(azure: Azure, name: str) -> None:
    must_fail = azure.faults.take("compute-failed", name)
    fault = AzureFault(500, "AllocationFailed", f"Provisioning of compute {name} failed: the region has no capacity for its VM size.")
    with azure.store.change("compute", name.lower()) as stored:
        stored["state"] = "Failed" if must_fail else "Succeeded"
        stored["error"] = fault.envelope(LOCATION) if must_fail else None
        stored["modified"]["at"] = now()
    if must_fail:
        raise fault


async def _remove(azure: Azure, name: str) -> None:
    azure.store.delete("compute", name.lower())


def _read_cluster(name: str, content: ComputeBody) -> Document:
    if content.location.lower() != LOCATION:
        raise _bad_request(f"Compute {name} is requested in {content.location}, but the workspace is in {LOCATION}.")
    aml = content.properties.properties
    assert aml is not None
    size = get_vm_size(aml.vm_size)
    if aml.scale_settings.min_node_count > aml.scale_settings.max_node_count:
        raise _bad_request("scaleSettings.minNodeCount must not be greater than scaleSettings.maxNodeCount.")
    return {
        "size": size["name"],
        "priority": aml.vm_priority,
        "nodes": aml.scale_settings.max_node_count,
        "aml": aml.model_dump(by_alias=True) | {"vmSize": size["name"].upper()},
        "description": content.properties.description,
        "disableLocalAuth": content.properties.disable_local_auth,
        "tags": content.tags or {},
    }


def _check_quota(azure: Azure, name: str, cluster: Document) -> None:
    if azure.faults.take("compute-quota", f"{cluster['priority']} {name}") or azure.faults.take("compute-quota", name):
        raise _bad_request(
            "The specified subscription has a total vCPU quota of 0 and cannot accomodate for at least 1 requested managed compute node"
            f" which maps to {get_vm_size(cluster['size'])['vCPUs']} vCPUs."
        )


def _bad_request(message: str) -> AzureFault:
    return AzureFault(400, "BadRequest", message, inner=("BadArgument", "ArgumentInvalid"))


def _resource(azure: Azure, stored: Document) -> dict[str, Any]:
    aml = stored["aml"]
    nodes = dict.fromkeys(
        ("preparingNodeCount", "runningNodeCount", "idleNodeCount", "unusableNodeCount", "leavingNodeCount", "preemptedNodeCount"), 0
    )
    return render_resource(
        arm_id(azure, "computes", stored["name"]),
        "computes",
        stored["name"],
        stored,
        location=LOCATION,
        tags=stored["tags"],
        properties={
            "computeType": "AmlCompute",
            "computeLocation": LOCATION,
            "provisioningState": stored["state"],
            "description": stored["description"],
            "createdOn": stored["created"]["at"],
            "modifiedOn": stored["modified"]["at"],
            "resourceId": None,
            "provisioningErrors": [stored["error"]] if stored["error"] else None,
            "isAttachedCompute": False,
            "disableLocalAuth": stored["disableLocalAuth"],
            "properties": aml
            | {
                "allocationState": "Steady",
                "allocationStateTransitionTime": stored["modified"]["at"],
                "currentNodeCount": 0,
                "targetNodeCount": aml["scaleSettings"]["minNodeCount"],
                "nodeStateCounts": nodes,
                "errors": None,
                "subnet": None,
            },
        },
    )


_COMPUTE = WS + "/computes/{compute}"
ROUTES = [
    Route("arm", "GET", "/subscriptions/{subscription}" + PROVIDER + "/locations/{location}/vmSizes", list_sizes, {VERSION}),
    Route("arm", "GET", WS + "/computes", list_computes, {VERSION}),
    Route("arm", "GET", _COMPUTE, get_compute, {VERSION}),
    Route("arm", "PUT", _COMPUTE, put_compute, {VERSION}),
    Route("arm", "DELETE", _COMPUTE, delete_compute, {VERSION}),
]
