"""Scoring with a function: an MLflow model's ``predict``, or the ``run`` of a scoring script.

Results, failures (``{"message": …}``) and headers are those of azureml-inference-server-http 1.5.1. It can't serve itself: it needs
opentelemetry-sdk 1.33.0, and the Azure ML SDK a newer one.
"""

from __future__ import annotations

import asyncio
import json
import time
import traceback
import uuid
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import PlainTextResponse, Response

from mlops.core import console

__all__ = ["Call", "CallScorer", "InvalidPayload"]

Call = Callable[[bytes, Mapping[str, str]], Any]
"""Takes the body and the headers of a request; returns a JSON value, or raises InvalidPayload."""

MAX_REQUEST_ID = 100
"""Characters."""
SERVER_VERSION = "azmlinfsrv/1.5.1"
SCRIPT_FAILED = "An unexpected error occurred in scoring script. Check the logs for more info."
SERVER_FAILED = "An unexpected internal error occurred. Check the logs for more info."


class InvalidPayload(ValueError):
    """The request's body is not what the model takes."""


class CallScorer:
    """Answers requests by calls in threads, as many at once as the deployment has workers; as many again may wait.

    Args:
        call: the function.
        concurrent: number of calls at once.
        timeout_s: seconds from a request's arrival to its response.
    """

    def __init__(self, call: Call, concurrent: int, timeout_s: float) -> None:
        self._call, self._timeout_s = call, timeout_s
        self._limit = 2 * concurrent
        self._pending = 0
        self._slots = asyncio.Semaphore(concurrent)

    async def __call__(self, body: bytes, headers: Mapping[str, str]) -> tuple[Response, str]:
        """Return the response, and a remark for the log."""
        if self._pending >= self._limit:
            return PlainTextResponse("Too many requests are waiting for the model.", status_code=429), ""
        ids, too_long = _read_ids(headers)
        if too_long:
            return _add_headers(_message(431, f"{too_long} must not exceed {MAX_REQUEST_ID} characters"), ids), ""
        self._pending += 1
        task = asyncio.create_task(self._run(body, headers))
        task.add_done_callback(self._end)
        try:
            # A call can't be interrupted, so it keeps its slot after the client has given up.
            response = await asyncio.wait_for(asyncio.shield(task), self._timeout_s)
        except TimeoutError:
            return PlainTextResponse(f"No answer within {self._timeout_s * 1000:.0f} ms.", status_code=408), ""
        return _add_headers(response, ids), ""

    async def _run(self, body: bytes, headers: Mapping[str, str]) -> Response:
        async with self._slots:
            start = time.perf_counter()
            try:
                result = await asyncio.to_thread(_without_exit, self._call, body, headers)
            except InvalidPayload as problem:
                return _message(400, str(problem))
            except Exception as problem:
                console.info("Encountered Exception: " + "".join(traceback.format_exception(problem)))
                return _message(500, SCRIPT_FAILED, failed=True)
            milliseconds = (time.perf_counter() - start) * 1000
        try:
            # A response always has content.
            response = _respond(200, {} if result is None else result)
        except (TypeError, ValueError) as problem:
            console.info(f"The result can't be written as JSON: {problem}")
            return _message(500, SERVER_FAILED)
        response.headers["x-ms-run-fn-exec-ms"] = f"{milliseconds:.3f}"
        return response

    def _end(self, _task: asyncio.Task[Response]) -> None:
        self._pending -= 1


def _without_exit(call: Call, body: bytes, headers: Mapping[str, str]) -> Any:
    """Call the function, and let ``sys.exit`` only end the request: the server replaces the process of such a worker."""
    try:
        return call(body, headers)
    except SystemExit as problem:
        raise RuntimeError(f"The script exits with {problem.code}.") from problem


def _read_ids(headers: Mapping[str, str]) -> tuple[dict[str, str], str]:
    """Return the identifiers that a response repeats, and the names of those that are too long, which it doesn't repeat.

    If only one response header is sent, the older name of the client's identifier takes precedence.
    """
    trace = {"TraceId": headers["traceid"]} if "traceid" in headers else {}
    request = headers.get("x-request-id") or str(uuid.uuid4())
    if len(request) > MAX_REQUEST_ID:
        return trace, "x-request-id"
    ids = trace | {"x-request-id": request}
    old = headers.get("x-ms-request-id", "")
    client = headers.get("x-ms-client-request-id", "") or old
    if max(len(old), len(client)) > MAX_REQUEST_ID:
        return ids, "x-ms-request-id and x-ms-client-request-id"
    return ids | {"x-ms-request-id": old or client or request} | ({"x-ms-client-request-id": client} if client else {}), ""


def _add_headers(response: Response, ids: Mapping[str, str]) -> Response:
    response.headers.update({"x-ms-server-version": SERVER_VERSION, **ids})
    return response


def _message(status: int, text: str, *, failed: bool = False) -> Response:
    return _respond(status, {"message": text}, failed=failed)


def _respond(status: int, content: Any, *, failed: bool = False) -> Response:
    headers = {"x-ms-run-function-failed": str(failed)}
    return Response(json.dumps(content), status_code=status, media_type="application/json", headers=headers)
