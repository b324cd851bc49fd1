"""Blobs on the wire: headers of a response, and elements of a list (Azure's Blob service REST API)."""

from __future__ import annotations

from collections.abc import Iterable
from email.utils import formatdate
from xml.etree import ElementTree
from xml.sax.saxutils import escape

from starlette.responses import Response

from mlops.emulator.storage.blocks import Block
from mlops.emulator.storage.files import Blob, BlobError

__all__ = [
    "block_list_response", "entry_name", "list_element", "md5_header", "parse_block_list", "property_headers", "version_headers",
    "xml_response",
]  # fmt: skip


def version_headers(blob: Blob) -> dict[str, str]:
    """Return the headers that change when the blob does."""
    return {"ETag": blob.etag, "Last-Modified": formatdate(blob.modified_ns / 1e9, usegmt=True)}


def md5_header(blob: Blob) -> dict[str, str]:
    """Return the header with the checksum of the whole blob, if the client has sent one."""
    return {"Content-MD5": blob.properties["md5"]} if blob.properties.get("md5") else {}


def property_headers(blob: Blob) -> dict[str, str]:
    """Return the headers of a read, except length and checksum."""
    return {
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "x-ms-blob-type": "BlockBlob",
        "x-ms-lease-status": "unlocked",
        "x-ms-lease-state": "available",
        "x-ms-server-encrypted": "true",
        "x-ms-access-tier": "Hot",
        "x-ms-access-tier-inferred": "true",
        "x-ms-creation-time": formatdate(blob.properties.get("created_ns", blob.modified_ns) / 1e9, usegmt=True),
        **{name.title(): value for name, value in blob.properties.get("headers", {}).items()},
    }


def list_element(entry: Blob | str, *, with_metadata: bool) -> str:
    """Return the list element of a blob, or of a prefix that several blobs share."""
    if isinstance(entry, str):
        return f"<BlobPrefix><Name>{escape(entry)}</Name></BlobPrefix>"
    blob, headers = entry, property_headers(entry)
    values = {
        "Creation-Time": headers["x-ms-creation-time"],
        "Last-Modified": version_headers(blob)["Last-Modified"],
        "Etag": blob.etag.strip('"'),
        "Content-Length": str(blob.size),
        **{
            name: headers.get(name, "")
            for name in ("Content-Type", "Content-Encoding", "Content-Language", "Cache-Control", "Content-Disposition")
        },
        "Content-MD5": blob.properties.get("md5") or "",
        "BlobType": "BlockBlob",
        "AccessTier": "Hot",
        "AccessTierInferred": "true",
        "LeaseStatus": "unlocked",
        "LeaseState": "available",
        "ServerEncrypted": "true",
    }
    elements = "".join(f"<{tag}>{escape(value)}</{tag}>" for tag, value in values.items())
    metadata = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in blob.properties.get("metadata", {}).items())
    metadata_element = f"<Metadata>{metadata}</Metadata>" if with_metadata else ""
    return f"<Blob><Name>{escape(blob.name)}</Name><Properties>{elements}</Properties>{metadata_element}</Blob>"


def block_list_response(blob: Blob | None, committed: Iterable[Block] | None, uncommitted: Iterable[Block] | None) -> Response:
    """Return a list of blocks; None for the kind that the client doesn't want. The headers are those of the committed blob, if any."""

    def element(tag: str, blocks: Iterable[Block]) -> str:
        rows = "".join(f"<Block><Name>{block}</Name><Size>{size}</Size></Block>" for block, size in blocks)
        return f"<{tag}>{rows}</{tag}>"

    lists = [("CommittedBlocks", committed), ("UncommittedBlocks", uncommitted)]
    response = xml_response(f"<BlockList>{''.join(element(tag, blocks) for tag, blocks in lists if blocks is not None)}</BlockList>")
    response.headers["x-ms-blob-content-length"] = str(blob.size if blob else 0)
    response.headers.update(version_headers(blob) if blob else {})
    return response


def parse_block_list(content: bytes) -> list[tuple[str, str]]:
    """Return (tag, block id) of each element of a block list.

    Raises:
        BlobError: 400, it is no XML.
    """
    try:
        root = ElementTree.fromstring(content)  # noqa: S314 - expat limits entities, and the client is this machine's user
    except ElementTree.ParseError:
        raise BlobError(400, "InvalidXmlDocument", "XML specified is not syntactically valid.") from None
    return [(element.tag, (element.text or "").strip()) for element in root]


def entry_name(entry: Blob | str) -> str:
    """Return the name by which lists are ordered."""
    return entry if isinstance(entry, str) else entry.name


def xml_response(content: str) -> Response:
    """Return an XML document as a response."""
    return Response('<?xml version="1.0" encoding="utf-8"?>' + content, media_type="application/xml")
