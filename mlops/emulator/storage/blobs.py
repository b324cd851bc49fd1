"""Blob storage: what azure-storage-blob 12 asks for when it uploads, lists, reads and deletes block blobs.

Paths, headers, XML bodies and error codes follow Azure's Blob service REST API. Whatever is asked for beyond that (leases, snapshots,
tags, tiers, page and append blobs, time conditions, customer keys) is refused, never ignored.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from datetime import UTC, datetime
from email.utils import formatdate
from itertools import islice
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from mlops.emulator.base.azure import BLOB_SUFFIX, Azure
from mlops.emulator.base.errors import AzureFault, not_implemented
from mlops.emulator.storage import files, sas, xml
from mlops.emulator.storage.files import Blob, BlobProblem, path
from mlops.emulator.storage.sas import SasProblem, sas_token, sas_url
from mlops.emulator.wire.app import Answer, Handler, Route

__all__ = ["ARTIFACTS", "ROUTES", "datastore_container", "path", "sas_token", "sas_url", "startup"]

ARTIFACTS = "azureml"
"""Container of run artifacts and logs."""
UNSERVED = (
    "if-modified-since", "if-unmodified-since", "x-ms-lease-id", "x-ms-encryption-key", "x-ms-encryption-scope", "x-ms-content-crc64",
    "x-ms-structured-body", "x-ms-tags", "x-ms-copy-source", "x-ms-if-tags", "x-ms-source-range",
)  # fmt: skip
CONTENT_HEADERS = ("content-type", "content-encoding", "content-language", "content-disposition", "cache-control")
LIST_MAX = 5000
BLOCKS = re.compile(r"<(Latest|Uncommitted|Committed)>([^<]+)</\1>")

Operation = Callable[[Azure, Request, str, str], Awaitable[Response]]


def datastore_container(azure: Azure) -> str:
    """Container of ``workspaceblobstore``."""
    return f"azureml-blobstore-{azure.identity.workspace_guid}"


async def startup(azure: Azure) -> None:
    """Every workspace has these containers from its first day."""
    path(azure, datastore_container(azure))
    path(azure, ARTIFACTS)


def operation(comps: dict[str, tuple[str, Operation]]) -> Handler:
    """A handler that chooses by the query's ``comp``: value → (permissions of which one is needed, what answers)."""

    async def handle(azure: Azure, request: Request) -> Answer:
        container, name = request.path_params["container"], request.path_params.get("blob", "")
        try:
            _check_request(azure, request)
            comp = request.query_params.get("comp", "")
            if comp not in comps:
                raise not_implemented(f"{request.method} of a {'blob' if name else 'container'} with comp={comp!r}")
            needed, answer = comps[comp]
            sas.check(azure, container, name, request.query_params, needed)
            response = await answer(azure, request, container, name)
        except SasProblem as problem:
            raise _fault(
                request, 409 if problem.code == "PublicAccessNotPermitted" else 403, problem.code, problem.message, problem.detail
            ) from None
        except BlobProblem as problem:
            raise _fault(request, problem.status, problem.code, problem.message) from None
        response.headers.update(_common(request))
        return response

    return handle


async def put_blob(azure: Azure, request: Request, container: str, name: str) -> Response:
    """Upload in one request."""
    if (kind := request.headers.get("x-ms-blob-type")) != "BlockBlob":
        raise not_implemented(f"blobs of type {kind}: BlockBlob only")
    _check_write(azure, request, container, name)
    file, md5 = await _receive(azure, request)
    try:
        _check_write(azure, request, container, name)  # someone may have been faster
        blob = files.store(azure, container, name, file, _noted(request) | {"md5": request.headers.get("x-ms-blob-content-md5", md5)})
    finally:
        file.unlink(missing_ok=True)
    return Response(status_code=201, headers=xml.stamp(blob) | {"Content-MD5": md5, "x-ms-request-server-encrypted": "true"})


