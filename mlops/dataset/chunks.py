"""Parts of a JSON Lines file, which are processed one by one: in this process, or for a big file in one process for each processor.

Threads would not help, since Python runs one of them at a time. The processes are new ones ("spawn"), because a copy of a process that
has threads, as the SDKs start them, may hang.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

from mlops.core.errors import DataError

__all__ = ["Chunk", "map_chunks", "split_file"]

R = TypeVar("R")

CHUNK_BYTES = 1 << 22
PARALLEL_BYTES = 1 << 26
"""From this size on, several processes are faster than one, although they take most of a second to start."""
MAX_PROCESSES = 8


@dataclass(frozen=True)
class Chunk:
    """The lines of a file that begin in a range of bytes."""

    path: Path
    start: int
    end: int


def split_file(path: Path) -> list[Chunk]:
    """Divide a file at ends of lines into parts of about :data:`CHUNK_BYTES`.

    Raises:
        OSError: the file can't be read.
    """
    bounds = [0]
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        while bounds[-1] + CHUNK_BYTES < size:
            position = file.seek(bounds[-1] + CHUNK_BYTES)
            # A line may be as long as the file, so it is read in pieces.
            while (piece := file.readline(CHUNK_BYTES)) and not piece.endswith(b"\n"):
                position += len(piece)
            bounds.append(position + len(piece))
    return [Chunk(path, start, end) for start, end in zip(bounds, [*bounds[1:], size], strict=True) if end > start]


def map_chunks(path: Path, function: Callable[..., R], *arguments: Any) -> Iterator[R]:
    """Yield the result of a function for every part of a file, in their order.

    Args:
        path: the file.
        function: of a module, called with a :class:`Chunk` and the arguments. It must not depend on the process that it runs in.
        arguments: are sent to every process once.

    Raises:
        OSError: the file can't be read.
        DataError: a process has been killed.
    """
    chunks = split_file(path)
    count = min(_count_processors(), MAX_PROCESSES, len(chunks)) if path.stat().st_size >= PARALLEL_BYTES else 1
    if count <= 1:
        yield from (function(chunk, *arguments) for chunk in chunks)
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
        yield from _take_turns(chunks, [connection for _, connection in workers])
    except (EOFError, BrokenPipeError):
        raise DataError(
            f"A process that was reading {path} has been killed, perhaps for lack of memory.", "run the command again with more memory"
        ) from None
    finally:
        for process, connection in workers:
            connection.close()
            process.terminate()
            process.join()


def _take_turns(chunks: Sequence[Chunk], connections: Sequence[Connection]) -> Iterator[Any]:
    """Send the chunks to the processes in turn, each two in advance, and yield the results in the same order."""
    ahead = 2 * len(connections)
    for number in range(len(chunks) + ahead):
        connection = connections[number % len(connections)]
        if number >= ahead:
            result = connection.recv()
            if isinstance(result, Exception):
                raise result
            yield result
        if number < len(chunks):
            connection.send(chunks[number])


def _work(connection: Connection, function: Callable[..., Any], arguments: Sequence[Any]) -> None:
    # An interrupt is for the process that started this one, which ends it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        while True:
            chunk = connection.recv()
            try:
                result: object = function(chunk, *arguments)
            except Exception as problem:
                result = problem
            connection.send(result)
    except (EOFError, BrokenPipeError):
        return


def _count_processors() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
