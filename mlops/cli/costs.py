"""Show what is running now, since when, whose it is, and what it costs per hour.

mlops costs --target prod
mlops costs --target prod --json
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mlops.cli import stage
from mlops.cloud.errors import NotFound
from mlops.cloud.nodes import list_nodes
from mlops.cloud.tags import MARK, OWNER, PIPELINE, RUN, TARGET
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.settings import Config

__all__ = ["Item", "costs", "list_items", "main"]

Prices = Mapping[str, float | None]
"""VM size in lower case → USD per hour for one machine; None if pipeline.toml has no price."""
WAITING_FOR_NODES = frozenset({"NotStarted", "Queued", "Scheduled"})
"""Statuses in which a job has no node yet."""


@dataclass(frozen=True)
class Item:
    """Something that costs money now."""

    name: str
    owner: str
    since: str
    """When it was created (ISO 8601, UTC, minutes); empty if the service doesn't say."""
    usd_per_hour: float | None
    """None if its VM size has no price in pipeline.toml, or if it is unknown what it runs on."""


def costs(config: Config, workspace: Workspace) -> list[Item]:
    """List and return what costs money now in the workspace, including what others run. Prices are those of pipeline.toml, by VM size."""
    items = list_items(config, workspace)
    if not items:
        console.info("  nothing that costs money is running")
        return items
    rows = [(item.name, _price(item.usd_per_hour), item.since or "unknown", item.owner) for item in items]
    console.table(rows, ("what", "price", "since", "whose"))
    total = sum(item.usd_per_hour or 0.0 for item in items)
    unknown = sum(item.usd_per_hour is None for item in items)
    note = f", and {unknown} without a known price" if unknown else ""
    console.info(f"  together {_price(total)}{note}")
    return items


def list_items(config: Config, workspace: Workspace) -> list[Item]:
    """Return everything that costs money now.

    That is the deployments of all endpoints, whatever their traffic, the jobs of this pipeline that haven't ended, and the nodes of
    clusters and compute instances without such a job. A job costs what the nodes cost that it or its steps are on; until it gets
    one, nothing.
    """
    prices = {config.compute.size.lower(): config.compute.price_per_hour_usd}
    prices[config.endpoint.instance_type.lower()] = config.endpoint.price_per_hour_usd
    return [*_list_deployments(workspace, prices), *_list_nodes(workspace, prices)]


def _list_deployments(workspace: Workspace, prices: Prices) -> Iterator[Item]:
    for endpoint in workspace.endpoints.list_all():
        try:
            deployments = workspace.endpoints.list_deployments(endpoint.name)
        except NotFound:
            continue  # deleted since it was listed
        for view in deployments:
            share = endpoint.traffic.get(view.name, 0)
            yield Item(
                f"deployment {view.name} of {endpoint.name} ({view.instances} × {view.sku}, {share} % of the traffic)",
                _owner(view.tags),
                view.created,
                _total(prices, {view.sku: view.instances}),
            )


def _list_nodes(workspace: Workspace, prices: Prices) -> Iterator[Item]:
    """List the jobs with the nodes that they are on, then the nodes that are left, so that no node counts twice."""
    computes = list_nodes(workspace.session)
    used: set[str] = set()
    for job in workspace.jobs.list_all_targets():
        if job.is_over:
            continue
        try:
            runs = {job.name, *(child.run for child in workspace.history.list_descendants(job.name))}
        except NotFound:
            continue  # deleted since it was listed
        used |= runs
        sizes = Counter(compute.size for compute in computes for run in compute.runs if run in runs)
        nodes = ", ".join(f"{count} × {size}" for size, count in sizes.items())
        # A job that runs on no node that we know is on serverless compute, or we may not list the nodes.
        is_known = bool(sizes) or job.status in WAITING_FOR_NODES
        price = _total(prices, sizes) if is_known else None
        yield Item(f"job {job.name} ({job.status}, {nodes or 'no node'})", _owner(job.tags), job.identity[:16], price)
    for compute in computes:
        count = sum(run not in used for run in compute.runs)
        if count:
            name = f"{compute.name} ({count} × {compute.size} without a job of this pipeline)"
            yield Item(name, _owner(compute.tags), compute.created, _total(prices, {compute.size: count}))


def _total(prices: Prices, sizes: Mapping[str, int]) -> float | None:
    """Return the price of some machines, VM size → number; None if one of the prices is unknown."""
    parts = [(prices.get(size.lower()), count) for size, count in sizes.items()]
    costs = [price * count for price, count in parts if price is not None]
    return sum(costs, start=0.0) if len(costs) == len(parts) else None


def _owner(tags: Mapping[str, str]) -> str:
    if tags.get(PIPELINE) != MARK:
        return "not of this pipeline"
    return f"{tags.get(OWNER, 'unknown')}, target {tags.get(TARGET, 'unknown')}, run {tags.get(RUN, 'unknown')}"


def _price(usd: float | None) -> str:
    return "price unknown" if usd is None else f"{usd:.2f} USD/h"


main = stage.command(costs)
