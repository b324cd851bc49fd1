"""Moves an endpoint's traffic, and mirrors it, so that another machine can finish or undo what was begun: see
:mod:`mlops.cloud.traffic_change`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from mlops.cloud.anchor import rollback_tags
from mlops.cloud.endpoint_views import EndpointView
from mlops.cloud.endpoints import end_mirroring_command
from mlops.cloud.invoke import build_payload
from mlops.cloud.standby import standby_tags
from mlops.cloud.tags import CHANGE, PREVIOUS_MODEL, ROLLED_BACK, ROLLED_BACK_BY, RUN, shorten_model
from mlops.cloud.traffic_change import LEASE, Busy, Change, check_idle, nonzero, read_change
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import MlopsError, TrafficError
from mlops.core.settings import Config

__all__ = [
    "change_traffic",
    "current_run",
    "finish",
    "mirror_traffic",
    "previous_tags",
    "recover",
    "restored_on_failure",
    "rolled_back_tags",
    "undo",
    "verify",
]

QUESTION = ({"role": "user", "content": "Are you there?"},)
TRIES = 5
PAUSE_S = 2.0


def recover(config: Config, workspace: Workspace, endpoint: EndpointView) -> EndpointView:
    """Finish or undo a change that its run has not: finish it if the deployment answers, otherwise restore the traffic from before.

    If the run only mirrored the traffic for a comparison, the mirroring is ended. Does nothing if no change is unfinished.

    Raises:
        Busy: its run is another one and may still be at work.
        TrafficError: the change can be neither finished nor undone.
    """
    change = read_change(endpoint)
    if change is None:
        return endpoint
    if not change.is_abandoned and change.run != current_run(workspace):
        check_idle(endpoint)
    live = nonzero(endpoint.traffic)
    if change.mirror:
        after, _ = _end_mirroring(workspace, endpoint.name, change)
        console.warning(
            f"Run {change.run} stopped while {change.to} got a copy of {change.mirror} % of the requests to {endpoint.name}. That was"
            f" ended; the traffic is unchanged: {live or 'none'}."
        )
        return after
    if change.share < 100 and live == change.traffic:
        return _undo_abandoned(workspace, endpoint, change, f"Its comparison at {change.share} % was not completed.")
    if live != {change.to: 100}:
        console.notice(
            f"The traffic of {endpoint.name} is {live or 'none'}: somebody has changed it since run {change.run} stopped. It stays."
        )
        return workspace.endpoints.set_traffic(endpoint.name, live, tags={CHANGE: ""}, allow_none=True)
    try:
        verify(workspace, endpoint, change.to, config.endpoint.request_timeout_ms / 1000 + 10)
    except TrafficError as problem:
        return _undo_abandoned(workspace, endpoint, change, problem.what)
    previous = max(change.was, key=lambda name: change.was[name], default=None)
    tags = (
        rolled_back_tags(config, workspace, endpoint, previous or "", change.run)
        if change.back
        else previous_tags(config, workspace, endpoint.name, previous, keep=config.endpoint.keep_previous)
    )
    console.notice(f"Run {change.run} stopped while it made {change.to} live. It answers, so it stays.")
    return finish(workspace, endpoint.name, tags)


def _undo_abandoned(workspace: Workspace, endpoint: EndpointView, change: Change, reason: str) -> EndpointView:
    outcome = undo(workspace, endpoint.name, change.was)
    after = workspace.endpoints.get(endpoint.name)
    if CHANGE in after.tags:
        raise TrafficError(f"{reason} {outcome}", "deploy an earlier commit with dispatch.yml")
    console.warning(f"Run {change.run} stopped while it made {change.to} live. {reason} {outcome}")
    return after


def previous_tags(config: Config, workspace: Workspace, endpoint: str, deployment: str | None, *, keep: bool) -> dict[str, str]:
    """Return the tags that say how to go back, for an endpoint that has just got another live deployment.

    Args:
        config: the settings.
        workspace: where the endpoint is.
        endpoint: its name.
        deployment: the one that was live before.
        keep: whether it stays at 0 %. If not, only its model is recorded, and teardown deletes it if nobody else has.
    """
    view = workspace.endpoints.find_deployment(endpoint, deployment) if deployment else None
    standby = view if keep else None
    name, identity = (standby.name, standby.identity) if standby is not None else ("", "")
    model = "" if view is None else shorten_model(view.model)
    return {**standby_tags(config.endpoint, name, identity), PREVIOUS_MODEL: model, ROLLED_BACK: ""}


def rolled_back_tags(config: Config, workspace: Workspace, endpoint: EndpointView, replaced: str, run: str) -> dict[str, str]:
    """Return the tags that say how to undo a rollback, for an endpoint that has just been rolled back.

    Args:
        config: the settings.
        workspace: where the endpoint is.
        endpoint: as it was before.
        replaced: the deployment that was live before; empty for none.
        run: the run of the pipeline that has rolled it back.
    """
    view = workspace.endpoints.find_deployment(endpoint.name, replaced) if replaced else None
    standby = standby_tags(config.endpoint, replaced, view.identity if view is not None else "")
    anchor = rollback_tags(workspace, endpoint, view.model) if view is not None else {}
    return {**standby, **anchor, PREVIOUS_MODEL: "", ROLLED_BACK: replaced, ROLLED_BACK_BY: run}


def current_run(workspace: Workspace) -> str:
    """Return the run of the pipeline as the tags of the endpoint have it, which may be shortened."""
    return workspace.session.tags[RUN][-100:]


def change_traffic(workspace: Workspace, before: EndpointView, deployment: str, share: int = 100, *, back: bool = False) -> EndpointView:
    """Send traffic to a deployment. Afterwards the change is unfinished: call this with a larger share, :func:`finish` or :func:`undo`.

    Args:
        workspace: where the endpoint is.
        before: the endpoint as it was when the change was decided.
        deployment: gets the share, the others what is left.
        share: in percent.
        back: whether this is a rollback.

    Raises:
        Busy: somebody else is changing the traffic, or has changed it since; nothing was changed.
        TrafficError: the service did not apply it.
    """
    now = workspace.endpoints.get(before.name)
    _check_mirroring(now, deployment)
    earlier = read_change(now)
    was = nonzero(before.traffic)
    is_next_step = earlier is not None and (earlier.run, earlier.to, earlier.was) == (current_run(workspace), deployment, was)
    if not is_next_step:
        check_idle(now)
    _check_unchanged(now, earlier.traffic if earlier is not None else was)
    return _begin(workspace, before.name, _change(workspace, was=was, to=deployment, share=share, back=back))


@contextmanager
def mirror_traffic(workspace: Workspace, before: EndpointView, deployment: str, share: int) -> Iterator[None]:
    """Let a deployment without traffic get a copy of a part of the requests while the block runs. Nobody gets the answers to the copies.

    Azure gives no traffic to a deployment that gets a copy of it, so the mirroring has ended after the block, however that ends.

    Args:
        workspace: where the endpoint is.
        before: the endpoint as it was when the comparison was decided.
        deployment: gets the copies.
        share: of how many percent of the requests; 0 for none.

    Raises:
        Busy: the endpoint mirrors its traffic already, or somebody else is changing it; nothing was changed.
        TrafficError: somebody else has changed the mirroring since, or it could not be ended.
    """
    _check_mirroring(before, "" if share else deployment)
    if not share:
        yield
        return
    now, was = workspace.endpoints.get(before.name), nonzero(before.traffic)
    check_idle(now)
    _check_unchanged(now, was)
    _check_mirroring(now)
    change = _change(workspace, was=was, to=deployment, mirror=share)
    try:
        _begin(workspace, before.name, change)
        console.info(f"  {deployment} gets a copy of {share} % of the requests to {before.name}")
        yield
    except BaseException as problem:
        outcome = _try_to_end_mirroring(workspace, before.name, change)
        if isinstance(problem, MlopsError):
            raise type(problem)(f"{problem.what} {outcome}", problem.fix) from problem
        console.warning(outcome)
        raise
    _, as_begun = _end_mirroring(workspace, before.name, change)
    if not as_begun:
        raise TrafficError(
            f"Somebody else has changed what {before.name} mirrors during the comparison, so {deployment} was not compared under load."
            f" {deployment} has no traffic.",
            "run the command again",
        )


def _end_mirroring(workspace: Workspace, endpoint: str, change: Change) -> tuple[EndpointView, bool]:
    """End the mirroring that a change has begun, unless it has been ended. Return the endpoint, and whether the mirroring was as begun."""
    now = workspace.endpoints.get(endpoint)
    if read_change(now) != change:
        return now, False
    others = {name: share for name, share in now.mirror.items() if name != change.to}
    after = workspace.endpoints.set_traffic(endpoint, now.traffic, mirror=others, tags={CHANGE: ""}, allow_none=True)
    return after, now.mirror == {change.to: change.mirror}


def _try_to_end_mirroring(workspace: Workspace, endpoint: str, change: Change) -> str:
    """End the mirroring, and describe the outcome. Raises nothing of ours."""
    try:
        _end_mirroring(workspace, endpoint, change)
    except MlopsError as problem:
        return f"{change.to} may still get a copy of {change.mirror} % of the requests: {problem.what} Run `mlops recover`."
    return f"{change.to} gets no copies of requests any more."


def finish(workspace: Workspace, endpoint: str, tags: Mapping[str, str]) -> EndpointView:
    """Confirm a change: its tag is removed, others are set, and the traffic stays."""
    now = workspace.endpoints.get(endpoint)
    return workspace.endpoints.set_traffic(endpoint, now.traffic, tags={**tags, CHANGE: ""}, allow_none=True)


def _change(workspace: Workspace, **fields: Any) -> Change:
    return Change(run=current_run(workspace), until=(datetime.now(UTC) + LEASE).replace(microsecond=0), **fields)


def _begin(workspace: Workspace, endpoint: str, change: Change) -> EndpointView:
    """Apply a change together with the tag that describes it."""
    mirror = {change.to: change.mirror} if change.mirror else None
    return workspace.endpoints.set_traffic(
        endpoint, change.traffic, mirror=mirror, tags={CHANGE: change.model_dump_json(exclude_defaults=True)}
    )


def _check_unchanged(now: EndpointView, expected: Mapping[str, int]) -> None:
    if nonzero(now.traffic) != expected:
        raise Busy(
            f"The traffic of {now.name} was {expected or 'none'} and is {nonzero(now.traffic) or 'none'} now: somebody else"
            " has changed it. Nothing was changed here.",
            "run the command again",
        )


def _check_mirroring(endpoint: EndpointView, deployment: str = "") -> None:
    """Refuse an endpoint that already mirrors its traffic: to this deployment, or to any if none is named."""
    for name, share in endpoint.mirror.items():
        if deployment in ("", name):
            other = "" if deployment else ", or set promotion.mirror = 0 in pipeline.toml"
            raise Busy(
                f"Endpoint {endpoint.name} already mirrors {share} % of its traffic to {name}, which this pipeline did not begin. Azure"
                " mirrors to one deployment only, and gives no other traffic to it. Nothing was changed here.",
                f"end it: `{end_mirroring_command(endpoint.name, name)}`{other}",
            )


@contextmanager
def restored_on_failure(workspace: Workspace, before: EndpointView, deployment: str) -> Iterator[None]:
    """Undo the change that the block makes if it fails or is interrupted before the change is confirmed.

    Nothing is undone if somebody else's change kept the block from making one.

    Args:
        workspace: where the endpoint is.
        before: the endpoint as it was before.
        deployment: the one that the block makes live.

    Raises:
        TrafficError: the block raised an error of ours; says whether the traffic was restored.
    """
    try:
        yield
    except Busy:
        raise
    except BaseException as problem:
        if _is_confirmed(workspace, before, deployment):
            failed, outcome = "", f"{deployment} was already confirmed and stays live."
        else:
            failed, outcome = f"{deployment} could not be made live: ", undo(workspace, before.name, before.traffic)
        if isinstance(problem, MlopsError):
            kind = type(problem) if isinstance(problem, TrafficError) else TrafficError
            raise kind(f"{failed}{problem.what} {outcome}", problem.fix) from problem
        console.warning(outcome)
        raise


def _is_confirmed(workspace: Workspace, before: EndpointView, deployment: str) -> bool:
    """Return whether a change is confirmed: its last request may fail, or be interrupted, after the service has applied it."""
    try:
        now = workspace.endpoints.get(before.name)
    except MlopsError:
        return False
    return CHANGE not in now.tags and nonzero(now.traffic) == {deployment: 100} != nonzero(before.traffic)


def undo(workspace: Workspace, endpoint: str, traffic: Mapping[str, int]) -> str:
    """Restore the traffic, remove the tag of the change, and describe the outcome. Raises nothing of ours."""
    saved = nonzero(traffic)
    try:
        workspace.endpoints.set_traffic(endpoint, saved, tags={CHANGE: ""}, allow_none=True)
    except MlopsError as problem:
        return f"The traffic could NOT be restored to {saved or 'none'}: {problem.what} Run `mlops recover`."
    return f"The traffic was restored: {saved or 'none'}."


def verify(workspace: Workspace, endpoint: EndpointView, deployment: str, timeout_s: float) -> None:
    """Check that requests that name no deployment are answered by this one.

    Raises:
        TrafficError: they are not.
    """
    client = workspace.endpoints.open_client(endpoint, timeout_s=timeout_s)
    problem = ""
    # New traffic rules take a moment to reach every front end.
    for attempt in range(TRIES):
        time.sleep(PAUSE_S if attempt else 0)
        answer = client.invoke(build_payload(QUESTION, max_new_tokens=8))
        if answer.status == 200 and answer.deployment in ("", deployment):
            return
        problem = answer.reason or f"{answer.deployment} answered"
        console.info(f"  {endpoint.name}: {problem}")
    raise TrafficError(f"{deployment} does not serve requests to {endpoint.name} that name no deployment: {problem}.")
