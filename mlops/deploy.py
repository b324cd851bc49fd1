"""Deploy the registered model, if the gate admits it, as a new deployment without traffic.

mlops deploy --target local
"""

from __future__ import annotations

import sys
from collections.abc import Mapping

from mlops.cli import guard, stage
from mlops.cloud.endpoint_views import FAILED_STATES, DeploymentView, EndpointView
from mlops.cloud.endpoints import expiry_tags
from mlops.cloud.standby import remove_standby
from mlops.cloud.tags import EXPIRES, SERVED_MODEL, fit
from mlops.cloud.traffic_change import nonzero
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import DeploymentFailed, MlopsError, TrafficError
from mlops.core.records import Deployed, Judged, Registered
from mlops.core.reuse import reuse_key
from mlops.core.run import Run
from mlops.core.settings import Config, EndpointConfig

__all__ = ["EXCLUDED", "deploy", "deployment_name", "main"]

EXCLUDED = {
    "endpoint.name": "the deployment is looked up at this endpoint",
    "endpoint.workspace_suffix": "part of the endpoint's name",
    "endpoint.ephemeral": "what teardown deletes",
    "endpoint.expires_after_hours": "when the reaper may delete the endpoint",
    "endpoint.deployment_prefix": "the beginning of the deployment's name",
    "endpoint.public_network_access": "a setting of the endpoint, which check_usable compares",
    "endpoint.price_per_hour_usd": "only for the cost estimate",
    "endpoint.deploy_timeout_minutes": "the time that deploy waits; only a healthy deployment is reused",
    "endpoint.allow_unknown_image": "only decides whether validate stops",
    "endpoint.keep_previous": "what promote does with the previous deployment",
    "endpoint.keep_previous_hours": "when the reaper may delete the previous deployment",
}
"""Settings that don't affect a deployment, and why."""


def deploy(config: Config, run: Run, workspace: Workspace) -> Deployed:
    """Create the endpoint if there is none, create the deployment at 0 %, and wait until it is healthy.

    Raises:
        NotPromoted: the gate does not admit the candidate.
        DeploymentFailed: with the class of the failure and the containers' logs. What was created here is deleted, traffic is as before.
        TrafficError: traffic is not what it was before.
    """
    judged, registered = guard.require_admission(run, config, workspace), run.read(Registered)
    settings = config.endpoint
    endpoint, created = _find_or_create_endpoint(config, workspace)
    before = dict(endpoint.traffic)
    name = deployment_name(settings, registered.model, registered.identity)
    try:
        deployment, reused = _find_or_create_deployment(workspace, settings, name, registered)
        after = workspace.endpoints.get(settings.name)
        _check_traffic(before, after.traffic)
    except BaseException as problem:
        # Also on Ctrl-C: a deployment is billed from the moment it is requested.
        outcome = _roll_back_deployment(workspace, endpoint, name, delete_endpoint=created)
        if isinstance(problem, MlopsError):
            raise type(problem)(f"{problem.what}\n{outcome}", problem.fix) from problem
        console.warning(outcome)
        raise
    console.info(f"  {deployment.name} is healthy and takes {after.traffic.get(name, 0)} % of the traffic")
    console.output("endpoint", settings.name)
    record = run.find(Deployed)
    identities = (deployment.identity, deployment.creator, endpoint.identity)
    if reused and record is not None and (record.identity, record.creator, record.endpoint_identity) == identities:
        console.info("  nothing to do")
        return record
    return run.write(
        Deployed(
            inputs={"gate": judged.digest(), "register": registered.digest()},
            endpoint=settings.name,
            endpoint_identity=endpoint.identity,
            endpoint_created=created,
            scoring_uri=after.scoring_uri,
            deployment=deployment.name,
            identity=deployment.identity,
            creator=deployment.creator,
            model=deployment.model,
            sku=deployment.sku,
            instances=deployment.instances,
            traffic_before=before,
            traffic_now=dict(after.traffic),
            reused=reused,
        )
    )


def deployment_name(settings: EndpointConfig, model: str, model_identity: str) -> str:
    """Return ``{prefix}-{digest}``, at most 32 characters.

    The same model with the same settings always gets the same name, so that a run after a crash finds what the crashed one had started.
    """
    key = reuse_key({"endpoint": settings}, EXCLUDED, model=model.lower(), model_identity=model_identity)
    return f"{settings.deployment_prefix[:21]}-{key[:10]}"


