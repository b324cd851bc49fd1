"""Blobs as plain files under ``state/blobs/{container}/…``, so that a job's output folder is a blob prefix and vice versa.

A blob whose name can't be that of a file (``a//b``, ``a/``, ``a`` beside ``a/b``, segments of more than 255 bytes) is in ``state/aside``,
under a digest of its name: clients see no difference, jobs don't see it.

A blob's properties (metadata, content type, checksum, blocks) are in the store, together with the file's time and size. If something else
has changed the file since, the stored properties are obsolete and ignored.
"""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import os
import re
import uuid
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.store import Document

__all__ = [
    "Blob",
    "BlobError",
    "append",
    "check_name",
    "container_folder",
    "delete",
    "find",
    "new_file",
    "path",
    "read_chunks",
    "save_upload",
    "set_properties",
    "store_file",
    "walk",
]

CONTAINER = re.compile(r"(?!.*--)[a-z0-9][a-z0-9-]{1,61}[a-z0-9]")
CHUNK = 1 << 20
MAX_NAME = 1024
"""Characters in the name of a blob."""
MAX_SEGMENT, MAX_PATH = 255, 3000
"""Bytes in a file's name and in its path below the container, at most."""


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
        properties: ``created_ns``, and what the client has set: ``metadata``, ``headers`` (content type etc.), ``md5`` (base64),
            ``blocks`` ([id, size in bytes] of each committed block, in their order).
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
    check_name(blob)
    if not _is_path(blob.removesuffix("/")):
        raise _invalid_uri()
    file = root.joinpath(*blob.removesuffix("/").split("/"))
    # A job may have left links in its outputs. To look for one takes less time than to resolve the path.
    below = [file, *file.parents][: len(file.parts) - len(root.parts)]
    if any(part.is_symlink() for part in below) and not file.resolve().is_relative_to(root.resolve()):
        raise _invalid_uri()
    return file


def check_name(name: str) -> None:
    """Check the name of a blob.

    Raises:
        BlobError: 400, it is too long, or has parts that a URL can't have.
    """
    if len(name) > MAX_NAME:
        raise BlobError(400, "OutOfRangeInput", "The specified resource name length is not within the permissible limits.")
    if any(segment in (".", "..") or min(segment, default=" ") < " " for segment in name.split("/")):
        raise _invalid_uri()


def find(azure: Azure, container: str, name: str) -> Blob:
    """Return a blob.

    Raises:
        BlobError: 404, it doesn't exist.
    """
    container_folder(azure, container)
    check_name(name)
    for file in (path(azure, container, name) if _is_path(name) else None, _aside(azure, container, name)):
        if file is not None and file.is_file():
            with contextlib.suppress(FileNotFoundError):  # a job has just removed it
                return _blob(azure, container, name, file)
    raise BlobError(404, "BlobNotFound", "The specified blob does not exist.")


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
    aside = (key.partition("/")[2] for key, _ in azure.store.list("aside", f"{container}/{prefix}"))
    paths = {name: _aside(azure, container, name) for name in aside} | {name: root / name for name in _names(root, prefix)}
    last = ""
    for name in sorted(paths, key=str.encode):
        cut = name.find(delimiter, len(prefix)) if delimiter else -1
        entry = name if cut < 0 else name[: cut + len(delimiter)]
        if entry == last or entry.encode() <= after.encode():
            continue
        last = entry
        if cut >= 0:
            yield entry
        elif paths[name].is_file():
            with contextlib.suppress(FileNotFoundError):  # a job may remove files during the listing
                yield _blob(azure, container, name, paths[name])


@contextlib.contextmanager
def new_file(azure: Azure) -> Iterator[tuple[Path, BinaryIO]]:
    """Open a temporary file for the content of a blob. It is removed if the block fails."""
    file = azure.folder("uploads") / uuid.uuid4().hex
    try:
        with file.open("wb") as output:
            yield file, output
    except BaseException:
        file.unlink(missing_ok=True)
        raise


async def save_upload(azure: Azure, chunks: AsyncIterator[bytes], *, with_md5: bool = True) -> tuple[Path, str]:
    """Write an upload to a temporary file, and return the file and its MD5 in base64; empty if it isn't requested."""
    digest = hashlib.md5(usedforsecurity=False)
    with new_file(azure) as (file, output):
        async for chunk in chunks:
            if with_md5:
                digest.update(chunk)
            output.write(chunk)
    return file, base64.b64encode(digest.digest()).decode() if with_md5 else ""


def read_chunks(file: Path, begin: int, end: int) -> Iterator[bytes]:
    """Yield the bytes ``begin`` to ``end`` of a file."""
    with file.open("rb") as source:
        source.seek(begin)
        remaining = end - begin
        while remaining and (chunk := source.read(min(remaining, CHUNK))):
            remaining -= len(chunk)
            yield chunk


