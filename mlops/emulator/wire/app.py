"""The ASGI application: which handler serves a host and path, and the checks that every request passes.

Each request goes through injected faults → route (501 if unknown) → authentication → network → authorization → api-version → workspace →
handler → error envelope → lost responses.
A service module has a table ``ROUTES``; a handler takes the emulated Azure and the request, and returns a body or a response::

    ROUTES = [Route("arm", "GET", WS + "/jobs/{job}", get_job, {"2024-01-01-preview"})]


    async def get_job(azure: Azure, request: Request) -> Answer: ...
"""

from __future__ import annotations

import dataclasses
import logging
import re
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from mlops.emulator.base.azure import BLOB_SUFFIX, LOCATION, SCORING_SUFFIX, Azure
from mlops.emulator.base.errors import AzureFault, not_implemented
from mlops.emulator.wire.headers import add_headers
from mlops.emulator.wire.network import check_data_plane
from mlops.emulator.wire.request_log import log_request
from mlops.emulator.wire.versions import PUBLISHED

__all__ = ["PROVIDER", "WS", "Answer", "App", "Claims", "Handler", "Route", "Router", "arm_url", "read_json"]

PROVIDER = "/providers/Microsoft.MachineLearningServices"
WS = "/subscriptions/{subscription}/resourceGroups/{group}" + PROVIDER + "/workspaces/{workspace}"
"""Path of the workspace. A request for any other workspace is answered with 404 before a handler is called."""

Answer = Response | dict[str, Any] | list[Any] | None
"""The result of a handler: a response, a JSON body for a 200, or None for a 200 without a body."""
Handler = Callable[[Azure, Request], Awaitable[Answer]]
Claims = dict[str, Any]
"""The claims of an access token."""

log = logging.getLogger("mlops.emulator")


@dataclasses.dataclass(frozen=True)
class Route:
    """One row of a route table.

    Args:
        host: ``arm``, ``login``, ``api``, ``blob``, ``scoring``, ``studio``, ``github`` or ``oidc``.
        method: HTTP method.
        path: as in Starlette, e.g. ``WS + "/jobs/{job}"``; its fixed parts are case-insensitive, as in ARM.
        handler: the function that handles the request.
        versions: supported api-versions; None if the service has no api-version in its query.
        public: whether no access token is required (sign-in, discovery, signed URLs, scoring: they check credentials in their own way).
    """

    host: str
    method: str
    path: str
    handler: Handler
    versions: frozenset[str] | set[str] | None = None
    public: bool = False


class Router:
    """Finds the route of a request among these. A fixed part of a path matches in upper and lower case."""

    def __init__(self, routes: Sequence[Route]) -> None:
        self._routes: list[tuple[re.Pattern[str], dict[str, Any], Route]] = []
        for route in routes:
            regex, _, convertors = compile_path(route.path)
            self._routes.append((re.compile(regex.pattern, re.IGNORECASE), convertors, route))

    def find(self, host: str, method: str, path: str, origin: str = "") -> tuple[Route, dict[str, Any]]:
        """Return the route, and the values of the parameters in its path.

        Args:
            host: see :class:`Route`.
            method: HTTP method.
            path: path of the request.
            origin: scheme and host name, for the message only.

        Raises:
            AzureFault: 501, there is none.
        """
        methods: set[str] = set()
        for pattern, convertors, route in self._routes:
            if route.host == host and (match := pattern.match(path)):
                if route.method == method:
                    return route, {name: convertors[name].convert(value) for name, value in match.groupdict().items()}
                methods.add(route.method)
        what = f"{method} {origin}{path}"
        raise not_implemented(f"{what} (only {', '.join(sorted(methods))} at this path)" if methods else what)


