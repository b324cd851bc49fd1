"""The run directory: where records are kept, found again and held against each other."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TypeVar

from pydantic import ValidationError

from mlops.core.errors import RecordError
from mlops.core.records import RECORDS, FileDigest, Record

__all__ = ["Run", "file_sha256"]

R = TypeVar("R", bound=Record)
_FAILURE = "failure.json"


class Run:
    """``run/``: one record per finished stage, and the files they name.

    Records are written to a temporary file and moved into place, so a reader sees the old one or the new one, never half of one.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def path(self, *parts: str) -> Path:
        """A path under the run directory, whose parents exist."""
        path = self.directory.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def has(self, kind: type[Record]) -> bool:
        """Whether the record's file is there (it may still be out of date)."""
        return self._file(kind).is_file()

    def read(self, kind: type[R]) -> R:
        """The record of a stage, checked: schema, its files, and that its own inputs are still what they were.

        Raises:
            RecordError: it is missing, unreadable, from another schema, or out of date. The message names the command that makes it.
        """
        record = self._load(kind)
        for stage, digest in record.inputs.items():
            upstream = self.read(_kind(stage))
            if upstream.digest() != digest:
                raise RecordError(
                    f"{self._file(kind)} was made from another {stage} record than the one in {self.directory}.",
                    f"run `mlops {kind.stage}` again",
                )
        for name, file in record.files.items():
            path = self.directory / file.path
            if not path.is_file() or file_sha256(path) != file.sha256:
                raise RecordError(
                    f"{path} ({name}) is missing or is not the file that {kind.stage} recorded.", f"run `mlops {kind.stage}` again"
                )
        return record

    def find(self, kind: type[R]) -> R | None:
        """As :meth:`read`, but None where the record is missing or no longer fits."""
        try:
            return self.read(kind)
        except RecordError:
            return None

    def glance(self, kind: type[R]) -> R:
        """The record of a stage as it stands, without holding it against its inputs and files.

        Raises:
            RecordError: it is missing, unreadable or from another schema.
        """
        return self._load(kind)

    def require(self, kinds: Sequence[type[Record]]) -> None:
        """Check that records exist and are readable.

        Raises:
            RecordError: with every missing record and the commands that make them.
        """
        if missing := [kind for kind in kinds if not self.has(kind)]:
            files = ", ".join(str(self._file(kind)) for kind in missing)
            commands = ", ".join(f"`mlops {kind.stage}`" for kind in missing)
            raise RecordError(
                f"{files} {'is' if len(missing) == 1 else 'are'} missing: an earlier stage has not finished.", f"run {commands}"
            )
        for kind in kinds:
            self._load(kind)

    def write(self, record: R) -> R:
        """Keep a record, atomically, and return it."""
        path = self.path(f"{record.stage}.json")
        write_atomically(path, record.model_dump_json(indent=2).encode() + b"\n")
        return record

    def keep(self, path: Path, rows: int | None = None) -> FileDigest:
        """Describe a file under the run directory, for a record's ``files``."""
        return FileDigest(path=path.relative_to(self.directory).as_posix(), sha256=file_sha256(path), rows=rows)

    def records(self) -> Iterator[Record]:
        """The records that are there, in the order of the stages, without holding them against each other."""
        for kind in RECORDS:
            if self.has(kind):
                yield self._load(kind)

    def note_failure(self, stage: str, told: str) -> None:
        """Keep why a stage stopped, for those who report on the run."""
        write_atomically(self.path(_FAILURE), json.dumps({"stage": stage, "told": told}, indent=2).encode() + b"\n")

    def failure(self) -> tuple[str, str] | None:
        """The stage that stopped last, and what it told; None where it has succeeded since, or none has stopped."""
        path = self.directory / _FAILURE
        if not path.is_file():
            return None
        noted = json.loads(path.read_bytes())
        return noted["stage"], noted["told"]

    def clear_failure(self, stage: str) -> None:
        """The stage has succeeded: what it had told before no longer holds. Other stages' failures stay."""
        if (noted := self.failure()) is not None and noted[0] == stage:
            self.path(_FAILURE).unlink()

    def forget(self, kind: type[Record]) -> None:
        """Remove a record."""
        self._file(kind).unlink(missing_ok=True)

    def _file(self, kind: type[Record]) -> Path:
        return self.directory / f"{kind.stage}.json"

    def _load(self, kind: type[R]) -> R:
        path = self._file(kind)
        try:
            return kind.model_validate_json(path.read_bytes())
        except FileNotFoundError:
            raise RecordError(f"{path} is missing: the stage before this one has not finished.", f"run `mlops {kind.stage}`") from None
        except (ValidationError, OSError, ValueError) as problem:
            raise RecordError(f"{path} can't be read: {problem}", f"run `mlops {kind.stage}` again") from problem


def file_sha256(path: Path) -> str:
    """Hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that nobody ever sees half of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp makes files private; a record is for everybody who may read the folder.
        shutil.copymode(path, temporary) if path.exists() else os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _kind(stage: str) -> type[Record]:
    for kind in RECORDS:
        if kind.stage == stage:
            return kind
    raise RecordError(f"A record names {stage!r} as its input, which no stage makes.", "run the stage that made it again")
