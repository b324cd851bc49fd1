"""Put the registered model on the endpoint as a new deployment that takes no traffic yet. Only what the gate lets through.

python -m mlops.deploy --target local
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mlops.cli import stage
from mlops.cloud.tags import EXPIRES, SERVED_MODEL
from mlops.core import console, guard
from mlops.core.config import Config, EndpointConfig
from mlops.core.errors import DeploymentFailed, MlopsError, TrafficError
from mlops.core.records import Deployed, Judged, Registered
from mlops.core.run import Run

if TYPE_CHECKING:
    from mlops.cloud.endpoints import DeploymentView, EndpointView
    from mlops.cloud.workspace import Workspace

__all__ = ["deploy", "deployment_name", "main"]


def deploy(config: Config, run: Run, workspace: Workspace) -> Deployed:
    """Make the endpoint if there is none, make the deployment at 0 %, wait until it is healthy.

    Raises:
        NotPromoted: the gate does not let the candidate through.
        DeploymentFailed: with the class of the failure and the containers' logs. What was made here is gone again, traffic is as it was.
        TrafficError: traffic is not what it was before.
    """
    judged, registered = guard.admitted(run, config), run.read(Registered)
    wanted = config.endpoint
    endpoint, created = _endpoint(config, workspace)
    before = dict(endpoint.traffic)
    name = deployment_name(wanted, registered.model)
    try:
        deployment, reused = _deployment(workspace, wanted, name, registered)
        after = workspace.endpoints.get(wanted.name)
        _same_traffic(before, after.traffic)
    except BaseException as problem:
        # Also on Ctrl-C: a deployment bills from the moment it is asked for.
        told = _undone(workspace, wanted, name, before, delete_endpoint=created)
        if isinstance(problem, MlopsError):
            raise type(problem)(f"{problem.what}\n{told}", problem.fix) from problem
        console.warning(told)
        raise
    console.info(f"  {deployment.name} is healthy and takes {after.traffic.get(name, 0)} % of the traffic")
    console.output("endpoint", wanted.name)
    record = run.find(Deployed)
    if reused and record is not None and (record.deployment, record.model) == (deployment.name, deployment.model):
        console.info("  nothing to do")
        return record
    return run.write(
        Deployed(
            inputs={"gate": judged.digest(), "register": registered.digest()},
            endpoint=wanted.name,
            endpoint_created=created,
            scoring_uri=after.scoring_uri,
            deployment=deployment.name,
            model=deployment.model,
            sku=deployment.sku,
            instances=deployment.instances,
            traffic_before=before,
            traffic_now=dict(after.traffic),
            reused=reused,
        )
    )


def deployment_name(wanted: EndpointConfig, model: str) -> str:
    """``{prefix}-{digest}``: the same model with the same settings always gets the same name, so that a run after a crash finds what the
    crashed one had begun. At most 32 characters."""
    settings = (wanted.instance_type, wanted.instance_count, wanted.probe_initial_delay_s, wanted.request_timeout_ms)
    digest = hashlib.sha256(repr((model.lower(), *settings)).encode()).hexdigest()[:10]
    return f"{wanted.deployment_prefix[:21]}-{digest}"


def _endpoint(config: Config, workspace: Workspace) -> tuple[EndpointView, bool]:

    found = workspace.endpoints.find(config.endpoint.name)
    if found is not None:
        workspace.check_endpoint(found.name, found.tags)
        usable = workspace.endpoints.usable(found)
        if (expiry := _expiry(config)) and EXPIRES in usable.tags:
            # It was left behind, and the reaper must not take it from under this run.
            usable = workspace.endpoints.set_traffic(usable.name, usable.traffic, tags={EXPIRES: expiry}, may_be_none=True)
        return usable, False
    expiry = _expiry(config)
    return workspace.endpoints.create(config.endpoint, {EXPIRES: expiry} if expiry else {}), True


def _expiry(config: Config) -> str:
    """When an endpoint that is deployed to now may be taken by the reaper (ISO 8601, UTC); empty for never."""
    hours = config.endpoint.expires_after_hours
    return "" if hours is None else (datetime.now(UTC) + timedelta(hours=hours)).isoformat(timespec="seconds")


def _deployment(workspace: Workspace, wanted: EndpointConfig, name: str, registered: Registered) -> tuple[DeploymentView, bool]:
    """The healthy deployment, and whether it was there (or on its way) already."""
    found = workspace.endpoints.deployment(wanted.name, name)
    if found is not None and not (workspace.session.owns(found.tags) and found.tags.get(SERVED_MODEL) == registered.model):
        raise DeploymentFailed(
            f"Endpoint {wanted.name} has a deployment {name} that is not ours.", "set another endpoint.deployment_prefix in pipeline.toml"
        )
    if found is not None and found.state in ("Failed", "Canceled"):
        console.info(f"  {name} is {found.state} from an earlier run; making it anew")
        workspace.endpoints.delete_deployment(wanted.name, name)
        found = None
    if found is not None:
        return workspace.endpoints.healthy(wanted, name), True
    return workspace.endpoints.deploy(wanted, name, registered.model, {SERVED_MODEL: registered.model}), False


def _same_traffic(before: Mapping[str, int], after: Mapping[str, int]) -> None:
    def moving(traffic: Mapping[str, int]) -> dict[str, int]:
        return {name: share for name, share in traffic.items() if share}

    if moving(before) != moving(after):
        raise TrafficError(
            f"Traffic was {moving(before)} before the deployment and is {moving(after)} now; somebody else changes it at the same time.",
            "look at the endpoint's page in the studio, then run `mlops deploy` again",
        )


def _undone(workspace: Workspace, wanted: EndpointConfig, name: str, before: Mapping[str, int], *, delete_endpoint: bool) -> str:
    """Take away what this run has made; says what became of it."""
    told = []
    try:
        found = workspace.endpoints.deployment(wanted.name, name)
        if found is not None and workspace.session.owns(found.tags) and not before.get(name):
            workspace.endpoints.delete_deployment(wanted.name, name)
            told.append(f"Deployment {name} was deleted again.")
        if delete_endpoint:
            workspace.endpoints.delete(wanted.name)
            told.append(f"Endpoint {wanted.name}, made in this run, was deleted again.")
        else:
            now = workspace.endpoints.get(wanted.name).traffic
            _same_traffic(before, now)
            told.append(f"Traffic of {wanted.name} is as it was: {before or 'none'}.")
    except MlopsError as second:
        told.append(f"Cleaning up failed, something may still cost money: {second.what} {second.fix}")
    return " ".join(told)


main = stage.command(deploy, needs=(Judged, Registered))


if __name__ == "__main__":
    sys.exit(main())
