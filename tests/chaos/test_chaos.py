"""A sample of the trials of ``nox -s chaos``, and that they notice what they must notice."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from mlops.cloud.tags import CHANGE, CREATION_ID, MARK, PIPELINE, PREVIOUS, RUN_KEY
from mlops.cloud.traffic_change import LEASE, Change
from mlops.emulator.base.azure import Azure
from mlops.emulator.base.store import Store
from tests.chaos import trial as trials
from tests.chaos.command import clocks, set_clock
from tests.chaos.faults import KINDS, Point, is_write, kinds_for, points
from tests.chaos.trial import Observer, Trial
from tests.chaos.world import REQUESTS, STAGES, World

SAMPLED = "promote"
SIZE = 3
OURS = {PIPELINE: MARK}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, weights_cache: Path) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("chaos")
    with World(folder / "states", folder / "scratch", weights_cache) as made:
        made.prepare([SAMPLED])
        yield made


def test_a_sample_of_faults_at_changes_of_the_traffic(world: World) -> None:
    stage = STAGES[SAMPLED]
    requests, expected = trials.record(world, stage)
    changes = [point for point in points(requests) if is_write(point.request)]
    assert len(changes) == 5, "two for the mirroring, one for each step of the traffic, and one that confirms it"
    possible = [Trial(SAMPLED, point, kind) for point in changes for kind in kinds_for(point.request)]
    failed, confirmed = Trial(SAMPLED, changes[2], "operation-failed"), Trial(SAMPLED, changes[4], "operation-applied")
    for trial in (failed, confirmed, *random.Random(12).sample(possible, SIZE)):
        result = trials.run(world, stage, trial, expected)
        assert result.reached, trial
        assert result.violations == [], f"{trial}\n{result.text}"


def test_faults_happen_at_every_change_and_at_one_of_equal_reads_between_changes() -> None:
    get, other, put = "arm GET ~/a", "arm GET ~/b", "arm PUT ~/a"
    requests = [get, get, other, put, get, get, put, put, get, get, get]
    expected = [(get, 1), (other, 1), (put, 1), (get, 3), (put, 2), (put, 3), (get, 5), (get, 7)]
    assert points(requests) == [Point(request, number) for request, number in expected]


@pytest.mark.parametrize(
    ("request_", "writes"),
    [
        ("arm PUT ~/jobs/a", True),
        ("arm DELETE ~/onlineEndpoints/a", True),
        ("api POST /mlflow/v2.0~/api/2.0/mlflow/runs/set-tag", True),
        ("arm POST ~/jobs/a/cancel", True),
        ("arm POST ~/onlineEndpoints/a/listKeys", False),
        ("login POST /*/oauth2/v2.0/token", False),
        ("scoring POST /score", False),
        ("api POST /history/v1.0~/runs:query", False),
        ("blob HEAD /container/a", False),
    ],
)
def test_a_request_that_only_reads_is_not_a_change(request_: str, writes: bool) -> None:
    assert is_write(request_) is writes
    assert ("kill-after" in kinds_for(request_)) is writes


def test_only_requests_that_start_a_long_running_operation_have_one_that_fails() -> None:
    faults = {"operation-failed", "operation-canceled", "operation-applied"}
    for request in ("PUT ~/onlineEndpoints/a", "DELETE ~/onlineEndpoints/a", "PUT ~/onlineEndpoints/a/deployments/b", "PUT ~/computes/a"):
        assert faults <= set(kinds_for(f"arm {request}"))
    for request in ("GET ~/onlineEndpoints/a", "PUT ~/jobs/a", "PUT ~/models/a/versions/1", "POST ~/onlineEndpoints/a/listKeys"):
        assert not faults & set(kinds_for(f"arm {request}"))


@pytest.mark.parametrize("kind", KINDS)
def test_a_trial_is_named_so_that_it_can_be_done_again(kind: str) -> None:
    trial = Trial("first promote", Point("arm PUT ~/onlineEndpoints/chaos:x #y", 2), kind)
    assert Trial.parse(str(trial)) == trial


def test_two_hours_later_a_change_of_the_traffic_is_abandoned(monkeypatch: pytest.MonkeyPatch) -> None:
    for module in clocks():
        monkeypatch.setattr(module, "datetime", datetime)  # and again afterwards
    change = Change(run="lost", until=datetime.now(UTC) + LEASE, was={"old": 100}, to="new")
    assert not change.is_abandoned
    set_clock(2.0)
    assert change.is_abandoned


class Scene:
    """An Azure with an endpoint of ours, a deployment that is live, and something of somebody else."""

    def __init__(self, path: Path) -> None:
        self.store = Store(path)
        self.put("endpoint", "e", name="e", traffic={"old": 100}, mirror={}, tags={**OURS, PREVIOUS: "older"})
        for name in ("old", "older"):
            self.put("deployment", f"e/{name}", name=name, state="Succeeded", tags={**OURS, CREATION_ID: name}, model="m")
        self.put("deployment", "e/theirs", name="theirs", state="Succeeded", tags={}, model="m")
        self.put("run", "job", name="job", kind="job", status="Completed", tags={RUN_KEY: "k"}, display_name="job")
        self.observer = Observer(cast(Azure, SimpleNamespace(store=self.store)), "e", {"old", "older"})

    def put(self, kind: str, key: str, /, **fields: Any) -> None:
        self.store.put(kind, key, {**(self.store.get(kind, key) or {}), **fields})

    def happen(self, method: str = "PUT", host: str = "arm", deployment: str = "") -> list[str]:
        headers = {trials.DEPLOYMENT_HEADER: deployment} if deployment else {}
        request = SimpleNamespace(method=method, headers=headers, url=SimpleNamespace(path="/workspaces/w/x"))
        self.observer.watch(cast(Any, request), host)
        return self.observer.violations


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path / "azure.db")
    yield made
    made.store.close()


def test_all_is_well_as_long_as_nothing_happens(scene: Scene) -> None:
    assert scene.happen() == []
    scene.observer.check("now")
    assert scene.observer.violations == []
    assert scene.observer.find_orphans() == []


@pytest.mark.parametrize(
    ("traffic", "says"),
    [
        ({"old": 95}, "the traffic is"),
        ({}, "no deployment takes traffic any more"),
        ({"gone": 100}, "gone takes traffic and is None"),
        ({"old": 95, "new": 5}, "new takes traffic and is untested"),
    ],
)
def test_wrong_traffic_is_noticed_at_once(scene: Scene, traffic: dict[str, int], says: str) -> None:
    scene.put("deployment", "e/new", name="new", state="Succeeded", tags={**OURS, CREATION_ID: "new"}, model="m")
    scene.put("endpoint", "e", traffic=traffic)
    assert says in scene.happen()[0]


def test_a_deployment_that_has_answered_is_tested(scene: Scene) -> None:
    scene.put("deployment", "e/new", name="new", state="Succeeded", tags={**OURS, CREATION_ID: "new"}, model="m")
    for _ in range(REQUESTS):
        scene.happen("POST", "scoring", "new")
    scene.put("endpoint", "e", traffic={"old": 95, "new": 5})
    assert scene.happen() == []
    scene.put("deployment", "e/new", state="Failed")
    assert "new takes traffic and is Failed" in scene.happen()[0]


def test_other_peoples_resources_must_not_change(scene: Scene) -> None:
    scene.put("deployment", "e/theirs", capacity=2)
    scene.observer.check("now")
    scene.store.delete("deployment", "e/theirs")
    scene.observer.check("later")
    assert [violation.split(":")[0] for violation in scene.observer.violations] == ["now", "later"]


def test_mirroring_that_no_change_of_the_traffic_explains_is_noticed(scene: Scene) -> None:
    scene.put("endpoint", "e", mirror={"older": 10}, tags={**OURS, PREVIOUS: "older", CHANGE: "{}"})
    scene.observer.check("now")
    assert scene.observer.violations == []
    scene.put("endpoint", "e", tags=OURS)
    scene.observer.check("later")
    assert scene.observer.violations == ["later: the traffic is mirrored, and no tag says so: {'older': 10}"]


def test_a_second_job_of_a_key_and_an_orphan_are_noticed(scene: Scene) -> None:
    scene.put("run", "job-2", name="job-2", kind="job", status="Completed", tags={RUN_KEY: "k"}, display_name="job")
    scene.put("deployment", "e/new", name="new", state="Failed", tags=OURS, model="m")
    scene.observer.check("now")
    assert scene.observer.violations == ["now: more than one job per run key: {'k': 2}"]
    assert scene.observer.find_orphans() == ["new (Failed)"]
