"""The standby: the deployment that a promotion keeps at 0 % of the traffic, ready for a rollback. It bills like a live one."""

from __future__ import annotations

from mlops.cloud.endpoints import DeploymentView, EndpointView
from mlops.cloud.tags import PREVIOUS, PREVIOUS_ID
from mlops.cloud.workspace import Workspace

__all__ = ["find_standby"]


def find_standby(workspace: Workspace, endpoint: EndpointView) -> DeploymentView | None:
    """Return the deployment that the endpoint's last promotion kept, if this pipeline created it and it takes no traffic; else None."""
    name = endpoint.tags.get(PREVIOUS, "")
    if not name or endpoint.traffic.get(name):
        return None
    deployment = workspace.endpoints.find_deployment(endpoint.name, name)
    if deployment is None or not workspace.session.owns(deployment.tags) or deployment.identity != endpoint.tags.get(PREVIOUS_ID, ""):
        return None
    return deployment
