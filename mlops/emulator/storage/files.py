"""Blobs as plain files under ``state/blobs/{container}/…``, so that a job's output folder is a blob prefix and vice versa.

A blob's properties (metadata, content type, checksum) are in the store, together with the file's time and size. If something else has
changed the file since, the stored properties are obsolete and ignored.
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

__all__ = [
    "Blob",
    "BlobError",
    "commit_blocks",
    "delete",
    "find",
    "path",
    "save_upload",
    "set_properties",
    "stage_block",
    "store_file",
    "uncommitted_blocks",
    "walk",
]

CONTAINER = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
CHUNK = 1 << 20


class BlobError(Exception):
    """A request that storage refuses.

    Args:
        status: HTTP status.
        code: storage error code.
        message: the service's message.
    """

    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message


@dataclasses.dataclass(frozen=True)
class Blob:
    """An existing blob.

    Args:
        name: name in its container, with ``/``.
        file: the file with its content.
        size: size in bytes.
        modified_ns: nanoseconds since 1970.
        properties: ``created_ns``, and what the client has set: ``metadata``, ``headers`` (content type etc.), ``md5`` (base64).
    """

    name: str
    file: Path
    size: int
    modified_ns: int
    properties: Document

    @property
    def etag(self) -> str:
        """The ETag, which changes with the content and the metadata."""
        return f'"0x{self.modified_ns:X}"'


def path(azure: Azure, container: str, blob: str = "") -> Path:
    """Return the path of a container's folder, or of a blob's file or folder. Only the container is created if necessary.

    Raises:
        BlobError: 400, the name is invalid or leads out of the container.
    """
    if not CONTAINER.fullmatch(container):
        raise BlobError(400, "InvalidResourceName", "The specified resource name contains invalid characters.")
    root = azure.folder("blobs", container)
    if not blob:
        return root
    segments = blob.removesuffix("/").split("/")
    if any(segment in ("", ".", "..") or min(segment) < " " or len(segment.encode()) > 255 for segment in segments):
        raise BlobError(400, "InvalidUri", "The requested URI does not represent any resource on the server.")
    file = root.joinpath(*segments)
    # A job may have left links in its outputs.
    if not file.resolve().is_relative_to(root.resolve()):
        raise BlobError(400, "InvalidUri", "The requested URI does not represent any resource on the server.")
    return file


def find(azure: Azure, container: str, name: str) -> Blob:
    """Return a blob.

    Raises:
        BlobError: 404, it doesn't exist.
    """
    container_folder(azure, container)
    file = path(azure, container, name)
    if name.endswith("/") or not file.is_file():
        raise _not_found()
    try:
        return _blob(azure, container, name, file)
    except FileNotFoundError:  # a job has just removed it
        raise _not_found() from None


def container_folder(azure: Azure, container: str) -> Path:
    """Return a container's folder.

    Raises:
        BlobError: 404, the container doesn't exist.
    """
    folder = azure.state / "blobs" / container
    if not CONTAINER.fullmatch(container) or not folder.is_dir():
        raise BlobError(404, "ContainerNotFound", "The specified container does not exist.")
    return folder


def walk(azure: Azure, container: str, prefix: str, delimiter: str, after: str) -> Iterator[Blob | str]:
    """Yield the blobs whose name starts with ``prefix``, ordered by name, starting after the name ``after``.

    With a delimiter, blobs whose names are equal up to its first occurrence after the prefix are yielded once, as that common string.
    """
    root = container_folder(azure, container)
    last = ""
    for name in sorted(_names(root, prefix), key=str.encode):
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        entry = name if cut < 0 else name[: cut + len(delimiter)]
        if entry == last or entry.encode() <= after.encode():
            continue
        last = entry
        if cut >= 0:
            yield entry
        elif (file := root / name).is_file():
            with contextlib.suppress(FileNotFoundError):  # a job may remove files during the listing
                yield _blob(azure, container, name, file)


async def save_upload(azure: Azure, chunks: AsyncIterator[bytes]) -> tuple[Path, str]:
    """Write an upload to a temporary file, and return the file and its MD5 in base64."""
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


def store_file(azure: Azure, container: str, name: str, file: Path, properties: dict[str, Any]) -> Blob:
    """Move an uploaded file to the blob ``name``, atomically replacing an existing blob, and drop its uncommitted blocks."""
    container_folder(azure, container)
    target = path(azure, container, name)
    if name.endswith("/") or target.is_dir():
        raise _path_conflict(name)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise _path_conflict(name) from None
    file.replace(target)
    shutil.rmtree(_blocks(azure, container, name))
    return set_properties(azure, container, name, properties)


def set_properties(azure: Azure, container: str, name: str, properties: dict[str, Any]) -> Blob:
    """Change some properties of a blob and return it with its new ETag."""
    blob = find(azure, container, name)
    os.utime(blob.file)
    stamp = blob.file.stat()
    defaults = {"created_ns": stamp.st_mtime_ns, "metadata": {}, "headers": {}, "md5": None}
    document = defaults | blob.properties | properties | {"stamp": [stamp.st_mtime_ns, stamp.st_size]}
    azure.store.put("blob", f"{container}/{name}", document)
    return find(azure, container, name)


def delete(azure: Azure, container: str, name: str) -> None:
    """Delete a blob, and the folders that are empty afterwards."""
    blob = find(azure, container, name)
    blob.file.unlink()
    azure.store.delete("blob", f"{container}/{name}")
    root = container_folder(azure, container)
    for folder in blob.file.parents:
        if folder == root or any(folder.iterdir()):
            break
        folder.rmdir()


def stage_block(azure: Azure, container: str, name: str, block: str, file: Path) -> None:
    """Move an uploaded file to an uncommitted block."""
    path(azure, container, name)
    file.replace(_blocks(azure, container, name) / block.encode().hex())


def uncommitted_blocks(azure: Azure, container: str, name: str) -> list[tuple[str, int]]:
    """Return the (block id, size) pairs of the uncommitted blocks."""
    return sorted((bytes.fromhex(file.name).decode(), file.stat().st_size) for file in _blocks(azure, container, name).iterdir())


def commit_blocks(azure: Azure, container: str, name: str, blocks: Sequence[str], properties: dict[str, Any]) -> Blob:
    """Create a blob from staged blocks, in this order, and drop the other blocks.

    Raises:
        BlobError: 400, a block isn't staged. Committed blocks aren't kept, so they count as missing.
    """
    folder = _blocks(azure, container, name)
    parts = [folder / block.encode().hex() for block in blocks]
    if not all(part.is_file() for part in parts):
        raise BlobError(400, "InvalidBlockList", "The specified block list is invalid.")
    whole = azure.folder("uploads") / uuid.uuid4().hex
    with whole.open("wb") as output:
        for part in parts:
            with part.open("rb") as source:
                shutil.copyfileobj(source, output, CHUNK)
    return store_file(azure, container, name, whole, properties)


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
    properties = azure.store.get("blob", f"{container}/{name}") or {}
    if properties.pop("stamp", None) != [stat.st_mtime_ns, stat.st_size]:
        properties = {}
    return Blob(name, file, stat.st_size, stat.st_mtime_ns, properties)


def _blocks(azure: Azure, container: str, name: str) -> Path:
    return azure.folder("blocks", hashlib.sha256(f"{container}/{name}".encode()).hexdigest())


def _not_found() -> BlobError:
    return BlobError(404, "BlobNotFound", "The specified blob does not exist.")


def _path_conflict(name: str) -> BlobError:
    return BlobError(409, "PathConflict", f"The emulator keeps blobs as files: '{name}' is a folder here, or lies below another blob.")
