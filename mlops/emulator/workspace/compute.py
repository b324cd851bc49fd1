"""Compute clusters of the workspace, and the VM sizes that they may have.

Bodies follow ``Microsoft.MachineLearningServices`` 2023-08-01-preview. A cluster has no nodes here: jobs that name it run as child
processes. Its provisioning is an operation nevertheless, with the states and refusals that a client must cope with.
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
from mlops.emulator.wire.resources import Body, conflict, document, now, page, read, resource
from mlops.emulator.workspace import vm_sizes

__all__ = ["ROUTES", "find", "startup", "vm_size"]

VERSION = "2023-08-01-preview"
NAME = re.compile(r"[a-zA-Z][a-zA-Z0-9-]{1,22}[a-zA-Z0-9]")
DURATION = r"^P(\d+D|(\d+D)?T(\d+H(\d+M)?(\d+S)?|\d+M(\d+S)?|\d+S))$"
CHANGEABLE = {"scaleSettings"}
"""What a second PUT may change of a cluster."""


def _spelled(priority: Any) -> Any:
    # The SDK makes "Lowpriority" of the tutorial's tier="LowPriority", and Azure takes it.
    return {"dedicated": "Dedicated", "lowpriority": "LowPriority"}.get(str(priority).lower(), priority)


class ScaleSettings(Body):
    """How many nodes."""

    max_node_count: int = Field(ge=0, le=65000)
    min_node_count: int = Field(default=0, ge=0)
    node_idle_time_before_scale_down: str = Field(default="PT2M", pattern=DURATION)


class AmlProperties(Body):
    """``properties.properties`` of an AmlCompute."""

    vm_size: str
    vm_priority: Annotated[Literal["Dedicated", "LowPriority"], BeforeValidator(_spelled)] = "Dedicated"
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
    """A PUT."""

    location: str
    properties: ComputeProperties
    tags: dict[str, str] | None = None


async def startup(azure: Azure) -> None:
    """What was being provisioned or deleted when the emulator was stopped has failed."""
    for name, known in azure.store.list("compute"):
        if known["state"] in ("Creating", "Updating", "Deleting"):
            azure.store.put("compute", name, known | {"state": "Failed"})


def find(azure: Azure, name: str) -> Document | None:
    """A cluster as stored (``name``, ``state``, ``size``, ``priority``, ``nodes``: how many at most), or None; case doesn't matter."""
    return azure.store.get("compute", name.lower())


def vm_size(name: str) -> dict[str, Any]:
    """A VM size as ``vmSizes`` lists it (``name``, ``vCPUs``, ``gpus``, …).

    Raises:
        AzureFault: 400, the region has no such size.
    """
    size = vm_sizes.find(name)
    if size is None:
        raise _bad(f"The specified VM size '{name}' is not supported in {LOCATION}. See the sizes that vmSizes lists.")
    return size.wire()


async def list_sizes(azure: Azure, request: Request) -> Answer:
    """Every VM size of the region."""
    if request.path_params["location"].lower() != LOCATION:
        raise AzureFault(400, "LocationNotAvailableForResourceType", f"The emulator stands in {LOCATION} alone.")
    return {"value": [size.wire() for size in vm_sizes.SIZES]}


async def list_computes(azure: Azure, request: Request) -> Answer:
    """Every cluster."""
    return page([_resource(azure, known) for _, known in azure.store.list("compute")])


async def get_compute(azure: Azure, request: Request) -> Answer:
    """One cluster."""
    return _resource(azure, _known(azure, request))