async def put_block(azure: Azure, request: Request, container: str, name: str) -> Response:
    """Stage one block."""
    block = request.query_params.get("blockid", "")
    try:
        valid = 0 < len(base64.b64decode(block, validate=True)) <= 64
    except ValueError:
        valid = False
    if not valid:
        raise BlobProblem(
            400, "InvalidQueryParameterValue", "Value for one of the query parameters specified in the request URI is invalid."
        )
    files.container_folder(azure, container)
    file, md5 = await _receive(azure, request)
    try:
        files.stage(azure, container, name, block, file)
    finally:
        file.unlink(missing_ok=True)
    return Response(status_code=201, headers={"Content-MD5": md5, "x-ms-request-server-encrypted": "true"})


async def put_block_list(azure: Azure, request: Request, container: str, name: str) -> Response:
    """Make a blob from staged blocks."""
    _check_write(azure, request, container, name)
    content = await request.body()
    _check_md5(request, base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode())
    blocks = [block for _, block in BLOCKS.findall(content.decode("utf-8", "replace"))]
    noted = _noted(request) | {"md5": request.headers.get("x-ms-blob-content-md5")}
    blob = files.commit(azure, container, name, blocks, noted)
    return Response(status_code=201, headers=xml.stamp(blob) | {"x-ms-request-server-encrypted": "true"})


async def get_block_list(azure: Azure, request: Request, container: str, name: str) -> Response:
    """The blocks that wait to be committed; those that are already are told as none."""
    files.container_folder(azure, container)
    rows = "".join(f"<Block><Name>{block}</Name><Size>{size}</Size></Block>" for block, size in files.uncommitted(azure, container, name))
    return xml.xml(f"<BlockList><CommittedBlocks /><UncommittedBlocks>{rows}</UncommittedBlocks></BlockList>")


async def put_metadata(azure: Azure, request: Request, container: str, name: str) -> Response:
    """Replace the metadata."""
    _check_match(request, files.find(azure, container, name))
    blob = files.note(azure, container, name, {"metadata": _metadata(request)})
    return Response(status_code=200, headers=xml.stamp(blob) | {"x-ms-request-server-encrypted": "true"})


async def put_properties(azure: Azure, request: Request, container: str, name: str) -> Response:
    """Replace content type and the like."""
    _check_match(request, files.find(azure, container, name))
    noted = {"headers": _content_headers(request), "md5": request.headers.get("x-ms-blob-content-md5")}
    return Response(status_code=200, headers=xml.stamp(files.note(azure, container, name, noted)))


async def get_blob(azure: Azure, request: Request, container: str, name: str) -> Response:
    """Read all of it, or a range; HEAD answers with the headers alone."""
    blob = files.find(azure, container, name)
    if request.headers.get("if-none-match") in (blob.etag, "*"):
        return Response(status_code=304, headers=xml.stamp(blob))
    _check_match(request, blob)
    headers = xml.stamp(blob) | xml.properties(blob) | {f"x-ms-meta-{key}": value for key, value in blob.noted.get("metadata", {}).items()}
    if request.method == "HEAD":
        return Response(headers=headers | xml.md5_header(blob) | {"Content-Length": str(blob.size)})
    wanted = request.headers.get("x-ms-range") or request.headers.get("range")
    if wanted is None:
        return StreamingResponse(
            _read(blob.file, 0, blob.size), headers=headers | xml.md5_header(blob) | {"Content-Length": str(blob.size)}
        )
    begin, end = _range(wanted, blob.size)
    headers |= {"Content-Length": str(end - begin), "Content-Range": f"bytes {begin}-{end - 1}/{blob.size}"}
    if md5 := blob.noted.get("md5"):
        headers["x-ms-blob-content-md5"] = md5
    if request.headers.get("x-ms-range-get-content-md5") == "true":
        if end - begin > 4 << 20:
            raise BlobProblem(400, "OutOfRangeInput", "One of the request inputs is out of range.")
        digest = hashlib.md5(b"".join(_read(blob.file, begin, end)), usedforsecurity=False).digest()
        headers["Content-MD5"] = base64.b64encode(digest).decode()
    return StreamingResponse(_read(blob.file, begin, end), status_code=206, headers=headers)


async def delete_blob(azure: Azure, request: Request, container: str, name: str) -> Response:
    """Remove it."""
    _check_match(request, files.find(azure, container, name))
    files.delete(azure, container, name)
    return Response(status_code=202, headers={"x-ms-delete-type-permanent": "true"})


