"""Views of an endpoint and its deployments, with what the pipeline needs from the service's response."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC
from typing import Any

from mlops.cloud.creators import creator_of
from mlops.cloud.entities import as_text
from mlops.cloud.tags import CREATION_ID

__all__ = [
    "COLLECTION",
    "FAILED_STATES",
    "TERMINAL_STATES",
    "DeploymentView",
    "EndpointView",
    "LiveModels",
    "deployment_view",
    "endpoint_view",
]

FAILED_STATES = frozenset({"Failed", "Canceled"})
"""Provisioning states after an operation that did not succeed."""
TERMINAL_STATES = FAILED_STATES | {"Succeeded"}
"""Provisioning states in which no operation is running."""
COLLECTION = "request"
"""The data collection that contains a deployment's requests, with payloads as they were sent."""


@dataclass(frozen=True, kw_only=True)
class EndpointView:
    """The current state of an endpoint."""

    name: str
    state: str
    """Provisioning state."""
    scoring_uri: str
    auth_mode: str
    public_network_access: str = "enabled"
    """``enabled`` or ``disabled``, as in pipeline.toml."""
    traffic: Mapping[str, int] = field(default_factory=dict)
    """Deployment → percent; includes deployments without traffic, at 0."""
    mirror: Mapping[str, int] = field(default_factory=dict)
    """Deployment → percent of the requests that Azure copies to it, discarding the answers; without deployments at 0."""
    tags: Mapping[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> str:
        """Distinguishes this endpoint from others of the same name; empty if the pipeline did not create it."""
        return self.tags.get(CREATION_ID, "")


@dataclass(frozen=True, kw_only=True)
class DeploymentView:
    """The current state of a deployment."""

    name: str
    state: str
    """Provisioning state."""
    model: str
    """Full id of the model that it serves."""
    sku: str
    instances: int
    tags: Mapping[str, str] = field(default_factory=dict)
    collects: bool = False
    """Whether its requests are collected."""
    creator: str = ""
    """Who created it according to Azure (see :mod:`mlops.cloud.creators`)."""
    created: str = ""
    """When it was created (ISO 8601, UTC, to the minute)."""

    @property
    def identity(self) -> str:
        """Distinguishes this deployment from others of the same name; empty if the pipeline did not create it."""
        return self.tags.get(CREATION_ID, "")


@dataclass(frozen=True, kw_only=True)
class LiveModels:
    """The models that an endpoint serves, by full id. A deployment without a model (it is inside its image) counts by its own id."""

    model: str | None = None
    """The model with more than half of the traffic; None if no deployment takes traffic."""
    shares: Mapping[str, int] = field(default_factory=dict)
    """Model → percent of the traffic, for models that take traffic."""
    standby: tuple[str, ...] = ()
    """If no deployment takes traffic: the models of all deployments."""


def endpoint_view(entity: Any) -> EndpointView:
    """Convert the SDK's entity of an endpoint."""
    return EndpointView(
        name=str(entity.name),
        state=as_text(entity.provisioning_state, "Unknown"),
        scoring_uri=as_text(entity.scoring_uri),
        auth_mode=as_text(entity.auth_mode),
        public_network_access=as_text(entity.public_network_access, "enabled").lower(),
        traffic={str(name): int(share) for name, share in (entity.traffic or {}).items()},
        mirror={str(name): int(share) for name, share in (entity.mirror_traffic or {}).items() if share},
        tags=dict(entity.tags or {}),
    )


def deployment_view(entity: Any) -> DeploymentView:
    """Convert the SDK's entity of a deployment."""
    model = entity.model
    created = getattr(entity.creation_context, "created_at", None)
    return DeploymentView(
        name=str(entity.name),
        state=as_text(entity.provisioning_state, "Unknown"),
        model=as_text(getattr(model, "id", None) or model),
        sku=as_text(entity.instance_type),
        instances=int(entity.instance_count or 0),
        tags=dict(entity.tags or {}),
        collects=_collects(entity.data_collector),
        creator=creator_of(entity.creation_context),
        created=created.astimezone(UTC).isoformat()[:16] if created else "",
    )


def _collects(collector: Any) -> bool:
    collection = collector.collections.get(COLLECTION) if collector is not None else None
    return collection is not None and str(collection.enabled).lower() == "true"
