"""The container's routes.

| request | response |
|---|---|
| ``POST /score`` | 200 the model's answer; 400 invalid payload; 408 too slow; 429 too many requests; 500 the model failed |
| ``GET /``, ``/health/live``, ``/health/ready`` | 200 ``Healthy``, even while the model is working |
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from mlops.core import console

__all__ = ["Scorer", "make_app"]


Scorer = Callable[[bytes, Mapping[str, str]], Awaitable[tuple[Response, str]]]
"""Takes the body and the headers of a scoring request; returns the response, and a remark for the log."""


def make_app(score: Scorer) -> Starlette:
    """Return the application that answers with this scorer."""

    async def post_score(request: Request) -> Response:
        start = time.monotonic()
        response, remark = await score(await request.body(), request.headers)
        request_id = request.headers.get("x-ms-client-request-id", "-")
        milliseconds = (time.monotonic() - start) * 1000
        clock = time.strftime("%H:%M:%S")
        console.info(f"{clock} POST /score {response.status_code} {milliseconds:.0f} ms {request_id} {remark}".rstrip())
        return response

    return Starlette(
        routes=[
            Route("/score", post_score, methods=["POST"]),
            *(Route(path, _get_health) for path in ("/", "/health/live", "/health/ready")),
        ]
    )


async def _get_health(_request: Request) -> Response:
    return PlainTextResponse("Healthy")
