"""Scoring: the requests to an endpoint's own host name.

The front end checks the key or token, chooses a deployment (the ``azureml-model-deployment`` header, or else at random by the percentages
of the endpoint's traffic), and relays request and response. Some of the requests that name no deployment are mirrored. Its own errors are
plain text, like those of the real front end; any response of a container except 200 becomes 424 with the container's status in a header.
The limits are those of the deployment's ``requestSettings``.
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

from mlops.emulator.base.azure import Azure, arm_id
from mlops.emulator.base.errors import AzureFault
from mlops.emulator.base.store import Document
from mlops.emulator.identity import entra, roles
from mlops.emulator.identity.permissions import Permission
from mlops.emulator.serving import collection, containers
from mlops.emulator.serving.containers import Container
from mlops.emulator.serving.deployments import request_timeout_s
from mlops.emulator.serving.endpoints import audience
from mlops.emulator.wire.app import Answer, Claims, Route

__all__ = ["DEPLOYMENT_HEADER", "ROUTES", "LoadBalancer", "choose_deployment", "choose_mirror"]

DEPLOYMENT_HEADER = "azureml-model-deployment"
RELAYED_HEADERS = ("content-type", "content-encoding", "accept", "x-ms-client-request-id")
SCORE = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/score/action"
"""The action that scoring with a Microsoft Entra token needs."""
DROPPED_HEADERS = {"connection", "keep-alive", "transfer-encoding", "content-length", "date", "server"}
"""Hop-by-hop headers (RFC 9110, 7.6.1) and those that the server sets itself."""

NO_DEPLOYMENT = (
    "No valid deployments to route to. Please check that the endpoint has at least one deployment with positive weight values or use a"
    " deployment specific header to route."
)

SENTENCES = {408: "Request timed out.", 429: "Too many pending requests.", 500: "Internal server error.", 503: "Service unavailable."}
"""HTTP status → what the front end says."""


class LoadBalancer:
    """The source of random numbers by which requests are distributed. Seed it for a reproducible distribution."""

    def __init__(self) -> None:
        self.random = random.Random()  # noqa: S311 - a load balancer keeps no secrets


async def score(azure: Azure, request: Request) -> Answer:
    """Relay a scoring request to a deployment."""
    endpoint = _load_endpoint(azure, request)
    _authenticate(azure, request, endpoint)
    source = azure.services.get(LoadBalancer).random
    requested = request.headers.get(DEPLOYMENT_HEADER)
    name = requested or choose_deployment(endpoint["traffic"], source)
    if name is None:
        raise _front_end_error(404, NO_DEPLOYMENT)
    key = f"{endpoint['name']}/{name}".lower()
    deployment = azure.store.get("deployment", key)
    if deployment is None:
        raise _front_end_error(404, f"{NO_DEPLOYMENT} There is no deployment {name}.")
    _inject_faults(azure, deployment["name"])
    if not requested and (mirror := choose_mirror(endpoint["mirror"], source)) is not None:
        azure.start_task(_mirror(azure, endpoint["name"], mirror, await request.body(), _relayed_headers(request)))
    collected = await request.body() if collection.is_collected(deployment, source) else None
    deadline = time.monotonic() + request_timeout_s(deployment)
    while True:
        container = await _wait_until_ready(azure, key, deployment, deadline)
        if container.in_flight >= 2 * container.spec.concurrency:
            raise _front_end_error(429, SENTENCES[429], deployment["name"])
        container.in_flight += 1
        try:
            response = await _relay(container, request, deployment["name"], deadline)
        except httpx.ConnectError:
            # It has exited, which its watcher has not noticed yet. Nothing has been sent.
            container.in_flight -= 1
            await asyncio.sleep(containers.POLL_S)
            continue
        except BaseException:
            container.in_flight -= 1
            raise
        if collected is not None:
            collection.write(azure, deployment, collected)
        return _RelayedResponse(container, response, deployment["name"])


async def get_health(azure: Azure, request: Request) -> Answer:
    """Report that the front end is available."""
    _load_endpoint(azure, request)
    return PlainTextResponse("Healthy")


async def get_swagger(azure: Azure, request: Request) -> Answer:
    """Return the endpoint's API: one operation, whose payload depends on the model."""
    endpoint = _load_endpoint(azure, request)
    _authenticate(azure, request, endpoint)
    any_object: dict[str, Any] = {"type": "object"}
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
                    "parameters": [{"name": "payload", "in": "body", "required": True, "schema": any_object}],
                    "responses": {"200": {"description": "The model's answer.", "schema": any_object}},
                }
            }
        },
    }


def choose_deployment(traffic: Mapping[str, int], source: random.Random) -> str | None:
    """Choose a deployment at random by the percentages of the traffic. Return None if no deployment receives any."""
    weights = {name: percent for name, percent in traffic.items() if percent > 0}
    if not weights:
        return None
    return source.choices(list(weights), list(weights.values()))[0]


def choose_mirror(mirror: Mapping[str, int], source: random.Random) -> str | None:
    """Return the deployment that gets a copy of a request, or None. The percentage is the probability."""
    for name, percent in mirror.items():
        if percent and source.random() * 100 < percent:
            return name
    return None


async def _mirror(azure: Azure, endpoint: str, name: str, body: bytes, headers: Mapping[str, str]) -> None:
    """Send a copy of a request to a deployment and drop the response, whatever it is. A deployment that is busy gets no copy."""
    key = f"{endpoint}/{name}".lower()
    deployment, container = azure.store.get("deployment", key), containers.find(azure, key)
    if deployment is None or container is None or container.client is None or container.in_flight >= 2 * container.spec.concurrency:
        return
    container.in_flight += 1
    try:
        async with asyncio.timeout(request_timeout_s(deployment)):
            await container.client.post("/score", content=body, headers=headers)
        if collection.is_collected(deployment, azure.services.get(LoadBalancer).random):
            collection.write(azure, deployment, body)
    except (httpx.HTTPError, TimeoutError) as problem:
        container.write_log(f"A mirrored request has failed: {problem!r}.")
    finally:
        container.in_flight -= 1