class App:
    """The ASGI application behind the TLS server."""

    def __init__(
        self,
        azure: Azure,
        routes: Sequence[Route],
        authenticate: Callable[[Azure, Request, str], Claims],
        authorize: Callable[[Azure, Request, Route, Claims], None],
    ) -> None:
        self.azure = azure
        self._authenticate = authenticate
        self._authorize = authorize
        self._router = Router(routes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a connection (ASGI)."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        started = time.perf_counter()
        response = await self._respond(request)
        status = None if response is None else response.status_code
        log_request(request.method, request.url.hostname or "-", request.url.path, status, started)
        if response is not None:
            add_headers(self.azure, request, host_role(request.url.hostname or ""), response, time.perf_counter() - started)
            await response(scope, receive, send)

    async def _respond(self, request: Request) -> Response | None:
        """Return the response, or None if there is nobody to send it to."""
        host = host_role(request.url.hostname or "")
        try:
            response = await self._handle_guarded(request, host)
            await self.azure.faults.lose_response(request, host)
        except ClientDisconnect:
            return None
        return response

    async def _handle_guarded(self, request: Request, host: str) -> Response:
        """Return the response of the handler, or its error in Azure's envelope."""
        try:
            return await self._handle(request, host)
        except AzureFault as fault:
            log.info("%s %s → %s", request.method, request.url, fault)
            return _make_response(fault.status, fault.envelope(LOCATION), fault.headers)
        except ClientDisconnect:
            raise
        except Exception:
            log.error("%s %s\n%s", request.method, request.url, traceback.format_exc())
            bug = AzureFault(500, "ServiceError", "InternalServerError", inner=("InternalServerError",))
            return _make_response(500, bug.envelope(LOCATION), {})

    async def _handle(self, request: Request, host: str) -> Response:
        await self.azure.faults.inject(request, host)
        path = request.scope["path"]
        route, parameters = self._router.find(host, request.method, path, f"https://{request.url.hostname}")
        request.scope["path_params"] = parameters
        azure = self.azure
        # A blob can be read with an identity as well as with a signature in its URL.
        if not route.public or (host == "blob" and request.headers.get("authorization", "").startswith("Bearer ")):
            claims = self._authenticate(azure, request, host)
            request.state.claims = claims
            check_data_plane(azure, host, parameters, claims)
            self._authorize(azure, request, route, claims)
            azure = dataclasses.replace(azure, caller=str(claims["oid"]))
        if route.versions is not None:
            version = request.query_params.get("api-version", "")
            if version not in route.versions and version in PUBLISHED:
                raise not_implemented(f"api-version {version} of {request.method} {route.path}")
            if version not in route.versions:
                raise AzureFault(
                    400,
                    "InvalidApiVersionParameter",
                    f"The api-version '{version}' is invalid. The supported versions are '{','.join(sorted(route.versions))}'.",
                )
        self._check_workspace(parameters)
        answer = await route.handler(azure, request)
        return answer if isinstance(answer, Response) else _make_response(200, answer, {})

    def _check_workspace(self, parameters: dict[str, Any]) -> None:
        i = self.azure.identity
        subscription, group, workspace = (
            parameters.get(name, own) for name, own in (("subscription", i.subscription), ("group", i.group), ("workspace", i.workspace))
        )
        if subscription.lower() != i.subscription:
            raise AzureFault(404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found.")
        if group.lower() != i.group.lower():
            raise AzureFault(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")
        if workspace.lower() != i.workspace.lower():
            raise AzureFault(
                404,
                "ResourceNotFound",
                f"The Resource 'Microsoft.MachineLearningServices/workspaces/{workspace}' under resource group '{group}' was not found."
                " For more details please go to https://aka.ms/ARMResourceNotFoundFix",
            )


def host_role(host: str) -> str:
    """Return the short name of the service that a host name belongs to."""
    if host == "management.azure.com":
        return "arm"
    if host == "login.microsoftonline.com":
        return "login"
    if host == "ml.azure.com":
        return "studio"
    if host == "api.github.com":
        return "github"
    if host.endswith(".actions.githubusercontent.com"):
        return "oidc"
    if host.endswith(f".{BLOB_SUFFIX}"):
        return "blob"
    if host.endswith(f".{SCORING_SUFFIX}"):
        return "scoring"
    return "api"


def arm_url(request: Request, path: str) -> str:
    """Return the URL of a path in Azure Resource Manager, with the api-version of a request."""
    return f"https://management.azure.com{path}?api-version={request.query_params['api-version']}"


async def read_json(request: Request) -> dict[str, Any]:
    """Return the JSON object in the request's body.

    Raises:
        AzureFault: 400, the body isn't a JSON object.
    """
    try:
        content = await request.json()
    except ValueError as problem:
        raise AzureFault(
            400, "InvalidRequestContent", f"The request content was invalid and could not be deserialized: '{problem}'."
        ) from None
    if not isinstance(content, dict):
        raise AzureFault(400, "InvalidRequestContent", "The request content was invalid: a JSON object is expected.")
    return content


def _make_response(status: int, content: Any, headers: dict[str, str]) -> Response:
    if content is None:
        return Response(status_code=status, headers=headers)
    if isinstance(content, str):
        return Response(content, status_code=status, headers=headers, media_type=headers.get("content-type", "text/plain"))
    return JSONResponse(content, status_code=status, headers=headers)
