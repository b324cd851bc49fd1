"""Divides a JSON Lines file into parts, which are processed one by one, or in several processes if the file is big."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mlops.dataset.processes import map_items

__all__ = ["Chunk", "map_chunks", "split_file"]

R = TypeVar("R")

CHUNK_BYTES = 1 << 22
PARALLEL_BYTES = 1 << 26
"""From this size in bytes on, several processes are faster than one."""


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
        function: called with a :class:`Chunk` and the arguments; see :func:`mlops.dataset.processes.map_items`.
        arguments: of the function.

    Raises:
        OSError: the file can't be read.
        DataError: a process has been killed.
    """
    yield from map_items(split_file(path), function, *arguments, parallel=path.stat().st_size >= PARALLEL_BYTES)
