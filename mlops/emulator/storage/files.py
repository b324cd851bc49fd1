"""Blobs as plain files under ``state/blobs/{container}/…``, so that a job's output folder is a blob prefix and the other way round.

What a file can't carry (metadata, content type, checksum) lies in the store beside a stamp of the file; when the file has been changed by
anybody else the stamp no longer fits and what was noted is forgotten.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.store import Document

__all__ = ["Blob", "BlobProblem", "commit", "delete", "find", "note", "path", "receive", "stage", "store", "uncommitted", "walk"]

CONTAINER = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
CHUNK = 1 << 20


class BlobProblem(Exception):
    """What storage refuses.

    Args:
        status: HTTP status.
        code: storage error code.
        message: what the service says.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message


@dataclasses.dataclass(frozen=True)
class Blob:
    """A blob that is there.

    Args:
        name: in its container, with ``/``.
        file: where its bytes are.
        size: bytes.
        modified_ns: nanoseconds since 1970.
        noted: what a client has said of it: ``created_ns``, ``metadata``, ``headers`` (content type and the like), ``md5`` (base64).
    """

    name: str
    file: Path
    size: int
    modified_ns: int
    noted: Document

    @property
    def etag(self) -> str:
        """Changes with the content and with the metadata."""
        return f'"0x{self.modified_ns:X}"'


def path(azure: Azure, container: str, blob: str = "") -> Path:
    """Where a container's or a blob's file or folder is; the container is made if missing, the blob is not.

    Raises:
        BlobProblem: a name that storage doesn't know or that would lead out of the container.
    """
    if not CONTAINER.fullmatch(container):
        raise BlobProblem(400, "InvalidResourceName", "The specified resource name contains invalid characters.")
    root = azure.folder("blobs", container)
    if not blob:
        return root
    segments = blob.removesuffix("/").split("/")
    if any(segment in ("", ".", "..") or min(segment) < " " or len(segment.encode()) > 255 for segment in segments):
        raise BlobProblem(400, "InvalidUri", "The requested URI does not represent any resource on the server.")
    file = root.joinpath(*segments)
    # A job may leave links in its outputs.
    if not file.resolve().is_relative_to(root.resolve()):
        raise BlobProblem(400, "InvalidUri", "The requested URI does not represent any resource on the server.")
    return file


def find(azure: Azure, container: str, name: str) -> Blob:
    """The blob.

    Raises:
        BlobProblem: 404.
    """
    container_folder(azure, container)
    file = path(azure, container, name)
    if name.endswith("/") or not file.is_file():
        raise _absent()
    try:
        return _blob(azure, container, name, file)
    except FileNotFoundError:  # a job has removed it just now
        raise _absent() from None


def container_folder(azure: Azure, container: str) -> Path:
    """The container's folder.

    Raises:
        BlobProblem: 404, there is no such container.
    """
    folder = azure.state / "blobs" / container
    if not CONTAINER.fullmatch(container) or not folder.is_dir():
        raise BlobProblem(404, "ContainerNotFound", "The specified container does not exist.")
    return folder


def walk(azure: Azure, container: str, prefix: str, delimiter: str, after: str) -> Iterator[Blob | str]:
    """Blobs whose name starts with ``prefix``, in order of name, beginning behind ``after``.

    With a delimiter, names that share what stands up to its first occurrence behind the prefix are given once, as that string.
    """
    root = container_folder(azure, container)
    last = ""
    for name in sorted(_names(root, prefix), key=str.encode):
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        shown = name if cut < 0 else name[: cut + len(delimiter)]
        if shown == last or shown.encode() <= after.encode():
            continue
        last = shown
        if cut >= 0:
            yield shown
        elif (file := root / name).is_file():
            with contextlib.suppress(FileNotFoundError):  # a job may remove files while we list them
                yield _blob(azure, container, name, file)


async def receive(azure: Azure, chunks: AsyncIterator[bytes]) -> tuple[Path, str]:
    """Write what comes in to a temporary file; the file and its MD5, base64."""
    file = azure.folder("uploads") / uuid.uuid4().hex
    digest = hashlib.md5(usedforsecurity=False)
    try:
        with file.open("wb") as output:
            async for chunk in chunks:
                digest.update(chunk)
                output.write(chunk)
    except BaseException:
        file.unlink(missing_ok=True)
        raise
    return file, base64.b64encode(digest.digest()).decode()


