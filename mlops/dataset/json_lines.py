"""The rows of a JSON Lines file. A big file is scanned in several processes."""

from __future__ import annotations

import os
import weakref
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from pathlib import Path
from typing import IO, Any

from mlops.core.settings import DataConfig
from mlops.dataset.chunks import Chunk, map_chunks
from mlops.dataset.contents import check_content, decompress
from mlops.dataset.conversation import Conversation, InvalidRow, decode_block, lines_of, read_blocks
from mlops.dataset.layouts import Layout
from mlops.dataset.rows import decode_row, find_layout, id_hash

__all__ = ["JsonLinesRows"]


class JsonLinesRows:
    """Rows in a JSON Lines file, scanned once and then accessed by offset. Uses 24 bytes of memory per row. Empty lines are skipped.

    Raises:
        DataError: the file is something else, or no layout fits its rows.
    """

    def __init__(self, path: Path, data: DataConfig, compression: str = "") -> None:
        self._path, self._compression, self.is_sendable = path, compression, not compression
        self._open()
        check_content(path, ".jsonl", self._file.read(4096))
        self._layout = find_layout((line for _, _, line in _lines(self._file) if not line.isspace()), data, str(path))
        self.title = self._layout.title
        self._numbers, self._offsets, self._ids = array("Q"), array("Q"), array("Q")
        self._invalid_rows: dict[int, InvalidRow] = {}
        self._notes: Counter[str] = Counter()
        lines = 0
        for part in iter([_scan(self._file, self._layout)]) if compression else map_chunks(path, _scan_chunk, self._layout):
            self._invalid_rows |= {len(self._ids) + index: problem for index, problem in part.invalid_rows.items()}
            self._numbers.extend(lines + number for number in part.numbers)
            self._offsets += part.offsets
            self._ids += part.ids
            self._notes += part.notes
            lines += part.lines

    def _open(self) -> None:
        self._file = decompress(self._path, self._compression)
        weakref.finalize(self, self._file.close)

    def __getstate__(self) -> dict[str, Any]:
        """Return all but the open file."""
        return self.__dict__ | {"_file": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Open the file again, in another process."""
        self.__dict__.update(state)
        self._open()

    def __len__(self) -> int:
        return len(self._offsets)

    def ids(self) -> array[int]:
        """See :class:`Rows`."""
        return self._ids

    def where(self, index: int) -> str:
        """See :class:`Rows`."""
        return f"{self._path}:{self._numbers[index]}"

    def take(self, indices: Sequence[int]) -> Iterator[Conversation | InvalidRow]:
        """See :class:`Rows`."""
        for index in indices:
            if index in self._invalid_rows:
                yield self._invalid_rows[index]
                continue
            self._file.seek(self._offsets[index])
            row: Conversation | InvalidRow
            try:
                row = decode_row(self._file.readline(), self._layout)
            except InvalidRow as problem:  # nested so deeply that it depends on the parser
                row = self._invalid_rows[index] = problem
            yield row

    def lines(self, indices: Sequence[int]) -> Iterator[bytes | None]:
        """See :class:`Rows`."""
        is_plain = self._layout.kind == "ultrachat" and not self._compression
        for index in indices:
            if not is_plain or index in self._invalid_rows:
                yield None
                continue
            begin = self._offsets[index]
            # Up to the next row there may also be empty lines.
            is_last = index + 1 == len(self._offsets)
            end = os.fstat(self._file.fileno()).st_size if is_last else self._offsets[index + 1]
            text = os.pread(self._file.fileno(), end - begin, begin)
            yield text[: text.find(b"\n") + 1] or text

    def invalid_rows(self) -> dict[int, InvalidRow]:
        """See :class:`Rows`. The result is complete."""
        return self._invalid_rows

    def notes(self) -> Mapping[str, int]:
        """See :class:`Rows`."""
        return self._notes


@dataclass
class _Scan:
    """The rows of a part of a file. Line numbers are counted from its beginning."""

    numbers: array[int] = field(default_factory=lambda: array("Q"))
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    ids: array[int] = field(default_factory=lambda: array("Q"))
    invalid_rows: dict[int, InvalidRow] = field(default_factory=dict)
    notes: Counter[str] = field(default_factory=Counter)
    lines: int = 0


def _scan_chunk(chunk: Chunk, layout: Layout) -> _Scan:
    with chunk.path.open("rb") as file:
        return _scan(file, layout, chunk.start, chunk.end)


def _scan(file: IO[bytes], layout: Layout, start: int = 0, end: int | None = None) -> _Scan:
    scan = _Scan()
    layout.notes.clear()
    for begin, last, block in read_blocks(file, _skip_mark(file, start), end):
        rows: list[Conversation] | None = decode_block(block) if layout.kind == "ultrachat" else None
        if rows is None:
            _scan_lines(scan, lines_of(file, begin, last), layout)
            continue
        sizes = [len(line) + 1 for line in block.split(b"\n", len(rows) - 1)]
        scan.numbers.extend(range(scan.lines + 1, scan.lines + len(rows) + 1))
        scan.offsets.extend(accumulate(sizes[:-1], initial=begin))
        scan.ids.extend(map(id_hash, rows))
        scan.lines += len(rows)
    scan.notes.update(layout.notes)
    return scan


def _scan_lines(scan: _Scan, lines: Iterator[tuple[int, int, bytes]], layout: Layout) -> None:
    before = scan.lines
    for number, offset, line in lines:
        scan.lines = before + number
        if line.isspace():
            continue
        row: Conversation | InvalidRow
        try:
            row = decode_row(line, layout)
        except InvalidRow as problem:
            row = scan.invalid_rows[len(scan.ids)] = problem
        scan.numbers.append(scan.lines)
        scan.offsets.append(offset)
        scan.ids.append(id_hash(row))


def _skip_mark(file: IO[bytes], start: int) -> int:
    """Return where to begin instead of at ``start``: after a byte order mark at the file's beginning."""
    return 3 if start == 0 and file.seek(0) == 0 and file.read(3) == b"\xef\xbb\xbf" else start


def _lines(file: IO[bytes]) -> Iterator[tuple[int, int, bytes]]:
    """Yield number, offset and bytes of the lines, without a byte order mark at the file's beginning."""
    yield from lines_of(file, _skip_mark(file, 0))
