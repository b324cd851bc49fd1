"""The standby: the deployment that a promotion keeps at 0 % of the traffic, ready for a rollback. It costs as much as a live one.

The endpoint's tags say which deployment it is, and when the reaper may delete it. The next deployment deletes it in any case.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from mlops.cloud.endpoint_views import DeploymentView, EndpointView
from mlops.cloud.tags import PREVIOUS, PREVIOUS_ID, PREVIOUS_UNTIL
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.settings import EndpointConfig

__all__ = ["find_standby", "is_expired", "remove_standby", "standby_tags"]


def standby_tags(settings: EndpointConfig, name: str, identity: str) -> dict[str, str]:
    """Return the endpoint's tags for a standby that is kept from now on; an empty name for none."""
    until = datetime.now(UTC) + timedelta(hours=settings.keep_previous_hours)
    return {PREVIOUS: name, PREVIOUS_ID: identity, PREVIOUS_UNTIL: until.isoformat(timespec="seconds") if name else ""}


def find_standby(workspace: Workspace, endpoint: EndpointView) -> DeploymentView | None:
    """Return the deployment that the last promotion or rollback kept, unless it gets requests or another deployment has its name now."""
    name = endpoint.tags.get(PREVIOUS, "")
    if not name or endpoint.traffic.get(name) or endpoint.mirror.get(name):
        return None
    deployment = workspace.endpoints.find_deployment(endpoint.name, name)
    return deployment if deployment is not None and deployment.identity == endpoint.tags.get(PREVIOUS_ID, "") else None


def is_expired(endpoint: EndpointView) -> bool:
    """Return whether the time for which the endpoint keeps its standby is over."""
    try:
        return datetime.fromisoformat(endpoint.tags.get(PREVIOUS_UNTIL, "")) < datetime.now(UTC)
    except (ValueError, TypeError):
        return False


def remove_standby(workspace: Workspace, endpoint: EndpointView) -> None:
    """Delete the standby before a new deployment is created, since both use quota and cost money. Leave one alone that isn't ours."""
    standby = find_standby(workspace, endpoint)
    if standby is not None and workspace.session.owns(standby.tags):
        console.info(f"  removing the standby {standby.name}; until the next promotion, there is nothing to roll back to")
        workspace.endpoints.delete_deployment(endpoint.name, standby.name)
