"""One thread that runs the model, and the queue before it.

Requests with equal parameters that wait together are answered together: four at once cost little more than one.
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
    """More requests wait than are allowed."""


@dataclass(eq=False)
class Job:
    """One request in the queue.

    Attributes:
        conversations: to be answered; usually one.
        parameters: of generation.
        answer: resolves to a text per conversation.
        abandoned: nobody waits for it any more.
        waited: seconds in the queue.
        together: requests in its batch.
    """

    conversations: Sequence[Any]
    parameters: Mapping[str, Any]
    answer: asyncio.Future[list[str]]
    loop: asyncio.AbstractEventLoop
    abandoned: bool = False
    waited: float = 0.0
    together: int = 0
    arrived: float = field(default_factory=time.monotonic)


class Worker:
    """Runs a model in a thread of its own, so that the event loop stays free for liveness probes.

    Args:
        predict: the model: ``{"input_string": [conversation, …], "parameters": {…}}`` → ``{"output": text or texts}``.
        batch: conversations answered together, at most.
        limit: requests waiting or running, at most.
    """

    def __init__(self, predict: Predict, batch: int, limit: int) -> None:
        self._predict = predict
        self._batch = batch
        self._limit = limit
        self._waiting: deque[Job] = deque()
        self._running = 0
        self._changed = threading.Condition()
        # A daemon: a long answer must not keep the process from ending.
        threading.Thread(target=self._run, name="model", daemon=True).start()

    def submit(self, conversations: Sequence[Any], parameters: Mapping[str, Any]) -> Job:
        """Queue a request; await its ``answer``.

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
        """Nobody waits any more: leave the queue. A job that runs already runs to its end and counts as long."""
        with self._changed:
            job.abandoned = True
            if job in self._waiting:
                self._waiting.remove(job)

    def _run(self) -> None:
        while True:
            jobs = self._take()
            try:
                self._settle(jobs, self._answers(jobs))
            except Exception as problem:
                if len(jobs) == 1:
                    self._settle(jobs, problem)
                else:
                    self._one_by_one(jobs)
            with self._changed:
                self._running = 0

    def _take(self) -> list[Job]:
        """The oldest job and those behind it with the same parameters, up to the batch size."""
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
            job.waited, job.together = time.monotonic() - job.arrived, len(jobs)
        return jobs

    def _answers(self, jobs: Sequence[Job]) -> list[str]:
        conversations = [conversation for job in jobs for conversation in job.conversations]
        output = self._predict({"input_string": conversations, "parameters": dict(jobs[0].parameters)})["output"]
        return [output] if isinstance(output, str) else list(output)

    def _one_by_one(self, jobs: Sequence[Job]) -> None:
        """One request may have spoilt the batch for the others."""
        for job in jobs:
            try:
                self._settle([job], self._answers([job]))
            except Exception as problem:
                self._settle([job], problem)

    def _settle(self, jobs: Sequence[Job], answers: list[str] | Exception) -> None:
        for job in jobs:
            if isinstance(answers, Exception):
                job.loop.call_soon_threadsafe(_resolve, job, answers)
            else:
                own, answers = answers[: len(job.conversations)], answers[len(job.conversations) :]
                job.loop.call_soon_threadsafe(_resolve, job, own)


def _resolve(job: Job, outcome: list[str] | Exception) -> None:
    if job.answer.done():
        return
    if isinstance(outcome, Exception):
        job.answer.set_exception(outcome)
    else:
        job.answer.set_result(outcome)