def _relayed_headers(request: Request) -> dict[str, str]:
    return {name: value for name, value in request.headers.items() if name in RELAYED_HEADERS}


def _front_end_error(status: int, sentence: str, deployment: str | None = None, **headers: str) -> AzureFault:
    """Return an error of the front end, in plain text."""
    deployment_header = {DEPLOYMENT_HEADER: deployment} if deployment else {}
    return AzureFault(status, "Scoring", sentence, body=sentence, headers={"content-type": "text/plain", **deployment_header, **headers})


def _load_endpoint(azure: Azure, request: Request) -> Document:
    name = (request.url.hostname or "").partition(".")[0]
    stored = azure.store.get("endpoint", name.lower())
    if stored is None or stored["state"] in ("Creating", "Deleting"):
        # On Azure the host name would not resolve.
        raise _front_end_error(404, f"There is no endpoint {name}.")
    if stored["public_network_access"] == "Disabled" and azure.options.network != "private":
        raise _front_end_error(403, f"Endpoint {name} takes requests from the workspace's private endpoint only.")
    return stored


def _authenticate(azure: Azure, request: Request, endpoint: Document) -> None:
    scheme, _, credential = request.headers.get("authorization", "").partition(" ")
    mode = endpoint["auth_mode"]
    kind = "key" if mode == "Key" else "token"
    if scheme.lower() != "bearer" or not credential.strip():
        raise _front_end_error(401, f"{kind}_auth_bad_header_forbidden")
    if mode == "Key":
        is_allowed = any(hmac.compare_digest(credential.strip().encode(), key.encode()) for key in endpoint["keys"].values())
    else:
        claims = _decode_token(azure, credential.strip(), audience(endpoint["name"]) if mode == "AMLToken" else entra.ML)
        scope = arm_id(azure, "onlineEndpoints", endpoint["name"])
        is_allowed = claims is not None and (mode == "AMLToken" or roles.is_allowed(azure, claims, Permission(SCORE, scope)))
    if not is_allowed:
        raise _front_end_error(401, f"{kind}_auth_access_denied")


def _decode_token(azure: Azure, token: str, expected_audience: str) -> Claims | None:
    try:
        claims: Claims = jwt.decode(token, azure.identity.token_key, algorithms=["HS256"], audience=expected_audience)
    except jwt.InvalidTokenError:
        return None
    return claims


def _inject_faults(azure: Azure, deployment: str) -> None:
    for status, sentence in SENTENCES.items():
        if azure.faults.take(f"scoring-{status}", deployment):
            raise _front_end_error(status, sentence, deployment)
    if azure.faults.take("scoring-424", deployment):
        raise _model_error(500, "Internal Server Error", deployment)


def _model_error(status: int, sentence: str, deployment: str) -> AzureFault:
    """Return a 424: the model's container has failed."""
    return _front_end_error(424, sentence, deployment, **_model_error_headers(status))


def _model_error_headers(status: int) -> dict[str, str]:
    return {"ms-azureml-model-error-reason": "model_error", "ms-azureml-model-error-statuscode": str(status)}


async def _wait_until_ready(azure: Azure, key: str, deployment: Document, deadline: float) -> Container:
    """Return the deployment's container once it is ready. It may be starting after a crash, or after a restart of the emulator."""
    while True:
        container = containers.find(azure, key)
        if container is not None and container.client is not None:
            return container
        if deployment["state"] != "Succeeded" or (container is not None and container.has_failed):
            raise _front_end_error(503, "The deployment has no healthy container.", deployment["name"])
        if time.monotonic() > deadline:
            raise _front_end_error(408, SENTENCES[408], deployment["name"])
        await asyncio.sleep(containers.POLL_S)


async def _relay(container: Container, request: Request, deployment: str, deadline: float) -> httpx.Response:
    assert container.client is not None
    relayed = container.client.build_request(
        "POST",
        "/score",
        content=request.stream(),
        headers=_relayed_headers(request),
    )
    try:
        async with asyncio.timeout(deadline - time.monotonic()):
            return await container.client.send(relayed, stream=True)
    except TimeoutError:
        raise _front_end_error(408, SENTENCES[408], deployment) from None
    except httpx.ConnectError:
        raise
    except httpx.HTTPError:
        # The container has exited while it processed the request.
        raise _model_error(502, "Bad Gateway", deployment) from None


class _RelayedResponse(Response):
    """A container's response, streamed to the client."""

    def __init__(self, container: Container, response: httpx.Response, deployment: str) -> None:
        self._container = container
        self._response = response
        self._deployment = deployment
        self.status_code = 200 if response.status_code == 200 else 424

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            headers = {name: value for name, value in self._response.headers.items() if name not in DROPPED_HEADERS}
            headers[DEPLOYMENT_HEADER] = self._deployment
            if self.status_code != 200:
                headers |= _model_error_headers(self._response.status_code)
            await StreamingResponse(self._response.aiter_raw(), self.status_code, headers)(scope, receive, send)
        finally:
            self._container.in_flight -= 1
            await self._response.aclose()


ROUTES = [
    Route("scoring", "POST", "/score", score, public=True),
    Route("scoring", "GET", "/", get_health, public=True),
    Route("scoring", "GET", "/swagger.json", get_swagger, public=True),
]
