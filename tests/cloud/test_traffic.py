"""Changes of the traffic that somebody else interferes with: what is theirs stays as it is, and nothing untested gets traffic."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mlops.cli.recover import recover
from mlops.cli.rollback import rollback
from mlops.cloud import traffic
from mlops.cloud.endpoint_views import EndpointView
from mlops.cloud.endpoints import Endpoints
from mlops.cloud.tags import CHANGE, CREATION_ID, MAX_VALUE, RUN
from mlops.cloud.traffic_change import LEASE, Busy, Change, identify, nonzero, read_change
from mlops.cloud.workspace import Workspace
from mlops.core.errors import RecordError, TrafficError
from mlops.core.settings import Config, EndpointConfig
from mlops.emulator.identity import entra
from mlops.emulator.server import Emulator
from tests.cli.test_rollback import NAME, Open, Session, session
from tests.support.deployments import registered_model
from tests.test_promote import expire

__all__ = ["session"]

UNTIL = datetime(2026, 11, 27, 22, 49, tzinfo=UTC)
Runs = tuple[Workspace, Workspace]


@pytest.fixture
def runs(session: Session) -> Runs:
    """Two runs of the pipeline at the same endpoint, where ``new`` is live and ``old`` at 0 %."""
    (_, first), (_, second) = session(), session()
    for workspace, run in ((first, "1"), (second, "2")):
        workspace.session.tags[RUN] = f"our/project/{run}"
    return first, second


def identity_of_old(workspace: Workspace) -> str:
    view = workspace.endpoints.find_deployment(NAME, "old")
    assert view is not None
    return identify(view.identity, view.creator)


def begin(workspace: Workspace, share: int = 100, before: EndpointView | None = None) -> EndpointView:
    """Begin to make ``old`` live."""
    return traffic.change_traffic(workspace, before or workspace.endpoints.get(NAME), "old", share, identity=identity_of_old(workspace))


def attempt(workspace: Workspace, before: EndpointView, block: Callable[[], object]) -> None:
    """Do something as a promotion to ``old``."""
    with traffic.restored_on_failure(workspace, before, "old"):
        block()


def state(workspace: Workspace) -> tuple[dict[str, int], str]:
    """Traffic, and the run that is changing it."""
    endpoint = workspace.endpoints.get(NAME)
    change = read_change(endpoint)
    return nonzero(endpoint.traffic), change.run if change is not None else ""


def move_by_hand(workspace: Workspace, shares: dict[str, int]) -> None:
    """Move the traffic as somebody does in the studio, which keeps the tags."""
    ml = workspace.session.ml
    entity = ml.online_endpoints.get(NAME)
    entity.traffic = shares
    ml.online_endpoints.begin_create_or_update(entity).result()


def interfere(monkeypatch: pytest.MonkeyPatch, workspace: Workspace, *, before: bool, then: Callable[[], object]) -> None:
    """Do something once, right before the next change of this run reads the endpoint, or right after its request."""
    done: list[object] = []
    name = "set_traffic" if before else "get"
    original = getattr(Endpoints, name)

    def interrupted(self: Endpoints, *arguments: object, **options: object) -> object:
        if self is workspace.endpoints and not done:
            done.append(None)
            then()
        return original(self, *arguments, **options)

    monkeypatch.setattr(Endpoints, name, interrupted)


def test_a_run_that_comes_second_changes_nothing(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = runs
    before = first.endpoints.get(NAME)
    # The second run begins between the first one's decision and its request.
    interfere(monkeypatch, first, before=True, then=lambda: begin(second, 5, before))
    with pytest.raises(Busy, match=r"Run our/project/2 is moving the traffic .* so it was left alone"):
        attempt(first, before, lambda: begin(first, 100, before))
    assert state(first) == ({"new": 95, "old": 5}, "our/project/2")
    after = begin(second, 100, before)
    with pytest.raises(Busy):
        traffic.finish(first, before_as_mine(first, after), {})
    traffic.finish(second, after, {})
    assert state(second) == ({"old": 100}, "")


def before_as_mine(workspace: Workspace, after: EndpointView) -> EndpointView:
    """Return an endpoint as if this run's own change were what is there."""
    change = read_change(after)
    assert change is not None
    mine = change.model_copy(update={"run": traffic.current_run(workspace)})
    return EndpointView(**{**vars(after), "tags": {**after.tags, CHANGE: mine.model_dump_json(exclude_defaults=True)}})


