"""Push to main: promoted, stopped at the gate, left to itself and carried on, rolled back. In this order, in one repository."""

from __future__ import annotations

import pytest

from mlops.emulator import github
from mlops.emulator.server import Emulator
from tests.workflows.harness import Harness, Result, until

ENDPOINT = "chat-prod"
JOBS = ["validate", "train", "evaluate-gate", "register", "deploy", "smoke-test", "promote", "teardown"]


@pytest.fixture(scope="module")
def first(repository: Harness, emulator: Emulator) -> Result:
    """The first push; GitHub hands out one token that has expired already, in the middle of it."""
    emulator.cloud.faults.order("assertion-expired@*:environment:prod x1")
    return repository.push()


@pytest.fixture(scope="module")
def live(first: Result, repository: Harness) -> str:
    """The deployment that the first push made live."""
    assert first.code == 0, first.trouble
    (name,) = repository.endpoints()[ENDPOINT]
    return name


def test_a_push_is_trained_judged_and_promoted(first: Result, live: str, repository: Harness, emulator: Emulator) -> None:
    assert first.jobs == dict.fromkeys(JOBS, "success")
    assert list(first.jobs) == JOBS
    assert first.outputs["verdict"] == "PROMOTE"
    assert (first.outputs["state"], first.outputs["endpoint"]) == ("completed", ENDPOINT)
    assert repository.endpoints() == {ENDPOINT: {live: 100}}
    assert "## Gate: PROMOTE" in first.summary
    assert not emulator.cloud.faults.pending(), "the expired token was never asked for"
    assert all(emulator.hosts_asked.values()), emulator.hosts_asked


def test_no_token_is_printed(first: Result) -> None:
    for line in first.log.splitlines():
        assert "eyJ" not in line or "add-mask" in line, line


def test_a_push_with_a_worse_model_stops_at_the_gate(live: str, repository: Harness) -> None:
    repository.set(r"^learning_rate = .*", "learning_rate = 1e-9")
    worse = repository.push()
    assert worse.code == 1
    assert worse.jobs == {"validate": "success", "train": "success", "evaluate-gate": "failure", "teardown": "success"}
    assert worse.outputs["verdict"] == "REJECT"
    assert repository.endpoints() == {ENDPOINT: {live: 100}}


def test_a_long_training_is_left_to_itself_and_carried_on_by_the_schedule(live: str, repository: Harness, emulator: Emulator) -> None:
    repository.set(r"^learning_rate = .*", "learning_rate = 0.02")
    repository.set(r"^\[defaults\.training\]", "[defaults.training]\ndetach_after_minutes = 0")
    before = set(repository.jobs())
    left = repository.push()
    assert left.jobs == {"validate": "success", "train": "success"}
    assert left.outputs["state"] == "detached"
    (job,) = set(repository.jobs()) - before
    assert until(lambda: repository.jobs()[job] == "Completed"), repository.jobs()

    assert repository.schedule().jobs == {"resume": "success", "reap": "success"}
    (asked,) = github.dispatches(emulator.cloud)
    assert (asked["workflow"], asked["ref"]) == ("dispatch.yml", "main")
    assert (asked["inputs"]["target"], asked["inputs"]["from"], asked["inputs"]["run-id"]) == ("prod", "train", left.run_id)
    rest = repository.dispatch("dispatch.yml", asked["inputs"])
    assert rest.code == 0, rest.trouble
    assert rest.jobs == dict.fromkeys(JOBS, "success")
    assert set(repository.jobs()) == before | {job}, "the training was paid for twice"
    traffic = repository.endpoints()[ENDPOINT]
    assert traffic.pop(live) == 0, "the previous deployment is kept for rollback"
    assert list(traffic.values()) == [100]

    repository.schedule()
    assert len(github.dispatches(emulator.cloud)) == 1, "what has been carried on is not carried on again"


def test_a_rollback_gives_the_traffic_back(live: str, repository: Harness) -> None:
    assert repository.endpoints()[ENDPOINT][live] == 0
    back = repository.dispatch("dispatch.yml", {"action": "rollback"})
    assert back.jobs == {"rollback": "success"}, back.trouble
    assert repository.endpoints()[ENDPOINT][live] == 100
    assert f"back on {live}" in back.summary


def test_a_repository_without_azure_variables_says_so(repository: Harness) -> None:
    silent = repository.push(configured=False)
    assert silent.jobs == {"unconfigured": "success"}
    assert "AZURE_CLIENT_ID is not set" in silent.log
