"""Move the traffic back to the deployment that was live before the last promotion, or to another one.

mlops rollback --target prod
mlops rollback --target prod --to DEPLOYMENT
mlops rollback --target prod --to MODEL:VERSION
"""

from __future__ import annotations

import argparse
import hashlib
import os
from typing import Any

from mlops.cli import stage
from mlops.cloud import traffic
from mlops.cloud.assets import RegisteredModel
from mlops.cloud.endpoint_views import FAILED_STATES, DeploymentView, EndpointView
from mlops.cloud.errors import NotFound
from mlops.cloud.invoke import build_payload
from mlops.cloud.tags import (
    OVERRIDE,
    PREVIOUS,
    PREVIOUS_ID,
    PREVIOUS_MODEL,
    ROLLED_BACK,
    ROLLED_BACK_BY,
    SERVED_MODEL,
    TARGET,
    VERDICT,
    fit,
    shorten_model,
)
from mlops.cloud.traffic_change import identify, nonzero
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import TrafficError
from mlops.core.judgement import Verdict
from mlops.core.settings import Config

__all__ = ["main", "rollback"]

TO = "MLOPS_ROLLBACK_TO"
"""Environment variable with which workflows choose the deployment or model."""
QUESTIONS = ("Are you there?", "What is two plus two?", "Name a color, please.")


def rollback(config: Config, workspace: Workspace, to: str = "") -> dict[str, Any]:
    """Move the traffic back once the deployment has answered. The replaced one is kept at 0 % as the standby.

    If the deployment is gone, its model is deployed again first. A deployment gets traffic only if this target created it, and a model is
    deployed only if the gate admitted it for this target, by Azure's record of who created it and by its tags.

    Without ``to`` only the last promotion can be undone, and only once: going back twice would go forward to the bad model. To undo a
    rollback, name the deployment.

    Returns:
        The endpoint and its traffic.

    Raises:
        NotPromoted: the endpoint is another target's.
        TrafficError: there is nothing to go back to, or it does not answer; the traffic is unchanged.
        DeploymentFailed: the model could not be deployed again; the traffic is unchanged.
    """
    endpoint = workspace.endpoints.get(config.endpoint.name)
    workspace.check_endpoint(endpoint.name, endpoint.tags)
    endpoint = traffic.recover(config, workspace, endpoint)
    live = nonzero(endpoint.traffic)
    unchanged = {"endpoint": endpoint.name, "traffic": endpoint.traffic}
    if console.in_github() and endpoint.tags.get(ROLLED_BACK_BY) == traffic.current_run(workspace):
        console.info(f"  nothing to do: this run has already rolled {endpoint.name} back; its traffic is {live}")
        return unchanged
    if not to and (replaced := endpoint.tags.get(ROLLED_BACK)):
        console.notice(
            f"Nothing to do: {endpoint.name} has already been rolled back from {replaced}; its traffic is {live}."
            f" To undo that: `mlops rollback --target {config.target} --to {replaced}`."
        )
        return unchanged
    deployment = _find_deployment(workspace, endpoint, to)
    if deployment is not None and live == {deployment.name: 100}:
        console.info(f"  nothing to do: {deployment.name} takes all of the traffic of {endpoint.name}")
        return unchanged
    created = deployment is None
    if deployment is None:
        deployment = _deploy_model(config, workspace, _find_model(workspace, endpoint, to))
    try:
        # It may be broken too, so it has to answer before it takes traffic.
        _check_answers(config, workspace, endpoint, deployment.name)
    except BaseException:
        if created:
            workspace.endpoints.delete_deployment(endpoint.name, deployment.name)
        raise
    replaced = max(live, key=lambda name: live[name], default="")
    message = _switch(config, workspace, endpoint, deployment, replaced)
    console.notice(message)
    console.summary(f"## Rolled back\n\n{message}")
    return {"endpoint": endpoint.name, "traffic": workspace.endpoints.get(endpoint.name).traffic}


