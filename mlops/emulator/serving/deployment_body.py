"""What a managed online deployment is asked to be: the body of its PUT, checked, and kept with the service's defaults filled in."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from mlops.emulator.base.azure import LOCATION, Azure
from mlops.emulator.base.errors import not_implemented, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.wire.resources import Body, document, refused
from mlops.emulator.workspace import vm_sizes

__all__ = ["Count", "Put", "described", "probe", "seconds"]

MAX_TIMEOUT_S = 180
MAX_INSTANCES = 50
"""Instances of a managed deployment, as Azure's default limit has it."""

_timedelta = TypeAdapter(timedelta)


def seconds(duration: str) -> float:
    """An ISO 8601 duration (RFC 3339, appendix A) in seconds.

    Raises:
        ValueError: it is none, or negative.
    """
    try:
        value = _timedelta.validate_python(duration).total_seconds() if duration.startswith("P") else -1
    except ValidationError:
        value = -1
    if value < 0:
        raise ValueError(f"'{duration}' is not an ISO 8601 duration such as PT1M30S")
    return value


def _duration(text: str) -> str:
    seconds(text)
    return text


Duration = Annotated[str, AfterValidator(_duration)]
Count = Annotated[int, Field(ge=1)]


class RequestSettings(Body):
    """``OnlineRequestSettings``, with the service's defaults."""

    max_concurrent_requests_per_instance: Count | None = None
    max_queue_wait: Duration | None = None
    request_timeout: Duration | None = None


class Probe(Body):
    """``ProbeSettings``."""

    failure_threshold: Count | None = None
    success_threshold: Count | None = None
    initial_delay: Duration | None = None
    period: Duration | None = None
    timeout: Duration | None = None


class Scale(Body):
    """``DefaultScaleSettings``: managed deployments have no other."""

    scale_type: Literal["Default"]


class Properties(Body):
    """``ManagedOnlineDeployment``. Read-only fields are accepted, as they are in what a client has read, and left alone."""

    endpoint_compute_type: Literal["Managed"]
    app_insights_enabled: bool | None = None
    code_configuration: dict[str, Any] | None = None
    data_collector: dict[str, Any] | None = None
    description: str | None = None
    egress_public_network_access: Literal["Enabled", "Disabled"] | None = None
    environment_id: str | None = None
    environment_variables: dict[str, str | None] | None = None
    instance_type: str | None = None
    liveness_probe: Probe | None = None
    model: str | None = None
    model_mount_path: str | None = None
    properties: dict[str, str | None] | None = None
    provisioning_state: str | None = None
    readiness_probe: Probe | None = None
    request_settings: RequestSettings | None = None
    scale_settings: Scale | None = None


class Sku(Body):
    """How many instances."""

    name: Literal["Default"]
    capacity: Count | None = None
    tier: str | None = None
    size: str | None = None
    family: str | None = None


class Put(Body):
    """``OnlineDeploymentTrackedResource``."""

    location: str
    properties: Properties
    sku: Sku | None = None
    identity: dict[str, Any] | None = None
    kind: str | None = None
    tags: dict[str, str | None] | None = None


def described(azure: Azure, content: Put, known: Document | None, name: str) -> Document:
    """The body as it is kept, defaults filled in.

    Raises:
        AzureFault: what it asks for can't be had.
    """
    given = content.properties
    capacity = content.sku.capacity if content.sku and content.sku.capacity is not None else 1
    _check(content, capacity)
    size = vm_sizes.find(given.instance_type or "")
    if size is None:
        raise refused(f"Instance type [{given.instance_type}] is not known in {LOCATION}.")
    if known is not None and size.name != known["instance_type"]:
        raise refused(f"instanceType can't be changed from {known['instance_type']} to {size.name}. Create another deployment.")
    asked = given.request_settings or RequestSettings()
    timeout = asked.request_timeout or "PT5S"
    if not 0 < seconds(timeout) <= MAX_TIMEOUT_S:
        raise refused(f"requestTimeout {timeout} must be more than 0 and at most {MAX_TIMEOUT_S} seconds.")
    settings = {
        "maxConcurrentRequestsPerInstance": asked.max_concurrent_requests_per_instance or 1,
        "maxQueueWait": asked.max_queue_wait or "PT0.5S",
        "requestTimeout": timeout,
    }
    return document(
        azure,
        known,
        {
            "name": known["name"] if known else name,
            "model": given.model,
            "instance_type": size.name,
            "capacity": capacity,
            "request_settings": settings,
            "liveness": given.liveness_probe.model_dump(by_alias=True) if given.liveness_probe else {},
            "readiness": given.readiness_probe.model_dump(by_alias=True) if given.readiness_probe else {},
            "variables": given.environment_variables or {},
            "app_insights": bool(given.app_insights_enabled),
            "egress": given.egress_public_network_access or "Enabled",
            "mount": given.model_mount_path,
            "description": given.description,
            "properties": {k: v for k, v in (given.properties or {}).items() if k != "AzureAsyncOperationUri"},
            "tags": content.tags or {},
        },
    )


def _check(content: Put, capacity: int) -> None:
    given = content.properties
    if content.location.replace(" ", "").lower() != LOCATION:
        raise user_error(f"The location {content.location} is not the workspace's location {LOCATION}.")
    if given.code_configuration is not None or given.environment_id is not None:
        raise not_implemented("deployments with a scoring script or an environment of their own; an MLflow model needs none")
    if given.data_collector is not None:
        raise not_implemented("data collectors")
    if not given.model:
        raise refused("A deployment without codeConfiguration and environmentId must have a model.")
    if not given.instance_type:
        raise refused("instanceType is required for a managed deployment.")
    if capacity > MAX_INSTANCES:
        raise refused(f"sku.capacity {capacity} is more than the {MAX_INSTANCES} instances that a deployment may have.")


def probe(given: dict[str, Any], filled: bool) -> dict[str, Any] | None:
    """A probe's settings: what was given, and once the deployment is ready the service's defaults for the rest."""
    set_by_user = {name: value for name, value in given.items() if value is not None}
    if not filled:
        return set_by_user or None
    return {"failureThreshold": 30, "successThreshold": 1, "timeout": "PT2S", "period": "PT10S", "initialDelay": "PT10S"} | set_by_user
