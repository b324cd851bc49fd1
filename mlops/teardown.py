"""Delete what this pipeline made and nobody needs any more, and nothing else; say what remains and what it costs.

python -m mlops.teardown --target local
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from mlops.cli import stage
from mlops.cloud.tags import PREVIOUS, RUN
from mlops.core import console
from mlops.core.config import Config
from mlops.core.errors import MlopsError, TeardownIncomplete
from mlops.core.records import TornDown
from mlops.core.run import Run

if TYPE_CHECKING:
    from mlops.cloud.endpoints import EndpointView
    from mlops.cloud.workspace import Workspace

__all__ = ["main", "teardown"]


class _Account:
    """What has been deleted, what was refused, what failed."""

    def __init__(self) -> None:
        self.deleted: list[str] = []
        self.refused: dict[str, str] = {}
        self.failed: dict[str, str] = {}


def teardown(config: Config, run: Run, workspace: Workspace) -> TornDown:
    """Cancel this run's jobs; delete the endpoint of an ephemeral target, elsewhere only our deployments without traffic.

    The deployment that the last promotion kept for rollback stays, and so do registered models, data and compute: they cost nothing
    while they are idle.

    Raises:
        TeardownIncomplete: something that should be gone is still there.
    """
    account = _Account()
    _cancel_jobs(workspace, account, attachable=console.in_github() and not config.endpoint.ephemeral)
    endpoint = workspace.endpoints.find(config.endpoint.name)
    if endpoint is None:
        console.info(f"  endpoint {config.endpoint.name}: not there")
    elif config.endpoint.ephemeral:
        _delete_endpoint(workspace, endpoint, account)
    else:
        _delete_idle_deployments(workspace, endpoint, account)
    for what, why in account.refused.items():
        console.info(f"  left alone: {what}: {why}")
    remaining = _remaining(config, workspace)
    console.info("  remains:" if remaining else "  nothing remains that costs money")
    for line in remaining:
        console.info(f"    {line}")
    if account.failed:
        raise TeardownIncomplete(
            "Still there, and perhaps costing money: " + "; ".join(f"{what}: {why}" for what, why in account.failed.items()),
            "run `mlops teardown` again, or delete it in the studio",
        )
    return run.write(TornDown(deleted=tuple(account.deleted), refused=account.refused, remaining=tuple(remaining)))


def _cancel_jobs(workspace: Workspace, account: _Account, *, attachable: bool) -> None:
    """End jobs of this very run.

    Args:
        attachable: leave them alone. A job whose runner was lost, or could not see it any more, goes on and is paid for: whoever runs the
            failed jobs of the workflow again attaches to it. The reaper ends it if nobody does.
    """
    for job in workspace.jobs.list_owned():
        if job.over:
            continue
        what = f"job {job.name}"
        if not workspace.session.is_from_this_run(job.tags):
            account.refused[what] = f"belongs to another run of the pipeline ({job.tags.get(RUN, 'unknown')})"
            continue
        if attachable:
            account.refused[what] = "goes on: a re-run of the failed jobs attaches to it; if there is none, schedule.yml ends it"
            continue
        try:
            workspace.jobs.cancel(job.name)
            account.deleted.append(f"{what} (cancelled)")
            console.info(f"  cancelled {what}")
        except MlopsError as problem:
            account.failed[what] = problem.what


def _delete_endpoint(workspace: Workspace, endpoint: EndpointView, account: _Account) -> None:
    what = f"endpoint {endpoint.name}"
    if not workspace.session.owns(endpoint.tags):
        account.refused[what] = "was not made by this pipeline for this target (its tags say otherwise)"
        _delete_idle_deployments(workspace, endpoint, account)
        return
    foreign = [found.name for found in workspace.endpoints.deployments(endpoint.name) if not workspace.session.owns(found.tags)]
    if foreign:
        account.refused[what] = f"carries deployments that this pipeline did not make: {', '.join(sorted(foreign))}"
        _delete_idle_deployments(workspace, endpoint, account)
        return
    try:
        workspace.endpoints.delete(endpoint.name)
        if workspace.endpoints.find(endpoint.name) is not None:
            account.failed[what] = "the service says that it is deleted, and still lists it"
        else:
            account.deleted.append(what)
    except MlopsError as problem:
        account.failed[what] = problem.what


def _delete_idle_deployments(workspace: Workspace, endpoint: EndpointView, account: _Account) -> None:

    for found in workspace.endpoints.deployments(endpoint.name):
        what = f"deployment {found.name} of {endpoint.name}"
        if not workspace.session.owns(found.tags):
            account.refused[what] = "was not made by this pipeline for this target"
        elif share := endpoint.traffic.get(found.name):
            account.refused[what] = f"takes {share} % of the traffic"
        elif found.name == endpoint.tags.get(PREVIOUS):
            account.refused[what] = "is kept for rollback"
        else:
            try:
                workspace.endpoints.delete_deployment(endpoint.name, found.name)
                account.deleted.append(what)
            except MlopsError as problem:
                account.failed[what] = problem.what


def _remaining(config: Config, workspace: Workspace) -> list[str]:
    """What is still there and ours, or of the configured names, with what it costs."""
    lines = []
    for endpoint in workspace.endpoints.all():
        if not (workspace.session.owns(endpoint.tags) or endpoint.name == config.endpoint.name):
            continue
        deployments = workspace.endpoints.deployments(endpoint.name)
        lines += [
            f"endpoint {endpoint.name}: {found.name}, {found.instances} × {found.sku} at {endpoint.traffic.get(found.name, 0)} %"
            f"{_price(config.endpoint.price_per_hour_usd, found.instances)}"
            for found in deployments
        ] or [f"endpoint {endpoint.name}: no deployment, costs nothing"]
    lines += [f"job {job.name}: {job.status}, costs what its compute costs" for job in workspace.jobs.list_owned() if not job.over]
    if (cluster := workspace.compute.find(config.compute.name)) is not None:
        nodes = config.compute.min_instances
        idle = f"keeps {nodes} nodes{_price(config.compute.price_per_hour_usd, nodes)}" if nodes else "costs nothing while it is idle"
        lines.append(f"compute {cluster.name}: {cluster.size}, {idle}")
    return lines


def _price(per_hour: float | None, count: int) -> str:
    return f", ${per_hour * count:.2f} an hour" if per_hour is not None else ", costs by the hour"


main = stage.command(teardown)


if __name__ == "__main__":
    sys.exit(main())