async def put_compute(azure: Azure, request: Request) -> Answer:
    """Create a cluster, or change how many nodes it has."""
    name = request.path_params["compute"]
    if not NAME.fullmatch(name):
        raise _bad(f"Compute name '{name}' is invalid: 3 to 24 letters, digits and dashes, a letter first, no dash last.")
    content = await read(request, ComputeBody)
    if content.properties.compute_type != "AmlCompute" or content.properties.properties is None:
        raise not_implemented(f"compute of type {content.properties.compute_type}: AmlCompute only")
    known = find(azure, name)
    if known is not None and known["state"] in ("Creating", "Updating", "Deleting"):
        raise conflict(f"Compute {name}", known["state"])
    wanted = _wanted(name, content)
    if known is None:
        _check_quota(azure, name, wanted)
    elif changed := [key for key in wanted["aml"] if key not in CHANGEABLE and wanted["aml"][key] != known["aml"][key]]:
        raise _bad(
            f"Compute {name} exists already, and {', '.join(changed)} of it can't be changed. Delete it first, or take another name."
        )
    state = "Creating" if known is None else "Updating"
    stored = document(azure, known, wanted | {"name": known["name"] if known else name, "state": state, "error": None})
    azure.store.put("compute", name.lower(), stored)
    path = operations.start(azure, "computeOperationsStatus", "", _provision(azure, name), subject=name)
    return operations.accepted(201 if known is None else 200, path, VERSION, _resource(azure, stored))


async def delete_compute(azure: Azure, request: Request) -> Answer:
    """Delete a cluster."""
    action = request.query_params.get("underlyingResourceAction")
    if action not in ("Delete", "Detach"):
        raise _bad("The query parameter 'underlyingResourceAction' must be 'Delete' or 'Detach'.")
    if action == "Detach":
        raise not_implemented("detaching a compute: an AmlCompute can only be deleted")
    known = azure.store.get("compute", request.path_params["compute"].lower())
    if known is None:
        return Response(status_code=204)
    if known["state"] == "Deleting":
        raise conflict(f"Compute {known['name']}", "Deleting")
    azure.store.put("compute", known["name"].lower(), known | {"state": "Deleting"})
    path = operations.start(azure, "computeOperationsStatus", "", _remove(azure, known["name"]), subject=known["name"])
    return operations.accepted(202, path, VERSION, None)


async def _provision(azure: Azure, name: str) -> None:
    failed = azure.faults.take("compute-failed", name)
    fault = AzureFault(500, "AllocationFailed", f"Provisioning of compute {name} failed: the region has no capacity for its VM size.")
    with azure.store.change("compute", name.lower()) as known:
        known["state"] = "Failed" if failed else "Succeeded"
        known["error"] = fault.envelope(LOCATION) if failed else None
        known["modified"]["at"] = now()
    if failed:
        raise fault


async def _remove(azure: Azure, name: str) -> None:
    azure.store.delete("compute", name.lower())


def _wanted(name: str, content: ComputeBody) -> Document:
    if content.location.lower() != LOCATION:
        raise _bad(f"Compute {name} is asked for in {content.location}, the workspace is in {LOCATION}.")
    aml = content.properties.properties
    assert aml is not None
    size = vm_size(aml.vm_size)
    if aml.scale_settings.min_node_count > aml.scale_settings.max_node_count:
        raise _bad("scaleSettings.minNodeCount must not be greater than scaleSettings.maxNodeCount.")
    return {
        "size": size["name"],
        "priority": aml.vm_priority,
        "nodes": aml.scale_settings.max_node_count,
        "aml": aml.model_dump(by_alias=True) | {"vmSize": size["name"].upper()},
        "description": content.properties.description,
        "disableLocalAuth": content.properties.disable_local_auth,
        "tags": content.tags or {},
    }


def _check_quota(azure: Azure, name: str, wanted: Document) -> None:
    if azure.faults.take("compute-quota", f"{wanted['priority']} {name}") or azure.faults.take("compute-quota", name):
        raise _bad(
            "The specified subscription has a total vCPU quota of 0 and cannot accomodate for at least 1 requested managed compute node"
            f" which maps to {vm_size(wanted['size'])['vCPUs']} vCPUs."
        )


def _known(azure: Azure, request: Request) -> Document:
    name = request.path_params["compute"]
    known = find(azure, name)
    if known is None:
        raise not_found(f"Compute with name {name} not found.", "NotFound", "ComputeNotFound")
    return known


def _bad(message: str) -> AzureFault:
    return AzureFault(400, "BadRequest", message, inner=("BadArgument", "ArgumentInvalid"))


def _resource(azure: Azure, stored: Document) -> dict[str, Any]:
    aml = stored["aml"]
    nodes = dict.fromkeys(
        ("preparingNodeCount", "runningNodeCount", "idleNodeCount", "unusableNodeCount", "leavingNodeCount", "preemptedNodeCount"), 0
    )
    return resource(
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
