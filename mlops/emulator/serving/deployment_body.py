"""The body of a managed online deployment's PUT: its schema, validation, and the document that is stored, with the service's defaults."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationError

from mlops.emulator.base.azure import LOCATION, Azure
from mlops.emulator.base.errors import not_implemented
from mlops.emulator.base.store import Document
from mlops.emulator.registry import catalog
from mlops.emulator.serving import collection
from mlops.emulator.serving.collection import DataCollector
from mlops.emulator.wire.limits import ResourceTags
from mlops.emulator.wire.resources import Body, SentResource, add_system_data, check_location, inference_error
from mlops.emulator.workspace import vm_sizes

__all__ = ["Count", "Patch", "Put", "apply_patch", "build_document", "parse_duration", "probe_settings"]

MAX_TIMEOUT_S = 180
MAX_INSTANCES = 50
"""Azure's default limit for the instances of a managed deployment."""

_TIMEDELTA = TypeAdapter(timedelta)


def parse_duration(duration: str) -> float:
    """Return the seconds of an ISO 8601 duration (RFC 3339, appendix A).

    Raises:
        ValueError: it isn't one, or it is negative.
    """
    try:
        value = _TIMEDELTA.validate_python(duration).total_seconds() if duration.startswith("P") else -1
    except ValidationError:
        value = -1
    if value < 0:
        raise ValueError(f"'{duration}' is not an ISO 8601 duration such as PT1M30S")
    return value


def _check_duration(text: str) -> str:
    parse_duration(text)
    return text


Duration = Annotated[str, AfterValidator(_check_duration)]
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
    """``DefaultScaleSettings``, the only kind that managed deployments have."""

    scale_type: Literal["Default"]


class CodeConfiguration(Body):
    """``CodeConfiguration``: a code asset, and the script in it."""

    code_id: str | None = None
    scoring_script: str


class Properties(Body):
    """``ManagedOnlineDeployment``. Read-only fields are accepted, because clients send back what they have read, and ignored."""

    endpoint_compute_type: Literal["Managed"]
    app_insights_enabled: bool | None = None
    code_configuration: CodeConfiguration | None = None
    data_collector: DataCollector | None = None
    description: str | None = None
    egress_public_network_access: Literal["Enabled", "Disabled"] | None = None
    environment_id: str | None = None
    environment_variables: dict[str, str | None] | None = None
    instance_type: str | None = None
    liveness_probe: Probe | None = None
    model: str | None = None
    model_mount_path: str | None = None
    private_network_connection: bool | None = None
    properties: dict[str, str | None] | None = None
    provisioning_state: str | None = None
    readiness_probe: Probe | None = None
    request_settings: RequestSettings | None = None
    scale_settings: Scale | None = None


class PartialSku(Body):
    """``PartialSku``."""

    name: Literal["Default"] | None = None
    capacity: Count | None = None
    tier: str | None = None
    size: str | None = None
    family: str | None = None


class Sku(PartialSku):
    """``Sku``: the number of instances."""

    name: Literal["Default"]


class Put(SentResource):
    """``OnlineDeploymentTrackedResource``."""

    location: str
    properties: Properties
    sku: Sku | None = None
    identity: dict[str, Any] | None = None
    kind: str | None = None
    tags: ResourceTags = None


class Patch(Body):
    """``PartialMinimalTrackedResourceWithSku``: the number of instances, and tags. A missing field is left unchanged."""

    sku: PartialSku | None = None
    tags: dict[str, str | None] | None = None


def apply_patch(azure: Azure, body: Patch, previous: Document) -> Document:
    """Return the settings with a patch applied, without the state of the last operation.

    Raises:
        AzureFault: 400, the service would reject it.
    """
    capacity = body.sku.capacity if body.sku and body.sku.capacity is not None else previous["capacity"]
    _check_capacity(capacity)
    tags = previous["tags"] if body.tags is None else body.tags
    settings = {name: value for name, value in previous.items() if name not in ("state", "operation", "unrecoverable")}
    return add_system_data(azure, previous, settings | {"capacity": capacity, "tags": tags})


