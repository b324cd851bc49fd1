"""Compute clusters, VM sizes and quota."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlops.cloud import vm_sizes
from mlops.cloud.creators import creator_of_json
from mlops.cloud.entities import as_text
from mlops.cloud.errors import Forbidden, find, translate_errors
from mlops.cloud.quota import Usage
from mlops.cloud.session import Session
from mlops.cloud.tags import MARK, PIPELINE
from mlops.cloud.vm_sizes import VmSize
from mlops.core import console
from mlops.core.errors import AzureError, ConfigError
from mlops.core.settings import ComputeConfig

__all__ = ["ComputeView", "Computes"]


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
    gpus_per_node: int | None
    """None if the VM size is unknown, because our identity may not list the region's sizes."""
    created: bool
    """Whether this call created it."""
    identities: tuple[str, ...] = ()
    """Ids of its user-assigned managed identities."""
    foreign: bool = False
    """Whether it was created outside the pipeline. Then it is used, but never changed or deleted."""


class Computes:
    """The workspace's compute. Use it as ``workspace.compute``.

    Attributes:
        not_permitted: what could not be read → the permission that our identity lacks for it. VM sizes and quota belong to the
            subscription, so roles at the workspace don't include them; without them there is less that can be checked.
    """

    def __init__(self, session: Session) -> None:
        self._session = session
        self.not_permitted: dict[str, str] = {}

    def find(self, name: str) -> ComputeView | None:
        """Return the cluster of this name, or None. To create one that exists would change somebody's settings."""

        def get() -> ComputeView:
            with translate_errors(f"reading compute {name}"):
                return self._view(self._session.ml.compute.get(name), created=False)

        def is_listed() -> bool:
            with translate_errors("listing compute"):
                return any(compute.name.lower() == name.lower() for compute in self._session.ml.compute.list())

        return find(get, is_listed)

    def ensure(self, config: ComputeConfig) -> ComputeView:
        """Return the cluster of this name, creating it if there is none.

        It is created as dedicated. If the quota for that is missing, and only if ``compute.allow_low_priority`` is set, as low priority.
        An existing cluster is returned as it is; the caller must check its size, tier, state and creator.

        Raises:
            AzureError: the cluster can't be created. What was left of the attempt is deleted.
        """
        if (existing := self.find(config.name)) is not None:
            if existing.foreign:
                console.notice(f"Compute {existing.name} was created outside this pipeline. It is used, but never changed or deleted.")
            return existing
        try:
            return self._create(config, "dedicated")
        except AzureError as problem:
            if "quota" not in problem.what.lower():
                raise
            if not config.allow_low_priority:
                raise AzureError(
                    problem.what,
                    f"request quota for the VM family of {config.size} in this region (Azure portal, Quotas), choose another compute.size, "
                    "or set compute.allow_low_priority = true: Azure may then take the nodes away, and the training starts over",
                ) from problem
            console.warning(
                f"Compute {config.name} ({config.size}) can't be created as dedicated, so it is created as low priority "
                f"(compute.allow_low_priority is set): {problem.what}"
            )
        return self._create(config, "low_priority")

    def explain_distrust(self, name: str) -> tuple[str, str] | None:
        """Return why a target that is not ephemeral must not use a cluster, and what to do; None if it may.

        Whoever creates a cluster can have an account on its nodes, which read the data and write models and scores. Tags prove nothing.
        """
        session = self._session
        if session.config.endpoint.ephemeral or session.config.compute.trusted:
            return None
        # The SDK's entity has no systemData.
        with translate_errors(f"reading the creator of compute {name}"):
            data = session.read_arm(f"/computes/{name}").get("systemData") or {}
        creator = creator_of_json(data)
        if session.trusts(creator):
            return None
        who = f"by {creator}" if creator else "by an identity that Azure does not name"
        return (
            f"Compute {name} was created {who}, who can sign in to its nodes, and target {session.config.target} only trusts"
            f" {session.creator or 'no identity, because the token names none,'} and workspace.trusted_creators.",
            f"delete it, and `mlops validate` creates it again: az ml compute delete --name {name}. If you know who created it, set"
            " workspace.trusted_creators, or compute.trusted = true, in pipeline.toml",
        )

    def check_unchanged(self, name: str, size: str) -> None:
        """Refuse to submit a job to a cluster that was deleted, or recreated with another VM size or by somebody else, since validation.

        Raises:
            ConfigError: the cluster does not exist, has another VM size, or its creator is not trusted.
        """
        cluster = self.find(name)
        if cluster is None or cluster.size.lower() != size.lower():
            state = f"now has VM size {cluster.size}" if cluster else "no longer exists"
            raise ConfigError(
                f"Compute {name} had VM size {size} when it was validated, and {state}. No job was submitted.", "run `mlops validate` again"
            )
        if problem := self.explain_distrust(name):
            raise ConfigError(f"{problem[0]} No job was submitted.", problem[1])

    @cached_property
    def sizes(self) -> Mapping[str, VmSize]:
        """The VM sizes of the workspace's region, by lower-case name; empty if our identity may not list them (:attr:`not_permitted`)."""
        sizes = self._list("VM sizes", lambda: self._session.ml.compute.list_sizes())
        return {
            size.name.lower(): VmSize(
                name=size.name, gpus=int(size.gpus or 0), cores=int(_read(size, "vCPUs", "v_cp_us") or 0), family=as_text(size.family)
            )
            for size in sizes
        }

    @cached_property
    def usages(self) -> tuple[Usage, ...]:
        """Limit and use of each quota; empty if our identity may not list them (:attr:`not_permitted`)."""
        usages = self._list("quota usage", lambda: self._session.ml.compute.list_usage())
        return tuple(
            Usage(
                name=as_text(usage.name["value"]),
                low_priority="lowprioritycores" in as_text(usage.type).lower(),
                used=int(_read(usage, "currentValue", "current_value") or 0),
                limit=None if usage.limit is None or usage.limit < 0 else int(usage.limit),
            )
            for usage in usages
        )

    def _list(self, what: str, read: Callable[[], Iterable[Any]]) -> list[Any]:
        try:
            with translate_errors(f"listing {what}"):
                return list(read())
        except Forbidden as problem:
            self.not_permitted[what] = problem.permission
            return []

    def _create(self, config: ComputeConfig, tier: str) -> ComputeView:
        from azure.ai.ml.entities import AmlCompute, IdentityConfiguration, ManagedIdentityConfiguration

        users = [ManagedIdentityConfiguration(resource_id=config.identity)]
        cluster = AmlCompute(
            name=config.name,
            size=config.size,
            tier=tier,
            min_instances=config.min_instances,
            max_instances=config.max_instances,
            idle_time_before_scale_down=config.idle_seconds,
            tags=dict(self._session.tags),
            identity=IdentityConfiguration(type="UserAssigned", user_assigned_identities=users) if config.identity else None,
        )
        console.info(f"  creating compute {config.name}: {config.size}, {tier}, {config.min_instances}–{config.max_instances} nodes")
        try:
            fix = "choose another compute.size in pipeline.toml: one that the workspace's region offers"
            with translate_errors(f"creating compute {config.name} ({config.size}, {tier})", fix):
                entity = self._session.ml.compute.begin_create_or_update(cluster).result()
            view = self._view(entity, created=True)
            if view.state.lower() != "succeeded":
                raise AzureError(f"Compute {config.name} was created but is {view.state}.", "look at it in the studio")
        except AzureError as problem:
            # A cluster that could not be provisioned keeps its name, so that no other attempt could use it.
            raise AzureError(f"{problem.what} {self._delete_failed(config.name)}".strip(), problem.fix) from problem
        return view

    def _delete_failed(self, name: str) -> str:
        """Delete a cluster that could not be provisioned, and return what to say if that fails."""
        try:
            if (cluster := self.find(name)) is not None and cluster.state.lower() in ("failed", "canceled") and not cluster.foreign:
                with translate_errors(f"deleting compute {name}"):
                    self._session.ml.compute.begin_delete(name).result()
        except AzureError as problem:
            return f"The failed cluster {name} could not be deleted; it has no nodes and costs nothing: {problem.what}"
        return ""

    def _view(self, entity: Any, *, created: bool) -> ComputeView:
        size = as_text(getattr(entity, "size", None))
        vm = vm_sizes.find(size, self.sizes)
        return ComputeView(
            name=entity.name,
            size=vm.name if vm else size,
            state=as_text(entity.provisioning_state, "Unknown"),
            tier=as_text(getattr(entity, "tier", None)).lower().replace("lowpriority", "low_priority"),
            gpus_per_node=vm.gpus if vm else None,
            created=created,
            identities=tuple(as_text(each.resource_id) for each in getattr(entity.identity, "user_assigned_identities", None) or ()),
            foreign=(entity.tags or {}).get(PIPELINE) != MARK,
        )


def _read(entity: Any, wire_name: str, name: str) -> Any:
    """Return an attribute of an SDK entity that has it, in some of its versions, only under its name on the wire."""
    value = getattr(entity, wire_name, None)
    return getattr(entity, name, None) if value is None else value
