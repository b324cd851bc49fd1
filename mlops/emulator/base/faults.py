"""Fault injection: failures of Azure, injected by name.

A rule is ``NAME[@GLOB] [xN | always]``: the fault's name, the subjects it applies to (all without a glob), and how often it applies (once
without a number). The subject of a wire fault is ``HOST METHOD PATH``; that of any other fault is the resource's name::

    429@arm GET */computes/* x2        503@blob PUT        drop@arm always
    job-failed@finetune-* x1           deployment-unhealthy@green        scoring-424@* x3
"""

from __future__ import annotations

import dataclasses
import re
import threading
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from starlette.requests import ClientDisconnect, Request

from mlops.core.console import did_you_mean
from mlops.emulator.base.errors import AzureFault

__all__ = ["FAULTS", "Faults", "drop"]

WIRE = {
    "403": "the request is answered 403 AuthorizationFailed, as for an identity whose roles lack the action",
    "404": "the request is answered with 404 ResourceNotFound, although the resource exists",
    "429": "the request is answered 429 with Retry-After: 1",
    "500": "the request is answered 500 InternalServerError",
    "503": "the request is answered 503 with Retry-After: 1",
    "drop": "the connection is closed without a response, before the request is handled",
    "lost": "the request is handled, and the connection is closed instead of the response",
}
"""Faults of any request. The subject is ``HOST METHOD PATH``, where HOST is arm, login, api, blob,
scoring, studio, github or oidc."""

RESOURCE = {
    "token-expired": "an access token is issued that has already expired; subject: audience",
    "token-short": "an access token is issued that expires after a minute; subject: audience",
    "assertion-expired": "GitHub issues a token that has already expired; subject: the token's subject",
    "compute-quota": "provisioning of a compute ends Failed for lack of quota; subject: compute, or 'Dedicated NAME', 'LowPriority NAME'",
    "compute-failed": "provisioning of a compute ends Failed; subject: compute",
    "operation-failed": "a long-running operation is accepted, changes nothing and ends Failed; subject: resource",
    "operation-canceled": "the same, and it ends Canceled; subject: resource",
    "operation-applied": "a long-running operation is accepted, does its work and ends Failed all the same; subject: resource",
    "operation-slow": "a long-running operation takes three more polls; subject: resource",
    "job-failed": "a job fails when it starts running; subject: job, or its display name",
    "job-queued": "a job stays Queued for three reads of its status; subject: job, or its display name",
    "node-preempted": "a low-priority node is taken away: its run is queued and starts again; subject: job, step, or its display name",
    "job-canceled": "a job is canceled by another user when it starts running; subject: job, or its display name",
    "endpoint-failed": "provisioning of an endpoint ends Failed; subject: endpoint",
    "deployment-quota": "a deployment ends Failed with OutOfQuota; subject: deployment",
    "deployment-image": "a deployment ends Failed with ImageBuildFailure; subject: deployment",
    "deployment-unhealthy": "the container never becomes ready, and the deployment ends Failed with ResourceNotReady; subject: deployment",
    "scoring-408": "a scoring request times out; subject: deployment",
    "scoring-424": "the container answers a scoring request with 500, the client sees 424; subject: deployment",
    "scoring-429": "a scoring request exceeds the limit of concurrent requests; subject: deployment",
    "scoring-500": "a scoring request is answered 500 by the service itself; subject: deployment",
    "scoring-503": "a scoring request is answered 503; subject: deployment",
}
"""Faults of resources, injected by the module that owns the resource."""

FAULTS = WIRE | RESOURCE
"""Every fault: name → what happens and what the subject is."""

_RULE = re.compile(r"(?P<name>[^@\s]+)(?:@(?P<glob>.*?))?(?:\s+(?:x(?P<count>\d+)|(?P<always>always)))?")


