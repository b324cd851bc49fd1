"""The run directory: writes, reads and cross-checks the stages' records."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from filelock import FileLock, Timeout
from pydantic import BaseModel, ConfigDict, ValidationError

from mlops.core.errors import RecordError, RunInUse
from mlops.core.record import FileDigest, Record
from mlops.core.records import RECORDS

__all__ = ["Run", "file_sha256", "read_checked", "write_atomically"]

R = TypeVar("R", bound=Record)
M = TypeVar("M", bound=BaseModel)
_FAILURE = "failure.json"


class _Failure(BaseModel):
    """Why a stage failed."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    stage: str
    message: str


class Run:
    """``run/``: one record per finished stage, and the files that the records name.

    Records are written to a temporary file and moved into place, so readers never see a partial record.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = FileLock(directory / ".lock")

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other commands from writing to the run directory. Can be nested.

        Raises:
            RunInUse: another command is at work there.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            self._lock.acquire(timeout=0)
        except Timeout:
            raise RunInUse(
                f"Another mlops command is writing to {self.directory}. Nothing was changed.",
                "wait for it to end, or use another --run folder",
            ) from None
        try:
            yield
        finally:
            self._lock.release()

    def path(self, *parts: str) -> Path:
        """Return a path under the run directory, and create its parents."""
        path = self.directory.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def has(self, kind: type[Record]) -> bool:
        """Return whether the record's file exists (it may be out of date)."""
        return self._file(kind).is_file()

    def read(self, kind: type[R]) -> R:
        """Read the record of a stage and check its schema, its files, and that its inputs haven't changed.

        Raises:
            RecordError: it is missing, unreadable, of another schema, or out of date. The message names the command that writes it.
        """
        record = self.read_unchecked(kind)
        if absent := [stage for stage in kind.made_from if not record.inputs.get(stage)]:
            raise RecordError(
                f"{self._file(kind)} doesn't say which records it was made from ({', '.join(absent)}), so it can't be checked.",
                f"run `mlops {kind.stage}` again",
            )
        for stage, digest in record.inputs.items():
            upstream = self.read(_kind(stage))
            if upstream.digest() != digest:
                raise RecordError(
                    f"{self._file(kind)} is out of date: it was made from another {stage} record than the one in {self.directory}.",
                    f"run `mlops {kind.stage}` again",
                )
        for name, file in record.files.items():
            path = self.directory / file.path
            if not path.is_file() or file_sha256(path) != file.sha256:
                raise RecordError(
                    f"{path} ({name}) is missing or has changed since {kind.stage} wrote it.", f"run `mlops {kind.stage}` again"
                )
        return record

    def find(self, kind: type[R]) -> R | None:
        """Read a record as :meth:`read` does, but return None if it is missing or out of date."""
        try:
            return self.read(kind)
        except RecordError:
            return None

    def read_unchecked(self, kind: type[R]) -> R:
        """Read the record of a stage without checking its inputs and files.

        Raises:
            RecordError: it is missing, unreadable or of another schema.
        """
        path = self._file(kind)
        if not path.exists():
            raise RecordError(f"{path} is missing: an earlier stage has not finished.", f"run `mlops {kind.stage}`")
        return read_checked(path, kind, f"run `mlops {kind.stage}` again")

    def require(self, kinds: Sequence[type[Record]]) -> None:
        """Check that records exist and are readable.

        Raises:
            RecordError: names every missing record and the commands that write them.
        """
        if missing := [kind for kind in kinds if not self.has(kind)]:
            files = ", ".join(str(self._file(kind)) for kind in missing)
            commands = ", ".join(f"`mlops {kind.stage}`" for kind in missing)
            raise RecordError(
                f"{files} {'is' if len(missing) == 1 else 'are'} missing: an earlier stage has not finished.", f"run {commands}"
            )
        for kind in kinds:
            self.read_unchecked(kind)

    def write(self, record: R) -> R:
        """Write a record atomically and return it."""
        path = self.path(f"{record.stage}.json")
        write_atomically(path, record.model_dump_json(indent=2).encode() + b"\n")
        return record

    def describe_file(self, path: Path, rows: int | None = None) -> FileDigest:
        """Describe a file under the run directory for a record's ``files``."""
        return FileDigest(path=path.relative_to(self.directory).as_posix(), sha256=file_sha256(path), rows=rows)

    def records(self) -> Iterator[Record]:
        """Yield the existing records in the order of the stages, without checking them against each other."""
        for kind in RECORDS:
            if self.has(kind):
                yield self.read_unchecked(kind)

    def record_failure(self, stage: str, message: str) -> None:
        """Record why a stage failed, for reports about the run."""
        write_atomically(self.path(_FAILURE), _Failure(stage=stage, message=message).model_dump_json(indent=2).encode() + b"\n")

    def failure(self) -> tuple[str, str] | None:
        """Return the stage that failed last and its message; None if none failed, or if it has succeeded since.

        Raises:
            RecordError: the file is damaged.
        """
        path = self.directory / _FAILURE
        if not path.is_file():
            return None
        failure = read_checked(path, _Failure, "delete it")
        return failure.stage, failure.message

    def clear_failure(self, stage: str) -> None:
        """Remove the recorded failure of a stage that has succeeded. Failures of other stages stay."""
        if (failure := self.failure()) is not None and failure[0] == stage:
            self.path(_FAILURE).unlink()

    def delete(self, kind: type[Record]) -> None:
        """Remove a record."""
        self._file(kind).unlink(missing_ok=True)

    def _file(self, kind: type[Record]) -> Path:
        return self.directory / f"{kind.stage}.json"


def read_checked(path: Path, kind: type[M], fix: str) -> M:
    """Read a JSON file of the run directory and check it against its schema.

    Raises:
        RecordError: it can't be read, is damaged, or of another schema.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except (ValidationError, OSError, ValueError, RecursionError) as problem:
        raise RecordError(f"{path} can't be read: {problem}", fix) from problem


def file_sha256(path: Path) -> str:
    """Return the hex sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file so that readers never see part of it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        # mkstemp creates private files, but everybody who may read the folder may read a record.
        shutil.copymode(path, temporary) if path.exists() else os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _kind(stage: str) -> type[Record]:
    for kind in RECORDS:
        if kind.stage == stage:
            return kind
    raise RecordError(f"A record has the input {stage!r}, which is not a stage.", "run the stage that wrote it again")
