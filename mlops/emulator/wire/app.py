"""Requests in, answers out: which handler serves a host and path, and the checks that every request passes.

The chain, in order: note the request → faults on order → route (501 if unknown) → identity → api-version → handler → error envelope.
A resource module has a table ``ROUTES`` at its top; a handler takes the azure and the request and returns a body or a response::

    ROUTES = [Route("arm", "GET", WS + "/jobs/{job}", get_job, {"2024-01-01-preview"})]


    async def get_job(azure: Azure, request: Request) -> Answer: ...
"""

from __future__ import annotations

import dataclasses
import logging
import re
import traceback
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.routing import compile_path
from starlette.types import Receive, Scope, Send

from mlops.emulator.base.azure import BLOB_SUFFIX, LOCATION, SCORING_SUFFIX, Azure
from mlops.emulator.base.errors import AzureFault, not_implemented

__all__ = ["WS", "Answer", "App", "Handler", "Route", "body"]

PROVIDER = "/providers/Microsoft.MachineLearningServices"
WS = "/subscriptions/{subscription}/resourceGroups/{group}" + PROVIDER + "/workspaces/{workspace}"
"""Path of the workspace. Other workspaces than the emulated one are answered 404 before a handler is called."""

Answer = Response | dict[str, Any] | list[Any] | None
"""What a handler returns: a response, or a JSON body for a 200, or None for a 200 without a body."""
Handler = Callable[[Azure, Request], Awaitable[Answer]]

log = logging.getLogger("mlops.emulator")


@dataclasses.dataclass(frozen=True)
class Route:
    """One line of a route table.

    Args:
        host: ``arm``, ``login``, ``api``, ``blob``, ``scoring``, ``studio``, ``github`` or ``oidc``.
        method: HTTP method.
        path: as in Starlette, e.g. ``WS + "/jobs/{job}"``; matched without regard to case in its fixed parts, as ARM does.
        handler: what answers.
        versions: api-versions that are served; None where the service has none in its query.
        public: no access token is asked for (sign-in, discovery, signed URLs, scoring: they check in their own way).
    """

    host: str
    method: str
    path: str
    handler: Handler
    versions: frozenset[str] | set[str] | None = None
    public: bool = False


class App:
    """The ASGI application behind the TLS server."""

    def __init__(self, azure: Azure, routes: Sequence[Route], authenticate: Callable[[Azure, Request, str], None]) -> None:
        self.azure = azure
        self._authenticate = authenticate
        self._routes: list[tuple[re.Pattern[str], dict[str, Any], Route]] = []
        for route in routes:
            regex, _, convertors = compile_path(route.path)
            self._routes.append((re.compile(regex.pattern, re.IGNORECASE), convertors, route))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        if scope["type"] != "http":
            return
        request = Request(scope, receive)
        try:
            response = await self._answer(request)
        except AzureFault as fault:
            log.info("%s %s → %s", request.method, request.url, fault)
            response = _respond(fault.status, fault.envelope(LOCATION), fault.headers)
        except ClientDisconnect:
            return
        except Exception:
            log.error("%s %s\n%s", request.method, request.url, traceback.format_exc())
            bug = AzureFault(500, "ServiceError", "InternalServerError", inner=("InternalServerError",))
            response = _respond(500, bug.envelope(LOCATION), {})
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        host = host_role(request.url.hostname or "")
        await self.azure.faults.before(request, host)
        route, parameters = self._match(host, request)
        request.scope["path_params"] = parameters
        if not route.public:
            self._authenticate(self.azure, request, host)
        if route.versions is not None:
            version = request.query_params.get("api-version", "")
            if version not in route.versions:
                raise AzureFault(
                    400,
                    "InvalidApiVersionParameter",
                    f"The api-version '{version}' is invalid. The supported versions are '{','.join(sorted(route.versions))}'.",
                )
        self._check_workspace(parameters)
        answer = await route.handler(self.azure, request)
        return answer if isinstance(answer, Response) else _respond(200, answer, {})

    def _match(self, host: str, request: Request) -> tuple[Route, dict[str, Any]]:
        known: set[str] = set()
        for pattern, convertors, route in self._routes:
            if route.host == host and (match := pattern.match(request.scope["path"])):
                if route.method == request.method:
                    return route, {name: convertors[name].convert(value) for name, value in match.groupdict().items()}
                known.add(route.method)
        what = f"{request.method} https://{request.url.hostname}{request.url.path}"
        raise not_implemented(f"{what} (it knows {', '.join(sorted(known))} there)" if known else what)

    def _check_workspace(self, parameters: dict[str, Any]) -> None:
        i = self.azure.identity
        subscription, group, workspace = (parameters.get(name) for name in ("subscription", "group", "workspace"))
        if workspace is None:
            return
        if (subscription or "").lower() != i.subscription:
            raise AzureFault(404, "SubscriptionNotFound", f"The subscription '{subscription}' could not be found.")
        if (group or "").lower() != i.group.lower():
            raise AzureFault(404, "ResourceGroupNotFound", f"Resource group '{group}' could not be found.")
        if workspace.lower() != i.workspace.lower():
            raise AzureFault(
                404,
                "ResourceNotFound",
                f"The Resource 'Microsoft.MachineLearningServices/workspaces/{workspace}' under resource group '{group}' was not found."
                " For more details please go to https://aka.ms/ARMResourceNotFoundFix",
            )


def host_role(host: str) -> str:
    """Which of Azure's services a host name belongs to."""
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


async def body(request: Request) -> dict[str, Any]:
    """The request's JSON object.

    Raises:
        AzureFault: it is no JSON object.
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


def _respond(status: int, content: Any, headers: dict[str, str]) -> Response:
    if content is None:
        return Response(status_code=status, headers=headers)
    if isinstance(content, str):
        return Response(content, status_code=status, headers=headers, media_type=headers.get("content-type", "text/plain"))
    return JSONResponse(content, status_code=status, headers=headers)
