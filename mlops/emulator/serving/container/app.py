"""The container's routes.

| request | response |
|---|---|
| ``POST /score`` | 200 texts in the image's shape; 400 invalid payload; 408 too slow; 429 too many requests; 500 the model failed |
| ``GET /``, ``/health/live``, ``/health/ready`` | 200 ``Healthy``, even while the model is working |
"""

from __future__ import annotations

import asyncio
import json
import time
import traceback
from collections.abc import Callable
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mlops.core import console
from mlops.emulator.serving.container.shapes import Render
from mlops.emulator.serving.container.worker import Busy, Worker

__all__ = ["Parse", "make_app"]

Parse = Callable[[Any], tuple[list[Any], dict[str, Any]]]
"""Returns the conversations and the parameters in a payload, or raises ValueError."""


def make_app(worker: Worker, parse: Parse, render: Render, timeout_s: float) -> Starlette:
    """Return the application.

    Args:
        worker: runs the model.
        parse: parses the payload of a request.
        render: gives the texts the shape of the response.
        timeout_s: seconds from a request's arrival to its response.
    """

    async def score(request: Request) -> Response:
        start = time.monotonic()
        response, remark = await _score(worker, parse, render, timeout_s, await request.body())
        request_id = request.headers.get("x-ms-client-request-id", "-")
        milliseconds = (time.monotonic() - start) * 1000
        clock = time.strftime("%H:%M:%S")
        console.info(f"{clock} POST /score {response.status_code} {milliseconds:.0f} ms {request_id} {remark}".rstrip())
        return response

    return Starlette(
        routes=[
            Route("/score", score, methods=["POST"]),
            *(Route(path, _get_health) for path in ("/", "/health/live", "/health/ready")),
        ]
    )


async def _get_health(_request: Request) -> Response:
    return PlainTextResponse("Healthy")


async def _score(worker: Worker, parse: Parse, render: Render, timeout_s: float, body: bytes) -> tuple[Response, str]:
    """Return the response, and a remark for the log."""
    try:
        conversations, parameters = parse(json.loads(body))
    except ValueError as problem:
        return PlainTextResponse(str(problem), status_code=400), str(problem).partition(" Accepted:")[0]
    try:
        job = worker.submit(conversations, parameters)
    except Busy:
        return PlainTextResponse("Too many requests are waiting for the model.", status_code=429), ""
    try:
        answers = await asyncio.wait_for(job.answer, timeout_s)
    except TimeoutError:
        return PlainTextResponse(f"No answer within {timeout_s * 1000:.0f} ms.", status_code=408), ""
    except Exception as problem:
        console.info("".join(traceback.format_exception(problem)))
        return PlainTextResponse(f"{type(problem).__name__}: {problem}", status_code=500), ""
    finally:
        # This also happens when the client disconnects.
        worker.abandon(job)
    remark = f"queued for {job.queued_s * 1000:.0f} ms, batch of {job.batch_size}, {sum(map(len, answers))} characters"
    return JSONResponse(render(answers)), remark
