"""The rows of one split in any storage format: their number, their ids, and each row on demand."""

from __future__ import annotations

import bisect
import contextlib
import weakref
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import repeat
from typing import Any, Protocol

from mlops.core.settings import DataConfig
from mlops.dataset.conversation import Conversation, InvalidRow, convert, decode, decode_any
from mlops.dataset.hashes import hash64
from mlops.dataset.layouts import Layout, recognize

__all__ = ["SAMPLE", "ArrowRows", "ChainedRows", "ListRows", "Rows", "SelectedRows", "decode_row", "find_layout", "id_hash"]

SAMPLE = 20
"""Number of rows by which the layout of a file is recognized."""

_BATCH = 1000

LocatedRow = tuple[str, Conversation | InvalidRow]
"""The location of a row (``file:line``) and the row."""


class Rows(Protocol):
    """Rows by index. ``len()`` is their number."""

    title: str
    """The layout that was recognized, e.g. ``ShareGPT``."""
    is_sendable: bool
    """Whether another process can also read the rows."""

    def __len__(self) -> int: ...

    def ids(self) -> array[int]:
        """Return a 64-bit hash of every row's ``prompt_id``, in order."""

    def where(self, index: int) -> str:
        """Return the ``file:line`` of a row, counted from 1."""

    def take(self, indices: Sequence[int]) -> Iterator[Conversation | InvalidRow]:
        """Yield the rows at these indices, in this order. A row that is not a conversation is an :class:`InvalidRow`."""

    def lines(self, indices: Sequence[int]) -> Iterator[bytes | None]:
        """Yield the lines of JSON Lines at these indices, which are read as they are; None where a source has none."""

    def invalid_rows(self) -> dict[int, InvalidRow]:
        """Return the rows that are not conversations, as far as they can be detected without reading all rows."""

    def notes(self) -> Mapping[str, int]:
        """Return what the layout ignored or changed → in how many rows, as far as rows were read."""


class ListRows:
    """Rows in memory, for the small formats (JSON, CSV, chitchat)."""

    def __init__(self, rows: Iterable[LocatedRow], title: str = "ultrachat", layout: Layout | None = None) -> None:
        self.title, self.is_sendable = title, False
        self._rows, self._layout = list(rows), layout

    def __len__(self) -> int:
        return len(self._rows)

    def ids(self) -> array[int]:
        """See :class:`Rows`."""
        return array("Q", (id_hash(row) for _, row in self._rows))

    def where(self, index: int) -> str:
        """See :class:`Rows`."""
        return self._rows[index][0]

    def take(self, indices: Sequence[int]) -> Iterator[Conversation | InvalidRow]:
        """See :class:`Rows`."""
        return (self._rows[index][1] for index in indices)

    def lines(self, indices: Sequence[int]) -> Iterator[bytes | None]:
        """See :class:`Rows`."""
        return repeat(None, len(indices))

    def invalid_rows(self) -> dict[int, InvalidRow]:
        """See :class:`Rows`. The result is complete."""
        return {index: row for index, (_, row) in enumerate(self._rows) if isinstance(row, InvalidRow)}

    def notes(self) -> Mapping[str, int]:
        """See :class:`Rows`."""
        return Counter() if self._layout is None else self._layout.notes


