"""Processes many items with one process per processor. The results are the same as in this process, in the same order.

Threads would not help, since Python runs one of them at a time. The processes are new ones ("spawn"), because a copy of a process that
has threads, as the SDKs start them, may hang.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from multiprocessing.connection import Connection
from typing import Any, NamedTuple, TypeVar

from mlops.core.errors import DataError

__all__ = ["keep_processes", "map_items"]

R = TypeVar("R")

MAX_PROCESSES = 8
_FREED = {-1: 1 << 30, -3: 1 << 25}
"""How much freed memory glibc keeps (M_TRIM_THRESHOLD), and up to which block size (M_MMAP_THRESHOLD), in bytes."""


def map_items(items: Sequence[Any], function: Callable[..., R], *arguments: Any, parallel: bool) -> Iterator[R]:
    """Yield the result of a function for every item, in their order.

    Args:
        items: are sent to the processes one by one.
        function: of a module, called with an item and the arguments. It must not depend on the process that it runs in.
        arguments: are sent to every process once.
        parallel: whether there is enough work to make up for the time that processes take to start, most of a second.

    Raises:
        DataError: a process has been killed.
        Exception: whatever the function raises.
    """
    count = min(_count_processors(), MAX_PROCESSES, len(items)) if parallel else 1
    if count <= 1:
        yield from (function(item, *arguments) for item in items)
        return
    idle = _IDLE.get()
    workers: list[_Worker] = []
    try:
        workers += (idle.pop() if idle else _Worker() for _ in range(count))
        for worker in workers:
            worker.connection.send(_Job(function, arguments))
        yield from _take_turns(items, [worker.connection for worker in workers])
        if idle is not None:
            idle += workers
            workers = []
    except (EOFError, ConnectionError):
        raise DataError(
            "A process that was reading the data has been killed, perhaps for lack of memory.", "run the command again with more memory"
        ) from None
    finally:
        for worker in workers:
            worker.stop()


@contextlib.contextmanager
def keep_processes() -> Iterator[None]:
    """Use the same processes for all calls of :func:`map_items`, because it takes most of a second to start them."""
    if _IDLE.get() is not None:
        yield
        return
    idle: list[_Worker] = []
    token = _IDLE.set(idle)
    try:
        yield
    finally:
        _IDLE.reset(token)
        for worker in idle:
            worker.stop()


class _Worker:
    """Another process, and the connection to it."""

    def __init__(self) -> None:
        context = multiprocessing.get_context("spawn")
        self.connection, other = context.Pipe()
        self._process = context.Process(target=_work, args=(other,), daemon=True)
        self._process.start()
        other.close()

    def stop(self) -> None:
        self.connection.close()
        self._process.terminate()
        self._process.join()


class _Job(NamedTuple):
    """The function and arguments that a process applies to the items that follow."""

    function: Callable[..., Any]
    arguments: Sequence[Any]


_IDLE: ContextVar[list[_Worker] | None] = ContextVar("_IDLE", default=None)
"""Idle processes."""


def _take_turns(items: Sequence[Any], connections: Sequence[Connection]) -> Iterator[Any]:
    """Send the items to the processes in turn, two ahead for each, and yield the results in the same order."""
    ahead = 2 * len(connections)
    for number in range(len(items) + ahead):
        connection = connections[number % len(connections)]
        if number >= ahead:
            result = connection.recv()
            if isinstance(result, _Failure):
                raise result.problem
            yield result
        if number < len(items):
            connection.send(items[number])


class _Failure:
    """An exception that is sent to the process that raises it."""

    def __init__(self, problem: Exception) -> None:
        self.problem = problem


def _work(connection: Connection) -> None:
    # An interrupt is for the process that started this one, which ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _keep_memory()
    job = _Job(lambda item: item, ())
    try:
        while True:
            item = connection.recv()
            if isinstance(item, _Job):
                job = item
                continue
            try:
                result: object = job.function(item, *job.arguments)
            except Exception as problem:
                result = _Failure(problem)
            connection.send(result)
    except (EOFError, ConnectionError):
        return


def _keep_memory() -> None:
    """Keep freed memory. Returning it to the operating system and getting it back takes as long as much of numpy's work."""
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        mallopt = ctypes.CDLL(None).mallopt
        for parameter, value in _FREED.items():
            mallopt(parameter, value)


def _count_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
