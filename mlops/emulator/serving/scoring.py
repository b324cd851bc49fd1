"""Scoring: what an endpoint's own host name answers.

The front end checks the key or token, chooses a deployment (the ``azureml-model-deployment`` header, else by the weights of the endpoint's
traffic), and relays body and answer. Its own refusals are plain text, as the real front end's are; what a container answers other than 200
becomes 424 with the container's status in a header. The limits are those of the deployment's ``requestSettings``.
"""

from __future__ import annotations

import asyncio
import hmac
import random
import time
from collections.abc import Mapping
from typing import Any

import httpx
import jwt
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault
from mlops.emulator.base.store import Document
from mlops.emulator.identity import entra
from mlops.emulator.serving import containers
from mlops.emulator.serving.containers import Instance
from mlops.emulator.serving.deployments import timeout_s
from mlops.emulator.serving.endpoints import audience
from mlops.emulator.wire.app import Answer, Route

__all__ = ["DEPLOYMENT_HEADER", "ROUTES", "SOURCE", "choose"]

DEPLOYMENT_HEADER = "azureml-model-deployment"
SOURCE = random.Random()  # noqa: S311 - a load balancer keeps no secrets
"""Decides which deployment a request goes to; seed it for a split that can be repeated."""
RELAYED = ("content-type", "content-encoding", "accept", "x-ms-client-request-id")
DROPPED = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
"""Hop-by-hop headers (RFC 9110, 7.6.1) and what the server sets itself."""

NO_DEPLOYMENT = (
    "No valid deployments to route to. Please check that the endpoint has at least one deployment with positive weight values or use a"
    " deployment specific header to route."
)


async def score(azure: Azure, request: Request) -> Answer:
    """Relay a scoring request to the deployment that it is for."""
    endpoint = _endpoint(azure, request)
    _authenticate(azure, request, endpoint)
    name = request.headers.get(DEPLOYMENT_HEADER) or choose(endpoint["traffic"], SOURCE)
    if name is None:
        raise refusal(404, NO_DEPLOYMENT)
    key = f"{endpoint['name']}/{name}".lower()
    deployment = azure.store.get("deployment", key)
    if deployment is None:
        raise refusal(404, f"{NO_DEPLOYMENT} There is no deployment {name}.")
    _faults(azure, deployment["name"])
    limit = timeout_s(deployment)
    deadline = time.monotonic() + limit
    while True:
        instance = await _serving(azure, key, deployment, deadline)
        if instance.in_flight >= 2 * instance.launch.concurrency:
            raise refusal(429, "Too many pending requests.", deployment["name"])
        instance.in_flight += 1
        try:
            answer = await _relay(instance, request, deployment["name"], deadline)
        except httpx.ConnectError:
            # It has ended, and whoever watches it has not seen it yet: nothing has been sent.
            instance.in_flight -= 1
            await asyncio.sleep(containers.TICK_S)
            continue
        except BaseException:
            instance.in_flight -= 1
            raise
        return _Relayed(instance, answer, deployment["name"])


async def get_health(azure: Azure, request: Request) -> Answer:
    """Whether the front end is there."""
    _endpoint(azure, request)
    return PlainTextResponse("Healthy")


async def get_swagger(azure: Azure, request: Request) -> Answer:
    """What can be asked for: one operation, whose payload is the model's own affair."""
    endpoint = _endpoint(azure, request)
    _authenticate(azure, request, endpoint)
    anything: dict[str, Any] = {"type": "object"}
    return {
        "swagger": "2.0",
        "info": {"title": endpoint["name"], "version": "1.0"},
        "host": request.url.hostname,
        "schemes": ["https"],
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "securityDefinitions": {"Bearer": {"type": "apiKey", "name": "Authorization", "in": "header"}},
        "security": [{"Bearer": []}],
        "paths": {
            "/score": {
                "post": {
                    "operationId": "RunMLService",
                    "parameters": [{"name": "payload", "in": "body", "required": True, "schema": anything}],
                    "responses": {"200": {"description": "The model's answer.", "schema": anything}},
                }
            }
        },
    }


def choose(traffic: Mapping[str, int], source: random.Random) -> str | None:
    """A deployment by the weights of the traffic; None if nobody has any."""
    weighted = {name: percent for name, percent in traffic.items() if percent > 0}
    if not weighted:
        return None
    return source.choices(list(weighted), list(weighted.values()))[0]


def refusal(status: int, sentence: str, deployment: str | None = None, **headers: str) -> AzureFault:
    """The front end says no, in plain text."""
    named = {DEPLOYMENT_HEADER: deployment} if deployment else {}
    return AzureFault(status, "Scoring", sentence, body=sentence, headers={"content-type": "text/plain", **named, **headers})


