"""Assets of jobs: code snapshots and environments. Versions are immutable, as on Azure.

A code asset is the folder of blobs that the client has uploaded. An environment is stored and returned but has no effect: jobs run with
the emulator's own Python.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from starlette.requests import Request

from mlops.emulator.base.azure import BLOB_SUFFIX, Azure, arm_id
from mlops.emulator.base.errors import not_found, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.storage import blobs
from mlops.emulator.storage.files import BlobError
from mlops.emulator.wire.app import WS, Answer, Route, read_json
from mlops.emulator.wire.resources import add_system_data, list_response, render_resource

__all__ = ["ROUTES", "code_folder", "has_environment"]

CODE_VERSIONS = {"2023-04-01", "2023-04-01-preview", "2023-10-01"}
ENVIRONMENT_VERSIONS = {"2023-04-01-preview", "2023-02-01-preview", "2024-01-01-preview"}
KINDS = {"codes": "Code", "environments": "Environment"}


async def start_pending_upload(azure: Azure, request: Request) -> Answer:
    """Create a container for the upload of a code snapshot."""
    container = f"code-{uuid.uuid4()}"
    blobs.path(azure, container)
    url = f"https://{azure.identity.account}.{BLOB_SUFFIX}/{container}"
    group = azure.workspace_id.partition("/providers/")[0]
    return {
        "pendingUploadId": str(uuid.uuid4()),
        "pendingUploadType": "TemporaryBlobReference",
        "blobReferenceForConsumption": {
            "blobUri": url,
            "storageAccountArmId": f"{group}/providers/Microsoft.Storage/storageAccounts/{azure.identity.account}",
            "credential": {"credentialType": "SAS", "sasUri": f"{url}?{blobs.sas_token(azure, container, permissions='racwl')}"},
        },
    }


async def list_versions(azure: Azure, request: Request) -> Answer:
    """List the versions of an asset, newest first; of code, those with the content hash in the query."""
    kind, name = _kind(request), request.path_params["name"]
    content_hash = request.query_params.get("hash")
    versions = [
        (key.rpartition("/")[2], stored)
        for key, stored in reversed(azure.store.list(kind, f"{name}/"))
        if content_hash is None or stored["properties"].get("properties", {}).get("hash_sha256") == content_hash
    ]
    count = int(request.query_params.get("$top") or len(versions))
    return list_response([_resource(azure, kind, name, version, stored) for version, stored in versions[:count]])


async def get_version(azure: Azure, request: Request) -> Answer:
    """Return one version."""
    kind, name, version = _kind(request), request.path_params["name"], request.path_params["version"]
    stored = azure.store.get(kind, f"{name}/{version}")
    if stored is None:
        raise not_found(f"Not found {KINDS[kind].lower()} {name}:{version}.", "NotFound", f"{KINDS[kind]}NotFound")
    return _resource(azure, kind, name, version, stored)


async def put_version(azure: Azure, request: Request) -> Answer:
    """Create a version. A second PUT may only change tags; another image or code URI is refused."""
    kind, name, version = _kind(request), request.path_params["name"], request.path_params["version"]
    properties = (await read_json(request)).get("properties")
    if not isinstance(properties, dict):
        raise user_error("The request is invalid: properties is missing.")
    existing = azure.store.get(kind, f"{name}/{version}")
    immutable = "codeUri" if kind == "codes" else "image"
    if existing is not None and existing["properties"].get(immutable) != properties.get(immutable):
        raise user_error(
            f'Failed to update {KINDS[kind].lower()} {name} since field "{immutable}" is immutable, try specifying a new version.',
            "BadArgument", "ArgumentInvalid", f"Update{KINDS[kind]}Failed",
        )  # fmt: skip
    if kind == "codes" and not _upload_path(azure, str(properties.get("codeUri"))).is_dir():
        raise user_error(f"The code at '{properties.get('codeUri')}' does not exist or is not accessible.")
    stored = azure.store.put(kind, f"{name}/{version}", add_system_data(azure, existing, {"properties": properties}))
    return _resource(azure, kind, name, version, stored)


async def get_container(azure: Azure, request: Request) -> Answer:
    """Return an asset without its versions."""
    kind, name = _kind(request), request.path_params["name"]
    versions = azure.store.list(kind, f"{name}/")
    if not versions:
        raise not_found(f"Not found {KINDS[kind].lower()} {name}.", "NotFound", f"{KINDS[kind]}NotFound")
    key, newest = versions[-1]
    properties: dict[str, Any] = {
        "description": None,
        "tags": {},
        "properties": {},
        "isArchived": False,
        "latestVersion": key.rpartition("/")[2],
        "nextVersion": None,
    }
    return render_resource(arm_id(azure, kind, name), kind, name, newest, properties=properties)


def code_folder(azure: Azure, asset: str) -> Path:
    """Return the snapshot of a code asset, by its ARM id.

    Raises:
        AzureFault: 404, the asset does not exist.
    """
    name, _, version = asset.rpartition("/codes/")[2].partition("/versions/")
    stored = azure.store.get("codes", f"{name}/{version}")
    if stored is None:
        raise not_found(f"Not found code {name}:{version}.", "NotFound", "CodeNotFound")
    return _upload_path(azure, stored["properties"]["codeUri"])


def has_environment(azure: Azure, asset: str) -> bool:
    """Whether an environment with this ARM id or registry id exists; any registry environment is assumed to."""
    if asset.startswith("azureml://registries/"):
        return True
    name, _, version = asset.rpartition("/environments/")[2].partition("/versions/")
    if not version:
        name, _, version = asset.removeprefix("azureml:").rpartition(":")
    return azure.store.get("environments", f"{name}/{version}") is not None


def _upload_path(azure: Azure, uri: str) -> Path:
    parts = urlsplit(uri)
    container, _, blob = unquote(parts.path).strip("/").partition("/")
    if parts.hostname != f"{azure.identity.account}.{BLOB_SUFFIX}":
        raise user_error(f"The code URI '{uri}' is not in the workspace's storage.")
    try:
        return blobs.path(azure, container, blob)
    except BlobError as problem:
        raise user_error(f"The code URI '{uri}' is not valid: {problem.message}") from None


def _kind(request: Request) -> str:
    kind: str = request.path_params["kind"].lower()
    return kind


def _resource(azure: Azure, kind: str, name: str, version: str, stored: Document) -> dict[str, Any]:
    properties = {"description": None, "tags": {}, "properties": {}, "isArchived": False, "isAnonymous": False} | stored["properties"]
    return render_resource(arm_id(azure, kind, name, "versions", version), f"{kind}/versions", version, stored, properties=properties)


def _routes(kind: str, versions: set[str]) -> list[Route]:
    base = WS + "/" + kind + "/{name}"

    def bind(handler: Any) -> Any:
        async def handle(azure: Azure, request: Request) -> Answer:
            request.path_params["kind"] = kind
            answer: Answer = await handler(azure, request)
            return answer

        return handle

    return [
        Route("arm", "GET", base, bind(get_container), versions),
        Route("arm", "GET", base + "/versions", bind(list_versions), versions),
        Route("arm", "GET", base + "/versions/{version}", bind(get_version), versions),
        Route("arm", "PUT", base + "/versions/{version}", bind(put_version), versions),
    ]


ROUTES = [
    *_routes("codes", CODE_VERSIONS),
    Route("arm", "POST", WS + "/codes/{name}/versions/{version}/startPendingUpload", start_pending_upload, CODE_VERSIONS),
    *_routes("environments", ENVIRONMENT_VERSIONS),
]