def append(part: tuple[Path, int, int], output: BinaryIO) -> None:
    """Append the bytes of a part (file, begin, end) to an open file, within the kernel where it can.

    Raises:
        EOFError: the file is shorter.
    """
    file, begin, end = part
    # Linux only, and some of its file systems can't: what has not been copied is read.
    with file.open("rb") as source, contextlib.suppress(AttributeError, OSError):
        while begin < end and (copied := os.copy_file_range(source.fileno(), output.fileno(), end - begin, begin)):
            begin += copied
    for chunk in read_chunks(file, begin, end):
        output.write(chunk)
        begin += len(chunk)
    output.flush()  # the kernel appends the next part
    if begin < end:
        raise EOFError(f"{file} ends {end - begin:,} bytes before the end of the block")


def store_file(azure: Azure, container: str, name: str, file: Path, properties: dict[str, Any]) -> Blob:
    """Move an uploaded file to the blob ``name``, atomically replacing an existing blob."""
    container_folder(azure, container)
    check_name(name)
    file.replace(_make_place(azure, container, name))
    return set_properties(azure, container, name, properties)


def set_properties(azure: Azure, container: str, name: str, properties: dict[str, Any]) -> Blob:
    """Change some properties of a blob and return it with its new ETag."""
    blob = find(azure, container, name)
    os.utime(blob.file)
    stamp = blob.file.stat()
    defaults = {"created_ns": stamp.st_mtime_ns, "metadata": {}, "headers": {}, "md5": None, "blocks": []}
    document = defaults | blob.properties | properties | {"stamp": [stamp.st_mtime_ns, stamp.st_size]}
    azure.store.put("blob", f"{container}/{name}", document)
    return Blob(name, blob.file, stamp.st_size, stamp.st_mtime_ns, document)


def delete(azure: Azure, container: str, name: str) -> None:
    """Delete a blob, and the folders that are empty afterwards."""
    blob = find(azure, container, name)
    blob.file.unlink()
    azure.store.delete("blob", f"{container}/{name}")
    root = container_folder(azure, container)
    if not blob.file.is_relative_to(root):
        azure.store.delete("aside", f"{container}/{name}")
        return
    for folder in blob.file.parents:
        if folder == root or any(folder.iterdir()):
            break
        folder.rmdir()


def _make_place(azure: Azure, container: str, name: str) -> Path:
    """Return where the file of a blob belongs, with its folder there. A blob with the name of this folder is moved aside."""
    file = path(azure, container, name) if _is_path(name) else None
    if file is None or file.is_dir():
        return _make_place_aside(azure, container, name)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        root = container_folder(azure, container)
        blocker = next(parent for parent in file.parents if parent.is_file())
        blocker.replace(_make_place_aside(azure, container, blocker.relative_to(root).as_posix()))
        file.parent.mkdir(parents=True, exist_ok=True)
    if azure.store.delete("aside", f"{container}/{name}"):
        _aside(azure, container, name).unlink(missing_ok=True)
    return file


def _make_place_aside(azure: Azure, container: str, name: str) -> Path:
    azure.folder("aside", container)
    azure.store.put("aside", f"{container}/{name}", {})
    return _aside(azure, container, name)


def _aside(azure: Azure, container: str, name: str) -> Path:
    return azure.state / "aside" / container / hashlib.sha256(name.encode()).hexdigest()


def _is_path(name: str) -> bool:
    """Return whether the name of a blob can be the path of a file."""
    return len(name.encode()) <= MAX_PATH and all(0 < len(segment.encode()) <= MAX_SEGMENT for segment in name.split("/"))


def _names(root: Path, prefix: str) -> Iterator[str]:
    folder = prefix.rpartition("/")[0]
    base = root / folder
    if (folder and not _is_path(folder)) or "\0" in folder or not base.resolve().is_relative_to(root.resolve()):
        return
    for parent, _, files in os.walk(base):
        for file in files:
            name = (Path(parent) / file).relative_to(root).as_posix()
            if name.startswith(prefix):
                yield name


def _blob(azure: Azure, container: str, name: str, file: Path) -> Blob:
    stat = file.stat()
    properties = azure.store.get("blob", f"{container}/{name}") or {}
    if properties.pop("stamp", None) != [stat.st_mtime_ns, stat.st_size]:
        properties = {}
    return Blob(name, file, stat.st_size, stat.st_mtime_ns, properties)


def _invalid_uri() -> BlobError:
    return BlobError(400, "InvalidUri", "The requested URI does not represent any resource on the server.")
