"""Compute clusters and VM sizes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlops.cloud.entities import as_text
from mlops.cloud.errors import NotFound, translate_errors
from mlops.cloud.session import Session
from mlops.core import console
from mlops.core.config import ComputeConfig
from mlops.core.errors import AzureError, ConfigError

__all__ = ["ComputeView", "Computes", "VmSize"]


@dataclass(frozen=True, kw_only=True)
class ComputeView:
    """The current state of a cluster."""

    name: str
    size: str
    """VM size, spelled as in the region's list of sizes if it is listed there."""
    state: str
    """Provisioning state: Succeeded, Failed, Creating, Updating, Deleting, Canceled, Unknown."""
    tier: str
    """``dedicated`` or ``low_priority``."""
    gpus_per_node: int
    created: bool
    """Whether this call created it."""


@dataclass(frozen=True, kw_only=True)
class VmSize:
    """A VM size that the workspace's region offers."""

    name: str
    gpus: int


class Computes:
    """The workspace's compute. Use it as ``workspace.compute``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, name: str) -> ComputeView | None:
        """Return the cluster of this name, or None."""
        try:
            with translate_errors(f"reading compute {name}"):
                return self._view(self._session.ml.compute.get(name), created=False)
        except NotFound:
            return None

    def ensure(self, config: ComputeConfig) -> ComputeView:
        """Return the cluster of this name, creating it if there is none: as Dedicated, or if that fails as LowPriority.

        An existing cluster is returned as it is; the caller must check its size and state.

        Raises:
            AzureError: the cluster can be created in neither tier.
        """
        if (existing := self.find(config.name)) is not None:
            return existing
        refusals = []
        for tier in ("dedicated", "low_priority"):
            try:
                return self._create(config, tier)
            except AzureError as problem:
                refusals.append(problem)
                console.warning(f"Compute {config.name} ({config.size}) can't be created as {tier}: {problem.what}")
        raise AzureError(
            f"Compute {config.name} ({config.size}) can be created neither as dedicated nor as low priority: {refusals[0].what}",
            refusals[0].fix or "choose another compute.size in pipeline.toml, or request quota",
        )

    def check_unchanged(self, name: str, size: str) -> None:
        """Refuse to submit a job to a cluster that was deleted, or recreated with another VM size, since validation.

        Raises:
            ConfigError: the cluster does not exist or has another VM size.
        """
        cluster = self.find(name)
        if cluster is None or cluster.size.lower() != size.lower():
            state = f"now has VM size {cluster.size}" if cluster else "no longer exists"
            raise ConfigError(
                f"Compute {name} had VM size {size} when it was validated, and {state}. No job was submitted.", "run `mlops validate` again"
            )

    @cached_property
    def sizes(self) -> Mapping[str, VmSize]:
        """The VM sizes of the workspace's region, by lower-case name."""
        with translate_errors("listing VM sizes"):
            sizes = list(self._session.ml.compute.list_sizes())
        return {size.name.lower(): VmSize(name=size.name, gpus=int(size.gpus or 0)) for size in sizes}

    def _create(self, config: ComputeConfig, tier: str) -> ComputeView:
        from azure.ai.ml.entities import AmlCompute

        cluster = AmlCompute(
            name=config.name,
            size=config.size,
            tier=tier,
            min_instances=config.min_instances,
            max_instances=config.max_instances,
            idle_time_before_scale_down=config.idle_seconds,
            tags=dict(self._session.tags),
        )
        console.info(f"  creating compute {config.name}: {config.size}, {tier}, {config.min_instances}–{config.max_instances} nodes")
        with translate_errors(f"creating compute {config.name} ({config.size}, {tier})"):
            entity = self._session.ml.compute.begin_create_or_update(cluster).result()
        view = self._view(entity, created=True)
        if view.state.lower() != "succeeded":
            raise AzureError(f"Compute {config.name} was created but is {view.state}.", "look at it in the studio, delete it and try again")
        return view

    def _view(self, entity: Any, *, created: bool) -> ComputeView:
        size = as_text(getattr(entity, "size", None))
        offered = self.sizes.get(size.lower())
        return ComputeView(
            name=entity.name,
            size=offered.name if offered else size,
            state=as_text(entity.provisioning_state, "Unknown"),
            tier=as_text(getattr(entity, "tier", None)).lower().replace("lowpriority", "low_priority"),
            gpus_per_node=offered.gpus if offered else 0,
            created=created,
        )
