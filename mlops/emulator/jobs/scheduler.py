"""The job scheduler: one task per job, a first-come-first-served queue per compute, and the child processes of jobs.

A job's task works with a :class:`Worker`. It ends with :class:`JobCanceled` when the job is canceled, and with :class:`JobFailure` when it
fails for a reason that belongs into the run's error object.
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
from typing import Any, TypeVar

from mlops.emulator.base.azure import LOCATION, Azure
from mlops.emulator.base.children import Preload
from mlops.emulator.base.clock import now
from mlops.emulator.base.errors import AzureFault, user_error
from mlops.emulator.history import runstore
from mlops.emulator.workspace import compute, quota

__all__ = [
    "SERVERLESS", "STD_LOG", "JobCanceled", "JobFailure", "Worker", "cancel", "check_compute", "describe_exit", "error_object",
    "is_finished", "is_virtual_cluster", "not_run", "shutdown", "startup", "submit",
]  # fmt: skip

SERVERLESS = "serverless"
SERVERLESS_NODES = 1
"""Nodes of serverless compute, which is unlimited on Azure but not on this machine."""
QUEUED_READS = 3
"""Number of status reads that a job waits after ``job-queued`` or ``node-preempted``."""
STD_LOG = "user_logs/std_log.txt"
"""Log of a job's process, among the artifacts of its run."""
TAIL_LINES = 40
"""Lines of the log that the error message of a failed process quotes."""
POLL_S = 0.02

T = TypeVar("T")

log = logging.getLogger("mlops.emulator")


class JobCanceled(Exception):
    """The job has been canceled."""


class JobFailure(Exception):
    """A run has failed.

    Args:
        code: ``UserError`` or ``SystemError``.
        message: message of the run's error.
        inner: codes of the inner errors, outermost first.
    """

    def __init__(self, code: str, message: str, *inner: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.inner = inner


class _Jobs:
    """Jobs that run, and the queues of the computes."""

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[Worker, asyncio.Task[None]]] = {}
        self.queues: dict[str, list[tuple[object, int]]] = {}
        """Compute → (ticket, number of nodes) of each run that has or waits for nodes."""
        self.report: asyncio.Task[None] | None = None
        """Tells the MLflow server of the jobs that were interrupted by the emulator's last shutdown."""


