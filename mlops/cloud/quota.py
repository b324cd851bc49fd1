"""The cores that a run needs, per quota, and whether they are free: pure functions of the settings and of what was read from Azure.

Training and endpoints use the same quota of a VM family. A deployment uses it for as long as it exists, whatever its share of the traffic.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, cast

from mlops.cloud.vm_sizes import VmSize, count_reserved_instances, find
from mlops.core.settings import Config

__all__ = ["CoreDemand", "Deployment", "State", "Usage", "count_cores", "describe", "find_demands", "find_shortages", "lacks_limit"]

State = Literal["new", "in use", "removed first"]
"""Whether cores are needed in addition, are already in use, or (those of a standby) become free before a new deployment is created."""

TOTAL = {False: "TotalDedicatedCores", True: "TotalLowPriorityCores"}
"""Whether it is low priority → name of the quota over all families."""


@dataclass(frozen=True, kw_only=True)
class Usage:
    """Limit and use of one quota, in cores."""

    name: str
    low_priority: bool
    used: int
    limit: int | None
    """None: unlimited."""


@dataclass(frozen=True, kw_only=True)
class Deployment:
    """A deployment that exists at the endpoint."""

    name: str
    size: str
    instances: int
    is_standby: bool
    """Whether it is removed before the new deployment is created."""


@dataclass(frozen=True, kw_only=True)
class CoreDemand:
    """Cores for one purpose."""

    purpose: str
    size: str
    count: int
    """Number of nodes, or of instances including the reserve for upgrades."""
    cores: int | None
    """Total number of cores; None if the VM size is unknown."""
    family: str
    state: State = "new"
    low_priority: bool = False


def find_demands(config: Config, training: CoreDemand, offered: Mapping[str, VmSize], existing: Iterable[Deployment]) -> list[CoreDemand]:
    """Return what a run needs at its peak: the nodes of the training, what the endpoint serves now, and the new deployment.

    Args:
        config: the target's settings.
        training: the nodes of the training; see :func:`count_cores`.
        offered: the region's VM sizes, by lower-case name.
        existing: deployments of the endpoint.
    """
    endpoint = config.endpoint
    demands = [training]
    for deployment in existing:
        purpose, state = ("standby", "removed first") if deployment.is_standby else ("live", "in use")
        instances = count_reserved_instances(deployment.size, deployment.instances)
        demands.append(count_cores(f"{purpose} deployment", deployment.size, instances, offered, cast(State, state)))
    reserved = count_reserved_instances(endpoint.instance_type, endpoint.instance_count)
    return [*demands, count_cores("new deployment", endpoint.instance_type, reserved, offered)]


def count_cores(purpose: str, size: str, count: int, offered: Mapping[str, VmSize], state: State = "new") -> CoreDemand:
    """Return the cores of a number of nodes or instances of a VM size."""
    vm = find(size, offered)
    return CoreDemand(
        purpose=purpose,
        size=size,
        count=count,
        cores=vm.cores * count if vm else None,
        family=vm.family if vm else "",
        state=state,
    )


def find_shortages(demands: Sequence[CoreDemand], usages: Iterable[Usage]) -> list[str]:
    """Return a sentence for each quota that the run would exceed."""
    shortages = []
    for usage in usages:
        relevant = [demand for demand in demands if _counts_for(demand, usage)]
        new, freed = (sum(demand.cores or 0 for demand in relevant if demand.state == state) for state in ("new", "removed first"))
        if usage.limit is not None and new > 0 and usage.used - freed + new > usage.limit:
            parts = " + ".join(_describe(demand) for demand in relevant if demand.state == "new")
            removed = f"; removing the standby deployment frees {freed}" if freed else ""
            shortages.append(
                f"{usage.name}: {usage.used} of {usage.limit} cores are in use, and this run needs {new} more ({parts}){removed}"
            )
    return shortages


def lacks_limit(demand: CoreDemand, usages: Iterable[Usage]) -> bool:
    """Return whether a quota is too small for a single node, so that Azure refuses to create the cluster."""
    cores = 0 if demand.cores is None else demand.cores // demand.count
    return any(usage.limit is not None and cores > usage.limit for usage in usages if _counts_for(demand, usage))


def describe(demands: Iterable[CoreDemand]) -> str:
    """Return what a run needs at its peak, per quota, as one line."""
    by_quota: dict[str, list[CoreDemand]] = {}
    for demand in demands:
        if demand.state != "removed first":
            by_quota.setdefault(TOTAL[True] if demand.low_priority else demand.family or demand.size, []).append(demand)
    lines = []
    for name, group in by_quota.items():
        cores = "?" if any(demand.cores is None for demand in group) else str(sum(demand.cores or 0 for demand in group))
        lines.append(f"{cores} cores of {name} ({' + '.join(_describe(demand) for demand in group)})")
    return ", ".join(lines)


def _counts_for(demand: CoreDemand, usage: Usage) -> bool:
    if demand.low_priority != usage.low_priority:
        return False
    return usage.name == TOTAL[usage.low_priority] or (not usage.low_priority and demand.family.casefold() == usage.name.casefold())


def _describe(demand: CoreDemand) -> str:
    return f"{demand.purpose} {demand.count} × {demand.size}"
