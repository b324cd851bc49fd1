"""Work on many items in one process for each processor. The results are the same as in this process, in the same order.

Threads would not help, since Python runs one of them at a time. The processes are new ones ("spawn"), because a copy of a process that
has threads, as the SDKs start them, may hang.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from multiprocessing.connection import Connection
from typing import Any, TypeVar

from mlops.core.errors import DataError

__all__ = ["map_items"]

R = TypeVar("R")

MAX_PROCESSES = 8


def map_items(items: Sequence[Any], function: Callable[..., R], *arguments: Any, parallel: bool) -> Iterator[R]:
    """Yield the result of a function for every item, in their order.

    Args:
        items: are sent to the processes one by one.
        function: of a module, called with an item and the arguments. It must not depend on the process that it runs in.
        arguments: are sent to every process once.
        parallel: whether there is so much to do that several processes are faster, although they take most of a second to start.

    Raises:
        DataError: a process has been killed.
        Exception: whatever the function raises.
    """
    count = min(_count_processors(), MAX_PROCESSES, len(items)) if parallel else 1
    if count <= 1:
        yield from (function(item, *arguments) for item in items)
        return
    context = multiprocessing.get_context("spawn")
    workers: list[tuple[Any, Connection]] = []
    try:
        for _ in range(count):
            connection, other = context.Pipe()
            process = context.Process(target=_work, args=(other, function, arguments), daemon=True)
            process.start()
            other.close()
            workers.append((process, connection))
        yield from _take_turns(items, [connection for _, connection in workers])
    except (EOFError, ConnectionError):
        raise DataError(
            "A process that was reading the data has been killed, perhaps for lack of memory.", "run the command again with more memory"
        ) from None
    finally:
        for process, connection in workers:
            connection.close()
            process.terminate()
            process.join()


def _take_turns(items: Sequence[Any], connections: Sequence[Connection]) -> Iterator[Any]:
    """Send the items to the processes in turn, each two in advance, and yield the results in the same order."""
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
    """An exception on its way to the process that raises it."""

    def __init__(self, problem: Exception) -> None:
        self.problem = problem


def _work(connection: Connection, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    # An interrupt is for the process that started this one, which ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            item = connection.recv()
            try:
                result: object = function(item, *arguments)
            except Exception as problem:
                result = _Failure(problem)
            connection.send(result)
    except (EOFError, ConnectionError):
        return


def _count_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
