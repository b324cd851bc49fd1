"""The thread that runs the model, and its queue.

Requests with equal parameters that wait at the same time are answered in one batch: four at once take little longer than one.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Busy", "Job", "Worker"]

Predict = Callable[[dict[str, Any]], Mapping[str, Any]]


class Busy(Exception):
    """The queue is full."""


@dataclass(eq=False)
class Job:
    """One request in the queue.

    Attributes:
        conversations: conversations to answer, usually one.
        parameters: parameters of the generation.
        answer: resolves to one text per conversation.
        loop: event loop of the request.
        arrived: time of the request's arrival.
        queued_s: seconds in the queue.
        batch_size: number of requests that were answered together.
    """

    conversations: Sequence[Any]
    parameters: Mapping[str, Any]
    answer: asyncio.Future[list[str]]
    loop: asyncio.AbstractEventLoop
    arrived: float = field(default_factory=time.monotonic)
    queued_s: float = 0.0
    batch_size: int = 0


class Worker:
    """Runs a model in its own thread, so that the event loop can always answer liveness probes.

    Args:
        predict: the model: ``{"input_string": [conversation, …], "parameters": {…}}`` → ``{"output": text or texts}``.
        batch: maximum number of conversations in a batch.
        limit: maximum number of requests that wait or run.
    """

    def __init__(self, predict: Predict, batch: int, limit: int) -> None:
        self._predict = predict
        self._batch = batch
        self._limit = limit
        self._waiting: deque[Job] = deque()
        self._running = 0
        self._changed = threading.Condition()
        # A daemon thread: a long answer must not keep the process from exiting.
        threading.Thread(target=self._run, name="model", daemon=True).start()

    def submit(self, conversations: Sequence[Any], parameters: Mapping[str, Any]) -> Job:
        """Queue a request. The caller awaits the job's ``answer``.

        Raises:
            Busy: ``limit`` requests are waiting or running.
        """
        loop = asyncio.get_running_loop()
        with self._changed:
            if len(self._waiting) + self._running >= self._limit:
                raise Busy
            job = Job(conversations, parameters, loop.create_future(), loop)
            self._waiting.append(job)
            self._changed.notify()
        return job

    def abandon(self, job: Job) -> None:
        """Remove a request from the queue. If it already runs, it runs to its end and counts until then."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)

    def _run(self) -> None:
        while True:
            jobs = self._next_batch()
            try:
                self._resolve_all(jobs, self._answer(jobs))
            except Exception as problem:
                if len(jobs) == 1:
                    self._resolve_all(jobs, problem)
                else:
                    self._run_individually(jobs)
            with self._changed:
                self._running = 0

    def _next_batch(self) -> list[Job]:
        """Wait for a job; return it with those behind it that have the same parameters, up to the size of a batch."""
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting))
            jobs = [self._waiting.popleft()]
            size = len(jobs[0].conversations)
            for job in list(self._waiting):
                if job.parameters == jobs[0].parameters and size + len(job.conversations) <= self._batch:
                    jobs.append(job)
                    size += len(job.conversations)
                    self._waiting.remove(job)
            self._running = len(jobs)
        for job in jobs:
            job.queued_s, job.batch_size = time.monotonic() - job.arrived, len(jobs)
        return jobs

    def _answer(self, jobs: Sequence[Job]) -> list[str]:
        conversations = [conversation for job in jobs for conversation in job.conversations]
        output = self._predict({"input_string": conversations, "parameters": dict(jobs[0].parameters)})["output"]
        return [output] if isinstance(output, str) else list(output)

    def _run_individually(self, jobs: Sequence[Job]) -> None:
        """Answer each request of a failed batch separately, because only one of them may have caused the failure."""
        for job in jobs:
            try:
                self._resolve_all([job], self._answer([job]))
            except Exception as problem:
                self._resolve_all([job], problem)

    def _resolve_all(self, jobs: Sequence[Job], outcome: list[str] | Exception) -> None:
        for job in jobs:
            if isinstance(outcome, Exception):
                job.loop.call_soon_threadsafe(_resolve, job, outcome)
            else:
                own, outcome = outcome[: len(job.conversations)], outcome[len(job.conversations) :]
                job.loop.call_soon_threadsafe(_resolve, job, own)


def _resolve(job: Job, outcome: list[str] | Exception) -> None:
    if job.answer.done():
        return
    if isinstance(outcome, Exception):
        job.answer.set_exception(outcome)
    else:
        job.answer.set_result(outcome)
