"""Blob storage: the requests of azure-storage-blob 12 that upload, list, read and delete block blobs.

Paths, headers, XML bodies and error codes follow Azure's Blob service REST API. All other features (leases, snapshots, tags, tiers, page
and append blobs, customer keys) are refused, never ignored.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from email.utils import formatdate
from itertools import islice
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from mlops.emulator.base.azure import BLOB_SUFFIX, Azure
from mlops.emulator.base.clock import now
from mlops.emulator.base.errors import AzureFault, not_implemented
from mlops.emulator.storage import blocks, conditions, files, sas, shared_key, xml
from mlops.emulator.storage.files import Blob, BlobError, path
from mlops.emulator.storage.sas import SasError, sas_token, sas_url
from mlops.emulator.wire.app import Answer, Handler, Route

__all__ = ["ARTIFACTS", "ROUTES", "artifact", "datastore_container", "path", "sas_token", "sas_url", "startup"]

ARTIFACTS = "azureml"
"""The container of run artifacts and logs."""
UNSUPPORTED_HEADERS = (
    "x-ms-lease-id", "x-ms-encryption-key", "x-ms-encryption-scope", "x-ms-content-crc64", "x-ms-structured-body", "x-ms-tags",
    "x-ms-copy-source", "x-ms-if-tags", "x-ms-source-range",
)  # fmt: skip
CONTENT_HEADERS = ("content-type", "content-encoding", "content-language", "content-disposition", "cache-control")
LIST_MAX = 5000
BLOCK_LISTS = ("committed", "uncommitted", "all")

Operation = Callable[[Azure, Request, str, str], Awaitable[Response]]


def datastore_container(azure: Azure) -> str:
    """Return the container of ``workspaceblobstore``."""
    return f"azureml-blobstore-{azure.identity.workspace_guid}"


def artifact(run: str, path: str = "") -> str:
    """Return the name of the blob in :data:`ARTIFACTS` that is an artifact of a run; without a path, the folder of all of them."""
    return f"ExperimentRun/dcid.{run}" + (f"/{path}" if path else "")


async def startup(azure: Azure) -> None:
    """Create the containers that every workspace has."""
    path(azure, datastore_container(azure))
    path(azure, ARTIFACTS)


def dispatch(operations: dict[str, tuple[str, Operation]]) -> Handler:
    """Return a handler that selects the operation by the query's ``comp``: value → (permissions, see ``sas.check``; operation)."""

    async def handle(azure: Azure, request: Request) -> Answer:
        container, name = request.path_params["container"], request.path_params.get("blob", "")
        try:
            _check_request(azure, request)
            comp = request.query_params.get("comp", "")
            if comp not in operations:
                raise not_implemented(f"{request.method} of a {'blob' if name else 'container'} with comp={comp!r}")
            permissions, operation = operations[comp]
            if not hasattr(request.state, "claims"):
                _authorize(azure, request, container, name, permissions)
            response = await operation(azure, request, container, name)
        except SasError as problem:
            raise _error_response(
                request, 409 if problem.code == "PublicAccessNotPermitted" else 403, problem.code, problem.message, problem.detail
            ) from None
        except BlobError as problem:
            raise _error_response(request, problem.status, problem.code, problem.message) from None
        response.headers.update(_common_headers(request))
        return response

    return handle


async def put_blob(azure: Azure, request: Request, container: str, name: str) -> Response:
    """Upload a blob in one request."""
    if (kind := request.headers.get("x-ms-blob-type")) != "BlockBlob":
        raise not_implemented(f"blobs of type {kind}: BlockBlob only")
    _check_write(azure, request, container, name)
    file, md5 = await _receive(azure, request)
    try:
        _check_write(azure, request, container, name)  # another client may have been faster
        properties = _properties(request) | {"md5": request.headers.get("x-ms-blob-content-md5", md5), "blocks": []}
        blob = files.store_file(azure, container, name, file, properties)
        blocks.discard(azure, container, name)
    finally:
        file.unlink(missing_ok=True)
    return Response(status_code=201, headers=xml.version_headers(blob) | {"Content-MD5": md5, "x-ms-request-server-encrypted": "true"})


async def put_block(azure: Azure, request: Request, container: str, name: str) -> Response:
    """Stage a block."""
    _refuse_conditions(request)
    file, md5 = await _receive(azure, request, with_md5="content-md5" in request.headers)
    try:
        blocks.stage(azure, container, name, request.query_params.get("blockid", ""), file)
    finally:
        file.unlink(missing_ok=True)
    # Like Azure since version 2019-02-02, which returns this checksum only to clients that have sent it.
    checksum = {"Content-MD5": md5} if md5 else {}
    return Response(status_code=201, headers=checksum | {"x-ms-request-server-encrypted": "true"})


