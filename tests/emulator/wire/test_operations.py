"""Long-running operations and the headers of the control plane, read by plain HTTP."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
import requests

from mlops.emulator.base.azure import API_HOST, LOCATION
from mlops.emulator.base.errors import AzureFault
from mlops.emulator.base.faults import FAULTS
from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.server import Emulator
from mlops.emulator.wire import operations

Get = Callable[[str], requests.Response]
RECORDED = (
    "cache-control", "content-type", "date", "expires", "pragma", "strict-transport-security", "x-content-type-options",
    "x-ms-correlation-request-id", "x-ms-ratelimit-remaining-subscription-reads", "x-ms-response-type", "x-ms-routing-request-id",
    "x-request-time",
)  # fmt: skip
"""Headers of every recorded answer to a GET, errors included."""


@pytest.fixture
def get(emulator: Emulator, environment: object) -> Get:
    headers = {"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"}
    return lambda path: requests.get(MANAGEMENT + path, params={"api-version": "2023-04-01-preview"}, headers=headers, timeout=30)


class Work:
    """Work of an operation that ends when it is told to."""

    def __init__(self, emulator: Emulator, kind: Any, prefix: str, **options: Any) -> None:
        self._loop = emulator._loop
        self._end: asyncio.Future[None] = self._loop.create_future()
        start = lambda: operations.start(emulator.azure, kind, prefix, self._work(), **options)  # noqa: E731
        self.path = asyncio.run_coroutine_threadsafe(self._call(start), self._loop).result()

    async def _work(self) -> None:
        await self._end

    async def _call(self, function: Callable[[], Any]) -> Any:
        result = function()
        await asyncio.sleep(0)
        return result

    def end(self, fault: AzureFault | None = None) -> None:
        finish = (lambda: self._end.set_exception(fault)) if fault else (lambda: self._end.set_result(None))
        asyncio.run_coroutine_threadsafe(self._call(finish), self._loop).result()


def test_the_status_of_an_endpoint_shows_what_is_done_and_how_far(emulator: Emulator, get: Get) -> None:
    work = Work(emulator, "mfeOperationsStatus", "oe:")
    first = get(work.path)
    assert first.json().keys() == {"id", "name", "status", "startTime", "percentComplete"}
    assert (first.json()["status"], first.json()["percentComplete"]) == ("Updating", 0.0)
    assert first.json()["name"].startswith(f"oe:{emulator.azure.identity.workspace_guid}:")
    work.end()
    last = get(work.path).json()
    assert (last["status"], last["percentComplete"], last["endTime"] >= last["startTime"]) == ("Succeeded", 100.0, True)


def test_the_status_of_compute_is_short(emulator: Emulator, get: Get) -> None:
    work = Work(emulator, "computeOperationsStatus", "")
    assert get(work.path).json() == {"status": "InProgress"}
    work.end()
    assert get(work.path).json() == {"status": "Succeeded", "percentComplete": 100.0}


def test_a_result_is_empty_in_the_end(emulator: Emulator, get: Get) -> None:
    work = Work(emulator, "mfeOperationResults", "jc:", name="job-1")
    assert work.path.endswith(f"/locations/{LOCATION}/mfeOperationResults/jc:{emulator.azure.identity.workspace_guid}:job-1")
    first = get(work.path)
    assert (first.status_code, first.json()) == (202, {})
    assert work.path in first.headers["Location"]
    work.end()
    assert (get(work.path).status_code, get(work.path).content) == (200, b"")


def test_a_failed_result_is_an_error(emulator: Emulator, get: Get) -> None:
    work = Work(emulator, "mfeOperationResults", "oe:")
    work.end(AzureFault(400, "Conflict", "It can't be deleted."))
    assert (get(work.path).status_code, get(work.path).json()["error"]["code"]) == (400, "Conflict")


def test_an_unknown_operation_is_not_found(emulator: Emulator, get: Get) -> None:
    path = f"/subscriptions/{emulator.azure.identity.subscription}/providers/Microsoft.MachineLearningServices/locations/{LOCATION}"
    assert get(f"{path}/mfeOperationsStatus/oe:x").status_code == 404


class TestHeaders:
    """Every answer of Azure Resource Manager has the same headers."""

    def test_of_a_resource(self, emulator: Emulator, get: Get) -> None:
        answers = [get(emulator.azure.workspace_id) for _ in range(2)]
        headers = answers[0].headers
        assert headers["content-type"] == "application/json; charset=utf-8"
        assert headers["x-ms-response-type"] == "standard"
        assert headers["x-ms-routing-request-id"].endswith(headers["x-ms-correlation-request-id"])
        remaining = [int(answer.headers["x-ms-ratelimit-remaining-subscription-reads"]) for answer in answers]
        assert remaining[1] < remaining[0] < 12000

    @pytest.mark.parametrize(
        ("path", "status"),
        [
            ("", 200), ("/jobs/nothing", 404), ("/schedules", 501), ("/jobs", 403), ("/jobs", 429), ("/jobs", 500), ("/jobs", 503),
        ],
    )  # fmt: skip
    def test_of_each_status(self, emulator: Emulator, get: Get, path: str, status: int) -> None:
        if str(status) in FAULTS:
            emulator.azure.faults.add(f"{status}@arm GET {emulator.azure.workspace_id}{path}")
        answer = get(emulator.azure.workspace_id + path)
        assert (answer.status_code, answer.headers["x-ms-response-type"]) == (status, "standard" if status == 200 else "error")
        assert set(RECORDED) <= {name.lower() for name in answer.headers}
        assert status == 200 or {"code", "message"} <= answer.json()["error"].keys()

    def test_of_an_absent_compute(self, emulator: Emulator, get: Get) -> None:
        answer = get(emulator.azure.workspace_id + "/computes/nothing")
        assert (answer.status_code, answer.content, answer.headers["x-ms-response-type"]) == (404, b"", "standard")

    def test_of_the_data_plane(self, emulator: Emulator, environment: object) -> None:
        url = f"https://{API_HOST}/history/v1.0{emulator.azure.workspace_id}/runs/nothing"
        answer = requests.get(url, headers={"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"}, timeout=30)
        assert (answer.status_code, answer.headers["x-ms-response-type"]) == (404, "error")
        assert answer.headers["strict-transport-security"] == "max-age=15724800; includeSubDomains; preload"
        assert "x-ms-correlation-request-id" not in answer.headers