class ArrowRows:
    """Rows of Arrow tables (Parquet, ``save_to_disk``, hub), which stay on disk.

    Args:
        batches: record batches, memory-mapped.
        name: its name in messages; a row is called ``name:row``.
        data: overrides the layout.
        keep: a temporary folder that must exist as long as the rows do.

    Raises:
        DataError: no layout fits the columns.
    """

    def __init__(self, batches: Sequence[Any], name: str, data: DataConfig, columns: Sequence[str] = (), keep: Any = None) -> None:
        self._name, self.is_sendable = name, False
        if keep is not None:
            weakref.finalize(self, keep.cleanup)
        self._batches = [batch for batch in batches if len(batch)]
        self._starts = [0]
        for batch in self._batches:
            self._starts.append(self._starts[-1] + len(batch))
        sample = _sample(self._batches[0]) if self._batches else [dict.fromkeys(columns)]
        self._layout = recognize(sample, data, name)
        self._fields = [field for field in self._layout.names if not self._batches or field in self._batches[0].schema.names]
        self.title = self._layout.title
        self._invalid_rows: dict[int, InvalidRow] = {}
        self._ids: array[int] | None = None

    def __len__(self) -> int:
        return self._starts[-1]

    def ids(self) -> array[int]:
        """See :class:`Rows`."""
        if self._ids is None:
            self._ids = array("Q")
            column = self._layout.columns.get("prompt_id")
            for start, batch in zip(self._starts, self._batches, strict=False):
                values = [row[column] for row in _to_rows(batch.select([column])) if isinstance(row, Mapping)] if column else []
                texts = [value.encode() for value in values if isinstance(value, str)]
                if len(texts) < len(batch):
                    self._ids.extend(map(id_hash, self._convert(_to_rows(batch.select(self._fields)), range(start, start + len(batch)))))
                else:
                    self._ids.extend(map(hash64, texts))
        return self._ids

    def where(self, index: int) -> str:
        """See :class:`Rows`."""
        return f"{self._name}:{index + 1}"

    def take(self, indices: Sequence[int]) -> Iterator[Conversation | InvalidRow]:
        """See :class:`Rows`."""
        for start in range(0, len(indices), _BATCH):
            # Many rows of a batch at once: ten times as fast as row by row, with bounded memory.
            requested = indices[start : start + _BATCH]
            places: dict[int, list[tuple[int, int]]] = {}
            for position, index in enumerate(requested):
                batch = bisect.bisect_right(self._starts, index) - 1
                places.setdefault(batch, []).append((position, index - self._starts[batch]))
            rows: list[Any] = [None] * len(requested)
            for batch, pairs in places.items():
                selected = self._batches[batch].select(self._fields).take(_as_arrow([local for _, local in pairs]))
                for (position, _), row in zip(pairs, _to_rows(selected), strict=True):
                    rows[position] = row
            yield from self._convert(rows, requested)

    def lines(self, indices: Sequence[int]) -> Iterator[bytes | None]:
        """See :class:`Rows`."""
        return repeat(None, len(indices))

    def invalid_rows(self) -> dict[int, InvalidRow]:
        """See :class:`Rows`. Complete if the ids had to be computed from the rows, or all rows were read; else it has those that were."""
        return self._invalid_rows

    def notes(self) -> Mapping[str, int]:
        """See :class:`Rows`."""
        return self._layout.notes

    def _convert(self, rows: Iterable[Mapping[str, Any] | InvalidRow], indices: Iterable[int]) -> Iterator[Conversation | InvalidRow]:
        for index, row in zip(indices, rows, strict=True):
            if self._layout.kind == "ultrachat":
                with contextlib.suppress(InvalidRow):
                    yield convert(row)
                    continue
            try:
                if isinstance(row, InvalidRow):
                    raise row
                yield self._layout.convert(row)
            except InvalidRow as problem:
                self._invalid_rows[index] = problem
                yield problem


class ChainedRows:
    """The rows of several files, one after another."""

    def __init__(self, parts: Sequence[Rows]) -> None:
        self._parts, self.is_sendable = parts, all(part.is_sendable for part in parts)
        self.title = ", ".join(dict.fromkeys(part.title for part in parts))
        self._starts = [0]
        for part in parts:
            self._starts.append(self._starts[-1] + len(part))

    def __len__(self) -> int:
        return self._starts[-1]

    def _locate(self, index: int) -> tuple[int, int]:
        part = bisect.bisect_right(self._starts, index) - 1
        return part, index - self._starts[part]

    def ids(self) -> array[int]:
        """See :class:`Rows`."""
        return array("Q", (identity for part in self._parts for identity in part.ids()))

    def where(self, index: int) -> str:
        """See :class:`Rows`."""
        part, local = self._locate(index)
        return self._parts[part].where(local)

    def take(self, indices: Sequence[int]) -> Iterator[Conversation | InvalidRow]:
        """See :class:`Rows`."""
        for start in range(0, len(indices), _BATCH):
            positions = [self._locate(index) for index in indices[start : start + _BATCH]]
            selected = {part: self._parts[part].take([local for owner, local in positions if owner == part]) for part, _ in positions}
            yield from (next(selected[part]) for part, _ in positions)

    def lines(self, indices: Sequence[int]) -> Iterator[bytes | None]:
        """See :class:`Rows`."""
        for part, local in map(self._locate, indices):
            yield from self._parts[part].lines([local])

    def invalid_rows(self) -> dict[int, InvalidRow]:
        """See :class:`Rows`."""
        return {
            start + index: row for start, part in zip(self._starts, self._parts, strict=False) for index, row in part.invalid_rows().items()
        }

    def notes(self) -> Mapping[str, int]:
        """See :class:`Rows`."""
        return sum((Counter(part.notes()) for part in self._parts), Counter())