async def put_block_list(azure: Azure, request: Request, container: str, name: str) -> Response:
    """Create a blob from blocks."""
    content = await request.body()
    _check_md5(request, base64.b64encode(hashlib.md5(content, usedforsecurity=False).digest()).decode())
    properties = _properties(request) | {"md5": request.headers.get("x-ms-blob-content-md5")}
    existing = _check_write(azure, request, container, name)
    blob = blocks.commit(azure, container, name, xml.parse_block_list(content), existing, properties)
    return Response(status_code=201, headers=xml.version_headers(blob) | {"x-ms-request-server-encrypted": "true"})


async def get_block_list(azure: Azure, request: Request, container: str, name: str) -> Response:
    """Return the committed blocks, the uncommitted ones, or both. For this request, uncommitted blocks alone are a blob, too."""
    _refuse_conditions(request)
    kind = request.query_params.get("blocklisttype", "committed").lower()
    if kind not in BLOCK_LISTS:
        raise BlobError(400, "InvalidQueryParameterValue", "Value for one of the query parameters specified in the request URI is invalid.")
    uncommitted = blocks.list_uncommitted(azure, container, name)
    try:
        blob = files.find(azure, container, name)
    except BlobError as problem:
        if problem.code != "BlobNotFound" or not uncommitted:
            raise
        blob = None
    committed = blocks.list_committed(blob) if blob else []
    return xml.block_list_response(blob, None if kind == "uncommitted" else committed, None if kind == "committed" else uncommitted)


async def put_metadata(azure: Azure, request: Request, container: str, name: str) -> Response:
    """Replace a blob's metadata."""
    conditions.check_write(request.headers, files.find(azure, container, name))
    blob = files.set_properties(azure, container, name, {"metadata": _metadata(request)})
    return Response(status_code=200, headers=xml.version_headers(blob) | {"x-ms-request-server-encrypted": "true"})


async def put_properties(azure: Azure, request: Request, container: str, name: str) -> Response:
    """Replace a blob's content type and other content headers."""
    conditions.check_write(request.headers, files.find(azure, container, name))
    properties = {"headers": _content_headers(request), "md5": request.headers.get("x-ms-blob-content-md5")}
    return Response(status_code=200, headers=xml.version_headers(files.set_properties(azure, container, name, properties)))


async def get_blob(azure: Azure, request: Request, container: str, name: str) -> Response:
    """Return a blob or a range of it; for HEAD, the headers only."""
    blob = files.find(azure, container, name)
    if not conditions.is_modified(request.headers, blob):
        return Response(status_code=304, headers=xml.version_headers(blob) | {"x-ms-error-code": "ConditionNotMet"})
    headers = (
        xml.version_headers(blob)
        | xml.property_headers(blob)
        | {f"x-ms-meta-{key}": value for key, value in blob.properties.get("metadata", {}).items()}
        | sas.response_headers(request.query_params)
    )
    if request.method == "HEAD":
        return Response(headers=headers | xml.md5_header(blob) | {"Content-Length": str(blob.size)})
    byte_range = request.headers.get("x-ms-range") or request.headers.get("range")
    if byte_range is None:
        return _content_response(blob, 0, blob.size, 200, headers | xml.md5_header(blob))
    begin, end = _parse_range(byte_range, blob.size)
    headers["Content-Range"] = f"bytes {begin}-{end - 1}/{blob.size}"
    if md5 := blob.properties.get("md5"):
        headers["x-ms-blob-content-md5"] = md5
    if request.headers.get("x-ms-range-get-content-md5") == "true":
        if end - begin > 4 << 20:
            raise BlobError(400, "OutOfRangeInput", "One of the request inputs is out of range.")
        digest = hashlib.md5(b"".join(files.read_chunks(blob.file, begin, end)), usedforsecurity=False).digest()
        headers["Content-MD5"] = base64.b64encode(digest).decode()
    return _content_response(blob, begin, end, 206, headers)


async def delete_blob(azure: Azure, request: Request, container: str, name: str) -> Response:
    """Delete a blob."""
    conditions.check_write(request.headers, files.find(azure, container, name))
    files.delete(azure, container, name)
    return Response(status_code=202, headers={"x-ms-delete-type-permanent": "true"})


