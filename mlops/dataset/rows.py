"""The rows of one split in any storage format: their number, their ids, and each row on demand."""

from __future__ import annotations

import csv
import json
import sys
from array import array
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import msgspec

from mlops.core.errors import DataError
from mlops.dataset.conversation import Conversation, InvalidRow, convert, decode, hash64, lines

__all__ = ["ArrowRows", "JsonLinesRows", "ListRows", "Rows", "read_csv", "read_json"]

FIELDS = ("prompt", "prompt_id", "messages")

_BATCH = 1000

LocatedRow = tuple[str, Conversation | InvalidRow]
"""The location of a row (``file:line``) and the row."""


class Rows(Protocol):
    """Rows by index. ``len()`` is their number."""

    def __len__(self) -> int: ...

    def ids(self) -> array[int]:
        """Return a 64-bit hash of every row's ``prompt_id``, in order."""

    def where(self, index: int) -> str:
        """Return the ``file:line`` of a row, counted from 1."""

    def take(self, indices: Sequence[int]) -> Iterator[Conversation | InvalidRow]:
        """Yield the rows at these indices, in this order. A row that is not a conversation is an :class:`InvalidRow`."""

    def invalid_rows(self) -> list[tuple[str, InvalidRow]]:
        """Return the rows that are not conversations, as far as they can be detected without reading all rows."""


class ListRows:
    """Rows in memory, for the small formats (JSON, CSV, chitchat)."""

    def __init__(self, rows: Iterable[LocatedRow]) -> None:
        self._rows = list(rows)

    def __len__(self) -> int:
        return len(self._rows)

    def ids(self) -> array[int]:
        """See :class:`Rows`."""
        return array("Q", (_id_hash(row) for _, row in self._rows))

    def where(self, index: int) -> str:
        """See :class:`Rows`."""
        return self._rows[index][0]

    def take(self, indices: Sequence[int]) -> Iterator[Conversation | InvalidRow]:
        """See :class:`Rows`."""
        return (self._rows[index][1] for index in indices)

    def invalid_rows(self) -> list[tuple[str, InvalidRow]]:
        """See :class:`Rows`. The result is complete."""
        return [(where, row) for where, row in self._rows if isinstance(row, InvalidRow)]


