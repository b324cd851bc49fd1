"""Give the new deployment all of the traffic, and prove that it is what is served. Only what the gate lets through.

python -m mlops.promote --target local
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING

from mlops.cli import stage
from mlops.cloud.tags import PREVIOUS
from mlops.core import console, guard
from mlops.core.config import Config
from mlops.core.errors import MlopsError, NotPromoted, TrafficError
from mlops.core.records import Deployed, Evaluated, Judged, Promoted, Smoked
from mlops.core.run import Run

if TYPE_CHECKING:
    from mlops.cloud.endpoints import EndpointView
    from mlops.cloud.workspace import Workspace

__all__ = ["main", "promote"]

QUESTION = ({"role": "user", "content": "Are you there?"},)
TRIES = 5
PAUSE_S = 2.0


def promote(config: Config, run: Run, workspace: Workspace) -> Promoted:
    """Move the traffic, read back who is live, ask a question without naming a deployment; on any failure put the traffic back.

    Raises:
        NotPromoted: the gate does not let the candidate through, or judged it against another champion than the one that is live; or the
            endpoint is another target's.
        TrafficError: the new deployment is not live; says whether the traffic is as it was before.
    """
    judged, deployed, smoked = guard.admitted(run, config), run.read(Deployed), run.read(Smoked)
    new = deployed.deployment
    before = workspace.endpoints.get(deployed.endpoint)
    workspace.check_endpoint(before.name, before.tags)
    previous = _previous(before, new)
    steps: list[dict[str, int]] = []
    if before.traffic.get(new) == 100:
        console.info(f"  nothing to do: {new} takes all of the traffic of {deployed.endpoint}")
        if (record := run.find(Promoted)) is not None:
            return record
        now = before
    else:
        champion = workspace.endpoints.live_model(config.champion_endpoint)
        _same_champion(run.read(Evaluated), champion, config.champion_endpoint)
        now = _switched(config, workspace, before, deployed, previous)
        steps.append(_moving(now.traffic))
        console.info(f"  {new} is live on {deployed.endpoint}; before: {_moving(before.traffic) or 'nothing'}")
    kept = _settle_previous(config, workspace, deployed.endpoint, previous)
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


def _same_champion(evaluated: Evaluated, live: str | None, endpoint: str) -> None:
    """The verdict is about whom the candidate was held against. If somebody else has been promoted since, it says nothing any more."""
    if evaluated.champion.lower() != (live or "").lower():
        raise NotPromoted(
            f"The candidate was judged against {evaluated.champion or 'no champion'}, but {endpoint} serves {live or 'nothing'} now.",
            "run `mlops evaluate-gate` again",
        )


def _switched(config: Config, workspace: Workspace, before: EndpointView, deployed: Deployed, previous: str | None) -> EndpointView:

    try:
        after = workspace.endpoints.set_traffic(deployed.endpoint, {deployed.deployment: 100}, tags={PREVIOUS: previous or ""})
        _prove(config, workspace, after, deployed)
    except BaseException as problem:
        told = _restored(workspace, before)
        if isinstance(problem, MlopsError):
            raise TrafficError(f"{deployed.deployment} could not be made live: {problem.what} {told}", problem.fix) from problem
        console.warning(told)
        raise
    return after


def _prove(config: Config, workspace: Workspace, after: EndpointView, deployed: Deployed) -> None:
    """What the service says is live must be the model that was deployed, and must answer."""
    live = workspace.endpoints.live_model(deployed.endpoint)
    if live is None or live.lower() != deployed.model.lower():
        raise TrafficError(f"Endpoint {deployed.endpoint} serves {live}, not {deployed.model}.")

    from mlops.cloud.invoke import payload

    scorer = workspace.endpoints.scorer(after, timeout_s=config.endpoint.request_timeout_ms / 1000 + 10)
    told = ""
    # New traffic rules take a moment to reach every front end.
    for attempt in range(TRIES):
        time.sleep(PAUSE_S if attempt else 0)
        answer = scorer.ask(payload(QUESTION, max_new_tokens=8))
        if answer.status == 200 and answer.deployment in ("", deployed.deployment):
            return
        told = answer.reason or f"{answer.deployment} answered"
    raise TrafficError(f"A request to {deployed.endpoint} that names no deployment is not served by {deployed.deployment}: {told}.")


def _restored(workspace: Workspace, before: EndpointView) -> str:

    saved = _moving(before.traffic)
    try:
        workspace.endpoints.set_traffic(before.name, saved, tags={PREVIOUS: before.tags.get(PREVIOUS, "")}, may_be_none=True)
    except MlopsError as problem:
        return f"The traffic could NOT be put back to {saved or 'none'}: {problem.what}"
    return f"The traffic is as it was before: {saved or 'none'}."


def _previous(before: EndpointView, new: str) -> str | None:
    """Who had the most traffic before; where the new one has it already, whom the last promotion noted."""

    others = {name: share for name, share in before.traffic.items() if share and name != new}
    if others:
        return max(others, key=lambda name: others[name])
    noted = before.tags.get(PREVIOUS)
    return noted if noted in before.traffic and noted != new else None


def _settle_previous(config: Config, workspace: Workspace, endpoint: str, previous: str | None) -> bool:
    """Keep the previous deployment at 0 % or delete it, as configured. What is not ours is kept whatever the configuration says."""
    if previous is None:
        return False
    if config.endpoint.keep_previous:
        console.info(f"  {previous} is kept at 0 %, ready for rollback (it goes on costing money)")
        return True
    found = workspace.endpoints.deployment(endpoint, previous)
    if found is None:
        return False
    if not workspace.session.owns(found.tags):
        console.warning(f"Deployment {previous} was not made by this pipeline for this target, so it is kept at 0 %.")
        return True
    workspace.endpoints.delete_deployment(endpoint, previous)
    return False


def _moving(traffic: Mapping[str, int]) -> dict[str, int]:
    return {name: share for name, share in traffic.items() if share}


main = stage.command(promote, needs=(Judged, Deployed, Smoked))


if __name__ == "__main__":
    sys.exit(main())
