"""The nodes of the workspace's clusters and compute instances, which cost money by the hour whatever runs on them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mlops.cloud.entities import as_text
from mlops.cloud.errors import Forbidden, NotFound, translate_errors
from mlops.cloud.session import Session

__all__ = ["Nodes", "list_nodes"]


@dataclass(frozen=True, kw_only=True)
class Nodes:
    """The nodes that a compute has now."""

    name: str
    """Kind and name of the compute, e.g. ``cluster gpus``."""
    size: str
    """VM size, as the service spells it."""
    runs: tuple[str, ...]
    """For each node, the run of the job or pipeline step on it; empty for none, or if we lack the permission to see it."""
    tags: Mapping[str, str] = field(default_factory=dict)
    created: str = ""
    """When the compute was created (ISO 8601, UTC, to the minute)."""


def list_nodes(session: Session) -> list[Nodes]:
    """Return the nodes of each compute that has any, whoever created it. A cluster's minimum of nodes counts even before they exist.

    If our identity may not list the nodes of a cluster, only its minimum counts.
    """
    with translate_errors("listing computes"):
        computes = list(session.ml.compute.list())
    nodes = []
    for compute in computes:
        kind = as_text(compute.type).lower()
        if kind == "amlcompute":
            name, runs = f"cluster {compute.name}", _runs(session, compute)
        elif kind == "computeinstance":
            name, runs = f"compute instance {compute.name}", ("",) if as_text(compute.state).lower() == "running" else ()
        else:
            continue
        if runs:
            created = as_text(compute.created_on)[:16]
            nodes.append(Nodes(name=name, size=as_text(compute.size), runs=runs, tags=dict(compute.tags or {}), created=created))
    return nodes


def _runs(session: Session, cluster: Any) -> tuple[str, ...]:
    try:
        with translate_errors(f"listing the nodes of {cluster.name}"):
            # The SDK sets the attributes of a node by their names on the wire.
            nodes = [node for node in session.ml.compute.list_nodes(cluster.name) if as_text(node.nodeState).lower() != "preempted"]
    except NotFound:
        return ()
    except Forbidden:
        nodes = []
    runs = tuple(as_text(node.runId) for node in nodes)
    return runs + ("",) * (int(cluster.min_instances or 0) - len(runs))