def _find_deployment(workspace: Workspace, endpoint: EndpointView, to: str) -> DeploymentView | None:
    """Return the deployment to go back to, or None if there is none, so that its model has to be deployed again."""
    if not to:
        deployment = _find_previous(workspace, endpoint)
    elif ":" in to or "/" in to or (deployment := workspace.endpoints.find_deployment(endpoint.name, to)) is None:
        deployment = _find_server(workspace, endpoint, _find_model(workspace, endpoint, to))
    elif reason := _reason_against_deployment(workspace, deployment):
        raise TrafficError(
            f"Endpoint {endpoint.name} can't be rolled back to {deployment.name}: {reason}. {_unchanged_message(endpoint)}",
            f"name another one: `mlops rollback --to …` ({_choices(endpoint)}); or, if you trust this one, move the traffic in the studio",
        )
    if deployment is not None and deployment.state != "Succeeded":
        raise TrafficError(
            f"Endpoint {endpoint.name} can't be rolled back: deployment {deployment.name} is {deployment.state}."
            f" {_unchanged_message(endpoint)}",
            f"look at its log in the studio, or name another one: `mlops rollback --to …` ({_choices(endpoint)})",
        )
    return deployment


def _find_previous(workspace: Workspace, endpoint: EndpointView) -> DeploymentView | None:
    """Return the deployment that the endpoint's tags name, unless another one has its name now, or it is not of this target."""
    name, model = endpoint.tags.get(PREVIOUS, ""), endpoint.tags.get(PREVIOUS_MODEL, "")
    previous = workspace.endpoints.find_deployment(endpoint.name, name) if name else None
    if previous is None:
        return None
    if previous.identity != endpoint.tags.get(PREVIOUS_ID, ""):
        console.warning(f"Deployment {name} was deleted and created again, so it is untested and gets no traffic.")
    elif reason := _reason_against_deployment(workspace, previous):
        console.warning(f"Deployment {name} gets no traffic: {reason}.")
    elif model and shorten_model(model).lower() != shorten_model(previous.model).lower():
        console.warning(f"Deployment {name} gets no traffic: it should serve {model}, but serves {previous.model}.")
    else:
        return previous
    return None


def _find_server(workspace: Workspace, endpoint: EndpointView, model: str) -> DeploymentView | None:
    """Return a healthy deployment of this target that serves a model; one that takes traffic already, if there is any."""
    views = sorted(workspace.endpoints.list_deployments(endpoint.name), key=lambda view: -endpoint.traffic.get(view.name, 0))
    serving = (view for view in views if view.model.lower() == model.lower() and view.state == "Succeeded")
    return next((view for view in serving if not _reason_against_deployment(workspace, view)), None)


def _reason_against_deployment(workspace: Workspace, deployment: DeploymentView) -> str:
    """Return why a deployment must not get traffic; empty if this target created it."""
    if not workspace.session.trusts(deployment.creator):
        return f"it was created by {deployment.creator or 'an unknown identity'}, which this target does not trust"
    return "" if workspace.session.owns(deployment.tags) else "this pipeline did not create it for this target"


def _find_model(workspace: Workspace, endpoint: EndpointView, to: str) -> str:
    """Return the full id of the model to go back to.

    Raises:
        TrafficError: none is recorded, it does not exist, or the gate did not admit it for this target.
    """
    reference = to or endpoint.tags.get(PREVIOUS_MODEL, "")
    problem = "it does not record what was live before"
    if reference:
        name, _, version = reference.rpartition("/models/")[2].replace("/versions/", ":").partition(":")
        problem = f"it has no deployment {to}" if to and not version else f"model {reference} does not exist"
        try:
            model = workspace.assets.get_model(name, version) if version else None
        except NotFound:
            model = None
        if model is not None and not (reason := _reason_against_model(workspace, model)):
            return model.id
        if model is not None:
            problem = f"model {reference} {reason}"
    raise TrafficError(
        f"Endpoint {endpoint.name} can't be rolled back: {problem}. {_unchanged_message(endpoint)}",
        f"name a deployment or a model: `mlops rollback --to …` ({_choices(endpoint)}); or deploy an earlier commit with dispatch.yml",
    )


