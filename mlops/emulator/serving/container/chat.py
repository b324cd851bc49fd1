"""Scoring with a chat model: conversations in, texts out, several requests in one batch."""

from __future__ import annotations

import asyncio
import json
import traceback
from collections.abc import Callable, Mapping
from typing import Any

from starlette.responses import JSONResponse, PlainTextResponse, Response

from mlops.core import console
from mlops.emulator.serving.container.shapes import Render
from mlops.emulator.serving.container.worker import Busy, Worker

__all__ = ["ChatScorer", "Parse"]

Parse = Callable[[Any], tuple[list[Any], dict[str, Any]]]
"""Returns the conversations and the parameters in a payload, or raises ValueError."""


class ChatScorer:
    """Answers requests with a chat model.

    Args:
        worker: runs the model.
        parse: parses the payload of a request.
        render: gives the texts the shape of the response.
        timeout_s: seconds from a request's arrival to its response.
    """

    def __init__(self, worker: Worker, parse: Parse, render: Render, timeout_s: float) -> None:
        self._worker, self._parse, self._render, self._timeout_s = worker, parse, render, timeout_s

    async def __call__(self, body: bytes, _headers: Mapping[str, str]) -> tuple[Response, str]:
        """Return the response, and a remark for the log."""
        try:
            conversations, parameters = self._parse(json.loads(body))
        except ValueError as problem:
            return PlainTextResponse(str(problem), status_code=400), str(problem).partition(" Accepted:")[0]
        try:
            job = self._worker.submit(conversations, parameters)
        except Busy:
            return PlainTextResponse("Too many requests are waiting for the model.", status_code=429), ""
        try:
            answers = await asyncio.wait_for(job.answer, self._timeout_s)
        except TimeoutError:
            return PlainTextResponse(f"No answer within {self._timeout_s * 1000:.0f} ms.", status_code=408), ""
        except Exception as problem:
            console.info("".join(traceback.format_exception(problem)))
            return PlainTextResponse(f"{type(problem).__name__}: {problem}", status_code=500), ""
        finally:
            # This also happens when the client disconnects.
            self._worker.abandon(job)
        remark = f"queued for {job.queued_s * 1000:.0f} ms, batch of {job.batch_size}, {sum(map(len, answers))} characters"
        return JSONResponse(self._render(answers)), remark
