"""Moves or mirrors an endpoint's traffic, in a way that another machine can finish or undo: see
:mod:`mlops.cloud.traffic_change`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from typing import Any

from mlops.cloud.anchor import rollback_tags
from mlops.cloud.endpoint_views import EndpointView
from mlops.cloud.invoke import build_payload
from mlops.cloud.standby import standby_tags
from mlops.cloud.tags import CHANGE, PREVIOUS_MODEL, ROLLED_BACK, ROLLED_BACK_BY, RUN, shorten_model
from mlops.cloud.traffic_change import (
    LEASE,
    Busy,
    Change,
    check_idle,
    check_mirroring,
    check_same,
    check_unchanged,
    identify,
    nonzero,
    read_change,
)  # fmt: skip
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import MlopsError, RecordError, TrafficError
from mlops.core.settings import Config

__all__ = [
    "change_traffic", "check_deployment", "current_run", "finish", "mirror_traffic", "previous_tags", "recover", "restored_on_failure",
    "rolled_back_tags", "undo", "verify",
]  # fmt: skip

QUESTION = ({"role": "user", "content": "Are you there?"},)
TRIES = 5
PAUSE_S = 2.0


def recover(config: Config, workspace: Workspace, endpoint: EndpointView) -> EndpointView:
    """Finish or undo an abandoned change: finish it if the deployment answers, otherwise restore the earlier traffic.

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
            f"Run {change.run} stopped while {change.to} got a copy of {change.mirror} % of the requests to {endpoint.name}. The"
            f" mirroring was ended; the traffic is unchanged: {live or 'none'}."
        )
        return after
    if change.share < 100 and live == change.traffic:
        return _undo_abandoned(workspace, endpoint, change, f"Its comparison at {change.share} % was not completed.")
    if live != {change.to: 100}:
        console.notice(
            f"The traffic of {endpoint.name} is {live or 'none'}: somebody changed it since run {change.run} stopped. It was left alone."
        )
        return _end(workspace, endpoint, live)
    try:
        check_deployment(workspace, endpoint.name, change.to, change.id)
        verify(workspace, endpoint, change.to, config.endpoint.client_timeout_s())
    except (RecordError, TrafficError) as problem:
        return _undo_abandoned(workspace, endpoint, change, problem.what)
    previous = max(change.was, key=lambda name: change.was[name], default=None)
    tags = (
        rolled_back_tags(config, workspace, endpoint, previous or "", change.run)
        if change.back
        else previous_tags(config, workspace, endpoint.name, previous, keep=config.endpoint.keep_previous)
    )
    console.notice(f"Run {change.run} stopped while it made {change.to} live. It answers, so it stays.")
    return finish(workspace, endpoint, tags)


def _undo_abandoned(workspace: Workspace, endpoint: EndpointView, change: Change, reason: str) -> EndpointView:
    try:
        after = _end(workspace, endpoint, change.was)
    except Busy:
        raise
    except MlopsError as problem:
        raise TrafficError(
            f"{reason} {_describe_not_restored(change.was, problem)}", "deploy an earlier commit with dispatch.yml"
        ) from problem
    console.warning(f"Run {change.run} stopped while it made {change.to} live. {reason} {_describe_restored(change.was)}")
    return after


