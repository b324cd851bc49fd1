"""Send all traffic to the new deployment, if the gate admits it, and verify that the new model is live.

mlops promote --target local
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from functools import partial

from mlops.cli import guard, stage
from mlops.cli.canary import Rollout
from mlops.cloud import traffic
from mlops.cloud.anchor import promotion_tags, read_anchor
from mlops.cloud.endpoint_views import EndpointView
from mlops.cloud.tags import PREVIOUS, PREVIOUS_ID
from mlops.cloud.traffic_change import identify, nonzero
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import NotPromoted, TrafficError
from mlops.core.records import CanaryEvidence, Deployed, Evaluated, Judged, Promoted, Registered, Smoked
from mlops.core.run import Run
from mlops.core.settings import Config
from mlops.github.review import require_review

__all__ = ["main", "promote"]


def promote(config: Config, run: Run, workspace: Workspace) -> Promoted:
    """Move the traffic, verify which model is live, and send a request without naming a deployment. On any failure, restore the traffic.

    If an earlier attempt was interrupted, its traffic change is first finished or undone.

    Raises:
        NotPromoted: the gate does not admit the candidate, or compared it with another champion than the live one; or the endpoint belongs
            to another target.
        RecordError: the deployment isn't the tested one, but only has its name.
        CanaryStopped: the new deployment answers worse than the old one, or isn't shown to answer as well. The old one keeps the traffic.
        TrafficError: the new deployment is not live; says whether the traffic was restored. Or another run is changing the traffic.
    """
    judged, deployed, smoked = guard.require_admission(run, config, workspace), run.read(Deployed), run.read(Smoked)
    if config.promotion.require_review:
        require_review()
    new = deployed.deployment
    before = workspace.endpoints.get(deployed.endpoint)
    workspace.check_endpoint(before.name, before.tags)
    traffic.check_deployment(workspace, before.name, new, _identify(deployed))
    before = traffic.recover(config, workspace, before)
    steps: list[dict[str, int]] = []
    canary: CanaryEvidence | None = None
    if before.traffic.get(new) == 100:
        console.info(f"  nothing to do: {new} takes all of the traffic of {deployed.endpoint}")
        if (record := run.find(Promoted)) is not None:
            return record
        previous = _find_kept(workspace, before, new)
    else:
        champion = workspace.endpoints.get_live_model(config.champion_endpoint)
        evaluated = run.read(Evaluated)
        _check_champion(evaluated, champion, config.champion_endpoint)
        _check_anchor(judged, evaluated, read_anchor(workspace, before), before.name)
        previous = max(nonzero(before.traffic), key=lambda name: before.traffic[name], default=None)
        rollout = _plan_rollout(config, run, workspace, before, deployed, previous)
        if rollout is not None:
            rollout.compare()
        anchor = promotion_tags(judged, evaluated, run.read(Registered))
        steps = _switch_traffic(config, workspace, before, deployed, previous, rollout, anchor)
        canary = rollout.evidence if rollout is not None else None
        console.info(f"  {new} is live on {deployed.endpoint}; before: {nonzero(before.traffic) or 'nothing'}")
    kept = _keep_or_delete_previous(config, workspace, deployed.endpoint, previous)
    return run.write(
        Promoted(
            inputs={"gate": judged.digest(), "deploy": deployed.digest(), "smoke-test": smoked.digest()},
            endpoint=deployed.endpoint,
            deployment=new,
            model=deployed.model,
            steps=tuple(steps),
            canary=canary,
            traffic_now=dict(workspace.endpoints.get(deployed.endpoint).traffic),
            previous=previous,
            previous_kept=kept,
        )
    )


def _identify(deployed: Deployed) -> str:
    """Return what distinguishes the tested deployment from others of its name."""
    return identify(deployed.identity, deployed.creator)


def _check_champion(evaluated: Evaluated, live: str | None, endpoint: str) -> None:
    """Refuse a verdict against another champion, because it says nothing about the live one."""
    if evaluated.champion.lower() != (live or "").lower():
        raise NotPromoted(
            f"The candidate was judged against {evaluated.champion or 'no champion'}, but {endpoint} now serves {live or 'nothing'}.",
            "run `mlops evaluate-gate` again",
        )


def _check_anchor(judged: Judged, evaluated: Evaluated, recorded: str, endpoint: str) -> None:
    """Refuse a verdict against another anchor. Without an anchor, the champion takes its place."""
    before, now = evaluated.anchor or evaluated.champion, recorded or evaluated.champion
    if any(judgement.baseline == "anchor" for judgement in judged.judgements) and before.lower() != now.lower():
        raise NotPromoted(
            f"The candidate was judged against {before or 'no model'} as the best model so far, but the tags of {endpoint} now name {now}.",
            "run `mlops evaluate-gate` again",
        )


def _plan_rollout(
    config: Config, run: Run, workspace: Workspace, before: EndpointView, deployed: Deployed, previous: str | None
) -> Rollout | None:
    """Return the comparison with the old deployment, or None (and say why) if all of the traffic moves at once."""
    reason = (
        "no deployment takes traffic yet"
        if previous is None
        else f"{before.name} is ephemeral"
        if config.endpoint.ephemeral
        else "promotion.steps is [100]"
        if config.promotion.steps == (100,)
        else ""
    )
    if previous is None or reason:
        console.info(f"  100 % in one step, without a comparison: {reason}")
        return None
    return Rollout(config, run, workspace, before, previous, deployed.deployment, _identify(deployed))


def _switch_traffic(
    config: Config,
    workspace: Workspace,
    before: EndpointView,
    deployed: Deployed,
    previous: str | None,
    rollout: Rollout | None,
    anchor: Mapping[str, str],
) -> list[dict[str, int]]:
    """Move the traffic, in steps if there is a comparison, and return it after each step. After a failure it is as before.

    ``anchor``: the endpoint's tags that say which model is the best so far.
    """
    steps = []
    move = partial(traffic.change_traffic, workspace, before, deployed.deployment, identity=_identify(deployed))
    with traffic.restored_on_failure(workspace, before, deployed.deployment):
        for share in config.promotion.steps[:-1] if rollout is not None else ():
            assert rollout is not None
            steps.append(nonzero(move(share).traffic))
            rollout.watch(share)
        after = move()
        _verify(config, workspace, after, deployed)
        tags = traffic.previous_tags(config, workspace, before.name, previous, keep=_keeps(config, workspace, before.name, previous))
        return [*steps, nonzero(traffic.finish(workspace, after, {**tags, **anchor}).traffic)]


def _verify(config: Config, workspace: Workspace, after: EndpointView, deployed: Deployed) -> None:
    """Check that the live model is the deployed one, and that it answers."""
    live = workspace.endpoints.get_live_model(deployed.endpoint)
    if live is None or live.lower() != deployed.model.lower():
        raise TrafficError(f"Endpoint {deployed.endpoint} serves {live}, not {deployed.model}.")
    traffic.verify(workspace, after, deployed.deployment, config.endpoint.client_timeout_s())


def _find_kept(workspace: Workspace, endpoint: EndpointView, new: str) -> str | None:
    """Return the deployment that the last promotion kept, unless another deployment has its name now."""
    name = endpoint.tags.get(PREVIOUS)
    deployment = workspace.endpoints.find_deployment(endpoint.name, name) if name and name != new else None
    return deployment.name if deployment is not None and deployment.identity == endpoint.tags.get(PREVIOUS_ID, "") else None


def _keeps(config: Config, workspace: Workspace, endpoint: str, previous: str | None) -> bool:
    """Return whether the previous deployment stays: as configured, but always if it isn't ours."""
    deployment = workspace.endpoints.find_deployment(endpoint, previous) if previous else None
    return deployment is not None and (config.endpoint.keep_previous or not workspace.session.owns(deployment.tags))


def _keep_or_delete_previous(config: Config, workspace: Workspace, endpoint: str, previous: str | None) -> bool:
    """Keep the previous deployment at 0 % or delete it, and return whether it was kept. If this fails, teardown deletes it."""
    if previous is None:
        return False
    if _keeps(config, workspace, endpoint, previous):
        reason = (
            f"for {config.endpoint.keep_previous_hours:g} hours, ready for a rollback"
            if config.endpoint.keep_previous
            else "because this pipeline did not create it for this target"
        )
        console.info(f"  {previous} is kept at 0 % {reason}; it costs as much as a live one")
        return True
    workspace.endpoints.delete_deployment(endpoint, previous)
    return False


main = stage.command(promote, needs=(Judged, Deployed, Smoked))


if __name__ == "__main__":
    sys.exit(main())