class JsonLinesRows:
    """Rows in a JSON Lines file, scanned once and then accessed by offset. Uses 16 bytes of memory per row."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._offsets, self._ids = array("Q"), array("Q")
        self._invalid_rows: dict[int, InvalidRow] = {}
        for number, offset, line in lines(path):
            row: Conversation | InvalidRow
            try:
                row = decode(line)
            except InvalidRow as problem:
                row = self._invalid_rows[number - 1] = problem
            self._offsets.append(offset)
            self._ids.append(_id_hash(row))

    def __len__(self) -> int:
        return len(self._offsets)

    def ids(self) -> array[int]:
        """See :class:`Rows`."""
        return self._ids

    def where(self, index: int) -> str:
        """See :class:`Rows`."""
        return f"{self._path}:{index + 1}"

    def take(self, indices: Sequence[int]) -> Iterator[Conversation | InvalidRow]:
        """See :class:`Rows`."""
        with self._path.open("rb") as file:
            for index in indices:
                if index in self._invalid_rows:
                    yield self._invalid_rows[index]
                    continue
                file.seek(self._offsets[index])
                yield decode(file.readline())

    def invalid_rows(self) -> list[tuple[str, InvalidRow]]:
        """See :class:`Rows`. The result is complete."""
        return [(self.where(index), problem) for index, problem in self._invalid_rows.items()]


class ArrowRows:
    """Rows of a ``datasets.Dataset`` (hub, Parquet), which stay on disk.

    Args:
        dataset: a data set with at least the columns of :data:`FIELDS`.
        name: its name in messages; a row is called ``name:row``.

    Raises:
        DataError: a column is missing or has another type.
    """

    def __init__(self, dataset: Any, name: str) -> None:
        for field, what in (("prompt", "string"), ("prompt_id", "string"), ("messages", "list of {role, content}")):
            if field not in dataset.column_names:
                raise DataError(
                    f"{name} has no column {field!r}; it has {', '.join(dataset.column_names)}.",
                    f"choose a data set in the ultrachat schema: {', '.join(FIELDS)} ({field} is a {what})",
                )
        self._dataset = dataset.select_columns(list(FIELDS))
        self._name = name

    def __len__(self) -> int:
        return len(self._dataset)

    def ids(self) -> array[int]:
        """See :class:`Rows`."""
        hashes = array("Q")
        for batch in self._dataset.select_columns(["prompt_id"]).iter(batch_size=_BATCH):
            hashes.extend(hash64(str(prompt_id).encode()) for prompt_id in batch["prompt_id"])
        return hashes

    def where(self, index: int) -> str:
        """See :class:`Rows`."""
        return f"{self._name}:{index + 1}"

    def take(self, indices: Sequence[int]) -> Iterator[Conversation | InvalidRow]:
        """See :class:`Rows`."""
        for start in range(0, len(indices), _BATCH):
            # Read in batches: ten times as fast as row by row, with bounded memory.
            batch = self._dataset[list(indices[start : start + _BATCH])]
            for values in zip(*(batch[field] for field in FIELDS), strict=True):
                try:
                    yield convert(dict(zip(FIELDS, values, strict=True)))
                except InvalidRow as problem:
                    yield problem

    def invalid_rows(self) -> list[tuple[str, InvalidRow]]:
        """See :class:`Rows`. The result is empty, because rows are only checked when they are read."""
        return []


def read_json(path: Path) -> Iterator[LocatedRow]:
    """Yield the elements of a JSON array with the line on which each begins.

    Raises:
        DataError: the file is not one JSON array.
    """
    content = path.read_bytes()
    try:
        elements = msgspec.json.decode(content, type=list[msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        raise DataError(
            f"{path} is not a JSON array of conversations: {problem}.", "write one array, or name the file .jsonl if each line is an object"
        ) from None
    position, line = 0, 1
    for element in elements:
        raw = bytes(element)
        start = content.index(raw, position)
        line += content.count(b"\n", position, start)
        position = start
        try:
            yield f"{path}:{line}", decode(raw)
        except InvalidRow as problem:
            yield f"{path}:{line}", problem


def read_csv(path: Path) -> Iterator[LocatedRow]:
    """Yield the records of a CSV file with a header. Its column ``messages`` contains JSON text. Excel's byte order mark is skipped.

    Raises:
        DataError: a column is missing, or the file is not UTF-8 CSV.
    """
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, strict=True)
        try:
            missing = [field for field in FIELDS if field not in (reader.fieldnames or ())]
            if missing:
                raise DataError(
                    f"{path}:1: column {missing[0]!r} is missing; the file has {', '.join(reader.fieldnames or ()) or 'no header'}.",
                    f"the first line must name the columns {', '.join(FIELDS)}; messages contains JSON text",
                )
            line = reader.line_num + 1
            for record in reader:
                yield f"{path}:{line}", _csv_row(record)
                line = reader.line_num + 1
        except (csv.Error, UnicodeDecodeError) as problem:
            raise DataError(f"{path}:{reader.line_num + 1}: {problem}.", "save the file as CSV in UTF-8") from None


def _csv_row(record: dict[str, str | None]) -> Conversation | InvalidRow:
    try:
        # Decode via one JSON text, so that messages are checked as strictly as in other formats.
        quoted = {field: json.dumps(record[field]) for field in ("prompt", "prompt_id")}
        text = f'{{"prompt":{quoted["prompt"]},"prompt_id":{quoted["prompt_id"]},"messages":{record["messages"] or "null"}}}'
        return decode(text.encode())
    except InvalidRow as problem:
        return problem


def _id_hash(row: Conversation | InvalidRow) -> int:
    return hash64(row.prompt_id.encode() if isinstance(row, Conversation) else b"")
