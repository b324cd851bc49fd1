"""Online endpoints: deployments, traffic, scoring."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlops.cloud.workspace import Workspace

__all__ = ["Endpoints"]


class Endpoints:
    """The workspace's online endpoints. Use it as ``workspace.endpoints``."""

    def __init__(self, workspace: Workspace) -> None:
        self._workspace = workspace

    def live_model(self, endpoint: str) -> str | None:
        """Full id of the model that gets the most traffic, or None where nothing is served (no endpoint, or no traffic)."""
        raise NotImplementedError