@dataclasses.dataclass
class Worker:
    """The interface of a job's task to the scheduler.

    Args:
        azure: the emulated Azure.
        name: name of the job.
    """

    azure: Azure
    name: str
    canceled: asyncio.Event = dataclasses.field(default_factory=asyncio.Event)

    async def pause(self) -> None:
        """Wait for the polling interval.

        Raises:
            JobCanceled: the job has been canceled.
        """
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.canceled.wait(), POLL_S)
        if self.canceled.is_set():
            raise JobCanceled

    async def unless_canceled(self, work: Awaitable[T]) -> T:
        """Wait for ``work`` and return its result, or stop waiting when the job is canceled.

        Raises:
            JobCanceled: the job has been canceled.
        """
        task, canceled = asyncio.ensure_future(work), asyncio.ensure_future(self.canceled.wait())
        try:
            await asyncio.wait((task, canceled), return_when=asyncio.FIRST_COMPLETED)
            if not task.done():
                raise JobCanceled
            return task.result()
        finally:
            task.cancel()
            canceled.cancel()

    async def inject_faults(self) -> None:
        """Inject the faults that are requested for this job, before it begins to run."""
        if self._is_ordered("job-queued", self.name):
            await self._wait_in_queue(self.name)
        if self._is_ordered("job-canceled", self.name):
            await runstore.set_status(self.azure, self.name, "CancelRequested")
            raise JobCanceled
        if self._is_ordered("job-failed", self.name):
            raise JobFailure("SystemError", "The compute node of the job has failed. (Injected fault.)", "NodeFailure")

    @contextlib.asynccontextmanager
    async def nodes(self, run: str, name: str, count: int) -> AsyncIterator[None]:
        """Hold ``count`` nodes of a compute. The run has the status Queued until they are free.

        Raises:
            JobFailure: the compute has been deleted, has fewer nodes in total, or its quota never allows so many.
            JobCanceled: the job has been canceled.
        """
        queue = self.azure.services.get(_Jobs).queues.setdefault(name.lower(), [])
        ticket = (object(), count)
        queue.append(ticket)
        try:
            await runstore.set_status(self.azure, run, "Queued")
            while sum(nodes for _, nodes in queue[: queue.index(ticket) + 1]) > self._max_nodes(name, count) or self._lacks_quota(
                name, count
            ):
                await self.pause()
            self._check_storage_access(name)
            with quota.hold_nodes(self.azure, name, count):
                yield
        finally:
            queue.remove(ticket)

    def _check_storage_access(self, name: str) -> None:
        """Check that nodes can read data, which they do as the cluster's identity if the storage has no keys.

        A system-assigned identity has no role there when it is created.
        """
        cluster = None if name.lower() == SERVERLESS else compute.find(self.azure, name)
        if self.azure.options.storage == "identity" and cluster and not compute.user_identities(cluster):
            raise JobFailure(
                "UserError",
                f"Authentication failed when trying to access the storage account {self.azure.identity.account}: its keys are disabled, and"
                f" compute {name} has no user-assigned managed identity.",
                "Auth", "StreamAccessAuthentication",
            )  # fmt: skip

    def _lacks_quota(self, name: str, count: int) -> bool:
        cluster = None if name.lower() == SERVERLESS else compute.find(self.azure, name)
        shortage = quota.find_node_shortage(self.azure, cluster, count) if cluster else None
        if shortage is not None and shortage.requested > shortage.limit:
            raise JobFailure(
                "UserError",
                f"The job requires {shortage.requested} vCPUs of compute {name}, but the quota of {shortage.label} is {shortage.limit}.",
                "BadArgument", "JobNodeCountExceedsCoreQuota",
            )  # fmt: skip
        return shortage is not None

    def _max_nodes(self, name: str, count: int) -> int:
        if name.lower() == SERVERLESS:
            return max(SERVERLESS_NODES, count)
        cluster = compute.find(self.azure, name)
        if cluster is None:
            raise JobFailure("UserError", f"Compute {name} has been deleted.", "NotFound", "ComputeNotFound")
        max_nodes: int = cluster["nodes"]
        if count > max_nodes:
            raise JobFailure(
                "UserError",
                f"The job requires {count} nodes, but compute {name} has at most {max_nodes}.",
                "BadArgument", "JobNodeCountExceedsMaxNodes",
            )  # fmt: skip
        return max_nodes

    async def execute(
        self,
        command: Sequence[str],
        *,
        run: str,
        compute_name: str,
        cwd: Path,
        environment: Mapping[str, str],
        output: Path,
        timeout_s: float | None = None,
        preload: Preload | None = None,
        on_poll: Callable[[], None] | None = None,
    ) -> int:
        """Run a child process and return its exit code. Its output is appended to ``output``.

        If the node is preempted, the process is stopped, and the run is queued and starts again from its beginning.

        Args:
            command: the command with its arguments.
            run: the job, or its step.
            compute_name: the compute that it runs on.
            cwd: working directory.
            environment: all environment variables of the process.
            output: log file.
            timeout_s: seconds after which the job is canceled.
            preload: see :meth:`Children.start`.
            on_poll: called regularly while the process runs.

        Raises:
            JobCanceled: the job has been canceled; the process and everything it has started are gone.
        """
        deadline = None if timeout_s is None else time.monotonic() + timeout_s
        while True:
            child = self.azure.children.start(command, cwd=cwd, environment=environment, log=output, preload=preload)
            try:
                while child.returncode is None and not self._is_preempted(run, compute_name):
                    await self.pause()
                    if deadline is not None and time.monotonic() > deadline:
                        raise JobCanceled
                    if on_poll:
                        on_poll()
                if child.returncode is not None:
                    return child.returncode
            finally:
                if child.returncode is None:
                    await asyncio.to_thread(child.stop)
            await self._wait_in_queue(run)
            await runstore.set_status(self.azure, run, "Running")

    def _is_preempted(self, run: str, compute_name: str) -> bool:
        """Return whether Azure takes the node away now, which happens to low-priority nodes only."""
        cluster = compute.find(self.azure, compute_name)
        return cluster is not None and cluster["priority"] == quota.LOW_PRIORITY and self._is_ordered("node-preempted", run)

    def _is_ordered(self, fault: str, run: str) -> bool:
        """Return whether a fault is requested for a run, by its name or its display name."""
        document = runstore.get(self.azure, run)
        subjects = (run, document["display_name"]) if document and document["display_name"] else (run,)
        return any(self.azure.faults.take(fault, subject) for subject in subjects)

    async def _wait_in_queue(self, run: str) -> None:
        """Keep the job, or a step of it, queued for some reads of the job's status."""
        with runstore.change(self.azure, self.name) as document:
            document["queued_reads"] = QUEUED_READS
        await runstore.set_status(self.azure, run, "Queued")
        while (runstore.get(self.azure, self.name) or {})["queued_reads"] > 0:
            await self.pause()


