"""Compute clusters and VM sizes."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlops.cloud.entities import word
from mlops.cloud.errors import NotFound, translated
from mlops.cloud.session import Session
from mlops.core import console
from mlops.core.config import ComputeConfig
from mlops.core.console import did_you_mean
from mlops.core.errors import AzureError, ConfigError

__all__ = ["ComputeView", "Computes", "VmSize"]


@dataclass(frozen=True, kw_only=True)
class ComputeView:
    """A cluster as it stands."""

    name: str
    size: str
    """VM size, in the spelling of the list of sizes where it is known there."""
    state: str
    """Provisioning state: Succeeded, Failed, Creating, Updating, Deleting, Canceled, Unknown."""
    tier: str
    """``dedicated`` or ``low_priority``."""
    gpus_per_node: int
    created: bool
    """Whether this call made it."""


@dataclass(frozen=True, kw_only=True)
class VmSize:
    """A VM size as the workspace's region offers it."""

    name: str
    family: str
    vcpus: int
    gpus: int
    memory_gb: float


class Computes:
    """The workspace's compute. Use it as ``workspace.compute``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def find(self, name: str) -> ComputeView | None:
        """The cluster of this name, or None."""
        try:
            with translated(f"reading compute {name}"):
                return self._view(self._session.ml.compute.get(name), created=False)
        except NotFound:
            return None

    def ensure(self, wanted: ComputeConfig) -> ComputeView:
        """The cluster of this name; where there is none it is created, Dedicated first, then LowPriority.

        An existing cluster is returned as it is: its size and state are for the caller to judge.

        Raises:
            AzureError: neither tier can be had; both refusals are told.
        """
        if (found := self.find(wanted.name)) is not None:
            return found
        refusals = []
        for tier in ("dedicated", "low_priority"):
            try:
                return self._create(wanted, tier)
            except AzureError as problem:
                refusals.append(problem)
                console.warning(f"Compute {wanted.name} ({wanted.size}) can't be had as {tier}: {problem.what}")
        raise AzureError(
            f"Compute {wanted.name} ({wanted.size}) can be had neither as dedicated nor as low priority: {refusals[0].what}",
            refusals[0].fix or "choose another compute.size in pipeline.toml, or ask for quota",
        )

    def check_unchanged(self, name: str, size: str) -> None:
        """Refuse to submit a job to a cluster that was deleted, or created anew with another VM size, since validation.

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
    def _sizes(self) -> dict[str, VmSize]:
        with translated("listing VM sizes"):
            listed = list(self._session.ml.compute.list_sizes())
        return {
            size.name.lower(): VmSize(
                name=size.name,
                family=size.family or "",
                vcpus=int(size.v_cp_us or 0),
                gpus=int(size.gpus or 0),
                memory_gb=float(size.memory_gb or 0),
            )
            for size in listed
        }

    def sizes(self) -> dict[str, VmSize]:
        """The VM sizes of the workspace's region, by lower-case name."""
        return self._sizes

    def size(self, name: str) -> VmSize:
        """One VM size.

        Raises:
            ConfigError: the region doesn't offer it.
        """
        try:
            return self._sizes[name.lower()]
        except KeyError:
            hint = did_you_mean(name, [size.name for size in self._sizes.values()])
            raise ConfigError(
                f"VM size {name} is not offered in {self._session.location}{hint}.", "set compute.size in pipeline.toml"
            ) from None

    def _create(self, wanted: ComputeConfig, tier: str) -> ComputeView:
        from azure.ai.ml.entities import AmlCompute

        cluster = AmlCompute(
            name=wanted.name,
            size=wanted.size,
            tier=tier,
            min_instances=wanted.min_instances,
            max_instances=wanted.max_instances,
            idle_time_before_scale_down=wanted.idle_seconds,
            tags=dict(self._session.tags),
        )
        console.info(f"  creating compute {wanted.name}: {wanted.size}, {tier}, {wanted.min_instances}–{wanted.max_instances} nodes")
        with translated(f"creating compute {wanted.name} ({wanted.size}, {tier})"):
            made = self._session.ml.compute.begin_create_or_update(cluster).result()
        view = self._view(made, created=True)
        if view.state.lower() != "succeeded":
            raise AzureError(f"Compute {wanted.name} was created but is {view.state}.", "look at it in the studio, delete it and try again")
        return view

    def _view(self, compute: Any, *, created: bool) -> ComputeView:
        size = word(getattr(compute, "size", None))
        known = self._sizes.get(size.lower())
        return ComputeView(
            name=compute.name,
            size=known.name if known else size,
            state=word(compute.provisioning_state, "Unknown"),
            tier=word(getattr(compute, "tier", None)).lower().replace("lowpriority", "low_priority"),
            gpus_per_node=known.gpus if known else 0,
            created=created,
        )
