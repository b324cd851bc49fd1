"""The container's routes.

| request | answer |
|---|---|
| ``POST /score`` | 200 ``{"output": …}``; 400 payload not understood; 408 too slow; 429 too many; 500 the model failed |
| ``GET /``, ``/health/live``, ``/health/ready`` | 200 ``Healthy``, also while the model works |
"""

from __future__ import annotations

import asyncio
import json
import time
import traceback

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from mlops.core import console
from mlops.emulator.component.chat_model import parse
from mlops.emulator.serving.container.worker import Busy, Worker

__all__ = ["make_app"]


def make_app(worker: Worker, timeout: float) -> Starlette:
    """The application.

    Args:
        worker: runs the model.
        timeout: seconds from a request's arrival to its answer.
    """

    async def score(request: Request) -> Response:
        start = time.monotonic()
        response, remark = await _score(worker, timeout, await request.body())
        identity = request.headers.get("x-ms-client-request-id", "-")
        took = time.monotonic() - start
        console.info(f"{_clock()} POST /score {response.status_code} {took * 1000:.0f} ms {identity} {remark}".rstrip())
        return response

    return Starlette(
        routes=[
            Route("/score", score, methods=["POST"]),
            *(Route(path, _healthy) for path in ("/", "/health/live", "/health/ready")),
        ]
    )


async def _healthy(_request: Request) -> Response:
    return PlainTextResponse("Healthy")


async def _score(worker: Worker, timeout: float, body: bytes) -> tuple[Response, str]:
    """The answer, and a remark for the log."""
    try:
        conversations, parameters = parse(json.loads(body))
    except ValueError as problem:
        return PlainTextResponse(str(problem), status_code=400), str(problem).partition(" Accepted:")[0]
    try:
        job = worker.submit(conversations, parameters)
    except Busy:
        return PlainTextResponse("Too many requests wait for the model.", status_code=429), ""
    try:
        answers = await asyncio.wait_for(job.answer, timeout)
    except TimeoutError:
        return PlainTextResponse(f"No answer within {timeout * 1000:.0f} ms.", status_code=408), ""
    except Exception as problem:
        console.info("".join(traceback.format_exception(problem)))
        return PlainTextResponse(f"{type(problem).__name__}: {problem}", status_code=500), ""
    finally:
        # Also when the client hangs up.
        worker.abandon(job)
    remark = f"waited {job.waited * 1000:.0f} ms, {job.together} together, {sum(map(len, answers))} characters"
    return JSONResponse({"output": answers[0] if len(answers) == 1 else answers}), remark


def _clock() -> str:
    return time.strftime("%H:%M:%S")