class Faults:
    """The rules that still apply. Safe to use from several threads.

    Args:
        specs: rules as described above.

    Raises:
        ValueError: a rule is malformed, or its name is unknown; the message suggests the nearest name.
    """

    def __init__(self, specs: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._rules: list[_Rule] = []
        for spec in specs:
            self.add(spec)

    def add(self, spec: str) -> None:
        """Add a rule.

        Raises:
            ValueError: as the constructor.
        """
        match = _RULE.fullmatch(spec.strip())
        if match is None:
            raise ValueError(f"--fault {spec!r} is malformed: write NAME[@GLOB] [xN | always], e.g. '429@arm GET */computes/* x2'.")
        name, count = match["name"], match["count"]
        if name not in FAULTS:
            raise ValueError(
                f"--fault {spec!r}: there is no fault called {name!r}{did_you_mean(name, FAULTS)}. The faults are: {', '.join(FAULTS)}."
            )
        if count == "0":
            raise ValueError(f"--fault {spec!r}: x0 would never apply; the smallest count is x1.")
        glob = (match["glob"] or "*").strip()
        if name in WIRE:
            parts = glob.split(maxsplit=2)
            glob = " ".join(parts + ["*"] * (3 - len(parts)))
        with self._lock:
            self._rules.append(_Rule(name, glob, None if match["always"] else int(count or 1)))

    def take(self, name: str, subject: str = "") -> bool:
        """Return whether a rule injects this fault for this subject, and count it as applied.

        Raises:
            KeyError: the name isn't in :data:`FAULTS`; a misspelled call would otherwise never inject anything.
        """
        if name not in FAULTS:
            raise KeyError(name)
        with self._lock:
            for rule in self._rules:
                if rule.name == name and fnmatchcase(subject, rule.glob):
                    if rule.remaining is not None:
                        rule.remaining -= 1
                        if rule.remaining == 0:
                            self._rules.remove(rule)
                    return True
        return False

    def pending(self) -> list[str]:
        """Return the rules that still apply, in the form that :meth:`add` takes."""
        with self._lock:
            return [f"{rule.name}@{rule.glob} {'always' if rule.remaining is None else f'x{rule.remaining}'}" for rule in self._rules]

    async def inject(self, request: Request, host: str) -> None:
        """Raise the wire fault that a rule has for this request, if any, before it is handled.

        Raises:
            AzureFault: 403, 404, 429, 500 or 503.
            ClientDisconnect: the fault is ``drop``, and the connection has been closed.
        """
        subject = f"{host} {request.method} {request.url.path}"
        if self.take("drop", subject):
            await drop(request)
        if self.take("403", subject):
            raise _forbid(request)
        if self.take("404", subject):
            raise AzureFault(404, "ResourceNotFound", f"The Resource '{request.url.path}' was not found.")
        if self.take("429", subject):
            raise AzureFault(429, "TooManyRequests", "The request is being throttled.", headers={"Retry-After": "1"})
        if self.take("500", subject):
            raise AzureFault(500, "ServiceError", "InternalServerError", inner=("InternalServerError",))
        if self.take("503", subject):
            raise AzureFault(503, "ServiceUnavailable", "The service is temporarily unavailable.", headers={"Retry-After": "1"})

    async def lose_response(self, request: Request, host: str) -> None:
        """Close the connection of a request that has been handled, if a rule says so.

        Raises:
            ClientDisconnect: the connection has been closed.
        """
        if self.take("lost", f"{host} {request.method} {request.url.path}"):
            await drop(request)


@dataclasses.dataclass(eq=False)
class _Rule:
    """One fault, the subjects it applies to, and how many times it still applies (None: always)."""

    name: str
    glob: str
    remaining: int | None


def _forbid(request: Request) -> AzureFault:
    scope, _, rest = request.url.path.partition("/providers/")
    namespace, *parts = rest.split("/")
    verb = {"GET": "read", "HEAD": "read", "DELETE": "delete", "POST": "action"}.get(request.method, "write")
    action = "/".join([namespace, *parts[::2], verb])
    return AzureFault(
        403,
        "AuthorizationFailed",
        f"The client does not have authorization to perform action '{action}' over scope '{scope}' or the scope is invalid. "
        "If access was recently granted, please refresh your credentials.",
    )


async def drop(request: Request) -> None:
    """Close the connection of a request without a response.

    Raises:
        ClientDisconnect: always.
    """
    # ASGI can't close a connection without a response, but ``receive`` is bound to uvicorn's request cycle, which has the transport.
    cycle: Any = getattr(request.receive, "__self__", None)
    cycle.transport.abort()
    while (await request.receive())["type"] != "http.disconnect":
        pass
    raise ClientDisconnect
