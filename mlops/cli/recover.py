"""Finish or undo a traffic change that was interrupted, e.g. because its runner was lost.

mlops recover --target prod
"""

from __future__ import annotations

from typing import Any

from mlops.cli import stage
from mlops.cloud import traffic
from mlops.cloud.traffic_change import Busy, nonzero, read_change
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.settings import Config

__all__ = ["main", "recover"]


def recover(config: Config, workspace: Workspace) -> dict[str, Any]:
    """Read the endpoint's tag about an unfinished change: finish the change if the deployment answers, otherwise undo it.

    A change of another run that may still be at work is left alone.

    Returns:
        The endpoint and its traffic, None if there is no endpoint.

    Raises:
        NotPromoted: the endpoint is another target's.
        TrafficError: the change can be neither finished nor undone.
    """
    endpoint = workspace.endpoints.find(config.endpoint.name)
    if endpoint is None:
        console.info(f"  nothing to do: endpoint {config.endpoint.name} does not exist")
        return {"endpoint": config.endpoint.name, "traffic": None}
    workspace.check_endpoint(endpoint.name, endpoint.tags)
    if read_change(endpoint) is None:
        console.info(f"  nothing to do: the traffic of {endpoint.name} is {nonzero(endpoint.traffic) or 'none'}")
        return {"endpoint": endpoint.name, "traffic": endpoint.traffic}
    try:
        after = traffic.recover(config, workspace, endpoint)
    except Busy as problem:
        console.info(f"  nothing to do: {problem.what}")
        return {"endpoint": endpoint.name, "traffic": endpoint.traffic}
    console.summary(f"## Recovered\n\nThe traffic of {after.name} is {nonzero(after.traffic) or 'none'}.")
    return {"endpoint": after.name, "traffic": after.traffic}


main = stage.command(recover)
