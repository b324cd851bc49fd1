"""How a blob looks on the wire: as headers of an answer, and as an element of a list (Azure's Blob service REST API)."""

from __future__ import annotations

from email.utils import formatdate
from xml.sax.saxutils import escape

from starlette.responses import Response

from mlops.emulator.storage.files import Blob

__all__ = ["listed", "md5_header", "name_of", "properties", "stamp", "xml"]


def stamp(blob: Blob) -> dict[str, str]:
    """Headers that change when the blob does."""
    return {"ETag": blob.etag, "Last-Modified": formatdate(blob.modified_ns / 1e9, usegmt=True)}


def md5_header(blob: Blob) -> dict[str, str]:
    """The header with the checksum of the whole blob, where it is known."""
    return {"Content-MD5": blob.noted["md5"]} if blob.noted.get("md5") else {}


def properties(blob: Blob) -> dict[str, str]:
    """Headers of a read, less those of its length and checksum."""
    return {
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        "x-ms-blob-type": "BlockBlob",
        "x-ms-lease-status": "unlocked",
        "x-ms-lease-state": "available",
        "x-ms-server-encrypted": "true",
        "x-ms-access-tier": "Hot",
        "x-ms-access-tier-inferred": "true",
        "x-ms-creation-time": formatdate(blob.noted.get("created_ns", blob.modified_ns) / 1e9, usegmt=True),
        **{name.title(): value for name, value in blob.noted.get("headers", {}).items()},
    }


def listed(entry: Blob | str, *, with_metadata: bool) -> str:
    """A blob, or a prefix that several share, as an element of a list."""
    if isinstance(entry, str):
        return f"<BlobPrefix><Name>{escape(entry)}</Name></BlobPrefix>"
    blob, headers = entry, properties(entry)
    values = {
        "Creation-Time": headers["x-ms-creation-time"],
        "Last-Modified": stamp(blob)["Last-Modified"],
        "Etag": blob.etag.strip('"'),
        "Content-Length": str(blob.size),
        **{
            name: headers.get(name, "")
            for name in ("Content-Type", "Content-Encoding", "Content-Language", "Cache-Control", "Content-Disposition")
        },
        "Content-MD5": blob.noted.get("md5") or "",
        "BlobType": "BlockBlob",
        "AccessTier": "Hot",
        "AccessTierInferred": "true",
        "LeaseStatus": "unlocked",
        "LeaseState": "available",
        "ServerEncrypted": "true",
    }
    facts = "".join(f"<{tag}>{escape(value)}</{tag}>" for tag, value in values.items())
    metadata = "".join(f"<{key}>{escape(value)}</{key}>" for key, value in blob.noted.get("metadata", {}).items())
    shown = f"<Metadata>{metadata}</Metadata>" if with_metadata else ""
    return f"<Blob><Name>{escape(blob.name)}</Name><Properties>{facts}</Properties>{shown}</Blob>"


def name_of(entry: Blob | str) -> str:
    """What a list is ordered by."""
    return entry if isinstance(entry, str) else entry.name


def xml(content: str) -> Response:
    """A document as an answer."""
    return Response('<?xml version="1.0" encoding="utf-8"?>' + content, media_type="application/xml")
