"""The blocks of a blob: uploaded one by one, and made a blob by a list of their ids ("Put Block", "Put Block List", "Get Block List").

An uncommitted block is a file under ``state/blocks``. A committed one is a part of the blob's file; the blob's properties have the list.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlops.emulator.base.azure import Azure
from mlops.emulator.storage import files
from mlops.emulator.storage.files import Blob, BlobError

__all__ = ["Block", "commit", "discard", "list_committed", "list_uncommitted", "stage"]

Block = tuple[str, int]
"""Id in base64, and size in bytes."""
MAX_ID = 64
"""Bytes in the id of a block."""
MAX_BLOCKS = 50_000
"""Blocks of a blob."""


def stage(azure: Azure, container: str, name: str, block: str, file: Path) -> None:
    """Move an uploaded file to an uncommitted block, replacing one with the same id.

    Raises:
        BlobError: 400, the id isn't valid, or not as long as those of the other uncommitted blocks.
    """
    size = _measure_id(block)
    files.container_folder(azure, container)
    files.check_name(name)
    folder = _folder(azure, container, name)
    if any(_measure_id(other) != size for other, _ in list_uncommitted(azure, container, name)[:1]):
        raise BlobError(400, "InvalidBlobOrBlock", "The specified blob or block content is invalid.")
    folder.mkdir(parents=True, exist_ok=True)
    file.replace(folder / block.encode().hex())


def list_uncommitted(azure: Azure, container: str, name: str) -> list[Block]:
    """Return the uncommitted blocks, ordered by id."""
    folder = _folder(azure, container, name)
    if not folder.is_dir():
        return []
    return sorted((bytes.fromhex(file.name).decode(), file.stat().st_size) for file in folder.iterdir())


def list_committed(blob: Blob) -> list[Block]:
    """Return the blocks that a blob consists of, in their order. A blob that was uploaded as a whole has none."""
    return [(block, size) for block, size in blob.properties.get("blocks", ())]


def commit(
    azure: Azure, container: str, name: str, entries: Sequence[tuple[str, str]], existing: Blob | None, properties: dict[str, Any]
) -> Blob:
    """Create a blob from blocks, in this order, and drop the other blocks.

    Args:
        azure: the emulated Azure.
        container: name of the container.
        name: name of the blob.
        entries: (where to look, block id) of each block: ``Committed``, ``Uncommitted``, or ``Latest`` for both, uncommitted first.
        existing: the blob that has this name.
        properties: see ``Blob``.

    Raises:
        BlobError: 400, there is no such block, or there are too many.
    """
    if len(entries) > MAX_BLOCKS:
        raise BlobError(400, "BlockListTooLong", "The block list may not contain more than 50,000 blocks.")
    folder = _folder(azure, container, name)
    committed: dict[str, tuple[Path, int, int]] = {}
    if existing is not None:
        begin = 0
        for block, size in list_committed(existing):
            committed[block] = (existing.file, begin, begin + size)
            begin += size
    uncommitted = {block: (folder / block.encode().hex(), 0, size) for block, size in list_uncommitted(azure, container, name)}
    blocks = {"Committed": committed, "Uncommitted": uncommitted, "Latest": committed | uncommitted}
    if not all(kind in blocks and block in blocks[kind] for kind, block in entries):
        raise BlobError(400, "InvalidBlockList", "The specified block list is invalid.")
    parts = [blocks[kind][block] for kind, block in entries]
    with files.new_file(azure) as (whole, output):
        for part in parts:
            files.append(part, output)
    sizes = [[block, end - start] for (_, block), (_, start, end) in zip(entries, parts, strict=True)]
    blob = files.store_file(azure, container, name, whole, properties | {"blocks": sizes})
    discard(azure, container, name)
    return blob


def discard(azure: Azure, container: str, name: str) -> None:
    """Drop the uncommitted blocks of a blob."""
    shutil.rmtree(_folder(azure, container, name), ignore_errors=True)


def _measure_id(block: str) -> int:
    try:
        size = len(base64.b64decode(block, validate=True))
    except ValueError:
        size = 0
    if not 0 < size <= MAX_ID:
        raise BlobError(400, "InvalidQueryParameterValue", "Value for one of the query parameters specified in the request URI is invalid.")
    return size


def _folder(azure: Azure, container: str, name: str) -> Path:
    return azure.state / "blocks" / hashlib.sha256(f"{container}/{name}".encode()).hexdigest()