def store(azure: Azure, container: str, name: str, file: Path, noted: dict[str, Any]) -> Blob:
    """Make a received file the blob ``name``, replacing what was there, all at once; blocks that wait for a list are dropped."""
    container_folder(azure, container)
    target = path(azure, container, name)
    if name.endswith("/") or target.is_dir():
        raise _tangled(name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise _tangled(name) from None
    file.replace(target)
    shutil.rmtree(_blocks(azure, container, name))
    return note(azure, container, name, noted)


def note(azure: Azure, container: str, name: str, noted: dict[str, Any]) -> Blob:
    """Keep what a client says of a blob beside what is known of it already; its ETag changes."""
    blob = find(azure, container, name)
    os.utime(blob.file)
    stamp = blob.file.stat()
    known = {"created_ns": stamp.st_mtime_ns, "metadata": {}, "headers": {}, "md5": None} | blob.noted | noted
    azure.store.put("blob", f"{container}/{name}", known | {"stamp": [stamp.st_mtime_ns, stamp.st_size]})
    return find(azure, container, name)


def delete(azure: Azure, container: str, name: str) -> None:
    """Remove the blob, and the folders that hold nothing else."""
    blob = find(azure, container, name)
    blob.file.unlink()
    azure.store.delete("blob", f"{container}/{name}")
    root = container_folder(azure, container)
    for folder in blob.file.parents:
        if folder == root or any(folder.iterdir()):
            break
        folder.rmdir()


def stage(azure: Azure, container: str, name: str, block: str, file: Path) -> None:
    """Keep a received file as an uncommitted block."""
    path(azure, container, name)
    file.replace(_blocks(azure, container, name) / block.encode().hex())


def uncommitted(azure: Azure, container: str, name: str) -> list[tuple[str, int]]:
    """(block id, bytes) of the blocks that wait for a block list."""
    return sorted((bytes.fromhex(file.name).decode(), file.stat().st_size) for file in _blocks(azure, container, name).iterdir())


def commit(azure: Azure, container: str, name: str, blocks: Sequence[str], noted: dict[str, Any]) -> Blob:
    """Make the blob from staged blocks, in this order; those left over are dropped.

    Raises:
        BlobProblem: 400, one of them was never staged. Blocks of an earlier commit are not kept, and count as missing.
    """
    folder = _blocks(azure, container, name)
    parts = [folder / block.encode().hex() for block in blocks]
    if not all(part.is_file() for part in parts):
        raise BlobProblem(400, "InvalidBlockList", "The specified block list is invalid.")
    whole = azure.folder("uploads") / uuid.uuid4().hex
    with whole.open("wb") as output:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, output, CHUNK)
    return store(azure, container, name, whole, noted)


def _names(root: Path, prefix: str) -> Iterator[str]:
    base = root / prefix.rpartition("/")[0]
    if not base.resolve().is_relative_to(root.resolve()):
        return
    for folder, _, files in os.walk(base):
        for file in files:
            name = (Path(folder) / file).relative_to(root).as_posix()
            if name.startswith(prefix):
                yield name


def _blob(azure: Azure, container: str, name: str, file: Path) -> Blob:
    stat = file.stat()
    noted = azure.store.get("blob", f"{container}/{name}") or {}
    if noted.pop("stamp", None) != [stat.st_mtime_ns, stat.st_size]:
        noted = {}
    return Blob(name, file, stat.st_size, stat.st_mtime_ns, noted)


def _blocks(azure: Azure, container: str, name: str) -> Path:
    return azure.folder("blocks", hashlib.sha256(f"{container}/{name}".encode()).hexdigest())


def _absent() -> BlobProblem:
    return BlobProblem(404, "BlobNotFound", "The specified blob does not exist.")


def _tangled(name: str) -> BlobProblem:
    return BlobProblem(409, "PathConflict", f"The emulator keeps blobs as files: '{name}' is a folder here, or lies below another blob.")
