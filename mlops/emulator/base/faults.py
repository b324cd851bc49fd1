"""Faults on order: what can go wrong on Azure, made to go wrong here by name.

An order is ``NAME[@GLOB] [xN | always]``: the fault's name, which subjects it hits (all without a glob), and how often (once without a
number). The subject of a fault on the wire is ``HOST METHOD PATH``, of any other the resource's name::

    429@arm GET */computes/* x2        503@blob PUT        drop@arm always
    job-failed@finetune-* x1           deployment-unhealthy@green        scoring-424@* x3
"""

from __future__ import annotations

import difflib
import re
import threading
from collections.abc import Iterable
from fnmatch import fnmatchcase
from typing import Any

from starlette.requests import ClientDisconnect, Request

from mlops.emulator.base.errors import AzureFault

__all__ = ["KNOWN", "Faults"]

WIRE = {
    "429": "the request is answered 429 with Retry-After: 1",
    "500": "the request is answered 500 InternalServerError",
    "503": "the request is answered 503 with Retry-After: 1",
    "drop": "the connection is closed without an answer",
}
"""Hit any request, before its handler; the subject is ``HOST METHOD PATH``, HOST being arm, login, api, blob,
scoring, studio, github or oidc."""

RESOURCE = {
    "token-expired": "an access token is issued that has expired already; subject: audience",
    "token-short": "an access token is issued that lives a minute; subject: audience",
    "assertion-expired": "GitHub issues a token that has expired already; subject: the token's subject",
    "compute-quota": "creating a compute is refused for want of quota; subject: compute, or 'Dedicated NAME', 'LowPriority NAME'",
    "compute-failed": "provisioning of a compute ends Failed; subject: compute",
    "operation-slow": "a long-running operation takes three polls more; subject: resource",
    "job-failed": "a job fails when it starts to run; subject: job, or its display name",
    "job-queued": "a job stays Queued for three reads of its status; subject: job, or its display name",
    "job-canceled": "a job is cancelled by somebody else when it starts to run; subject: job, or its display name",
    "endpoint-failed": "provisioning of an endpoint ends Failed; subject: endpoint",
    "deployment-quota": "a deployment ends Failed with OutOfQuota; subject: deployment",
    "deployment-image": "a deployment ends Failed with ImageBuildFailure; subject: deployment",
    "deployment-unhealthy": "the container never gets ready, the deployment ends Failed with ResourceNotReady; subject: deployment",
    "scoring-408": "a scoring request runs into its time limit; subject: deployment",
    "scoring-424": "the container answers a scoring request with 500, the client sees 424; subject: deployment",
    "scoring-429": "a scoring request is one too many; subject: deployment",
    "scoring-500": "a scoring request is answered 500 by the service itself; subject: deployment",
    "scoring-503": "a scoring request is answered 503; subject: deployment",
}
"""Taken by the resource modules where they would go wrong."""

KNOWN = WIRE | RESOURCE
"""Every fault there is: name → what happens and what the subject is."""

_ORDER = re.compile(r"(?P<name>[^@\s]+)(?:@(?P<glob>.*?))?(?:\s+(?:x(?P<count>\d+)|(?P<always>always)))?")


class Faults:
    """The faults that are still to come. Safe to use from several threads.

    Args:
        specs: orders as above.

    Raises:
        ValueError: an order that can't be read, or an unknown name; the message names the nearest known one.
    """

    def __init__(self, specs: Iterable[str] = ()) -> None:
        self._lock = threading.Lock()
        self._orders: list[_Order] = []
        for spec in specs:
            self.order(spec)

    def order(self, spec: str) -> None:
        """Add one fault; raises as the constructor does."""
        match = _ORDER.fullmatch(spec.strip())
        if match is None:
            raise ValueError(f"--fault {spec!r} can't be read: write NAME[@GLOB] [xN | always], e.g. '429@arm GET */computes/* x2'.")
        name, count = match["name"], match["count"]
        if name not in KNOWN:
            near = difflib.get_close_matches(name, KNOWN, n=1, cutoff=0.4)
            hint = f"Did you mean {near[0]}?" if near else f"Known: {', '.join(KNOWN)}."
            raise ValueError(f"--fault {spec!r}: there is no fault called {name!r}. {hint}")
        if count == "0":
            raise ValueError(f"--fault {spec!r}: x0 would never happen; count from x1.")
        glob = (match["glob"] or "*").strip()
        if name in WIRE:
            parts = glob.split(maxsplit=2)
            glob = " ".join(parts + ["*"] * (3 - len(parts)))
        with self._lock:
            self._orders.append(_Order(name, glob, None if match["always"] else int(count or 1)))

    def take(self, name: str, subject: str = "") -> bool:
        """Whether the fault is on order for this subject. True uses one up.

        Raises:
            KeyError: a name that isn't in :data:`KNOWN`, so that a misspelt call can't sleep unseen.
        """
        if name not in KNOWN:
            raise KeyError(name)
        with self._lock:
            for order in self._orders:
                if order.name == name and fnmatchcase(subject, order.glob):
                    if order.left is not None:
                        order.left -= 1
                        if order.left == 0:
                            self._orders.remove(order)
                    return True
        return False

    def pending(self) -> list[str]:
        """The orders that nothing has used up yet, as they could be ordered again."""
        with self._lock:
            return [f"{o.name}@{o.glob} {'always' if o.left is None else f'x{o.left}'}" for o in self._orders]

    async def before(self, request: Request, host: str) -> None:
        """Let a request run into the fault that is on order for it.

        Raises:
            AzureFault: 429, 500 or 503.
            ClientDisconnect: the connection has been closed.
        """
        subject = f"{host} {request.method} {request.url.path}"
        if self.take("drop", subject):
            await _drop(request)
        if self.take("429", subject):
            raise AzureFault(429, "TooManyRequests", "The request is being throttled.", headers={"Retry-After": "1"})
        if self.take("500", subject):
            raise AzureFault(500, "ServiceError", "InternalServerError", inner=("InternalServerError",))
        if self.take("503", subject):
            raise AzureFault(503, "ServiceUnavailable", "The service is temporarily unavailable.", headers={"Retry-After": "1"})


class _Order:
    """One fault: its name, which subjects it hits, and how many times more (None: always)."""

    def __init__(self, name: str, glob: str, left: int | None) -> None:
        self.name = name
        self.glob = glob
        self.left = left


async def _drop(request: Request) -> None:
    # ASGI has no message for "hang up"; uvicorn's request cycle, to which ``receive`` is bound, holds the transport.
    cycle: Any = getattr(request.receive, "__self__", None)
    cycle.transport.abort()
    while (await request.receive())["type"] != "http.disconnect":
        pass
    raise ClientDisconnect