def _endpoint(azure: Azure, request: Request) -> Document:
    name = (request.url.hostname or "").partition(".")[0]
    stored = azure.store.get("endpoint", name.lower())
    if stored is None or stored["state"] in ("Creating", "Deleting"):
        # In Azure this name would not resolve.
        raise refusal(404, f"There is no endpoint {name}.")
    return stored


def _authenticate(azure: Azure, request: Request, endpoint: Document) -> None:
    scheme, _, given = request.headers.get("authorization", "").partition(" ")
    mode = endpoint["auth_mode"]
    kind = "key" if mode == "Key" else "token"
    if scheme.lower() != "bearer" or not given.strip():
        raise refusal(401, f"{kind}_auth_bad_header_forbidden")
    if mode == "Key":
        allowed = any(hmac.compare_digest(given.strip().encode(), key.encode()) for key in endpoint["keys"].values())
    else:
        allowed = _valid(azure, given.strip(), audience(endpoint["name"]) if mode == "AMLToken" else entra.ML)
    if not allowed:
        raise refusal(401, f"{kind}_auth_access_denied")


def _valid(azure: Azure, token: str, wanted: str) -> bool:
    try:
        jwt.decode(token, azure.identity.token_key, algorithms=["HS256"], audience=wanted)
    except jwt.InvalidTokenError:
        return False
    return True


def _faults(azure: Azure, deployment: str) -> None:
    if azure.faults.take("scoring-408", deployment):
        raise refusal(408, "Request timed out.", deployment)
    if azure.faults.take("scoring-429", deployment):
        raise refusal(429, "Too many pending requests.", deployment)
    if azure.faults.take("scoring-500", deployment):
        raise refusal(500, "Internal server error.", deployment)
    if azure.faults.take("scoring-503", deployment):
        raise refusal(503, "Service unavailable.", deployment)
    if azure.faults.take("scoring-424", deployment):
        raise model_error(500, "Internal Server Error", deployment)


def model_error(status: int, sentence: str, deployment: str) -> AzureFault:
    """424: the model's container is to blame."""
    return refusal(424, sentence, deployment, **_blame(status))


def _blame(status: int) -> dict[str, str]:
    return {"ms-azureml-model-error-reason": "model_error", "ms-azureml-model-error-statuscode": str(status)}


async def _serving(azure: Azure, key: str, deployment: Document, deadline: float) -> Instance:
    """The container, as soon as it is ready: it may be starting, after a crash or after the emulator's own restart."""
    while True:
        instance = containers.find(azure, key)
        if instance is not None and instance.client is not None:
            return instance
        if deployment["state"] != "Succeeded" or (instance is not None and instance.gave_up):
            raise refusal(503, "The deployment has no container that serves.", deployment["name"])
        if time.monotonic() > deadline:
            raise refusal(408, "Request timed out.", deployment["name"])
        await asyncio.sleep(containers.TICK_S)


async def _relay(instance: Instance, request: Request, deployment: str, deadline: float) -> httpx.Response:
    assert instance.client is not None
    sent = instance.client.build_request(
        "POST",
        "/score",
        content=request.stream(),
        headers={name: value for name, value in request.headers.items() if name in RELAYED},
    )
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await instance.client.send(sent, stream=True)
    except TimeoutError:
        raise refusal(408, "Request timed out.", deployment) from None
    except httpx.ConnectError:
        raise
    except httpx.HTTPError:
        # It has died with the request in its hands.
        raise model_error(502, "Bad Gateway", deployment) from None


class _Relayed(Response):
    """A container's answer on its way to the client, byte by byte."""

    def __init__(self, instance: Instance, answer: httpx.Response, deployment: str) -> None:
        self._instance = instance
        self._answer = answer
        self._deployment = deployment

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = {name: value for name, value in self._answer.headers.items() if name not in DROPPED}
            headers[DEPLOYMENT_HEADER] = self._deployment
            status = self._answer.status_code
            if status != 200:
                headers |= _blame(status)
            await StreamingResponse(self._answer.aiter_raw(), 200 if status == 200 else 424, headers)(scope, receive, send)
        finally:
            self._instance.in_flight -= 1
            await self._answer.aclose()


ROUTES = [
    Route("scoring", "POST", "/score", score, public=True),
    Route("scoring", "GET", "/", get_health, public=True),
    Route("scoring", "GET", "/swagger.json", get_swagger, public=True),
]
