"""Scoring with a function: an MLflow model's ``predict``, or the ``run`` of a scoring script.

Responses to failures are those of azureml-inference-server-http: ``{"message": …}``.
"""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import PlainTextResponse, Response

from mlops.core import console

__all__ = ["Call", "CallScorer", "InvalidPayload"]

Call = Callable[[bytes, Mapping[str, str]], Any]
"""Takes the body and the headers of a request; returns a JSON value, or raises InvalidPayload."""

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
        self._pending += 1
        task = asyncio.create_task(self._run(body, headers))
        task.add_done_callback(self._end)
        try:
            # A call can't be interrupted, so it keeps its slot after the client has given up.
            return await asyncio.wait_for(asyncio.shield(task), self._timeout_s), ""
        except TimeoutError:
            return PlainTextResponse(f"No answer within {self._timeout_s * 1000:.0f} ms.", status_code=408), ""

    async def _run(self, body: bytes, headers: Mapping[str, str]) -> Response:
        async with self._slots:
            try:
                result = await asyncio.to_thread(self._call, body, headers)
            except InvalidPayload as problem:
                return _message(400, str(problem))
            except Exception as problem:
                console.info("Encountered Exception: " + "".join(traceback.format_exception(problem)))
                return _message(500, SCRIPT_FAILED)
        try:
            return Response(json.dumps(result), media_type="application/json")
        except (TypeError, ValueError) as problem:
            console.info(f"The result can't be written as JSON: {problem}")
            return _message(500, SERVER_FAILED)

    def _end(self, _task: asyncio.Task[Response]) -> None:
        self._pending -= 1


def _message(status: int, text: str) -> Response:
    return Response(json.dumps({"message": text}), status_code=status, media_type="application/json")