def check_compute(azure: Azure, name: str, target: str | None) -> None:
    """Check that a job, or a node of a pipeline, can run on the compute that it names.

    Args:
        azure: the emulated Azure.
        name: of the compute.
        target: as the client has sent it.

    Raises:
        AzureFault: 404, it does not exist.
    """
    if name != SERVERLESS and not is_virtual_cluster(target) and compute.find(azure, name) is None:
        raise user_error(f"Compute {name} not found.", "NotFound", "ComputeNotFound", status=404)


def describe_exit(program: str, code: int, output: Path) -> str:
    """Return the error message for a process that exited with this code, with the end of its log."""
    tail = "\n".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:])
    how = f"was ended by signal {code - 128}" if code > 128 else f"exited with status code {code}"
    return f"Execution failed. User process '{program}' {how}. Please check log file '{STD_LOG}' for error details. Error: {tail}"


def is_virtual_cluster(compute_id: str | None) -> bool:
    """Return whether a compute is a virtual cluster, which doesn't belong to a workspace."""
    return "/virtualclusters/" in (compute_id or "").lower()


def not_run(what: str) -> JobFailure:
    """Return the failure of something that Azure would run, as far as the emulator can tell, but that the emulator only accepts."""
    return JobFailure("SystemError", f"The emulator does not run {what}. Azure does.", "NotImplementedByEmulator")


def error_object(failure: JobFailure) -> dict[str, Any]:
    """Return a failure as the ``ErrorResponse`` of run history."""
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
        "time": now(),
        "componentName": "CommonRuntime",
    }


def submit(azure: Azure, name: str, work: Callable[[Worker], Awaitable[None]]) -> None:
    """Start a job in the background."""
    worker = Worker(azure, name)
    azure.services.get(_Jobs).tasks[name] = (worker, azure.start_task(_run(worker, work)))


async def cancel(azure: Azure, name: str) -> None:
    """Cancel a job, and wait until it has ended."""
    await runstore.set_status(azure, name, "CancelRequested")
    if running := azure.services.get(_Jobs).tasks.get(name):
        worker, task = running
        worker.canceled.set()
        await asyncio.shield(asyncio.wait([task]))


def is_finished(azure: Azure, name: str) -> bool:
    """Return whether a job has ended."""
    run = runstore.get(azure, name)
    return run is None or run["status"] in runstore.TERMINAL


async def startup(azure: Azure) -> None:
    """Mark the jobs that were running when the emulator was stopped as failed."""
    failure = JobFailure("SystemError", "The emulator was stopped while the job was running. Submit it again.", "JobInterrupted")
    interrupted = [run for run in runstore.list_all(azure) if run["kind"] != "mlflow" and run["status"] not in runstore.TERMINAL]
    for run in interrupted:
        with runstore.change(azure, run["name"]) as document:
            runstore.apply_status(document, "Failed")
            document["error"] = error_object(failure)
    if interrupted:
        # In the background, because the MLflow server is still starting.
        azure.services.get(_Jobs).report = azure.start_task(_report_failed(azure, [run["uuid"] for run in interrupted]))


async def shutdown(azure: Azure) -> None:
    """Stop working on all jobs. Their processes are stopped with the emulator's other children."""
    jobs = azure.services.get(_Jobs)
    tasks = [task for _, task in jobs.tasks.values()] + ([jobs.report] if jobs.report else [])
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _report_failed(azure: Azure, uuids: Sequence[str]) -> None:
    for run_uuid in uuids:
        await runstore.send_status(azure, run_uuid, "Failed")


async def _run(worker: Worker, work: Callable[[Worker], Awaitable[None]]) -> None:
    azure, name = worker.azure, worker.name
    try:
        await runstore.set_status(azure, name, "Preparing")
        await worker.inject_faults()
        await work(worker)
        await runstore.set_status(azure, name, "Completed")
    except JobCanceled:
        await runstore.set_status(azure, name, "Canceled")
    except JobFailure as failure:
        await runstore.set_status(azure, name, "Failed", error_object(failure))
    except AzureFault as refused:
        # E.g. an input that doesn't exist: Azure also accepts such a job, and fails it when it prepares the data.
        await runstore.set_status(azure, name, "Failed", error_object(JobFailure("UserError", refused.message, *refused.inner)))
    except Exception as problem:
        log.exception("job %s", name)
        fault = JobFailure("SystemError", f"The emulator has failed: {type(problem).__name__}: {problem}", "InternalServerError")
        await runstore.set_status(azure, name, "Failed", error_object(fault))
    finally:
        azure.services.get(_Jobs).tasks.pop(name, None)
