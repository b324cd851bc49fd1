"""Compute instances: records that can be created, started, stopped and deleted. Nothing runs on them."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from mlops.emulator.base.azure import LOCATION, Azure
from mlops.emulator.base.clock import now
from mlops.emulator.base.store import Document
from mlops.emulator.wire.resources import Body, validate_body

__all__ = ["KIND", "operate", "read", "render"]

KIND = "instance"
"""Kind of the documents in the store."""
STATES = {"Create": "Running", "Start": "Running", "Restart": "Running", "Stop": "Stopped"}
"""Operation → state afterwards."""


class InstanceProperties(Body):
    """``properties.properties`` of a ComputeInstance. The settings are stored and returned as they were sent."""

    vm_size: str
    application_sharing_policy: Literal["Personal", "Shared"] = "Shared"
    autologger_settings: dict[str, Any] | None = None
    compute_instance_authorization_type: Literal["personal"] = "personal"
    custom_services: list[Any] | None = None
    enable_node_public_ip: bool | None = None
    enable_os_patching: bool | None = Field(default=None, alias="enableOSPatching")
    enable_root_access: bool | None = None
    enable_sso: bool | None = Field(default=None, alias="enableSSO")
    idle_time_before_shutdown: str | None = None
    personal_compute_instance_settings: dict[str, Any] | None = None
    release_quota_on_stop: bool | None = None
    schedules: dict[str, Any] | None = None
    setup_scripts: dict[str, Any] | None = None
    ssh_settings: dict[str, Any] | None = None
    subnet: dict[str, Any] | None = None
    # Read-only fields: accepted, because a client sends back what it has read, and ignored.
    applications: Any = Field(default=None, exclude=True)
    connectivity_endpoints: Any = Field(default=None, exclude=True)
    containers: Any = Field(default=None, exclude=True)
    created_by: Any = Field(default=None, exclude=True)
    data_disks: Any = Field(default=None, exclude=True)
    data_mounts: Any = Field(default=None, exclude=True)
    errors: Any = Field(default=None, exclude=True)
    last_operation: Any = Field(default=None, exclude=True)
    os_image_metadata: Any = Field(default=None, exclude=True)
    state: Any = Field(default=None, exclude=True)
    versions: Any = Field(default=None, exclude=True)


def read(properties: dict[str, Any] | None, existing: Document | None) -> Document:
    """Return the document of an instance from the ``properties.properties`` of a PUT.

    Raises:
        AzureFault: 400, naming every field that is unknown, missing or of the wrong type.
    """
    body = validate_body(properties, InstanceProperties, "properties.properties.")
    return {
        "size": body.vm_size,
        "priority": "Dedicated",
        "nodes": 1,
        "instance": body.model_dump(by_alias=True) | {"vmSize": body.vm_size.upper()},
        "running": existing["running"] if existing else None,
        "operation": existing["operation"] if existing else None,
    }


async def operate(azure: Azure, name: str, operation: str) -> None:
    """Create, start, stop or restart an instance. It takes no time."""
    with azure.store.change(KIND, name.lower()) as stored:
        last = {"operationName": operation, "operationTime": now(), "operationStatus": "Succeeded", "operationTrigger": "User"}
        stored |= {"state": "Succeeded", "running": STATES[operation], "operation": last}
        stored["modified"]["at"] = now()


def render(azure: Azure, stored: Document, is_created: bool) -> dict[str, Any]:
    """Return ``properties.properties``: the settings, and once the instance exists, its state, addresses and versions."""
    host = f"https://{stored['name']}.{LOCATION}.instances.azureml.ms"
    image = {"currentImageVersion": "25.01.01", "latestImageVersion": "25.01.01", "isLatestOsImageVersion": True}
    ssh = stored["instance"]["sshSettings"] or {"sshPublicAccess": "Disabled"}
    details = {
        "applications": [
            {"displayName": "Jupyter", "endpointUri": f"{host}/tree/"},
            {"displayName": "Jupyter Lab", "endpointUri": f"{host}/lab"},
        ],
        "connectivityEndpoints": {"publicIpAddress": None, "privateIpAddress": "10.0.0.4"},
        "customServices": stored["instance"]["customServices"] or [],
        "errors": [],
        "osImageMetadata": image,
        "schedules": stored["instance"]["schedules"] or {"computeStartStop": []},
        "sshSettings": ssh | {"adminUserName": "azureuser", "sshPort": 4000, "adminPublicKey": None},
        "versions": {"runtime": "3.0.02069.0001"},
    }
    settings: dict[str, Any] = stored["instance"]
    user = {"userOrgId": azure.identity.tenant, "userId": azure.identity.client, "userName": azure.identity.client}
    return (
        settings
        | (details if is_created else dict.fromkeys(details))
        | {"state": stored["running"], "lastOperation": stored["operation"], "createdBy": user}
        | dict.fromkeys(("containers", "dataDisks", "dataMounts", "updateStatus"))
    )