async def get_container(azure: Azure, request: Request, container: str, _: str) -> Response:
    """Return a container's properties, or 404."""
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
    """Return one page of blobs, flat or grouped by the delimiter."""
    _check_container(request)
    query = request.query_params
    max_results = query.get("maxresults", str(LIST_MAX))
    if not max_results.isdecimal() or int(max_results) == 0:
        raise BlobError(
            400,
            "OutOfRangeQueryParameterValue",
            "One of the query parameters specified in the request URI is outside the permissible range.",
        )
    count = min(int(max_results), LIST_MAX)
    include = set(query.get("include", "").split(",")) - {""}
    if extra := include - {"metadata"}:
        raise not_implemented(f"listing blobs with include={','.join(sorted(extra))}")
    prefix, delimiter, marker = query.get("prefix", ""), query.get("delimiter", ""), query.get("marker", "")
    entries = list(islice(files.walk(azure, container, prefix, delimiter, marker), count + 1))
    page = entries[:count]
    next_marker = xml.entry_name(page[-1]) if len(entries) > count else ""
    rows = "".join(xml.list_element(entry, with_metadata="metadata" in include) for entry in page)
    parameters = "".join(
        f"<{tag}>{escape(value)}</{tag}>" for tag, value in (("Prefix", prefix), ("Marker", marker), ("Delimiter", delimiter)) if value
    )
    return xml.xml_response(
        f"<EnumerationResults ServiceEndpoint={quoteattr(f'https://{azure.identity.account}.{BLOB_SUFFIX}/')}"
        f" ContainerName={quoteattr(container)}>{parameters}<MaxResults>{count}</MaxResults><Blobs>{rows}</Blobs>"
        f"<NextMarker>{escape(next_marker)}</NextMarker></EnumerationResults>"
    )


def _check_request(azure: Azure, request: Request) -> None:
    if azure.options.is_outside:
        raise BlobError(403, "AuthorizationFailure", "This request is not authorized to perform this operation.")
    account = (request.url.hostname or "").removesuffix(f".{BLOB_SUFFIX}")
    if account != azure.identity.account:
        raise not_implemented(f"the storage account {account!r}: the workspace's is {azure.identity.account!r}")
    if unsupported := [name for name in UNSUPPORTED_HEADERS if name in request.headers]:
        raise not_implemented(f"blob requests with the header {unsupported[0]}")
    if "snapshot" in request.query_params or "versionid" in request.query_params:
        raise not_implemented("snapshots and versions of blobs")
    version = request.headers.get("x-ms-version")
    if version is not None and not re.fullmatch(r"20\d\d-\d\d-\d\d", version):
        raise BlobError(400, "InvalidHeaderValue", "The value for one of the HTTP headers is not in the correct format.")


def _authorize(azure: Azure, request: Request, container: str, name: str, permissions: str) -> None:
    query = request.query_params
    scheme = "" if "sig" in query else request.headers.get("authorization", "").partition(" ")[0]
    if azure.options.storage == "identity" and (scheme or sas.is_account_sas(query)):
        raise SasError("KeyBasedAuthenticationNotPermitted", "Key based authentication is not permitted on this storage account.")
    if scheme == "SharedKey":
        shared_key.check(azure, request)
    elif scheme:
        raise not_implemented(f"the authorization scheme {scheme} of blob storage")
    else:
        sas.check(azure, container, name, query, permissions)


def _check_container(request: Request) -> None:
    _refuse_conditions(request)
    if request.query_params.get("restype") != "container":
        raise not_implemented(f"{request.method} of a blob in the root container")


def _check_write(azure: Azure, request: Request, container: str, name: str) -> Blob | None:
    """Check that a request may create or replace a blob, and return the one that exists."""
    try:
        blob = files.find(azure, container, name)
    except BlobError as problem:
        if problem.code != "BlobNotFound":
            raise
        blob = None
    if blob is not None and request.headers.get("if-none-match") == "*":
        raise BlobError(409, "BlobAlreadyExists", "The specified blob already exists.")
    if blob is not None and "sig" in request.query_params and "w" not in request.query_params.get("sp", ""):
        raise SasError("AuthorizationPermissionMismatch", "This request is not authorized to perform this operation using this permission.")
    conditions.check_write(request.headers, blob)
    return blob


def _refuse_conditions(request: Request) -> None:
    if header := next((name for name in conditions.HEADERS if name in request.headers), None):
        raise not_implemented(f"the header {header} of this request")


