"""Quota of cores per VM family, and its use by the nodes of clusters, compute instances and deployments.

A cluster uses quota while it has nodes, not because it exists; creating one fails if the quota does not cover a single node. A deployment
uses quota for as long as it exists, whatever its share of the traffic. Low-priority nodes have one quota for all families. Sources:
"Manage and increase quotas and limits" of Azure Machine Learning; texts and codes from recorded answers.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

from starlette.requests import Request

from mlops.emulator.base.azure import LOCATION, Azure
from mlops.emulator.base.errors import AzureFault
from mlops.emulator.base.store import Document
from mlops.emulator.wire.app import PROVIDER, Answer, Route
from mlops.emulator.wire.versions import published_since
from mlops.emulator.workspace import instances, vm_sizes
from mlops.emulator.workspace.vm_sizes import Size

__all__ = ["ROUTES", "Shortage", "check_cluster", "cluster_fault", "find_deployment_shortage", "find_node_shortage", "hold_nodes", "parse"]

VERSIONS = published_since("2022-01-01-preview")
DEDICATED, LOW_PRIORITY = "Dedicated", "LowPriority"
TOTALS = {DEDICATED: "TotalDedicatedCores", LOW_PRIORITY: "TotalLowPriorityCores"}
"""Priority → name of the quota over all families."""
LABELS = {DEDICATED: "Total Cluster Dedicated Regional vCPUs", LOW_PRIORITY: "Total Cluster LowPriority Regional vCPUs"}
UNLIMITED = -1


class Nodes:
    """The cluster nodes that jobs hold now."""

    def __init__(self) -> None:
        self.in_use: list[tuple[str, int]] = []
        """Cluster and number of nodes of each run."""


@dataclasses.dataclass(frozen=True)
class Shortage:
    """A quota that a request for more cores would exceed."""

    label: str
    limit: int
    used: int
    requested: int


def parse(specs: Sequence[str]) -> dict[str, int]:
    """Read ``FAMILY=CORES`` from the command line: families as in ``vmSizes``, or one of :data:`TOTALS`.

    Raises:
        ValueError: the form, the family or the number is wrong.
    """
    names = {name.lower(): name for name in (*TOTALS.values(), *(size.family for size in vm_sizes.SIZES))}
    limits = {}
    for spec in specs:
        family, _, cores = spec.rpartition("=")
        if family.lower() not in names:
            raise ValueError(f"--quota {spec!r}: write FAMILY=CORES. The families are: {', '.join(sorted(names.values()))}.")
        if not cores.isdecimal():
            raise ValueError(f"--quota {spec!r}: {cores!r} is not a number of cores.")
        limits[names[family.lower()]] = int(cores)
    return limits


def check_cluster(azure: Azure, cluster: Document) -> None:
    """Refuse to provision a cluster if its quota doesn't cover its minimum number of nodes, or a single node.

    Raises:
        AzureFault: ``ClusterMinNodesExceedCoreQuota``.
    """
    size = _size(cluster["size"])
    nodes = max(1, cluster["aml"]["scaleSettings"]["minNodeCount"])
    for name, label in _quotas(cluster["priority"], size):
        limit = azure.options.quota.get(name, UNLIMITED)
        if UNLIMITED < limit < nodes * size.cores:
            raise cluster_fault(label.removesuffix(" Cluster Dedicated vCPUs"), limit, nodes, size)


def cluster_fault(label: str, limit: int, nodes: int, size: Size) -> AzureFault:
    """Return the error of a cluster that its quota doesn't allow."""
    return AzureFault(
        400,
        "ClusterMinNodesExceedCoreQuota",
        f"The specified subscription has a {label} vCPU quota of {limit} and cannot accomodate for at least {nodes} requested managed"
        f" compute node which maps to {nodes * size.cores} vCPUs.",
    )


def find_deployment_shortage(azure: Azure, key: str, instance_type: str, capacity: int) -> Shortage | None:
    """Return the quota that a deployment would exceed, or None.

    Args:
        azure: the emulated Azure.
        key: the deployment's in the store; what it uses now is not counted twice.
        instance_type: its VM size.
        capacity: number of instances, without the reserve for upgrades.
    """
    size = _size(instance_type)
    return _find_shortage(azure, DEDICATED, size, size.count_reserved(capacity), without=key)


def find_node_shortage(azure: Azure, cluster: Document, count: int) -> Shortage | None:
    """Return the quota that a run on this many nodes of a cluster would exceed now, or None. The nodes of its minimum exist already."""
    spare = max(0, cluster["aml"]["scaleSettings"]["minNodeCount"] - _count_nodes_in_use(azure, cluster["name"]))
    return _find_shortage(azure, cluster["priority"], _size(cluster["size"]), max(0, count - spare))