async def get_container(azure: Azure, request: Request, container: str, _: str) -> Response:
    """Whether there is such a container."""
    _check_container(request)
    folder = files.container_folder(azure, container)
    modified = folder.stat().st_mtime
    return Response(
        headers={
            "ETag": f'"0x{int(modified):X}"',
            "Last-Modified": formatdate(modified, usegmt=True),
            "x-ms-lease-status": "unlocked",
            "x-ms-lease-state": "available",
            "x-ms-has-immutability-policy": "false",
            "x-ms-has-legal-hold": "false",
        }
    )


async def list_blobs(azure: Azure, request: Request, container: str, _: str) -> Response:
    """One page of names, flat or by the delimiter."""
    _check_container(request)
    query = request.query_params
    asked = query.get("maxresults", str(LIST_MAX))
    if not asked.isdecimal() or int(asked) == 0:
        raise BlobProblem(
            400,
            "OutOfRangeQueryParameterValue",
            "One of the query parameters specified in the request URI is outside the permissible range.",
        )
    count = min(int(asked), LIST_MAX)
    include = set(query.get("include", "").split(",")) - {""}
    if extra := include - {"metadata"}:
        raise not_implemented(f"listing blobs with include={','.join(sorted(extra))}")
    prefix, delimiter, marker = query.get("prefix", ""), query.get("delimiter", ""), query.get("marker", "")
    found = list(islice(files.walk(azure, container, prefix, delimiter, marker), count + 1))
    page = found[:count]
    following = xml.name_of(page[-1]) if len(found) > count else ""
    rows = "".join(xml.listed(entry, with_metadata="metadata" in include) for entry in page)
    asked_for = "".join(
        f"<{tag}>{escape(value)}</{tag}>" for tag, value in (("Prefix", prefix), ("Marker", marker), ("Delimiter", delimiter)) if value
    )
    return xml.xml(
        f"<EnumerationResults ServiceEndpoint={quoteattr(f'https://{azure.identity.account}.{BLOB_SUFFIX}/')}"
        f" ContainerName={quoteattr(container)}>{asked_for}<MaxResults>{count}</MaxResults><Blobs>{rows}</Blobs>"
        f"<NextMarker>{escape(following)}</NextMarker></EnumerationResults>"
    )


def _check_request(azure: Azure, request: Request) -> None:
    account = (request.url.hostname or "").removesuffix(f".{BLOB_SUFFIX}")
    if account != azure.identity.account:
        raise not_implemented(f"the storage account {account!r}: the workspace's is {azure.identity.account!r}")
    if refused := [name for name in UNSERVED if name in request.headers]:
        raise not_implemented(f"blob requests with the header {refused[0]}")
    if "snapshot" in request.query_params or "versionid" in request.query_params:
        raise not_implemented("snapshots and versions of blobs")
    version = request.headers.get("x-ms-version")
    if version is not None and not re.fullmatch(r"20\d\d-\d\d-\d\d", version):
        raise BlobProblem(400, "InvalidHeaderValue", "The value for one of the HTTP headers is not in the correct format.")


def _check_container(request: Request) -> None:
    if request.query_params.get("restype") != "container":
        raise not_implemented(f"{request.method} of a blob in the root container")


def _check_write(azure: Azure, request: Request, container: str, name: str) -> None:
    try:
        blob = files.find(azure, container, name)
    except BlobProblem as problem:
        if problem.code != "BlobNotFound":
            raise
        if "if-match" in request.headers:
            raise _condition() from None
        return
    if request.headers.get("if-none-match") == "*":
        raise BlobProblem(409, "BlobAlreadyExists", "The specified blob already exists.")
    if "w" not in request.query_params.get("sp", ""):
        raise SasProblem(
            "AuthorizationPermissionMismatch", "This request is not authorized to perform this operation using this permission."
        )
    _check_match(request, blob)


def _check_match(request: Request, blob: Blob) -> None:
    if request.headers.get("if-match", "*") not in ("*", blob.etag) or request.headers.get("if-none-match") == blob.etag:
        raise _condition()