def _check_md5(request: Request, md5: str) -> None:
    if request.headers.get("content-md5", md5) != md5:
        raise BlobError(
            400, "Md5Mismatch", "The MD5 value specified in the request did not match with the MD5 value calculated by the server."
        )


async def _receive(azure: Azure, request: Request, *, with_md5: bool = True) -> tuple[Path, str]:
    file, md5 = await files.save_upload(azure, request.stream(), with_md5=with_md5)
    try:
        _check_md5(request, md5)
    except BlobError:
        file.unlink()
        raise
    return file, md5


def _content_response(blob: Blob, begin: int, end: int, status: int, headers: dict[str, str]) -> Response:
    """Return bytes of a blob. They are read from memory or a local disk: handing each chunk to a thread would cost more."""
    chunks = files.read_chunks(blob.file, begin, end)
    if end - begin <= files.CHUNK:
        return Response(b"".join(chunks), status_code=status, headers=headers)

    async def stream() -> AsyncIterator[bytes]:
        for chunk in chunks:
            yield chunk

    return StreamingResponse(stream(), status_code=status, headers=headers | {"Content-Length": str(end - begin)})


def _properties(request: Request) -> dict[str, Any]:
    return {"metadata": _metadata(request), "headers": _content_headers(request)}


def _metadata(request: Request) -> dict[str, str]:
    metadata = {name.removeprefix("x-ms-meta-"): value for name, value in request.headers.items() if name.startswith("x-ms-meta-")}
    if any(not re.fullmatch(r"[A-Za-z_]\w*", name, re.ASCII) for name in metadata):
        raise BlobError(400, "InvalidMetadata", "The metadata specified is invalid. It has characters that are not permitted.")
    return metadata


def _content_headers(request: Request) -> dict[str, str]:
    return {name: request.headers[f"x-ms-blob-{name}"] for name in CONTENT_HEADERS if f"x-ms-blob-{name}" in request.headers}


def _parse_range(text: str, size: int) -> tuple[int, int]:
    """Return the half-open range of bytes that a Range header selects."""
    match = re.fullmatch(r"bytes=(\d+)-(\d*)", text)
    if match is None:
        raise BlobError(400, "InvalidHeaderValue", "The value for one of the HTTP headers is not in the correct format.")
    begin, end = int(match[1]), min(int(match[2] or size) + (1 if match[2] else 0), size)
    if begin >= end:
        raise BlobError(416, "InvalidRange", "The range specified is invalid for the current size of the resource.")
    return begin, end


def _common_headers(request: Request) -> dict[str, str]:
    headers = {"x-ms-request-id": str(uuid.uuid4()), "x-ms-version": request.headers.get("x-ms-version", sas.VERSION)}
    if identifier := request.headers.get("x-ms-client-request-id"):
        headers["x-ms-client-request-id"] = identifier
    return headers


def _error_response(request: Request, status: int, code: str, message: str, detail: str = "") -> AzureFault:
    common = _common_headers(request)
    text = f"{message}\nRequestId:{common['x-ms-request-id']}\nTime:{now()}"
    extra = f"<AuthenticationErrorDetail>{escape(detail)}</AuthenticationErrorDetail>" if detail else ""
    content = f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{escape(text)}</Message>{extra}</Error>'
    return AzureFault(status, code, message, headers=common | {"x-ms-error-code": code, "content-type": "application/xml"}, body=content)


_blob = functools.partial(Route, "blob", path="/{container}/{blob:path}", public=True)
_container = functools.partial(Route, "blob", path="/{container}", public=True)
_get = dispatch({"": ("r", get_blob), "metadata": ("r", get_blob), "blocklist": ("r", get_block_list)})
ROUTES = [
    _blob(method="HEAD", handler=dispatch({"": ("r", get_blob)})),
    _blob(method="GET", handler=_get),
    _blob(
        method="PUT",
        handler=dispatch(
            {
                "": ("wc", put_blob),
                "block": ("wc", put_block),
                "blocklist": ("wc", put_block_list),
                "metadata": ("w", put_metadata),
                "properties": ("w", put_properties),
            }
        ),
    ),
    _blob(method="DELETE", handler=dispatch({"": ("d", delete_blob)})),
    _container(method="HEAD", handler=dispatch({"": ("", get_container)})),
    _container(method="GET", handler=dispatch({"": ("", get_container), "list": ("l", list_blobs)})),
]