def previous_tags(config: Config, workspace: Workspace, endpoint: str, deployment: str | None, *, keep: bool) -> dict[str, str]:
    """Return the tags that say how to go back, for an endpoint whose live deployment was just replaced.

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
    return workspace.session.tags[RUN][-72:]


def check_deployment(workspace: Workspace, endpoint: str, deployment: str, identity: str) -> None:
    """Refuse a deployment that isn't the tested one, but only has its name.

    Args:
        workspace: where the endpoint is.
        endpoint: its name.
        deployment: name of the deployment.
        identity: of the tested deployment, as :func:`mlops.cloud.traffic_change.identify` returns it.

    Raises:
        RecordError: it is another one, or no longer exists.
    """
    view = workspace.endpoints.find_deployment(endpoint, deployment)
    if view is None or identify(view.identity, view.creator) != identity:
        change = "no longer exists" if view is None else "was deleted and created again since it was tested, so it is untested"
        raise RecordError(f"Deployment {deployment} of endpoint {endpoint} {change}.", "run `mlops run --from deploy`")


def change_traffic(
    workspace: Workspace, before: EndpointView, deployment: str, share: int = 100, *, identity: str, back: bool = False
) -> EndpointView:
    """Send traffic to a deployment. Afterwards the change is unfinished: call this with a larger share, :func:`finish` or :func:`undo`.

    Args:
        workspace: where the endpoint is.
        before: the endpoint as it was when the change was decided.
        deployment: gets the share, the others what is left.
        share: in percent.
        identity: of the deployment that was tested, as :func:`mlops.cloud.traffic_change.identify` returns it.
        back: whether this is a rollback.

    Raises:
        Busy: somebody else is changing the traffic, or has changed it since; nothing of theirs was changed.
        RecordError: the deployment is another one than the one that was tested; nothing was changed.
        TrafficError: the service did not apply it.
    """
    was = nonzero(before.traffic)
    check_deployment(workspace, before.name, deployment, identity)
    change = _change(workspace, was=was, to=deployment, share=share, back=back, id=identity)

    def check(now: EndpointView) -> None:
        check_mirroring(now, deployment)
        earlier = read_change(now)
        if earlier is None or not change.continues(earlier):
            check_idle(now)
        check_unchanged(now, earlier.traffic if earlier is not None else was)

    return _begin(workspace, before.name, change, check)


@contextmanager
def mirror_traffic(workspace: Workspace, before: EndpointView, deployment: str, share: int, identity: str) -> Iterator[None]:
    """Let a deployment without traffic get a copy of a part of the requests while the block runs. The answers to the copies are discarded.

    Azure gives no traffic to a deployment that gets a copy of it, so the mirroring has ended after the block, however that ends.

    Args:
        workspace: where the endpoint is.
        before: the endpoint as it was when the comparison was decided.
        deployment: gets the copies.
        share: of how many percent of the requests; 0 for none.
        identity: of the deployment that was tested, as :func:`mlops.cloud.traffic_change.identify` returns it.

    Raises:
        Busy: the endpoint mirrors its traffic already, or somebody else is changing it; nothing was changed.
        RecordError: the deployment is another one than the one that was tested; nothing was changed.
        TrafficError: somebody else has changed the mirroring since, or it could not be ended.
    """
    check_mirroring(before, "" if share else deployment)
    if not share:
        yield
        return
    was = nonzero(before.traffic)
    check_deployment(workspace, before.name, deployment, identity)
    change = _change(workspace, was=was, to=deployment, mirror=share, id=identity)

    def check(now: EndpointView) -> None:
        check_idle(now)
        check_unchanged(now, was)
        check_mirroring(now)

    try:
        _begin(workspace, before.name, change, check)
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
            f"Somebody else changed the mirroring of {before.name} during the comparison, so {deployment} was not compared under load."
            f" {deployment} has no traffic.",
            "run the command again",
        )


def _end_mirroring(workspace: Workspace, endpoint: str, change: Change) -> tuple[EndpointView, bool]:
    """End the mirroring that a change has begun, unless it has been ended. Return the endpoint, and whether the mirroring was as begun."""
    now = workspace.endpoints.get(endpoint)
    if read_change(now) != change:
        return now, False
    others = {name: share for name, share in now.mirror.items() if name != change.to}
    return _end(workspace, now, now.traffic, mirror=others), now.mirror == {change.to: change.mirror}


def _try_to_end_mirroring(workspace: Workspace, endpoint: str, change: Change) -> str:
    """End the mirroring, and describe the outcome. Never raise a :class:`MlopsError`."""
    try:
        _end_mirroring(workspace, endpoint, change)
    except MlopsError as problem:
        return f"{change.to} may still get a copy of {change.mirror} % of the requests: {problem.what} Run `mlops recover`."
    return f"{change.to} no longer gets copies of requests."


def finish(workspace: Workspace, after: EndpointView, tags: Mapping[str, str]) -> EndpointView:
    """Confirm a change: its tag is removed, others are set, and the traffic stays.

    Args:
        workspace: where the endpoint is.
        after: the endpoint as :func:`change_traffic` has left it, with all of the traffic on one deployment.
        tags: to set.

    Raises:
        Busy: the traffic is another one by now; nothing was changed.
        RecordError: the deployment is another one by now; nothing was changed.
    """
    change = read_change(after)
    if change is None or nonzero(after.traffic) != {change.to: 100}:
        raise TrafficError(
            f"The traffic of {after.name} is {dict(after.traffic)}, so there is no change to confirm.", "run `mlops recover`"
        )
    check_deployment(workspace, after.name, change.to, change.id)
    return _end(workspace, after, {change.to: 100}, tags)


def _change(workspace: Workspace, **fields: Any) -> Change:
    return Change(run=current_run(workspace), until=(datetime.now(UTC) + LEASE).replace(microsecond=0), **fields)


def _begin(workspace: Workspace, endpoint: str, change: Change, check: Callable[[EndpointView], None]) -> EndpointView:
    """Apply a change together with the tag that describes it."""
    mirror = {change.to: change.mirror} if change.mirror else None
    tags = {CHANGE: change.model_dump_json(exclude_defaults=True)}
    return workspace.endpoints.set_traffic(endpoint, change.traffic, mirror=mirror, tags=tags, check=check)


def _end(
    workspace: Workspace,
    now: EndpointView,
    traffic: Mapping[str, int],
    tags: Mapping[str, str] | None = None,
    mirror: Mapping[str, int] | None = None,
) -> EndpointView:
    """Set the traffic and remove the tag of the change, if the endpoint is still as it was read."""
    return workspace.endpoints.set_traffic(
        now.name, traffic, mirror=mirror, tags={**(tags or {}), CHANGE: ""}, allow_none=True, check=partial(check_same, now)
    )


@contextmanager
def restored_on_failure(workspace: Workspace, before: EndpointView, deployment: str) -> Iterator[None]:
    """Undo the change that the block makes if it fails or is interrupted before the change is confirmed.

    Changes that somebody else made in the meantime are left alone.

    Args:
        workspace: where the endpoint is.
        before: the endpoint as it was before.
        deployment: the one that the block makes live.

    Raises:
        TrafficError: the block raised an error of ours; says whether the traffic was restored.
    """
    try:
        yield
    except BaseException as problem:
        if _is_confirmed(workspace, before, deployment):
            failed, outcome = "", f"{deployment} was already confirmed and stays live."
        else:
            is_pending = not isinstance(problem, Busy | RecordError)
            failed, outcome = f"{deployment} could not be made live: ", undo(workspace, before, deployment, is_pending=is_pending)
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


def undo(workspace: Workspace, before: EndpointView, deployment: str, *, is_pending: bool = True) -> str:
    """Restore the traffic, remove the tag of the change, and describe the outcome. Never raise a :class:`MlopsError`.

    Args:
        workspace: where the endpoint is.
        before: the endpoint as it was before the change.
        deployment: the one that the change was to make live.
        is_pending: whether a request that was interrupted may still be carried out, so that the traffic is written in any case.
    """
    was = nonzero(before.traffic)
    for _ in range(TRIES):
        try:
            return _try_to_undo(workspace, before.name, was, deployment, is_pending=is_pending)
        except Busy:
            continue  # It changed between two requests, perhaps by one of ours, so read it again.
        except MlopsError as problem:
            return f"{_describe_not_restored(was, problem)} Run `mlops recover`."
    return f"The traffic of {before.name} keeps changing, so it was not restored. Run `mlops recover`."


def _try_to_undo(workspace: Workspace, endpoint: str, was: Mapping[str, int], deployment: str, *, is_pending: bool) -> str:
    now = workspace.endpoints.get(endpoint)
    change, live = read_change(now), nonzero(now.traffic)
    if change is not None and (change.run, change.to, change.was) != (current_run(workspace), deployment, was):
        return f"Run {change.run} is changing the traffic, so it was left alone: {live or 'none'}."
    if live not in (was, change.traffic if change is not None else was):
        if change is not None:
            _end(workspace, now, live)
        return f"Somebody else has changed the traffic, so it was left alone: {live or 'none'}."
    if change is None and not is_pending:
        return f"The traffic is unchanged: {live or 'none'}."
    _end(workspace, now, was)
    return _describe_restored(was)


def _describe_restored(was: Mapping[str, int]) -> str:
    return f"The traffic was restored: {dict(was) or 'none'}."


def _describe_not_restored(was: Mapping[str, int], problem: MlopsError) -> str:
    return f"The traffic could NOT be restored to {dict(was) or 'none'}: {problem.what}"


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