@contextlib.contextmanager
def hold_nodes(azure: Azure, cluster: str, count: int) -> Iterator[None]:
    """Count nodes of a cluster as in use."""
    in_use = azure.services.get(Nodes).in_use
    entry = (cluster.lower(), count)
    in_use.append(entry)
    try:
        yield
    finally:
        in_use.remove(entry)


async def list_usages(azure: Azure, request: Request) -> Answer:
    """List limit and use of each quota. Dedicated and low-priority cores of a family differ in the type only, as on Azure."""
    if request.path_params["location"].lower() != LOCATION:
        raise AzureFault(400, "LocationNotAvailableForResourceType", f"The emulator exists only in {LOCATION}.")
    families = {size.family: size for size in vm_sizes.SIZES}
    usages = []
    for priority, kind in ((DEDICATED, "dedicatedCores"), (LOW_PRIORITY, "lowPriorityCores")):
        total = TOTALS[priority]
        usages.append(_usage(azure, total, LABELS[priority], f"total{kind[0].upper()}{kind[1:]}", _count_used_cores(azure, priority)))
        for family in families:
            limit = azure.options.quota.get(family, UNLIMITED) if priority == DEDICATED else UNLIMITED
            usages.append(_usage(azure, family, _label(family), f"vmFamily/{kind}", _count_used_cores(azure, priority, family), limit))
    return {"value": usages}


def _usage(azure: Azure, name: str, label: str, kind: str, used: int, limit: int | None = None) -> dict[str, Any]:
    provider = f"/subscriptions/{azure.identity.subscription}{PROVIDER}"
    return {
        "id": f"{provider}/locations/{LOCATION}/usages/{name}",
        "amlWorkspaceLocation": LOCATION,
        "type": f"Microsoft.MachineLearningServices/{kind}/usages",
        "unit": "Count",
        "currentValue": used,
        "limit": azure.options.quota.get(name, UNLIMITED) if limit is None else limit,
        "name": {"value": name, "localizedValue": label},
    }


def _find_shortage(azure: Azure, priority: str, size: Size, instances: int, without: str = "") -> Shortage | None:
    requested = instances * size.cores
    for name, label in _quotas(priority, size):
        limit = azure.options.quota.get(name, UNLIMITED)
        used = _count_used_cores(azure, priority, None if name == TOTALS[priority] else size.family, without)
        if limit != UNLIMITED and used + requested > limit:
            return Shortage(label, limit, used, requested)
    return None


def _quotas(priority: str, size: Size) -> list[tuple[str, str]]:
    """Return name and label of the quotas that apply to a size."""
    total = (TOTALS[priority], LABELS[priority])
    return [(size.family, _label(size.family)), total] if priority == DEDICATED else [total]


def _count_used_cores(azure: Azure, priority: str, family: str | None = None, without: str = "") -> int:
    """Return the cores in use, of one family or of all."""
    cores: list[tuple[Size, int]] = []
    for name, cluster in azure.store.list("compute"):
        if cluster["priority"] == priority and cluster["state"] != "Failed":
            cores.append((_size(cluster["size"]), max(cluster["aml"]["scaleSettings"]["minNodeCount"], _count_nodes_in_use(azure, name))))
    if priority == DEDICATED:
        cores += [(_size(document["size"]), 1) for _, document in azure.store.list(instances.KIND) if document["running"] == "Running"]
        for key, deployment in azure.store.list("deployment"):
            if key != without and deployment["state"] != "Failed":
                size = _size(deployment["instance_type"])
                cores.append((size, size.count_reserved(deployment["capacity"])))
    return sum(size.cores * count for size, count in cores if family in (None, size.family))


def _count_nodes_in_use(azure: Azure, cluster: str) -> int:
    return sum(count for name, count in azure.services.get(Nodes).in_use if name == cluster.lower())


def _size(name: str) -> Size:
    size = vm_sizes.find(name)
    assert size is not None, f"{name} was checked when it was requested"
    return size


def _label(family: str) -> str:
    """``StandardNCADSA100v4Family`` → ``Standard NCADSA100v4 Family Cluster Dedicated vCPUs``."""
    series = family[len("Standard") :].removesuffix("Family").strip()
    return f"Standard {series} Family Cluster Dedicated vCPUs"


ROUTES = [
    Route("arm", "GET", "/subscriptions/{subscription}" + PROVIDER + "/locations/{location}/usages", list_usages, VERSIONS),
]
