"""Move the traffic back to the deployment that the last promotion kept at 0 %.

mlops rollback --target prod
"""

from __future__ import annotations

from mlops.cli import stage
from mlops.cloud.invoke import build_payload
from mlops.cloud.standby import standby_tags
from mlops.cloud.tags import PREVIOUS, PREVIOUS_ID, ROLLED_BACK_BY, RUN
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.config import Config
from mlops.core.errors import TrafficError

__all__ = ["main", "rollback"]

QUESTION = ({"role": "user", "content": "Are you there?"},)


def rollback(config: Config, workspace: Workspace) -> None:
    """Move the traffic back once the previous deployment has answered. The replaced one is kept at 0 %, so that this can be reverted.

    A workflow run does this once: if its job is run again, it does not revert the rollback.

    Raises:
        NotPromoted: the endpoint is another target's.
        TrafficError: there is no previous deployment, or it does not answer; the traffic is unchanged.
    """
    endpoint = workspace.endpoints.get(config.endpoint.name)
    workspace.check_endpoint(endpoint.name, endpoint.tags)
    live = {name: share for name, share in endpoint.traffic.items() if share}
    if console.in_github() and endpoint.tags.get(ROLLED_BACK_BY) == workspace.session.tags[RUN]:
        console.info(f"  nothing to do: this run has already rolled {endpoint.name} back; its traffic is {live}")
        return
    previous = endpoint.tags.get(PREVIOUS, "")
    deployment = workspace.endpoints.find_deployment(endpoint.name, previous) if previous else None
    if deployment is None or deployment.state != "Succeeded" or deployment.identity != endpoint.tags.get(PREVIOUS_ID, ""):
        state = "no longer exists" if previous else "was not kept"
        if deployment is not None:
            recreated = "was deleted and created again, so it is untested"
            state = f"is {deployment.state}" if deployment.state != "Succeeded" else recreated
        raise TrafficError(
            f"Endpoint {endpoint.name} can't be rolled back: the previous deployment {previous} {state}."
            f" Its traffic is unchanged: {live or 'none'}.",
            "deploy an earlier commit with dispatch.yml, and set endpoint.keep_previous = true in pipeline.toml",
        )
    if live == {previous: 100}:
        console.info(f"  nothing to do: {previous} takes all of the traffic of {endpoint.name}")
        return
    # The previous deployment may be broken, too, so it has to answer before it takes traffic.
    client = workspace.endpoints.open_client(endpoint, timeout_s=config.endpoint.request_timeout_ms / 1000 + 10)
    answer = client.invoke(build_payload(QUESTION, max_new_tokens=8), previous)
    if answer.status != 200:
        raise TrafficError(
            f"The previous deployment {previous} does not answer ({answer.reason}). The traffic is unchanged: {live or 'none'}.",
            "look at its log in the studio; deploy an earlier commit with dispatch.yml",
        )
    replaced = max(live, key=lambda name: live[name], default="")
    deployment = workspace.endpoints.find_deployment(endpoint.name, replaced) if replaced else None
    replaced_id = deployment.identity if deployment is not None else ""
    workspace.endpoints.set_traffic(
        endpoint.name,
        {previous: 100},
        tags={**standby_tags(config.endpoint, replaced, replaced_id), ROLLED_BACK_BY: workspace.session.tags[RUN]},
    )
    message = f"Endpoint {endpoint.name} is back on {previous}; {replaced or 'nothing'} is kept at 0 %."
    console.notice(message)
    console.summary(f"## Rolled back\n\n{message}")


main = stage.command(rollback)