def _find_or_create_endpoint(config: Config, workspace: Workspace) -> tuple[EndpointView, bool]:
    """Return the endpoint, and whether it was created here, or has only been reserved by validate."""
    endpoint = _delete_if_never_created(workspace, workspace.endpoints.find(config.endpoint.name))
    if endpoint is None:
        return workspace.endpoints.create(config.endpoint, {}), True
    workspace.check_endpoint(endpoint.name, endpoint.tags)
    if endpoint.state in FAILED_STATES:
        # It serves as before, but Azure reports it as Failed until an update succeeds.
        console.info(f"  endpoint {endpoint.name} is {endpoint.state}: its last update failed; updating it again unchanged")
        endpoint = workspace.endpoints.set_traffic(endpoint.name, None)
    usable = workspace.endpoints.check_usable(endpoint, config.endpoint)
    if (expiry := expiry_tags(config.endpoint)) and EXPIRES in usable.tags:
        # A leftover of an earlier run, which the reaper must not delete while this run uses it.
        usable = workspace.endpoints.set_traffic(usable.name, None, tags=expiry)
    return usable, workspace.endpoints.is_reserved(usable)


def _delete_if_never_created(workspace: Workspace, endpoint: EndpointView | None) -> EndpointView | None:
    """Delete our endpoint if its creation failed, since Azure can't repair it and no later run could deploy. Return what is left."""
    if endpoint is None or endpoint.state not in FAILED_STATES or not workspace.session.owns(endpoint.tags):
        return endpoint
    if workspace.endpoints.list_deployments(endpoint.name):
        return endpoint
    console.info(f"  endpoint {endpoint.name} is {endpoint.state} and has no deployment: an earlier creation failed; creating it again")
    workspace.endpoints.delete(endpoint.name)
    return None


def _find_or_create_deployment(
    workspace: Workspace, settings: EndpointConfig, name: str, registered: Registered
) -> tuple[DeploymentView, bool]:
    """Return the healthy deployment, and whether it already existed or was being created."""
    deployment = workspace.endpoints.find_deployment(settings.name, name)
    is_ours = deployment is None or (
        workspace.session.owns(deployment.tags)
        and deployment.tags.get(SERVED_MODEL) == fit(registered.model)
        and workspace.session.trusts(deployment.creator)
    )
    if not is_ours:
        raise DeploymentFailed(
            f"Endpoint {settings.name} has a deployment {name} that this pipeline did not create for this model.",
            "set another endpoint.deployment_prefix in pipeline.toml",
        )
    if deployment is not None and deployment.state in FAILED_STATES:
        console.info(f"  {name} is {deployment.state} from an earlier run; creating it again")
        workspace.endpoints.delete_deployment(settings.name, name)
        deployment = None
    if deployment is not None:
        return workspace.endpoints.wait_until_healthy(settings, name), True
    remove_standby(workspace, workspace.endpoints.get(settings.name))
    return workspace.endpoints.deploy(settings, name, registered.model, {SERVED_MODEL: fit(registered.model)}), False


def _check_traffic(before: Mapping[str, int], after: Mapping[str, int]) -> None:
    old, new = nonzero(before), nonzero(after)
    if old != new:
        raise TrafficError(
            f"Traffic was {old} before the deployment and is {new} now; somebody else is changing it at the same time.",
            "look at the endpoint's page in the studio, then run `mlops deploy` again",
        )


def _roll_back_deployment(workspace: Workspace, before: EndpointView, name: str, *, delete_endpoint: bool) -> str:
    """Delete what this run has created, and describe the outcome.

    Args:
        workspace: where the endpoint is.
        before: the endpoint before the deployment.
        name: of the deployment.
        delete_endpoint: whether this run has created the endpoint.
    """
    outcome = []
    try:
        deployment = workspace.endpoints.find_deployment(before.name, name)
        if deployment is not None and workspace.session.owns(deployment.tags) and not before.traffic.get(name):
            workspace.endpoints.delete_deployment(before.name, name)
            outcome.append(f"Deployment {name} was deleted.")
        now = workspace.endpoints.find(before.name)
        if not delete_endpoint:
            _check_traffic(before.traffic, now.traffic if now is not None else {})
            outcome.append(f"The traffic of {before.name} is unchanged: {dict(before.traffic) or 'none'}.")
        elif now is not None and now.identity == before.identity:
            if now.traffic.keys() - {name}:
                outcome.append(f"Endpoint {before.name} was kept: another run has deployed to it in the meantime.")
            else:
                workspace.endpoints.delete(before.name)
                outcome.append(f"Endpoint {before.name}, which this run created, was deleted.")
    except MlopsError as second:
        outcome.append(f"Cleaning up failed, so something may still cost money: {second.in_one_line}")
    return " ".join(outcome)


main = stage.command(deploy, needs=(Judged, Registered))


if __name__ == "__main__":
    sys.exit(main())
