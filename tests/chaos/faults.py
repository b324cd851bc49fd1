"""The faults of the trials, and what makes one happen at exactly one request of a stage."""

from __future__ import annotations

import asyncio
import dataclasses
import os
import re
import signal
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from starlette.requests import Request

from mlops.emulator.base.errors import AzureFault
from mlops.emulator.base.faults import Faults, drop

__all__ = ["KINDS", "Injector", "Kind", "Point", "is_write", "kinds_for", "points"]


@dataclasses.dataclass(frozen=True)
class Point:
    """One request of a stage."""

    request: str
    """``HOST METHOD PATH``, without what differs from run to run."""
    occurrence: int
    """1 for the first request of this form."""

    def __str__(self) -> str:
        return f"{self.request} #{self.occurrence}"

    @classmethod
    def parse(cls, text: str) -> Point:
        """Read what :meth:`__str__` writes."""
        request, _, occurrence = text.rpartition(" #")
        return cls(request, int(occurrence))


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of fault.

    Args:
        meaning: for readers.
        says: a message that names the cause has one of these words, whatever their case; empty if nobody is left to say anything.
        writes_only: whether the state of Azure is the same with a simpler kind if the request only reads.
        ends_process: whether the stage can't end by itself.
        loses_runner: whether the records that the stage wrote are lost, too, and nothing of its job runs any more.
        fails_operation: whether the request is accepted, and the operation that it starts fails; only at requests that start one.
    """

    meaning: str
    says: Sequence[str] = ()
    writes_only: bool = False
    ends_process: bool = False
    loses_runner: bool = False
    fails_operation: bool = False


CONNECTION = ("connection", "no response", "closed", "reset", "aborted", "remote end")
NO_TENANT = "no configuration for the tenant"
"""What is known if Entra ID does not describe the tenant: the library that signs in does not say why."""
KINDS = {
    "403": Kind(
        "refused for lack of a permission, this time and every time after", ("authorizationfailed", "403", "not accept", NO_TENANT)
    ),
    "404": Kind(
        "it is not there, this time",
        # A file that only seems to be missing is uploaded again, which Azure refuses.
        ("notfound", "not found", "no longer", "does not exist", "404", "is gone", "reports it deleted", "blobalreadyexists", NO_TENANT),
    ),
    "409": Kind("another operation is in progress, two times", ("conflict",), writes_only=True),
    "429": Kind("throttled with Retry-After, two times", ("toomanyrequests", "throttled", "429")),
    "500": Kind("the service fails, this time and every time after", ("internalservererror", "500")),
    "503": Kind("the service is unavailable, two times", ("serviceunavailable", "temporarily unavailable", "503"), writes_only=True),
    "drop": Kind("the connection is closed before the request is handled", CONNECTION),
    "lost": Kind("the connection is closed after the request is handled", CONNECTION, writes_only=True),
    "offline": Kind("no request from this one on is handled", CONNECTION, writes_only=True),
    "kill-before": Kind("SIGKILL before the request is handled", ends_process=True),
    "kill-after": Kind("SIGKILL after the request is handled", ends_process=True, writes_only=True),
    "term-before": Kind("SIGTERM before the request is handled, which is lost", ("interrupted",)),
    "int-after": Kind("SIGINT after the request is handled", ("interrupted",), writes_only=True),
    "term-kill": Kind("SIGTERM, then SIGKILL at the next change that the clean-up makes", writes_only=True, ends_process=True),
    "runner-lost": Kind(
        "SIGKILL after the request is handled, and the runner's disk is gone", writes_only=True, ends_process=True, loses_runner=True
    ),
    "operation-failed": Kind(
        "accepted, and then the operation ends Failed", ("internalservererror", "has failed"), writes_only=True, fails_operation=True
    ),
    "operation-applied": Kind(
        "accepted and carried out, and then the operation ends Failed",
        ("internalservererror", "has failed"),
        writes_only=True,
        fails_operation=True,
    ),
    "operation-canceled": Kind(
        "accepted, and then the operation ends Canceled", ("operationcanceled", "was canceled"), writes_only=True, fails_operation=True
    ),
}  # fmt: skip
"""Name → kind."""
OPERATION = re.compile(r"arm (PUT|PATCH|DELETE) ~/(onlineEndpoints|computes)/")
"""Requests that start a long-running operation."""

READS = {"token", "listkeys", "listsecrets", "getlogs", "score", "search", "query", "startpendingupload", "credentials", "getbypath"}
"""Last parts of the path of a POST that changes nothing."""
SCOPE = re.compile(
    r"/subscriptions/[^/]+(/resourceGroups/[^/]+)?(/providers/Microsoft\.MachineLearningServices)?(/workspaces/[^/]+)?", re.I
)
RANDOM = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}|[0-9a-f]{32,}|(?<=tmp)[0-9a-z_]{8}")
SETTLE_S = 0.05
"""Time in which a process begins to handle a signal."""


def describe(request: Request, host: str) -> str:
    """Return ``HOST METHOD PATH`` without subscription, workspace and random ids."""
    path = RANDOM.sub("*", SCOPE.sub("~", request.url.path))
    return f"{host} {request.method} {path}"


def is_write(request: str) -> bool:
    """Return whether a request, as :func:`describe` writes it, changes anything."""
    host, method, path = request.split(" ", 2)
    last = re.split(r"[/:]", path.rstrip("/").lower())[-1]
    return method in ("PUT", "PATCH", "DELETE") or (method == "POST" and host not in ("login", "scoring") and last not in READS)


def kinds_for(request: str) -> list[str]:
    """Return the names of the kinds that can happen at a request and are not the same as another one."""
    starts_operation = OPERATION.match(request) is not None
    return [
        name
        for name, kind in KINDS.items()
        if (is_write(request) or not kind.writes_only) and (starts_operation or not kind.fails_operation)
    ]


def points(requests: Sequence[str]) -> list[Point]:
    """Return the requests of a stage at which something can happen.

    All that change anything; of equal ones that read, the first one, the last one, and the first one after each change: between two
    changes, Azure's state is the same before every read.
    """
    totals, seen, chosen = Counter(requests), Counter[str](), []
    since_change: set[str] = set()
    for request in requests:
        seen[request] += 1
        if is_write(request):
            since_change.clear()
        elif request in since_change and seen[request] != totals[request]:
            continue
        since_change.add(request)
        chosen.append(Point(request, seen[request]))
    return chosen


class Injector(Faults):
    """Records the requests of one process, and makes one fault happen at one of them.

    Args:
        point: where; None to record only.
        kind: what; a name of :data:`KINDS`.
    """

    def __init__(self, point: Point | None = None, kind: str = "") -> None:
        super().__init__()
        self.requests: list[str] = []
        self.happened = False
        self.watch: Callable[[Request, str], None] = lambda *_: None
        """Called after each request that was handled."""
        self._point, self._kind = point, kind
        self._pid: int | None = None
        self._left = {"429": 2, "503": 2, "409": 2}.get(kind, 1)

    def follow(self, pid: int | None) -> None:
        """Count the requests from now on as this process's."""
        self._pid = pid

    async def inject(self, request: Request, host: str) -> None:
        """Count the request; if it is the one, do what happens before it is handled."""
        await super().inject(request, host)
        if self._pid is None:
            return
        described = describe(request, host)
        self.requests.append(described)
        is_here = self._point == Point(described, self.requests.count(described))
        request.scope["is_here"] = is_here
        if is_here:
            self.happened = True
        if self.happened:
            await self._before(request, host, described, is_here=is_here)

    async def _before(self, request: Request, host: str, described: str, *, is_here: bool) -> None:
        kind, is_same = self._kind, self._point is not None and described == self._point.request
        if kind in ("403", "500") and is_same:
            await Faults([kind]).inject(request, host)
        elif kind in ("404", "409", "429", "503") and is_same and self._left:
            self._left -= 1
            if kind == "409":
                raise AzureFault(409, "Conflict", "Another operation on this resource is in progress.")
            await Faults([kind]).inject(request, host)
        elif kind == "offline" or (kind == "drop" and is_here):
            await drop(request)
        elif is_here and KINDS[kind].fails_operation:
            self.add(kind)
        elif kind == "kill-before" and is_here:
            await self._kill(request)
        elif kind in ("term-before", "term-kill") and is_here:
            await self._signal(signal.SIGTERM)
            await drop(request)
        elif kind == "term-kill" and is_write(described):
            await self._kill(request)

    async def lose_response(self, request: Request, host: str) -> None:
        """If the request is the one, do what happens after it has been handled."""
        await super().lose_response(request, host)
        self.watch(request, host)
        if not request.scope.get("is_here"):
            return
        if self._kind == "lost":
            await drop(request)
        elif self._kind in ("kill-after", "runner-lost"):
            await self._kill(request)
        elif self._kind == "int-after":
            await self._signal(signal.SIGINT)

    async def _kill(self, request: Request) -> None:
        await self._signal(signal.SIGKILL)
        await drop(request)

    async def _signal(self, number: int) -> None:
        pid = self._pid
        assert pid is not None
        os.kill(pid, number)
        if number != signal.SIGKILL:
            await asyncio.sleep(SETTLE_S)
            return
        self._pid = None
        while _is_running(pid):
            await asyncio.sleep(0.002)


def _is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in ("Z", "X")
    except OSError:
        return False
