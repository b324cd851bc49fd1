"""Scoring scripts and other calls, without a process."""

from __future__ import annotations

import asyncio
import json
import threading
from pathlib import Path
from typing import Any

import pytest

from mlops.emulator.serving.container.calls import CallScorer
from mlops.emulator.serving.container.script import ScriptError, load_script

SCRIPT = """
import json

def init():
    global words
    words = {"hello": "hola"}

def run(data):
    return {"answer": words[json.loads(data)["word"]]}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "score.py"
    path.write_text(text)
    return path


def answer(call: Any, body: bytes, **headers: str) -> tuple[int, Any]:
    response, _ = asyncio.run(CallScorer(call, 1, 60)(body, headers))
    return response.status_code, json.loads(bytes(response.body))


def test_init_is_called_once_and_run_for_each_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    call = load_script(write(tmp_path, SCRIPT))
    assert answer(call, b'{"word": "hello"}') == (200, {"answer": "hola"})
    message = {"message": "An unexpected error occurred in scoring script. Check the logs for more info."}
    assert answer(call, b'{"word": "unknown"}') == (500, message)
    assert answer(call, b"\xff") == (
        400,
        {"message": "Input cannot be decoded as UTF-8: 'utf-8' codec can't decode byte 0xff in position 0: invalid start byte"},
    )


@pytest.mark.parametrize(
    ("run", "expected"),
    [
        ("def run(data, request_headers): return request_headers['X-A']", (200, "1")),
        ("def run(data, request_headers): return 'x-a' in request_headers", (200, False)),
        ("def run(data): return data", (200, "{}")),
        ("def run(data): return None", (200, {})),
        ("def run(data): return 0", (200, 0)),
        ("def run(data): return (1, 'ü')", (200, [1, "ü"])),
        ("def run(data): return b'1'", (500, {"message": "An unexpected internal error occurred. Check the logs for more info."})),
        ("def run(data): return {1, 2}", (500, {"message": "An unexpected internal error occurred. Check the logs for more info."})),
    ],
)
def test_the_result_is_returned_as_json(tmp_path: Path, run: str, expected: tuple[int, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    call = load_script(write(tmp_path, f"def init(): pass\n{run}\n"))
    assert answer(call, b"{}", **{"x-a": "1"}) == expected


@pytest.mark.parametrize(
    ("run", "failed", "status"),
    [("return 1", "False", 200), ("return {1}", "False", 500), ("1 / 0", "True", 500), ("raise SystemExit(5)", "True", 500)],
)
def test_the_headers_say_whether_the_script_has_failed(
    tmp_path: Path, run: str, failed: str, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.path", [])
    scorer = CallScorer(load_script(write(tmp_path, f"def init(): pass\ndef run(data): {run}\n")), 1, 60)
    response, _ = asyncio.run(scorer(b"{}", {"x-request-id": "r1"}))
    headers = dict(response.headers)
    assert (response.status_code, headers.pop("x-ms-run-function-failed")) == (status, failed)
    assert (float(headers.pop("x-ms-run-fn-exec-ms")) >= 0) if status == 200 else "x-ms-run-fn-exec-ms" not in headers
    assert (headers["x-ms-server-version"], headers["x-request-id"], headers["x-ms-request-id"]) == ("azmlinfsrv/1.5.1", "r1", "r1")


@pytest.mark.parametrize(
    ("sent", "returned"),
    [
        (
            {"x-request-id": "r", "x-ms-client-request-id": "c"},
            {"x-request-id": "r", "x-ms-request-id": "c", "x-ms-client-request-id": "c"},
        ),
        ({"x-request-id": "r", "x-ms-request-id": "o"}, {"x-request-id": "r", "x-ms-request-id": "o", "x-ms-client-request-id": "o"}),
        ({"x-request-id": "r"}, {"x-request-id": "r", "x-ms-request-id": "r", "x-ms-client-request-id": None}),
        ({"traceid": "t"}, {"TraceId": "t"}),
    ],
)
def test_request_ids_are_repeated(sent: dict[str, str], returned: dict[str, str | None]) -> None:
    response, _ = asyncio.run(CallScorer(lambda _body, _headers: 1, 1, 60)(b"", sent))
    assert {name: response.headers.get(name) for name in returned} == returned


@pytest.mark.parametrize(
    ("sent", "names", "repeated"),
    [
        ({"x-request-id": "r" * 101, "x-ms-client-request-id": "c"}, "x-request-id", None),
        ({"x-request-id": "r", "x-ms-client-request-id": "c" * 101}, "x-ms-request-id and x-ms-client-request-id", "r"),
    ],
)
def test_request_ids_that_are_too_long_are_refused_and_not_repeated(sent: dict[str, str], names: str, repeated: str | None) -> None:
    response, _ = asyncio.run(CallScorer(lambda _body, _headers: 1, 1, 60)(b"", sent))
    assert (response.status_code, json.loads(bytes(response.body))) == (431, {"message": f"{names} must not exceed 100 characters"})
    assert (response.headers["x-ms-server-version"], response.headers.get("x-request-id")) == ("azmlinfsrv/1.5.1", repeated)
    assert "x-ms-client-request-id" not in response.headers


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("def run(data): pass", r"does not have a init\(\) function"),
        ("def init(): pass", r"does not have a run\(\) function"),
        ("def init(): pass\ndef run(*data): pass", "cannot accept positional-only"),
        ("def init(): pass\ndef run(): pass", "needs to accept an argument for input data"),
        ("def init(): pass\ndef run(request_headers): pass", 'needs to accept an argument other than "request_headers"'),
    ],
)
def test_a_script_without_the_functions_is_refused(tmp_path: Path, script: str, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.path", [])
    with pytest.raises(ScriptError, match=message):
        load_script(write(tmp_path, script))


def test_calls_run_at_once_up_to_the_limit_as_many_wait_and_the_rest_is_refused() -> None:
    started, go = threading.Semaphore(0), threading.Event()

    def call(body: bytes, _headers: Any) -> str:
        started.release()
        assert go.wait(60)
        return body.decode()

    async def play() -> None:
        scorer = CallScorer(call, 2, 60)
        tasks = [asyncio.create_task(scorer(str(number).encode(), {})) for number in range(4)]
        for _ in range(2):
            await asyncio.to_thread(started.acquire)
        assert (await scorer(b"5", {}))[0].status_code == 429
        assert not started.acquire(blocking=False), "two run, two wait"
        go.set()
        assert [json.loads(bytes((await task)[0].body)) for task in tasks] == ["0", "1", "2", "3"]
        assert (await scorer(b"6", {}))[0].status_code == 200

    asyncio.run(play())


def test_a_call_that_takes_too_long_is_408() -> None:
    go = threading.Event()

    async def play() -> None:
        scorer = CallScorer(lambda _body, _headers: go.wait(60), 1, 0.05)
        assert (await scorer(b"", {}))[0].status_code == 408
        go.set()

    asyncio.run(play())
