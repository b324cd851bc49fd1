"""Give the traffic back to the deployment that the last promotion kept at 0 %.

mlops rollback --target prod
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops.cli import stage
from mlops.cloud.tags import PREVIOUS, ROLLED_BACK_BY, RUN
from mlops.core import console
from mlops.core.config import Config
from mlops.core.errors import TrafficError

if TYPE_CHECKING:
    from mlops.cloud.workspace import Workspace

__all__ = ["main", "rollback"]

QUESTION = ({"role": "user", "content": "Are you there?"},)


def rollback(config: Config, workspace: Workspace) -> None:
    """Move the traffic back, once the previous deployment has answered. The one that had it is kept at 0 %, so that this can be undone.

    A workflow run does it once: a job of it that is run again finds it done, and does not undo it.

    Raises:
        NotPromoted: the endpoint is another target's.
        TrafficError: there is nothing to go back to, or it does not answer; in the latter case the traffic is as it was before.
    """
    from mlops.cloud.invoke import payload

    endpoint = workspace.endpoints.get(config.endpoint.name)
    workspace.check_endpoint(endpoint.name, endpoint.tags)
    live = {name: share for name, share in endpoint.traffic.items() if share}
    if console.in_github() and endpoint.tags.get(ROLLED_BACK_BY) == workspace.session.tags[RUN]:
        console.info(f"  nothing to do: this run has rolled {endpoint.name} back already; its traffic is {live}")
        return
    previous = endpoint.tags.get(PREVIOUS, "")
    found = workspace.endpoints.deployment(endpoint.name, previous) if previous else None
    if found is None or found.state != "Succeeded":
        state = f"is {found.state}" if found else "no longer exists" if previous else "was not kept"
        raise TrafficError(
            f"Endpoint {endpoint.name} can't go back: the previous deployment {previous} {state}."
            f" Its traffic is as it was: {live or 'none'}.",
            "deploy an earlier commit with dispatch.yml, and set endpoint.keep_previous = true in pipeline.toml",
        )
    if live == {previous: 100}:
        console.info(f"  nothing to do: {previous} takes all of the traffic of {endpoint.name}")
        return
    # Asked before it takes traffic: going back to a deployment that is broken, too, helps nobody.
    scorer = workspace.endpoints.scorer(endpoint, timeout_s=config.endpoint.request_timeout_ms / 1000 + 10)
    answer = scorer.ask(payload(QUESTION, max_new_tokens=8), previous)
    if answer.status != 200:
        raise TrafficError(
            f"The previous deployment {previous} does not answer ({answer.reason}). The traffic is as it was: {live or 'none'}.",
            "look at its log in the studio; deploy an earlier commit with dispatch.yml",
        )
    replaced = max(live, key=lambda name: live[name], default="")
    workspace.endpoints.set_traffic(endpoint.name, {previous: 100}, tags={PREVIOUS: replaced, ROLLED_BACK_BY: workspace.session.tags[RUN]})
    told = f"Endpoint {endpoint.name} is back on {previous}; {replaced or 'nothing'} is kept at 0 %."
    console.notice(told)
    console.summary(f"## Rolled back\n\n{told}")


main = stage.command(rollback)
