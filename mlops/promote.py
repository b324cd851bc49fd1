"""Send all traffic to the new deployment, and verify that it is what is served. Only if the gate admits it.

python -m mlops.promote --target local
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping

from mlops.cli import guard, stage
from mlops.cloud.endpoints import EndpointView
from mlops.cloud.invoke import build_payload
from mlops.cloud.standby import STANDBY_TAGS, standby_tags
from mlops.cloud.tags import PREVIOUS, PREVIOUS_ID
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.config import Config
from mlops.core.errors import MlopsError, NotPromoted, RecordError, TrafficError
from mlops.core.records import Deployed, Evaluated, Judged, Promoted, Smoked
from mlops.core.run import Run
from mlops.github.review import require_review

__all__ = ["main", "promote"]

QUESTION = ({"role": "user", "content": "Are you there?"},)
TRIES = 5
PAUSE_S = 2.0


def promote(config: Config, run: Run, workspace: Workspace) -> Promoted:
    """Move the traffic, verify which model is live, ask a question without naming a deployment; on any failure restore the traffic.

    Raises:
        NotPromoted: the gate does not admit the candidate, or compared it with another champion than the live one; or the endpoint belongs
            to another target.
        RecordError: the deployment is not the one that was tested, only one of the same name.
        TrafficError: the new deployment is not live; says whether the traffic was restored.
    """
    judged, deployed, smoked = guard.require_admission(run, config), run.read(Deployed), run.read(Smoked)
    if config.promotion.require_review:
        require_review()
    new = deployed.deployment
    before = workspace.endpoints.get(deployed.endpoint)
    workspace.check_endpoint(before.name, before.tags)
    _check_deployment(workspace, deployed)
    previous, previous_id = _find_previous(workspace, before, new)
    steps: list[dict[str, int]] = []
    if before.traffic.get(new) == 100:
        console.info(f"  nothing to do: {new} takes all of the traffic of {deployed.endpoint}")
        if (record := run.find(Promoted)) is not None:
            return record
        now = before
    else:
        champion = workspace.endpoints.get_live_model(config.champion_endpoint)
        _check_champion(run.read(Evaluated), champion, config.champion_endpoint)
        now = _switch_traffic(config, workspace, before, deployed, standby_tags(config.endpoint, previous or "", previous_id))
        steps.append(_nonzero(now.traffic))
        console.info(f"  {new} is live on {deployed.endpoint}; before: {_nonzero(before.traffic) or 'nothing'}")
    kept = _keep_or_delete_previous(config, workspace, deployed.endpoint, previous)
    traffic = dict(workspace.endpoints.get(deployed.endpoint).traffic) if previous and not kept else dict(now.traffic)
    return run.write(
        Promoted(
            inputs={"gate": judged.digest(), "deploy": deployed.digest(), "smoke-test": smoked.digest()},
            endpoint=deployed.endpoint,
            deployment=new,
            model=deployed.model,
            steps=tuple(steps),
            traffic_now=traffic,
            previous=previous,
            previous_kept=kept,
        )
    )


def _check_deployment(workspace: Workspace, deployed: Deployed) -> None:
    """Refuse a deployment of the same name that was created since the smoke test: nobody has tested it."""
    deployment = workspace.endpoints.find_deployment(deployed.endpoint, deployed.deployment)
    if deployment is None or deployment.identity != deployed.identity:
        change = "no longer exists" if deployment is None else "was deleted and created again since the smoke test, so it is untested"
        raise RecordError(
            f"Deployment {deployed.deployment} of endpoint {deployed.endpoint} {change}. The traffic is unchanged.",
            "run `mlops run --from deploy`",
        )


def _check_champion(evaluated: Evaluated, live: str | None, endpoint: str) -> None:
    """Refuse a verdict that was reached against another champion: it says nothing about the live one."""
    if evaluated.champion.lower() != (live or "").lower():
        raise NotPromoted(
            f"The candidate was judged against {evaluated.champion or 'no champion'}, but {endpoint} now serves {live or 'nothing'}.",
            "run `mlops evaluate-gate` again",
        )


def _switch_traffic(
    config: Config, workspace: Workspace, before: EndpointView, deployed: Deployed, tags: Mapping[str, str]
) -> EndpointView:
    try:
        after = workspace.endpoints.set_traffic(deployed.endpoint, {deployed.deployment: 100}, tags=tags)
        _verify(config, workspace, after, deployed)
    except BaseException as problem:
        outcome = _restore_traffic(workspace, before)
        if isinstance(problem, MlopsError):
            raise TrafficError(f"{deployed.deployment} could not be made live: {problem.what} {outcome}", problem.fix) from problem
        console.warning(outcome)
        raise
    return after


def _verify(config: Config, workspace: Workspace, after: EndpointView, deployed: Deployed) -> None:
    """Check that the live model is the deployed one, and that it answers."""
    live = workspace.endpoints.get_live_model(deployed.endpoint)
    if live is None or live.lower() != deployed.model.lower():
        raise TrafficError(f"Endpoint {deployed.endpoint} serves {live}, not {deployed.model}.")
    client = workspace.endpoints.open_client(after, timeout_s=config.endpoint.request_timeout_ms / 1000 + 10)
    problem = ""
    # New traffic rules take a moment to reach every front end.
    for attempt in range(TRIES):
        time.sleep(PAUSE_S if attempt else 0)
        answer = client.invoke(build_payload(QUESTION, max_new_tokens=8))
        if answer.status == 200 and answer.deployment in ("", deployed.deployment):
            return
        problem = answer.reason or f"{answer.deployment} answered"
    raise TrafficError(f"{deployed.deployment} does not serve requests to {deployed.endpoint} that name no deployment: {problem}.")


def _restore_traffic(workspace: Workspace, before: EndpointView) -> str:
    saved = _nonzero(before.traffic)
    tags = {tag: before.tags.get(tag, "") for tag in STANDBY_TAGS}
    try:
        workspace.endpoints.set_traffic(before.name, saved, tags=tags, allow_none=True)
    except MlopsError as problem:
        return f"The traffic could NOT be restored to {saved or 'none'}: {problem.what}"
    return f"The traffic was restored: {saved or 'none'}."


def _find_previous(workspace: Workspace, before: EndpointView, new: str) -> tuple[str | None, str]:
    """Return the name and identity of the deployment that had the most traffic before.

    If the new one already has all of it, that is the deployment that the last promotion noted, unless only its name is the same.
    """
    others = {name: share for name, share in before.traffic.items() if share and name != new}
    name = max(others, key=lambda other: others[other]) if others else before.tags.get(PREVIOUS)
    deployment = workspace.endpoints.find_deployment(before.name, name) if name and name != new else None
    if deployment is None or not (others or deployment.identity == before.tags.get(PREVIOUS_ID, "")):
        return None, ""
    return deployment.name, deployment.identity


def _keep_or_delete_previous(config: Config, workspace: Workspace, endpoint: str, previous: str | None) -> bool:
    """Keep the previous deployment at 0 % or delete it, as configured; return whether it was kept. What is not ours is always kept."""
    if previous is None:
        return False
    if config.endpoint.keep_previous:
        hours = f"{config.endpoint.keep_previous_hours:g} hours"
        console.info(f"  {previous} is kept at 0 % for {hours}, ready for a rollback; it costs as much as a live one")
        return True
    deployment = workspace.endpoints.find_deployment(endpoint, previous)
    if deployment is None:
        return False
    if not workspace.session.owns(deployment.tags):
        console.warning(f"Deployment {previous} was not created by this pipeline for this target, so it is kept at 0 %.")
        return True
    workspace.endpoints.delete_deployment(endpoint, previous)
    return False


def _nonzero(traffic: Mapping[str, int]) -> dict[str, int]:
    return {name: share for name, share in traffic.items() if share}


main = stage.command(promote, needs=(Judged, Deployed, Smoked))


if __name__ == "__main__":
    sys.exit(main())