def test_a_request_that_another_run_has_overtaken_is_noticed(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = runs
    before = first.endpoints.get(NAME)

    def overtake() -> None:
        # As if the second run had read the endpoint before the first one wrote it.
        second.endpoints.set_traffic(NAME, {"new": 100}, tags={CHANGE: ""})
        begin(second, 5, before)

    interfere(monkeypatch, first, before=False, then=overtake)
    with pytest.raises(Busy, match=r"changed the traffic of way-back at the same time.*Run our/project/2 is changing the traffic"):
        attempt(first, before, lambda: begin(first, 100, before))
    assert state(first) == ({"new": 95, "old": 5}, "our/project/2")
    traffic.undo(second, before, "old")
    assert state(first) == ({"new": 100}, "")


def test_a_run_whose_time_is_over_leaves_later_changes_of_others_alone(runs: Runs) -> None:
    first, second = runs
    before = first.endpoints.get(NAME)

    def sleep_too_long() -> None:
        begin(first, 5)
        # Another run undoes the change, and somebody moves the traffic.
        expire(first, NAME)
        recover(second.session.config, second)
        assert state(second) == ({"new": 100}, "")
        move_by_hand(second, {"new": 50, "old": 50})
        raise TrafficError("it is worse")

    with pytest.raises(TrafficError, match="it is worse Somebody else has changed the traffic, so it was left alone"):
        attempt(first, before, sleep_too_long)
    assert state(first) == ({"new": 50, "old": 50}, "")


def test_only_the_change_that_was_made_is_confirmed(runs: Runs) -> None:
    first, _ = runs
    before = first.endpoints.get(NAME)

    def promote() -> None:
        after = begin(first)
        move_by_hand(first, by_hand)
        traffic.finish(first, after, {"note": "x"})

    for by_hand, says in (({"new": 100}, "was restored"), ({"new": 70, "old": 30}, "so it was left alone")):
        with pytest.raises(Busy, match=f"is changing the traffic of way-back at the same time.*{says}"):
            attempt(first, before, promote)
        assert state(first) == (by_hand, "")
        assert "note" not in first.endpoints.get(NAME).tags
        before = first.endpoints.set_traffic(NAME, {"new": 100})


def test_a_step_at_which_somebody_else_moved_the_traffic_is_the_last(runs: Runs) -> None:
    first, _ = runs
    before = first.endpoints.get(NAME)

    def promote() -> None:
        begin(first, 5)
        move_by_hand(first, {"new": 50, "old": 50})
        begin(first, 25, before)

    with pytest.raises(Busy, match=r"somebody else has changed it\. Somebody else has changed the traffic, so it was left alone"):
        attempt(first, before, promote)
    # And no tag of a change keeps others from going on.
    assert state(first) == ({"new": 50, "old": 50}, "")


@pytest.mark.parametrize("kind", [{"share": 25}, {"mirror": 50}, {"back": True}])
def test_a_change_fits_into_a_tag(kind: dict[str, int]) -> None:
    long = {name: name[0] * 32 for name in ("was", "to")}
    run = SimpleNamespace(session=SimpleNamespace(tags={RUN: "r" * MAX_VALUE}))
    identity = identify("an id", "a creator")
    change = Change.model_validate(
        {
            "run": traffic.current_run(cast(Workspace, run)),
            "until": UNTIL,
            "was": {long["was"]: 100},
            "to": long["to"],
            "id": identity,
            **kind,
        }
    )
    assert len(change.model_dump_json(exclude_defaults=True)) <= MAX_VALUE


def recreate(workspace: Workspace, trained_job: str, creation_id: str = "") -> None:
    """Delete ``old`` and create it again."""
    workspace.endpoints.delete_deployment(NAME, "old")
    config = EndpointConfig(name=NAME, probe_initial_delay_s=1)
    workspace.endpoints.deploy(config, "old", registered_model(workspace, trained_job), {})
    if creation_id:
        entity = workspace.session.ml.online_deployments.get("old", NAME)
        entity.tags[CREATION_ID] = creation_id
        workspace.session.ml.online_deployments.begin_create_or_update(entity).result()


def test_a_deployment_that_was_created_again_gets_no_traffic(
    runs: Runs, trained_job: str, inside: Emulator, open_workspace: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, _ = runs
    config: Config = first.session.config
    before, identity = first.endpoints.get(NAME), identity_of_old(first)
    begin(first)
    # The run is lost, and while nobody looks the deployment is replaced by another one of its name.
    move_by_hand(first, {"new": 100})
    recreate(first, trained_job)
    move_by_hand(first, {"old": 100})
    with pytest.raises(RecordError, match="was deleted and created again since it was tested"):
        traffic.finish(first, first.endpoints.get(NAME), {})
    recover(config, first)
    assert state(first) == ({"new": 100}, "")

    # By somebody else, who gives it the tags of ours.
    view = first.endpoints.find_deployment(NAME, "old")
    assert view is not None
    identity = identity_of_old(first)
    with monkeypatch.context() as patch:
        for name, value in entra.add_application(inside.azure).items():
            patch.setenv(name, value)
        other = open_workspace(config)
        recreate(other, trained_job, view.identity)
    forged = first.endpoints.find_deployment(NAME, "old")
    assert forged is not None
    assert (forged.identity, forged.creator == view.creator) == (view.identity, False)
    for share in (5, 100):
        with pytest.raises(TrafficError, match=r"so it is untested\. The traffic is unchanged"):
            attempt(first, before, partial(traffic.change_traffic, first, before, "old", share, identity=identity))
    with pytest.raises(RecordError), traffic.mirror_traffic(first, before, "old", 10, identity):
        pass
    after = first.endpoints.get(NAME)
    assert (state(first), dict(after.mirror)) == (({"new": 100}, ""), {})
    first.endpoints.delete_deployment(NAME, "old")


def test_a_rollback_checks_the_deployment_that_it_has_tested(session: Session, trained_job: str, monkeypatch: pytest.MonkeyPatch) -> None:
    config, workspace = session()
    find_tags = traffic.rolled_back_tags

    def recreate_first(*arguments: Any) -> dict[str, str]:
        recreate(workspace, trained_job)
        return find_tags(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(traffic, "rolled_back_tags", recreate_first)
        with pytest.raises(TrafficError, match="so it is untested"):
            rollback(config, workspace)
    assert state(workspace) == ({"new": 100}, "")


@pytest.mark.parametrize(
    ("ahead", "is_taken_over"),
    [(timedelta(hours=-8), True), (timedelta(minutes=-4), False), (timedelta(minutes=4), False), (timedelta(hours=8), True)],
)
def test_a_clock_that_is_wrong_by_hours_does_not_block_recovery_and_its_run_changes_nothing_afterward(
    runs: Runs, monkeypatch: pytest.MonkeyPatch, ahead: timedelta, is_taken_over: bool
) -> None:
    first, second = runs
    before = first.endpoints.get(NAME)
    with monkeypatch.context() as patch:
        # What a run writes whose clock is ahead by so much.
        patch.setattr(traffic, "LEASE", LEASE + ahead)
        begin(first, 5)
    recover(second.session.config, second)
    if not is_taken_over:
        assert state(second) == ({"new": 95, "old": 5}, "our/project/1")
        traffic.undo(first, before, "old")
    else:
        assert state(second) == ({"new": 100}, "")
        begin(second, 10)
        with pytest.raises(Busy):
            attempt(first, before, lambda: begin(first, 25, before))
        assert state(second) == ({"new": 90, "old": 10}, "our/project/2")
        traffic.undo(second, before, "old")
    assert state(second) == ({"new": 100}, "")


def test_a_lease_without_a_time_zone_can_not_be_read(runs: Runs) -> None:
    first, second = runs
    begin(first, 5)
    text = first.endpoints.get(NAME).tags[CHANGE]
    ml = first.session.ml
    entity = ml.online_endpoints.get(NAME)
    entity.tags[CHANGE] = text.replace("Z", "")
    ml.online_endpoints.begin_create_or_update(entity).result()
    with pytest.raises(TrafficError, match="is not a change of its traffic"):
        recover(second.session.config, second)
    second.endpoints.set_traffic(NAME, {"new": 100}, tags={CHANGE: ""})
