"""Show what is running now, whose it is, since when, and what it costs an hour.

mlops costs --target prod
mlops costs --target prod --json
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlops.cli import stage
from mlops.cloud.errors import NotFound
from mlops.cloud.tags import MARK, OWNER, PIPELINE, RUN, TARGET
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.settings import Config

__all__ = ["Item", "costs", "list_items", "main"]


@dataclass(frozen=True)
class Item:
    """Something that costs money now."""

    name: str
    owner: str
    since: str
    """When it was created (ISO 8601, UTC, minutes); empty if the service doesn't say."""
    usd_per_hour: float | None
    """None without a configured price for its VM size."""


def costs(config: Config, workspace: Workspace) -> list[Item]:
    """List and return deployments and jobs of the workspace, also those of others. Prices are those of pipeline.toml, by VM size."""
    items = list_items(config, workspace)
    if not items:
        console.info("  nothing is running that costs money")
        return items
    rows = [(item.name, _price(item.usd_per_hour), item.since or "unknown", item.owner) for item in items]
    console.table(rows, ("what", "price", "since", "whose"))
    total = sum(item.usd_per_hour or 0.0 for item in items)
    unknown = sum(item.usd_per_hour is None for item in items)
    note = f", and {unknown} without a price in pipeline.toml" if unknown else ""
    console.info(f"  together {_price(total)}{note}")
    return items


def list_items(config: Config, workspace: Workspace) -> list[Item]:
    """Return everything that costs money now: deployments of all endpoints, whatever their traffic, and jobs that haven't ended."""
    prices = {config.compute.size.lower(): config.compute.price_per_hour_usd}
    prices[config.endpoint.instance_type.lower()] = config.endpoint.price_per_hour_usd
    items = []
    for endpoint in workspace.endpoints.list_all():
        try:
            deployments = workspace.endpoints.list_deployments(endpoint.name)
        except NotFound:
            continue  # deleted since it was listed
        for view in deployments:
            price = prices.get(view.sku.lower())
            share = endpoint.traffic.get(view.name, 0)
            items.append(
                Item(
                    f"deployment {view.name} of {endpoint.name} ({view.instances} × {view.sku}, {share} % of the traffic)",
                    _owner(view.tags),
                    view.created,
                    None if price is None else price * view.instances,
                )
            )
    for job in workspace.jobs.list_all_targets():
        if not job.is_over:
            since = job.identity[:16]
            items.append(Item(f"job {job.name} ({job.status})", _owner(job.tags), since, config.compute.price_per_hour_usd))
    return items


def _owner(tags: Mapping[str, str]) -> str:
    if tags.get(PIPELINE) != MARK:
        return "not of this pipeline"
    return f"{tags.get(OWNER, 'unknown')}, target {tags.get(TARGET, 'unknown')}, run {tags.get(RUN, 'unknown')}"


def _price(usd: float | None) -> str:
    return "price unknown" if usd is None else f"{usd:.2f} USD/h"


main = stage.command(costs)