def _reason_against_model(workspace: Workspace, model: RegisteredModel) -> str:
    """Return why a model must not be deployed; empty if the gate admitted it for this target."""
    if not workspace.session.trusts(model.creator):
        return f"was registered by {model.creator or 'an unknown identity'}, which this target does not trust"
    if not workspace.session.owns(model.tags):
        return f"was registered for target {model.tags.get(TARGET) or '(unknown)'}"
    verdict, override = model.tags.get(VERDICT), model.tags.get(OVERRIDE, "none")
    is_admitted = verdict == Verdict.PROMOTE or (verdict == Verdict.HOLD and override not in ("", "none"))
    return "" if is_admitted else f"was not admitted: the gate's verdict is {verdict or 'unknown'}"


def _deploy_model(config: Config, workspace: Workspace, model: str) -> DeploymentView:
    """Deploy a model under a new name, at 0 %. A deployment of an interrupted attempt is used, or replaced if it failed."""
    settings = config.endpoint
    name = f"{settings.deployment_prefix[:16]}-back-{hashlib.sha256(model.lower().encode()).hexdigest()[:8]}"
    existing = workspace.endpoints.find_deployment(settings.name, name)
    if existing is not None and (existing.model.lower() != model.lower() or _reason_against_deployment(workspace, existing)):
        raise TrafficError(
            f"Endpoint {settings.name} has a deployment {name} that this pipeline did not create for this target and model."
            " The traffic is unchanged.",
            "look at it in the studio; delete it, or set another endpoint.deployment_prefix in pipeline.toml",
        )
    if existing is not None and existing.state in FAILED_STATES:
        workspace.endpoints.delete_deployment(settings.name, name)
        existing = None
    console.info(f"  the deployment is gone; deploying {model} again")
    if existing is not None:
        return workspace.endpoints.wait_until_healthy(settings, name)
    try:
        return workspace.endpoints.deploy(settings, name, model, {SERVED_MODEL: fit(model)})
    except BaseException:
        # It is billed from the moment it is requested.
        workspace.endpoints.delete_deployment(settings.name, name)
        raise


def _check_answers(config: Config, workspace: Workspace, endpoint: EndpointView, deployment: str) -> None:
    client = workspace.endpoints.open_client(endpoint, timeout_s=config.endpoint.client_timeout_s())
    for question in QUESTIONS:
        response = client.invoke(build_payload(({"role": "user", "content": question},), max_new_tokens=8), deployment)
        if response.status != 200:
            raise TrafficError(
                f"Deployment {deployment} does not answer ({response.reason}). {_unchanged_message(endpoint)}",
                f"look at its log in the studio, or name another one: `mlops rollback --to …` ({_choices(endpoint)})",
            )


def _switch(config: Config, workspace: Workspace, endpoint: EndpointView, deployment: DeploymentView, replaced: str) -> str:
    name, identity = deployment.name, identify(deployment.identity, deployment.creator)
    tags = traffic.rolled_back_tags(config, workspace, endpoint, replaced, traffic.current_run(workspace))
    with traffic.restored_on_failure(workspace, endpoint, name):
        after = traffic.change_traffic(workspace, endpoint, name, identity=identity, back=True)
        traffic.verify(workspace, after, name, config.endpoint.client_timeout_s())
        traffic.finish(workspace, after, tags)
    undo = f" To undo this: `mlops rollback --target {config.target} --to {replaced}`." if replaced else ""
    return f"Endpoint {endpoint.name} is back on {name}; {replaced or 'nothing'} is kept at 0 %.{undo}"


def _unchanged_message(endpoint: EndpointView) -> str:
    return f"Its traffic is unchanged: {nonzero(endpoint.traffic) or 'none'}."


def _choices(endpoint: EndpointView) -> str:
    return f"it has {', '.join(sorted(endpoint.traffic)) or 'no deployment'}"


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--to",
        default=os.environ.get(TO, ""),
        metavar="DEPLOYMENT|MODEL",
        help=f"a deployment of the endpoint, or a registered model as NAME:VERSION (same as {TO}; default: what was live before)",
    )


main = stage.command(rollback, add_options=_add_options)
