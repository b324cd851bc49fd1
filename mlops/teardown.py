"""Delete what this pipeline created and nobody needs any longer, and nothing else; list what remains and what it costs.

mlops teardown --target local
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass, field

from mlops.cli import stage
from mlops.cloud.endpoint_views import DeploymentView, EndpointView
from mlops.cloud.errors import NotFound, find
from mlops.cloud.tags import PREVIOUS, PREVIOUS_ID, RUN
from mlops.cloud.traffic_change import read_change
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import MlopsError, TeardownIncomplete
from mlops.core.records import TornDown
from mlops.core.run import Run
from mlops.core.settings import Config

__all__ = ["main", "teardown"]


@dataclass
class TeardownLog:
    """Which resources were deleted, which were left alone, and which could not be deleted."""

    deleted: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


def teardown(config: Config, run: Run, workspace: Workspace, yes_delete_production: bool = False) -> TornDown:
    """Cancel this run's jobs; delete the endpoint of an ephemeral target, otherwise only our deployments without traffic.

    The deployment that the last promotion or rollback kept stays, and so do registered models, data and compute: they cost nothing while
    they are idle. With ``yes_delete_production``, the endpoint of a permanent target is also deleted, and no longer answers its users.
    Resources that vanish in the meantime count as deleted.

    Raises:
        TeardownIncomplete: something that should be deleted still exists.
    """
    log = TeardownLog()
    _cancel_jobs(workspace, log, attachable=console.in_github() and not config.endpoint.ephemeral)
    endpoint = workspace.endpoints.find(config.endpoint.name)
    if endpoint is None:
        console.info(f"  endpoint {config.endpoint.name} does not exist")
    elif config.endpoint.ephemeral or yes_delete_production:
        _delete_endpoint(workspace, endpoint, log)
    else:
        _delete_idle_deployments(workspace, endpoint, log)
    for resource, reason in log.refused.items():
        console.info(f"  left alone: {resource}: {reason}")
    remaining = _list_remaining(config, workspace)
    console.info("  remaining:" if remaining else "  nothing remains that costs money")
    for line in remaining:
        console.info(f"    {line}")
    if log.failed:
        raise TeardownIncomplete(
            "Not deleted, and possibly costing money: " + "; ".join(f"{resource}: {reason}" for resource, reason in log.failed.items()),
            "run `mlops teardown` again, or delete it in the studio",
        )
    return run.write(TornDown(deleted=tuple(log.deleted), refused=log.refused, remaining=tuple(remaining)))


def _cancel_jobs(workspace: Workspace, log: TeardownLog, *, attachable: bool) -> None:
    """Cancel the jobs of this run.

    Args:
        workspace: where they run.
        log: what happened to each; is added to.
        attachable: leave jobs alone that a re-run can attach to. A job whose runner died, or lost contact with it, continues and costs
            money: re-running the failed jobs of the workflow attaches to it. If nobody does, the reaper cancels it.
    """
    for job in workspace.jobs.list_owned():
        if job.is_over:
            continue
        resource = f"job {job.name}"
        if not workspace.session.is_from_this_run(job.tags):
            log.refused[resource] = f"belongs to another run of the pipeline ({job.tags.get(RUN, 'unknown')})"
            continue
        if attachable:
            log.refused[resource] = "continues: re-running the failed jobs attaches to it; otherwise schedule.yml cancels it"
            continue
        try:
            workspace.jobs.cancel(job.name)
            log.deleted.append(f"{resource} (canceled)")
            console.info(f"  canceled {resource}")
        except NotFound:
            continue
        except MlopsError as problem:
            log.failed[resource] = problem.in_one_line


def _delete_endpoint(workspace: Workspace, endpoint: EndpointView, log: TeardownLog) -> None:
    resource = f"endpoint {endpoint.name}"
    reason = ""
    if not workspace.session.owns(endpoint.tags):
        reason = "was not created by this pipeline for this target, according to its tags"
    elif foreign := [view.name for view in _list_deployments(workspace, endpoint.name) if not workspace.session.owns(view.tags)]:
        reason = f"has deployments that this pipeline did not create: {', '.join(sorted(foreign))}"
    if reason:
        log.refused[resource] = reason
        _delete_idle_deployments(workspace, endpoint, log)
        return
    try:
        workspace.endpoints.delete(endpoint.name)
        if workspace.endpoints.find(endpoint.name) is not None:
            log.failed[resource] = "the service reports it deleted, but still lists it"
        else:
            log.deleted.append(resource)
    except MlopsError as problem:
        log.failed[resource] = problem.in_one_line


def _delete_idle_deployments(workspace: Workspace, endpoint: EndpointView, log: TeardownLog) -> None:
    kept = (endpoint.tags.get(PREVIOUS), endpoint.tags.get(PREVIOUS_ID, ""))
    # Finishing or undoing an interrupted change needs both deployments.
    change = read_change(endpoint)
    needed = {*change.was, change.to} if change is not None else set()
    for deployment in _list_deployments(workspace, endpoint.name):
        resource = f"deployment {deployment.name} of {endpoint.name}"
        if not workspace.session.owns(deployment.tags):
            log.refused[resource] = "was not created by this pipeline for this target"
        elif share := endpoint.traffic.get(deployment.name):
            log.refused[resource] = f"takes {share} % of the traffic"
        elif share := endpoint.mirror.get(deployment.name):
            log.refused[resource] = f"gets a copy of {share} % of the traffic"
        elif deployment.name in needed:
            log.refused[resource] = "is part of an unfinished traffic change: run `mlops recover`"
        elif (deployment.name, deployment.identity) == kept:
            log.refused[resource] = "is kept for rollback"
        else:
            try:
                workspace.endpoints.delete_deployment(endpoint.name, deployment.name)
                log.deleted.append(resource)
            except MlopsError as problem:
                log.failed[resource] = problem.in_one_line


def _list_deployments(workspace: Workspace, endpoint: str) -> list[DeploymentView]:
    """List an endpoint's deployments; none if it has vanished since it was read, which a single 404 does not show.

    Otherwise others' deployments would be overlooked, and deleted with the endpoint.
    """
    deployments = find(lambda: workspace.endpoints.list_deployments(endpoint), lambda: workspace.endpoints.find(endpoint) is not None)
    return deployments or []


def _list_remaining(config: Config, workspace: Workspace) -> list[str]:
    """List what still exists and is ours or has a configured name, with what it costs."""
    lines = []
    for endpoint in workspace.endpoints.list_all():
        if not (workspace.session.owns(endpoint.tags) or endpoint.name == config.endpoint.name):
            continue
        deployments = _list_deployments(workspace, endpoint.name)
        lines += [
            f"endpoint {endpoint.name}: {deployment.name}, {deployment.instances} × {deployment.sku} at"
            f" {endpoint.traffic.get(deployment.name, 0)} %{_describe_price(config.endpoint.price_per_hour_usd, deployment.instances)}"
            for deployment in deployments
        ] or [f"endpoint {endpoint.name}: no deployment, costs nothing"]
    lines += [f"job {job.name}: {job.status}, billed as its compute" for job in workspace.jobs.list_owned() if not job.is_over]
    if (cluster := workspace.compute.find(config.compute.name)) is not None:
        nodes = config.compute.min_instances
        price = _describe_price(config.compute.price_per_hour_usd, nodes)
        idle = f"keeps {nodes} nodes{price}" if nodes else "costs nothing while it is idle"
        owner = ", created outside this pipeline" if cluster.foreign else ""
        lines.append(f"compute {cluster.name}: {cluster.size}, {idle}{owner}")
    return lines


def _describe_price(per_hour: float | None, count: int) -> str:
    return f", ${per_hour * count:.2f} an hour" if per_hour is not None else ", billed by the hour"


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--yes-delete-production",
        action="store_true",
        help="also delete the endpoint of a target that is not ephemeral, with all of its deployments",
    )


main = stage.command(teardown, add_options=_add_options)


if __name__ == "__main__":
    sys.exit(main())