def build_document(azure: Azure, body: Put, previous: Document | None, name: str) -> Document:
    """Return the document to store, with defaults.

    Args:
        azure: the emulated Azure.
        body: the validated body.
        previous: the stored document, if the deployment exists.
        name: name of the deployment in the request.

    Raises:
        AzureFault: 400, the service would reject the deployment; 501, the emulator doesn't implement it.
    """
    properties = body.properties
    capacity = body.sku.capacity if body.sku and body.sku.capacity is not None else 1
    _validate(body, capacity)
    _check_egress(azure, properties)
    size = vm_sizes.find(properties.instance_type or "")
    if size is None:
        raise inference_error(f"Instance type [{properties.instance_type}] is not known in {LOCATION}.")
    if previous is not None and size.name != previous["instance_type"]:
        raise inference_error(f"instanceType can't be changed from {previous['instance_type']} to {size.name}. Create another deployment.")
    requests = properties.request_settings or RequestSettings()
    timeout = requests.request_timeout or "PT5S"
    if not 0 < parse_duration(timeout) <= MAX_TIMEOUT_S:
        raise inference_error(f"requestTimeout {timeout} must be more than 0 and at most {MAX_TIMEOUT_S} seconds.")
    return add_system_data(
        azure,
        previous,
        {
            "name": previous["name"] if previous else name,
            "model": properties.model,
            "code": properties.code_configuration.model_dump(by_alias=True) if properties.code_configuration else None,
            "environment": properties.environment_id,
            "instance_type": size.name,
            "capacity": capacity,
            "request_settings": {
                "maxConcurrentRequestsPerInstance": requests.max_concurrent_requests_per_instance or 1,
                "maxQueueWait": requests.max_queue_wait or "PT0.5S",
                "requestTimeout": timeout,
            },
            "liveness": properties.liveness_probe.model_dump(by_alias=True) if properties.liveness_probe else {},
            "readiness": properties.readiness_probe.model_dump(by_alias=True) if properties.readiness_probe else {},
            "variables": properties.environment_variables or {},
            "app_insights": bool(properties.app_insights_enabled),
            "egress": properties.egress_public_network_access or "Enabled",
            "collector": collection.describe(azure, properties.data_collector),
            "mount": properties.model_mount_path,
            "description": properties.description,
            "properties": {k: v for k, v in (properties.properties or {}).items() if k != "AzureAsyncOperationUri"},
            "tags": body.tags or {},
        },
    )


def _validate(body: Put, capacity: int) -> None:
    properties = body.properties
    check_location(body.location)
    code = properties.code_configuration
    if code is not None and not (code.code_id and properties.environment_id):
        raise inference_error("A deployment with a scoring script must have codeConfiguration.codeId and environmentId.")
    if code is None and properties.environment_id is not None and properties.environment_id not in catalog.SERVING_IMAGES:
        images = ", ".join(catalog.SERVING_IMAGES)
        raise not_implemented(f"deployments without a scoring script in the environment {properties.environment_id}, only in {images}")
    if properties.private_network_connection:
        raise not_implemented("deployments with a private network connection")
    if code is None and not properties.model:
        raise inference_error("A deployment without codeConfiguration and environmentId must have a model.")
    if not properties.instance_type:
        raise inference_error("instanceType is required for a managed deployment.")
    _check_capacity(capacity)


def _check_egress(azure: Azure, properties: Properties) -> None:
    """Refuse a deployment that couldn't reach the workspace ("Network isolation with managed online endpoints", learn.microsoft.com)."""
    options = azure.options
    if options.is_private and not options.managed_network and properties.egress_public_network_access != "Disabled":
        raise inference_error(
            "A deployment with public egress needs a workspace that allows public network access or has a managed network."
        )


def _check_capacity(capacity: int) -> None:
    if capacity > MAX_INSTANCES:
        raise inference_error(f"sku.capacity {capacity} is more than the {MAX_INSTANCES} instances that a deployment may have.")


def probe_settings(configured: dict[str, Any], with_defaults: bool) -> dict[str, Any] | None:
    """Return a probe's settings. The service shows its defaults once the deployment is ready."""
    settings = {name: value for name, value in configured.items() if value is not None}
    if not with_defaults:
        return settings or None
    return {"failureThreshold": 30, "successThreshold": 1, "timeout": "PT2S", "period": "PT10S", "initialDelay": "PT10S"} | settings