class SelectedRows:
    """A selection of the rows of another object."""

    def __init__(self, rows: Rows, indices: Sequence[int]) -> None:
        self._rows, self._indices = rows, indices
        self.title, self.is_sendable = rows.title, rows.is_sendable

    def __len__(self) -> int:
        return len(self._indices)

    def ids(self) -> array[int]:
        """See :class:`Rows`."""
        ids = self._rows.ids()
        return array("Q", (ids[index] for index in self._indices))

    def where(self, index: int) -> str:
        """See :class:`Rows`."""
        return self._rows.where(self._indices[index])

    def take(self, indices: Sequence[int]) -> Iterator[Conversation | InvalidRow]:
        """See :class:`Rows`."""
        return self._rows.take([self._indices[index] for index in indices])

    def lines(self, indices: Sequence[int]) -> Iterator[bytes | None]:
        """See :class:`Rows`."""
        return self._rows.lines([self._indices[index] for index in indices])

    def invalid_rows(self) -> dict[int, InvalidRow]:
        """See :class:`Rows`."""
        invalid = self._rows.invalid_rows()
        return {position: invalid[index] for position, index in enumerate(self._indices) if index in invalid}

    def notes(self) -> Mapping[str, int]:
        """See :class:`Rows`. The notes of all rows that the selection was made from."""
        return self._rows.notes()


def _to_rows(batch: Any) -> list[dict[str, Any] | InvalidRow]:
    """Return the rows of a batch. Writers other than Arrow's own don't check that a text is UTF-8."""
    try:
        rows: list[dict[str, Any] | InvalidRow] = batch.to_pylist()
    except UnicodeDecodeError as problem:
        if len(batch) == 1:
            return [InvalidRow("json.encoding", f"not UTF-8: {problem.reason} at byte {problem.start} of a text")]
        return [row for index in range(len(batch)) for row in _to_rows(batch.slice(index, 1))]
    return rows


def _sample(batch: Any) -> list[dict[str, Any]]:
    """Return the first rows; columns of types that no conversation has, such as times or pictures, are null there."""
    from pyarrow import types

    tests = (types.is_string, types.is_large_string, types.is_nested, types.is_dictionary, types.is_integer, types.is_null)
    names = [field.name for field in batch.schema if any(test(field.type) for test in tests)]
    rows = _to_rows(batch.select(names).slice(0, SAMPLE)) if names else [{}]
    return [dict.fromkeys(batch.schema.names) | (row if isinstance(row, dict) else {}) for row in rows]


def find_layout(lines: Iterator[bytes], data: DataConfig, name: str) -> Layout:
    """Recognize the layout of JSON texts by the first :data:`SAMPLE` of them that can be read.

    Raises:
        DataError: no layout fits.
    """
    sample: list[Any] = []
    for number, line in enumerate(lines):
        if len(sample) == SAMPLE or number == SAMPLE * 10:
            break
        with contextlib.suppress(InvalidRow):
            if isinstance(value := decode_any(line), Mapping):
                sample.append(value)
    return recognize(sample, data, name)


def decode_row(line: bytes, layout: Layout) -> Conversation:
    """Decode and convert the JSON text of a row.

    Raises:
        InvalidRow: it is not a conversation.
    """
    if layout.kind == "ultrachat":
        try:
            return decode(line)
        except InvalidRow as problem:
            if problem.rule != "schema.field":
                raise
    return layout.convert(decode_any(line))


def _as_arrow(indices: Sequence[int]) -> Any:
    import pyarrow

    return pyarrow.array(indices, pyarrow.int64())


def id_hash(row: Conversation | InvalidRow) -> int:
    """Return a 64-bit hash of the row's ``prompt_id``."""
    return hash64(row.prompt_id.encode() if isinstance(row, Conversation) else b"")
