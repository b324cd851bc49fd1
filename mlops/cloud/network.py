"""Networks: whether the workspace accepts requests from public ones, and whether this machine can reach it.

Azure Resource Manager is always public. The workspace's data plane (run history, MLflow, artifacts) and its storage may not be.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlops.cloud.errors import Forbidden, NotFound, translate_errors
from mlops.cloud.outputs import Outputs
from mlops.cloud.run_history import RunHistory
from mlops.cloud.session import Session
from mlops.core.errors import AzureError

__all__ = ["Network", "NetworkView", "describe_difference"]

_PROBE = "mlops-network-probe"
"""Name of a run, and of a folder in the default datastore, that don't exist."""


@dataclass(frozen=True, kw_only=True)
class NetworkView:
    """The network settings of the workspace."""

    is_private: bool
    """Whether it refuses requests from public networks."""
    has_managed_network: bool
    """Whether its computes and deployments are in a managed virtual network."""
    has_private_endpoint: bool
    """Whether it can be reached from a virtual network."""


class Network:
    """The workspace's network. Use it as ``workspace.network``."""

    def __init__(self, session: Session, history: RunHistory, outputs: Outputs) -> None:
        self._session = session
        self._history = history
        self._outputs = outputs

    def get(self) -> NetworkView:
        """Read the workspace's settings. The SDK's entity lacks its private endpoints."""
        with translate_errors("reading the network settings of the workspace"):
            properties = self._session.read_arm("")["properties"]
        isolation = (properties.get("managedNetwork") or {}).get("isolationMode") or "Disabled"
        return NetworkView(
            is_private=str(properties.get("publicNetworkAccess") or "Enabled").lower() == "disabled",
            has_managed_network=isolation.lower() != "disabled",
            has_private_endpoint=bool(properties.get("privateEndpointConnections")),
        )

    def find_obstacle(self) -> str:
        """Return what keeps this machine from reaching the workspace's data plane or storage; empty if nothing does.

        A missing permission doesn't count: whatever needs it reports it.
        """
        for probe in (lambda: self._history.get_outputs(_PROBE), lambda: self._outputs.has_files_in_default_datastore(_PROBE)):
            try:
                probe()
            except NotFound:
                continue
            except Forbidden as problem:
                if problem.is_network:
                    return problem.what
            except AzureError as problem:
                return problem.what
        return ""


def describe_difference(endpoint: str, actual: str, configured: str) -> tuple[str, str] | None:
    """Return how the public network access of an endpoint differs from the setting, and what to do about it; None if it doesn't."""
    if actual == configured:
        return None
    command = f"az ml online-endpoint update --name {endpoint} --set public_network_access={configured}"
    return (
        f"Public network access of endpoint {endpoint} is {actual}, but endpoint.public_network_access is {configured}.",
        f'set endpoint.public_network_access = "{actual}" in pipeline.toml, or change the endpoint: `{command}`',
    )
