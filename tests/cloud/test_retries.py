"""Requests to Azure are repeated if that is safe, not for too long, and not silently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlops.cloud import retries
from mlops.cloud.errors import NotFound
from mlops.cloud.rest import Rest
from mlops.cloud.workspace import Workspace
from mlops.core.errors import AzureError
from mlops.core.settings import ComputeConfig

Fault = Callable[[str], None]


def test_a_throttled_read_is_repeated_after_the_time_that_azure_names(
    workspace: Workspace, fault: Fault, capsys: pytest.CaptureFixture[str]
) -> None:
    fault("429@arm GET */computes/nothing x1")
    assert workspace.compute.find("nothing") is None
    assert capsys.readouterr().out.count("  GET computes/nothing: HTTP 429; trying again in 1 s\n") == 1


def test_a_creation_is_repeated(workspace: Workspace, fault: Fault, capsys: pytest.CaptureFixture[str]) -> None:
    fault("503@arm PUT */computes/repeated x1")
    fault("drop@arm PUT */computes/repeated x1")
    assert workspace.compute.ensure(ComputeConfig(name="repeated")).created
    output = capsys.readouterr().out
    assert "PUT computes/repeated: HTTP 503; trying again in 1 s" in output
    assert "PUT computes/repeated: no response; trying again" in output


def test_a_request_to_wait_longer_than_the_deadline_stops_at_once(
    workspace: Workspace, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retries, "DEADLINE_S", 0.5)
    fault("429@arm GET */computes/nothing x1")
    with pytest.raises(AzureError, match="429") as stopped:
        workspace.compute.find("nothing")
    assert not isinstance(stopped.value, NotFound)
    assert "wait, then run the command again" in stopped.value.fix


@pytest.mark.parametrize(
    ("rule", "action", "status"),
    [
        ("503@arm POST */anything x1", "anything", 503),
        ("500@arm POST */anything x1", "anything", 500),
        ("429@arm POST */anything x1", "anything", 501),
        ("503@arm POST */listKeys x1", "listKeys", 404),
    ],
)
def test_a_post_is_repeated_only_if_it_was_refused_or_changes_nothing(
    rule: str, action: str, status: int, workspace: Workspace, fault: Fault
) -> None:
    """The repetition is answered by the emulator, which has neither the action ``anything`` nor this endpoint."""
    fault(rule)
    rest: Any = Rest(workspace.session.credential)
    url = f"https://management.azure.com{workspace.session.arm_id}/onlineEndpoints/nothing/{action}?api-version=2024-04-01"
    assert rest.post(url, json={}, headers={}, timeout_s=10).status_code == status