def _check_md5(request: Request, md5: str) -> None:
    if request.headers.get("content-md5", md5) != md5:
        raise BlobProblem(
            400, "Md5Mismatch", "The MD5 value specified in the request did not match with the MD5 value calculated by the server."
        )


async def _receive(azure: Azure, request: Request) -> tuple[Path, str]:
    async def chunks() -> AsyncIterator[bytes]:
        async for chunk in request.stream():
            yield chunk

    file, md5 = await files.receive(azure, chunks())
    try:
        _check_md5(request, md5)
    except BlobProblem:
        file.unlink()
        raise
    return file, md5


def _noted(request: Request) -> dict[str, Any]:
    return {"metadata": _metadata(request), "headers": _content_headers(request)}


def _metadata(request: Request) -> dict[str, str]:
    found = {name.removeprefix("x-ms-meta-"): value for name, value in request.headers.items() if name.startswith("x-ms-meta-")}
    if any(not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) for name in found):
        raise BlobProblem(400, "InvalidMetadata", "The metadata specified is invalid. It has characters that are not permitted.")
    return found


def _content_headers(request: Request) -> dict[str, str]:
    return {name: request.headers[f"x-ms-blob-{name}"] for name in CONTENT_HEADERS if f"x-ms-blob-{name}" in request.headers}


def _range(text: str, size: int) -> tuple[int, int]:
    """Half-open range of bytes."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", text)
    if match is None:
        raise BlobProblem(400, "InvalidHeaderValue", "The value for one of the HTTP headers is not in the correct format.")
    begin, end = int(match[1]), min(int(match[2] or size) + (1 if match[2] else 0), size)
    if begin >= end:
        raise BlobProblem(416, "InvalidRange", "The range specified is invalid for the current size of the resource.")
    return begin, end


def _read(file: Path, begin: int, end: int) -> Iterator[bytes]:
    with file.open("rb") as source:
        source.seek(begin)
        left = end - begin
        while left and (chunk := source.read(min(left, files.CHUNK))):
            left -= len(chunk)
            yield chunk


def _common(request: Request) -> dict[str, str]:
    headers = {"x-ms-request-id": str(uuid.uuid4()), "x-ms-version": request.headers.get("x-ms-version", sas.VERSION)}
    if identifier := request.headers.get("x-ms-client-request-id"):
        headers["x-ms-client-request-id"] = identifier
    return headers


def _condition() -> BlobProblem:
    return BlobProblem(412, "ConditionNotMet", "The condition specified using HTTP conditional header(s) is not met.")


def _fault(request: Request, status: int, code: str, message: str, detail: str = "") -> AzureFault:
    common = _common(request)
    text = f"{message}\nRequestId:{common['x-ms-request-id']}\nTime:{datetime.now(UTC).isoformat()}"
    extra = f"<AuthenticationErrorDetail>{escape(detail)}</AuthenticationErrorDetail>" if detail else ""
    content = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{escape(text)}</Message>{extra}</Error>'
    return AzureFault(status, code, message, headers=common | {"x-ms-error-code": code, "content-type": "application/xml"}, body=content)


_blob = functools.partial(Route, "blob", path="/{container}/{blob:path}", public=True)
_container = functools.partial(Route, "blob", path="/{container}", public=True)
_get = operation({"": ("r", get_blob), "metadata": ("r", get_blob), "blocklist": ("r", get_block_list)})
ROUTES = [
    _blob(method="HEAD", handler=operation({"": ("r", get_blob)})),
    _blob(method="GET", handler=_get),
    _blob(
        method="PUT",
        handler=operation(
            {
                "": ("wc", put_blob),
                "block": ("wc", put_block),
                "blocklist": ("wc", put_block_list),
                "metadata": ("w", put_metadata),
                "properties": ("w", put_properties),
            }
        ),
    ),
    _blob(method="DELETE", handler=operation({"": ("d", delete_blob)})),
    _container(method="HEAD", handler=operation({"": ("rl", get_container)})),
    _container(method="GET", handler=operation({"": ("rl", get_container), "list": ("l", list_blobs)})),
]
