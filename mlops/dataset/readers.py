"""Readers of files: JSON Lines, JSON, CSV, TSV, Parquet, Arrow, compressed or not. The content must match the file's name."""

from __future__ import annotations

import csv
import errno
import re
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import IO, Any

import msgspec

from mlops.core.errors import DataError
from mlops.core.settings import DataConfig
from mlops.dataset.contents import check_content, decompress, suffixes
from mlops.dataset.conversation import Conversation, InvalidRow
from mlops.dataset.json_lines import JsonLinesRows
from mlops.dataset.layouts import Layout, recognize
from mlops.dataset.rows import SAMPLE, ArrowRows, ListRows, LocatedRow, Rows, decode_row, find_layout

__all__ = ["FORMATS", "is_data_file", "read_file", "read_saved"]

FORMATS = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".feather")
"""Suffixes of the formats that are read, after that of a compression."""

MACHINE = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EMFILE, errno.ENFILE}
"""Errors of the machine, which has no room for temporary files, rather than of the file that is read."""

_SKIPPED = re.compile(r"\s*|sep=.\s*", re.IGNORECASE)
"""Lines before the header of a CSV file: empty ones, and Excel's note of the separator."""


def is_data_file(path: Path) -> bool:
    """Return whether the file's suffix is one of :data:`FORMATS`, in any case, with or without a compression."""
    return suffixes(path)[0] in FORMATS


def read_file(path: Path, data: DataConfig) -> Rows:
    """Read a file.

    Args:
        path: a file whose suffix is one of :data:`FORMATS`.
        data: ``format`` and ``columns`` override what is recognized.

    Raises:
        DataError: the file can't be read, isn't what its name says, or has no conversations.
    """
    kind, compression = suffixes(path)
    try:
        if kind in (".jsonl", ".ndjson"):
            return JsonLinesRows(path, data, compression)
        with decompress(path, compression) as file:
            head = file.read(4096)
            check_content(path, kind, head)
            file.seek(0)
            if kind == ".json":
                content = file.read().removeprefix(b"\xef\xbb\xbf")
                if not content.lstrip().startswith(b"{"):
                    return _read_json(path, content, data)
                array = _find_array(path, content)
                # Many tools, `datasets` and Spark among them, write JSON Lines under this name.
                return JsonLinesRows(path, data, compression) if array is None else _read_json(path, content, data, array)
            if kind in (".csv", ".tsv"):
                return _read_table(path, file, kind, data)
            return _read_columns(path, file, kind, data)
    except RecursionError:
        raise DataError(f"{path} is nested too deeply.", "write it as JSON Lines with one conversation per line") from None
    except OSError as problem:
        if problem.errno in MACHINE:
            raise
        raise DataError(f"{path} can't be read: {problem.strerror or problem}", "check that the file exists and is readable") from problem


def read_saved(folder: Path, data: DataConfig) -> Rows:
    """Read a folder that ``Dataset.save_to_disk`` wrote.

    Raises:
        DataError: it can't be read, or a file is missing.
    """
    import datasets
    import pyarrow

    try:
        saved = datasets.load_from_disk(str(folder))
        if saved._indices is not None:
            saved = saved.flatten_indices()
        return ArrowRows(saved.data.table.to_batches(), str(folder), data, saved.column_names)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, pyarrow.ArrowException) as problem:
        raise DataError(f"{folder} can't be read as a data set of `save_to_disk`: {problem}", "save or copy the folder again") from problem


