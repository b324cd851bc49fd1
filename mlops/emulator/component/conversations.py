"""Reads conversations from the file formats that the component takes: jsonl, json, csv, tsv, parquet, and MLTable folders of those."""

from __future__ import annotations

import csv
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlops.emulator.component.failures import UserError

__all__ = ["read"]


def read(path: Path, column: str) -> Iterator[tuple[str, Any]]:
    """Read the value of one column from every row.

    Args:
        path: a file, or a folder: an MLTable, or one with a single file of data.
        column: name of the column. In csv and tsv the value is JSON text.

    Yields:
        Where the row is (``train.jsonl:3``) and the value.

    Raises:
        UserError: an unknown format, a file that does not match its suffix, or a row without the column.
    """
    for file in _files(path):
        reader = _READERS.get(file.suffix.lower())
        if reader is None:
            raise UserError(f"{file.name}: the format is not supported; use one of {', '.join(sorted(_READERS))}.")
        for number, row in reader(file):
            location = f"{file.name}:{number}"
            if not isinstance(row, dict) or column not in row:
                raise UserError(f"The row has no column {column!r}. ({location})")
            yield location, _parse_text(row[column], location)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    if (path / "MLTable").is_file():
        return _mltable(path)
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in _READERS)
    if len(files) != 1:
        raise UserError(f"{path.name} is a folder with {len(files)} data files; it must have exactly one.")
    return files


def _mltable(folder: Path) -> list[Path]:
    """Return the files that an MLTable names. Its transformations are ignored: a file's suffix says how to read it."""
    import yaml

    try:
        entries = yaml.safe_load((folder / "MLTable").read_text(encoding="utf-8"))["paths"]
        files = [folder / str(entry["file"]) for entry in entries if "file" in entry]
        files += [file for entry in entries if "pattern" in entry for file in sorted(folder.glob(str(entry["pattern"]).removeprefix("./")))]
    except (yaml.YAMLError, KeyError, TypeError, ValueError) as problem:
        raise UserError(f"{folder.name}/MLTable does not name files under `paths`: {problem!r}") from problem
    if not files or any(not file.is_file() for file in files):
        raise UserError(f"{folder.name}/MLTable names files that do not exist.", "NotFound")
    return files


def _jsonl(path: Path) -> Iterator[tuple[int, Any]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield number, _json(line, f"{path.name}:{number}")


def _json_array(path: Path) -> Iterator[tuple[int, Any]]:
    text = path.read_text(encoding="utf-8-sig")
    try:
        rows = json.loads(text)
    except ValueError:
        # Many .json files have one object per line.
        yield from _jsonl(path)
        return
    yield from enumerate(rows if isinstance(rows, list) else [rows], start=1)


def _read_delimited(path: Path) -> Iterator[tuple[int, Any]]:
    csv.field_size_limit(sys.maxsize)
    with path.open(encoding="utf-8-sig", newline="") as file:
        yield from enumerate(csv.DictReader(file, delimiter="\t" if path.suffix.lower() == ".tsv" else ","), start=2)


def _parquet(path: Path) -> Iterator[tuple[int, Any]]:
    import pyarrow
    from pyarrow import parquet

    try:
        batches = parquet.ParquetFile(path).iter_batches(batch_size=1000)
        yield from enumerate((row for batch in batches for row in batch.to_pylist()), start=1)
    except pyarrow.ArrowException as problem:
        raise UserError(f"{path.name} is not parquet: {problem}") from problem


_READERS = {".jsonl": _jsonl, ".json": _json_array, ".csv": _read_delimited, ".tsv": _read_delimited, ".parquet": _parquet}


def _parse_text(value: Any, location: str) -> Any:
    """Return the value; text is parsed as JSON, since csv and tsv contain nothing else."""
    return _json(value, location) if isinstance(value, str) else value


def _json(text: str, location: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as problem:
        raise UserError(f"The row is not JSON: {problem} ({location})") from problem
