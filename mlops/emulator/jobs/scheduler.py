"""Who runs jobs: one task per job, nodes of computes handed out in order, children started, watched and ended.

A task works with a :class:`Worker`. It stops with :class:`Stopped` when the job is cancelled, and with :class:`JobFailure` when it has
failed for a reason that the run's error object can tell.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlops.emulator.base.azure import LOCATION, Azure
from mlops.emulator.history import runstore
from mlops.emulator.workspace import compute

__all__ = ["SERVERLESS", "JobFailure", "Stopped", "Worker", "cancel", "ended", "error_object", "shutdown", "startup", "submit"]

SERVERLESS = "serverless"
SERVERLESS_NODES = 1
"""Serverless compute is without bounds on Azure; this machine isn't."""
QUEUED_READS = 3
"""How long the fault ``job-queued`` lasts."""
POLL_S = 0.05

log = logging.getLogger("mlops.emulator")

_tasks: dict[Path, dict[str, tuple[Worker, asyncio.Task[None]]]] = {}
_queues: dict[tuple[Path, str], list[tuple[object, int]]] = {}


class Stopped(Exception):
    """The job has been cancelled."""


class JobFailure(Exception):
    """A run has failed.

    Args:
        code: ``UserError`` or ``SystemError``.
        message: what the run's error says.
        inner: the real codes, outermost first.
    """

    def __init__(self, code: str, message: str, *inner: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.inner = inner


@dataclasses.dataclass
class Worker:
    """What a job's task works with.

    Args:
        azure: where.
        name: the job.
    """

    azure: Azure
    name: str
    cancelled: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    async def pause(self) -> None:
        """Let others work.

        Raises:
            Stopped: the job has been cancelled.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.cancelled.wait(), POLL_S)
        if self.cancelled.is_set():
            raise Stopped

    async def hold(self) -> None:
        """Run into the faults that are on order for the job as it begins to run."""
        subjects = (self.name, (runstore.get(self.azure, self.name) or {}).get("display_name") or self.name)

        def due(fault: str) -> bool:
            return any(self.azure.faults.take(fault, subject) for subject in subjects)

        if due("job-queued"):
            with runstore.change(self.azure, self.name) as document:
                document["queued_reads"] = QUEUED_READS
            await runstore.move(self.azure, self.name, "Queued")
            while (runstore.get(self.azure, self.name) or {})["queued_reads"] > 0:
                await self.pause()
        if due("job-canceled"):
            await runstore.move(self.azure, self.name, "CancelRequested")
            raise Stopped
        if due("job-failed"):
            raise JobFailure("SystemError", "The compute node that the job ran on has failed. (A fault on order.)", "NodeFailure")

    @contextlib.asynccontextmanager
    async def nodes(self, run: str, name: str, count: int) -> AsyncIterator[None]:
        """Hold ``count`` nodes of a compute, first come, first served; the run is Queued until it has them.

        Raises:
            JobFailure: the compute is gone, or has fewer nodes altogether.
            Stopped: the job has been cancelled.
        """
        queue = _queues.setdefault((self.azure.state, name.lower()), [])
        ticket = (object(), count)
        queue.append(ticket)
        try:
            queued = False
            while sum(nodes for _, nodes in queue[: queue.index(ticket) + 1]) > self._most_nodes(name, count):
                if not queued:
                    await runstore.move(self.azure, run, "Queued")
                    queued = True
                await self.pause()
            yield
        finally:
            queue.remove(ticket)

    def _most_nodes(self, name: str, count: int) -> int:
        if name.lower() == SERVERLESS:
            return max(SERVERLESS_NODES, count)
        known = compute.find(self.azure, name)
        if known is None:
            raise JobFailure("UserError", f"Compute {name} has been deleted.", "NotFound", "ComputeNotFound")
        most: int = known["nodes"]
        if count > most:
            raise JobFailure(
                "UserError",
                f"The job asks for {count} nodes, compute {name} has {most} at most.",
                "BadArgument", "JobNodeCountExceedsMaxNodes",
            )  # fmt: skip
        return most

    async def execute(
        self,
        command: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        output: Path,
        limit_s: float | None = None,
        meanwhile: Callable[[], None] | None = None,
    ) -> int:
        """Run a child to its end; its exit code. What it prints is appended to ``output``.

        Args:
            limit_s: the job is cancelled after so many seconds.
            meanwhile: called again and again while it runs.

        Raises:
            Stopped: the job has been cancelled, and the child with all that it started is gone.
        """
        end = None if limit_s is None else time.monotonic() + limit_s
        child = self.azure.children.start(command, cwd=cwd, environment=environment, log=output)
        try:
            while child.returncode is None:
                await self.pause()
                if end is not None and time.monotonic() > end:
                    raise Stopped
                if meanwhile:
                    meanwhile()
            return child.returncode
        finally:
            if child.returncode is None:
                await asyncio.to_thread(child.stop)


def error_object(failure: JobFailure) -> dict[str, Any]:
    """``ErrorResponse`` of run history."""
    inner: dict[str, Any] | None = None
    for code in reversed(failure.inner):
        inner = {"code": code, "innerError": inner}
    return {
        "error": {
            "code": failure.code,
            "severity": None,
            "message": failure.message,
            "messageFormat": "",
            "messageParameters": {},
            "referenceCode": None,
            "detailsUri": None,
            "target": None,
            "details": [],
            "innerError": inner,
            "additionalInfo": None,
        },
        "correlation": {"operation": uuid.uuid4().hex, "request": uuid.uuid4().hex[:16]},
        "environment": LOCATION,
        "location": LOCATION,
        "time": runstore.now(),
        "componentName": "CommonRuntime",
    }


def submit(azure: Azure, name: str, work: Callable[[Worker], Awaitable[None]]) -> None:
    """Begin a job's work in the background."""
    worker = Worker(azure, name)
    task = asyncio.create_task(_run(worker, work))
    _tasks[azure.state][name] = (worker, task)


async def cancel(azure: Azure, name: str) -> None:
    """Ask a job to end, and wait until it has."""
    await runstore.move(azure, name, "CancelRequested")
    if known := _tasks[azure.state].get(name):
        worker, task = known
        worker.cancelled.set()
        await asyncio.shield(asyncio.wait([task]))


def ended(azure: Azure, name: str) -> bool:
    """Whether a job has come to its end."""
    run = runstore.get(azure, name)
    return run is None or run["status"] in runstore.TERMINAL


async def startup(azure: Azure) -> None:
    """Jobs that were under way when the emulator was stopped have failed, and say so."""
    _tasks[azure.state] = {}
    failure = JobFailure("SystemError", "The emulator was stopped while the job was under way. Submit it again.", "JobInterrupted")
    interrupted = [run for run in runstore.everything(azure) if run["kind"] != "mlflow" and run["status"] not in runstore.TERMINAL]
    for run in interrupted:
        with runstore.change(azure, run["name"]) as document:
            runstore.advance(document, "Failed")
            document["error"] = error_object(failure)
    if interrupted:
        # The MLflow server is still starting.
        task = asyncio.create_task(_tell(azure, [run["uuid"] for run in interrupted]))
        _tasks[azure.state][""] = (Worker(azure, ""), task)


async def shutdown(azure: Azure) -> None:
    """Let go of all jobs. Their children end with the emulator's."""
    tasks = [task for _, task in _tasks.pop(azure.state, {}).values()]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _tell(azure: Azure, uuids: Sequence[str]) -> None:
    for known in uuids:
        await runstore.tell_status(azure, known, "Failed")


async def _run(worker: Worker, work: Callable[[Worker], Awaitable[None]]) -> None:
    azure, name = worker.azure, worker.name
    try:
        await runstore.move(azure, name, "Preparing")
        await worker.hold()
        await work(worker)
        await runstore.move(azure, name, "Completed")
    except Stopped:
        await runstore.move(azure, name, "Canceled")
    except JobFailure as failure:
        await runstore.move(azure, name, "Failed", error_object(failure))
    except Exception as problem:
        log.exception("job %s", name)
        fault = JobFailure("SystemError", f"The emulator has failed: {type(problem).__name__}: {problem}", "InternalServerError")
        await runstore.move(azure, name, "Failed", error_object(fault))
    finally:
        _tasks.get(azure.state, {}).pop(name, None)