def _find_array(path: Path, content: bytes) -> bytes | None:
    """Return the array of a file that is one object around it, such as ``{"data": […]}``; None if the file is JSON Lines.

    Raises:
        DataError: the file is one object over several lines, and has no array or more than one.
    """
    try:
        parts = msgspec.json.decode(content, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if content.strip().count(b"\n") == 0 and {"messages", "conversations", "prompt"} & parts.keys():
        return None  # a single row
    arrays = {name: bytes(part) for name, part in parts.items() if bytes(part).startswith(b"[")}
    if len(arrays) == 1 and not {"messages", "conversations"} & arrays.keys():
        return next(iter(arrays.values()))
    raise DataError(
        f"{path} is a single JSON object with the fields {', '.join(list(parts)[:12]) or 'none'}, not an array of conversations.",
        "write one array, or one object per line",
    )


def _read_json(path: Path, content: bytes, data: DataConfig, array: bytes | None = None) -> Rows:
    """Read a JSON array, or one inside an object; a row is located by the line on which it begins.

    Of rows that share a line, the number is added: whole arrays are often on one.
    """
    if not content.strip():
        return ListRows([])
    try:
        elements = [bytes(element) for element in msgspec.json.decode(content if array is None else array, type=list[msgspec.Raw])]
    except (msgspec.DecodeError, UnicodeDecodeError) as problem:
        place = re.search(r"\(byte (\d+)\)", str(problem))
        line = content.count(b"\n", 0, int(place[1])) + 1 if place else len(content.splitlines())
        raise DataError(
            f"{path}:{line}: this is not a JSON array of conversations: {problem}.",
            "write one array, or name the file .jsonl if each line is an object",
        ) from None
    layout = find_layout(iter(elements), data, str(path))

    def locate() -> Iterator[LocatedRow]:
        position, line = 0, 1
        has_own_lines = content.count(b"\n") >= len(elements) - 1
        for number, raw in enumerate(elements, start=1):
            start = content.index(raw, position)
            line += content.count(b"\n", position, start)
            position = start
            place = f"{path}:{line}" if has_own_lines else f"{path}:{line} (row {number:,})"
            yield place, _attempt(lambda raw=raw: decode_row(raw, layout))

    return ListRows(locate(), layout.title, layout)


def _attempt(convert: Any) -> Conversation | InvalidRow:
    try:
        row: Conversation = convert()
    except InvalidRow as problem:
        return problem
    return row


def _read_table(path: Path, file: IO[bytes], kind: str, data: DataConfig) -> Rows:
    """Read CSV or TSV with a header; a row is located by the line on which it begins. Excel's byte order mark is skipped.

    Cells with messages contain JSON text. An empty cell is treated as missing.
    """
    csv.field_size_limit(sys.maxsize)
    lines = _decode_lines(path, file)
    skipped, header = next(((number, text) for number, text in enumerate(lines) if not _SKIPPED.fullmatch(text)), (0, ""))
    delimiter = "\t" if kind == ".tsv" else max(",;\t|", key=header.count)
    reader = csv.reader(chain([header], lines), delimiter=delimiter, strict=True)
    records: list[tuple[int, dict[str | None, Any]]] = []
    line = first = skipped + 1
    try:
        names = next(reader, [])
        if not names:
            raise DataError(f"{path} is empty.", "the first line must name the columns, for example prompt,response")
        _refuse_duplicates(names, f"{path}:{first}")
        line = skipped + reader.line_num + 1
        for cells in reader:
            if cells:
                more: dict[str | None, Any] = {None: cells[len(names) :]} if len(cells) > len(names) else {}
                records.append((line, {**dict(zip_longest(names, cells[: len(names)])), **more}))
            line = skipped + reader.line_num + 1
    except csv.Error as problem:
        raise DataError(f"{path}:{line}: {problem}.", "save the file as CSV in UTF-8, with quotes around cells that contain any") from None
    sample = [{name: value for name, value in record.items() if name is not None and value} for _, record in records[:SAMPLE]]
    layout = recognize([dict.fromkeys(names), *sample], data, f"{path}:{first}")
    rows = ((f"{path}:{number}", _attempt(lambda record=record: _convert_cells(record, layout))) for number, record in records)
    return ListRows(rows, layout.title, layout)


def _refuse_duplicates(names: Sequence[str], where: str) -> None:
    if doubled := next((name for name in names if name and names.count(name) > 1), None):
        raise DataError(f"{where}: column {doubled!r} appears twice.", "give every column its own name")


def _convert_cells(record: Mapping[str | None, Any], layout: Layout) -> Conversation:
    if None in record:
        raise InvalidRow(
            "schema.field", f"the row has {len(record[None])} more cells than the header; quote cells that contain the separator"
        )
    if all(value is None for value in list(record.values())[1:]) and len(record) > 1:
        raise InvalidRow("schema.field", "the row has only one cell")
    texts = {layout.columns[need] for need in ("prompt", "response") if layout.kind == "pairs"}
    return layout.convert({name: value for name, value in record.items() if value or (name in texts and value is not None)})


def _decode_lines(path: Path, file: IO[bytes]) -> Iterator[str]:
    for number, line in enumerate(file, start=1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as problem:
            raise DataError(
                f"{path}:{number}: not UTF-8: {problem.reason} at byte {problem.start} of the line.",
                f"save the file in UTF-8; if it comes from Windows: iconv -f WINDOWS-1252 -t UTF-8 {path.name} > new",
            ) from None


def _read_columns(path: Path, file: IO[bytes], kind: str, data: DataConfig) -> Rows:
    """Read Parquet or Arrow. The needed columns are copied to a memory-mapped temporary file, so rows take no memory."""
    import pyarrow
    from pyarrow import ipc, parquet

    folder = tempfile.TemporaryDirectory(prefix="mlops-")
    copy = Path(folder.name, "rows.arrow")
    try:
        if kind == ".parquet":
            source = parquet.ParquetFile(file)
            schema = source.schema_arrow
            batches = source.iter_batches(batch_size=1024) if source.metadata.num_rows else iter(())
        else:
            reader = ipc.open_file(file) if file.read(6) == b"ARROW1" else _open_stream(file)
            schema = reader.schema
            batches = (reader.get_batch(n) for n in range(reader.num_record_batches)) if hasattr(reader, "get_batch") else iter(reader)
        _refuse_duplicates(schema.names, str(path))
        plain = pyarrow.schema([(field.name, _plain(field.type)) for field in schema])
        with ipc.new_file(str(copy), plain) as writer:
            for batch in batches:
                columns = [
                    column if column.type == field.type else column.cast(field.type)
                    for column, field in zip(batch.columns, plain, strict=True)
                ]
                writer.write_batch(pyarrow.record_batch(columns, schema=plain))
        mapped = ipc.open_file(pyarrow.memory_map(str(copy)))
        rows = [mapped.get_batch(number) for number in range(mapped.num_record_batches)]
    except DataError:
        folder.cleanup()
        raise
    except (pyarrow.ArrowException, ValueError, OSError) as problem:
        folder.cleanup()
        if isinstance(problem, OSError) and problem.errno is not None:
            raise
        raise DataError(f"{path} is not a readable {kind[1:].capitalize()} file: {problem}", "write the file again") from problem
    return ArrowRows(rows, str(path), data, schema.names, folder)


def _plain(kind: Any) -> Any:
    """Return a type without dictionaries, which an Arrow file can't change between batches, and without views, which Arrow can't select."""
    import pyarrow
    from pyarrow import types

    if types.is_dictionary(kind):
        return _plain(kind.value_type)
    if types.is_string_view(kind):
        return pyarrow.large_string()
    if types.is_binary_view(kind):
        return pyarrow.large_binary()
    if types.is_struct(kind):
        return pyarrow.struct([(field.name, _plain(field.type)) for field in kind])
    if types.is_list(kind) or types.is_large_list(kind):
        return (pyarrow.large_list if types.is_large_list(kind) else pyarrow.list_)(_plain(kind.value_type))
    return kind


def _open_stream(file: IO[bytes]) -> Any:
    from pyarrow import ipc

    file.seek(0)
    return ipc.open_stream(file)
