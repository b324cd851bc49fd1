"""Rules of fault injection, and what a client sees on the wire."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import requests
from azure.core.exceptions import AzureError, HttpResponseError

from mlops.emulator.base.faults import FAULTS, Faults
from mlops.emulator.server import Emulator

DISCOVERY = "https://eastus.api.azureml.ms/discovery"


@pytest.fixture
def faults(emulator: Emulator) -> Iterator[Faults]:
    """An empty set of rules for one test. All of them must have been applied when the test ends."""
    before, emulator.azure.faults = emulator.azure.faults, Faults()
    yield emulator.azure.faults
    pending, emulator.azure.faults = emulator.azure.faults.pending(), before
    assert pending == []


@pytest.mark.parametrize(
    ("spec", "name", "subject", "times"),
    [
        ("job-failed", "job-failed", "any", 1),
        ("job-failed@train-* x2", "job-failed", "train-7", 2),
        ("429@arm", "429", "arm GET /a/b", 1),
        ("500@blob PUT", "500", "blob PUT /c/d", 1),
        ("503@arm GET */computes/* x3", "503", "arm GET /subscriptions/s/computes/gpu", 3),
        ("  drop@* * /x   x2 ", "drop", "login POST /x", 2),
        ("compute-quota@Dedicated *", "compute-quota", "Dedicated gpu", 1),
    ],
)
def test_a_rule_applies_as_often_as_it_says(spec: str, name: str, subject: str, times: int) -> None:
    faults = Faults([spec])
    assert [faults.take(name, subject) for _ in range(times + 1)] == [True] * times + [False]


@pytest.mark.parametrize(
    ("spec", "name", "subject"),
    [
        ("job-failed@train-*", "job-failed", "eval-1"),
        ("job-failed@train-*", "job-queued", "train-1"),
        ("429@arm GET */computes/*", "429", "arm PUT /s/computes/gpu"),
        ("429@arm", "429", "blob GET /a"),
        ("compute-quota@Dedicated *", "compute-quota", "LowPriority gpu"),
    ],
)
def test_a_rule_for_something_else_does_not_apply(spec: str, name: str, subject: str) -> None:
    assert not Faults([spec]).take(name, subject)


def test_pending_rules_can_be_added_again() -> None:
    faults = Faults(["503@arm always", "job-failed@a x2"])
    assert all(faults.take("503", "arm GET /") for _ in range(5))
    faults.take("job-failed", "a")
    assert faults.pending() == ["503@arm * * always", "job-failed@a x1"]
    assert Faults(faults.pending()).pending() == faults.pending()


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("jobfailed", "did you mean 'job-failed'"),
        ("deployment-unhealty@x", "did you mean 'deployment-unhealthy'"),
        ("@x", "is malformed"),
        ("429 arm", "is malformed"),
        ("429@arm x0", "smallest count is x1"),
        ("", "is malformed"),
    ],
)
def test_an_invalid_rule_is_refused(spec: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        Faults([spec])


def test_a_misspelled_name_in_the_code_raises() -> None:
    with pytest.raises(KeyError):
        Faults().take("job-fails")


def test_every_fault_has_a_description() -> None:
    assert all(FAULTS.values())


@pytest.mark.usefixtures("environment")
class TestWire:
    """Faults of requests."""

    @pytest.mark.parametrize(("name", "header"), [("403", None), ("404", None), ("429", "1"), ("500", None), ("503", "1")])
    def test_an_injected_status_has_retry_after(self, faults: Faults, name: str, header: str | None) -> None:
        faults.add(f"{name}@api GET /discovery")
        answers = [requests.get(DISCOVERY, timeout=30) for _ in range(2)]
        assert [answer.status_code for answer in answers] == [int(name), 200]
        assert answers[0].headers.get("Retry-After") == header
        assert "error" in answers[0].json()

    def test_a_dropped_connection_has_no_response(self, faults: Faults) -> None:
        faults.add("drop@api")
        with pytest.raises(requests.ConnectionError):
            requests.get(DISCOVERY, timeout=30)
        assert requests.get(DISCOVERY, timeout=30).status_code == 200

    def test_a_lost_response_is_of_a_request_that_was_handled(self, faults: Faults, ml: Any, emulator: Emulator) -> None:
        from azure.ai.ml.entities import AmlCompute

        # The first attempt and three retries.
        faults.add("lost@arm PUT */computes/lost x4")
        with pytest.raises(AzureError, match="closed connection without response"):
            ml.compute.begin_create_or_update(AmlCompute(name="lost", size="Standard_DS3_v2"))
        assert emulator.azure.store.get("compute", "lost") is not None

    def test_a_missing_permission_names_action_and_scope(self, faults: Faults, ml: Any) -> None:
        faults.add("403@arm GET */vmSizes")
        action = "Microsoft.MachineLearningServices/locations/vmSizes/read"
        with pytest.raises(HttpResponseError, match=f"AuthorizationFailed.*perform action '{action}' over scope '/subscriptions/[^/]+' or"):
            list(ml.compute.list_sizes())

    def test_the_sdk_retries(self, faults: Faults, ml: Any) -> None:
        faults.add("429@arm GET */vmSizes x2")
        faults.add("drop@arm GET */vmSizes")
        assert any(size.gpus for size in ml.compute.list_sizes())

    def test_the_sdk_gives_up_after_three_retries(self, faults: Faults, ml: Any) -> None:
        # The first attempt and three retries.
        faults.add("503@arm GET */vmSizes x4")
        with pytest.raises(HttpResponseError, match="temporarily unavailable"):
            list(ml.compute.list_sizes())
