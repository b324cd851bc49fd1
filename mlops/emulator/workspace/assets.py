"""Assets that jobs are made of: code snapshots, and environments. Versions are immutable, as on Azure.

A code asset is the folder of blobs that the client has uploaded. An environment is kept and told, and acts on nothing: jobs run with the
emulator's own Python.
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
from mlops.emulator.storage.files import BlobProblem
from mlops.emulator.wire.app import WS, Answer, Route, body
from mlops.emulator.wire.resources import document, page, resource

__all__ = ["ROUTES", "code_folder", "has_environment"]

CODE_VERSIONS = {"2023-04-01", "2023-04-01-preview", "2023-10-01"}
ENVIRONMENT_VERSIONS = {"2023-04-01-preview", "2023-02-01-preview", "2024-01-01-preview"}
KINDS = {"codes": "Code", "environments": "Environment"}


async def start_pending_upload(azure: Azure, request: Request) -> Answer:
    """A new container that a code snapshot may be uploaded to."""
    container = f"code-{uuid.uuid4()}"
    blobs.path(azure, container)
    place = f"https://{azure.identity.account}.{BLOB_SUFFIX}/{container}"
    group = azure.workspace_id.partition("/providers/")[0]
    return {
        "pendingUploadId": str(uuid.uuid4()),
        "pendingUploadType": "TemporaryBlobReference",
        "blobReferenceForConsumption": {
            "blobUri": place,
            "storageAccountArmId": f"{group}/providers/Microsoft.Storage/storageAccounts/{azure.identity.account}",
            "credential": {"credentialType": "SAS", "sasUri": f"{place}?{blobs.sas_token(azure, container, permissions='racwl')}"},
        },
    }


async def list_versions(azure: Azure, request: Request) -> Answer:
    """Versions of an asset, newest first; of code, those with the content hash that is asked for."""
    kind, name = _kind(request), request.path_params["name"]
    wanted = request.query_params.get("hash")
    found = [
        (key.rpartition("/")[2], known)
        for key, known in reversed(azure.store.list(kind, f"{name}/"))
        if wanted is None or known["properties"].get("properties", {}).get("hash_sha256") == wanted
    ]
    count = int(request.query_params.get("$top") or len(found))
    return page([_resource(azure, kind, name, version, known) for version, known in found[:count]])


async def get_version(azure: Azure, request: Request) -> Answer:
    """One version."""
    kind, name, version = _kind(request), request.path_params["name"], request.path_params["version"]
    known = azure.store.get(kind, f"{name}/{version}")
    if known is None:
        raise not_found(f"Not found {KINDS[kind].lower()} {name}:{version}.", "NotFound", f"{KINDS[kind]}NotFound")
    return _resource(azure, kind, name, version, known)


async def put_version(azure: Azure, request: Request) -> Answer:
    """Make a version. The same again changes nothing but tags; anything else is refused."""
    kind, name, version = _kind(request), request.path_params["name"], request.path_params["version"]
    properties = (await body(request)).get("properties")
    if not isinstance(properties, dict):
        raise user_error("The request is invalid: properties is missing.")
    known = azure.store.get(kind, f"{name}/{version}")
    fixed = "codeUri" if kind == "codes" else "image"
    if known is not None and known["properties"].get(fixed) != properties.get(fixed):
        raise user_error(
            f'Failed to update {KINDS[kind].lower()} {name} since field "{fixed}" is immutable, try specifying a new version.',
            "BadArgument", "ArgumentInvalid", f"Update{KINDS[kind]}Failed",
        )  # fmt: skip
    if kind == "codes" and not _uploaded(azure, str(properties.get("codeUri"))).is_dir():
        raise user_error(f"The code at '{properties.get('codeUri')}' does not exist or is not accessible.")
    kept = azure.store.put(kind, f"{name}/{version}", document(azure, known, {"properties": properties}))
    return _resource(azure, kind, name, version, kept)


async def get_container(azure: Azure, request: Request) -> Answer:
    """What the versions have in common."""
    kind, name = _kind(request), request.path_params["name"]
    versions = azure.store.list(kind, f"{name}/")
    if not versions:
        raise not_found(f"Not found {KINDS[kind].lower()} {name}.", "NotFound", f"{KINDS[kind]}NotFound")
    key, known = versions[-1]
    latest = key.rpartition("/")[2]
    common: dict[str, Any] = {
        "description": None,
        "tags": {},
        "properties": {},
        "isArchived": False,
        "latestVersion": latest,
        "nextVersion": None,
    }
    return resource(arm_id(azure, kind, name), kind, name, known, properties=common)


def code_folder(azure: Azure, asset: str) -> Path:
    """The snapshot of a code asset, by its ARM id.

    Raises:
        AzureFault: 404, there is none.
    """
    name, _, version = asset.rpartition("/codes/")[2].partition("/versions/")
    known = azure.store.get("codes", f"{name}/{version}")
    if known is None:
        raise not_found(f"Not found code {name}:{version}.", "NotFound", "CodeNotFound")
    return _uploaded(azure, known["properties"]["codeUri"])


def has_environment(azure: Azure, asset: str) -> bool:
    """Whether there is an environment of that ARM id or registry id; every one of the registry is taken to be."""
    if asset.startswith("azureml://registries/"):
        return True
    name, _, version = asset.rpartition("/environments/")[2].partition("/versions/")
    if not version:
        name, _, version = asset.removeprefix("azureml:").rpartition(":")
    return azure.store.get("environments", f"{name}/{version}") is not None


def _uploaded(azure: Azure, uri: str) -> Path:
    parts = urlsplit(uri)
    container, _, blob = unquote(parts.path).strip("/").partition("/")
    if parts.hostname != f"{azure.identity.account}.{BLOB_SUFFIX}":
        raise user_error(f"The code URI '{uri}' is not in the workspace's storage.")
    try:
        return blobs.path(azure, container, blob)
    except BlobProblem as problem:
        raise user_error(f"The code URI '{uri}' is not valid: {problem.message}") from None


def _kind(request: Request) -> str:
    kind: str = request.path_params["kind"].lower()
    return kind


def _resource(azure: Azure, kind: str, name: str, version: str, known: Document) -> dict[str, Any]:
    told = {"description": None, "tags": {}, "properties": {}, "isArchived": False, "isAnonymous": False} | known["properties"]
    return resource(arm_id(azure, kind, name, "versions", version), f"{kind}/versions", version, known, properties=told)


def _routes(kind: str, versions: set[str]) -> list[Route]:
    base = WS + "/" + kind + "/{name}"

    def bound(handler: Any) -> Any:
        async def handle(azure: Azure, request: Request) -> Answer:
            request.path_params["kind"] = kind
            answer: Answer = await handler(azure, request)
            return answer

        return handle

    return [
        Route("arm", "GET", base, bound(get_container), versions),
        Route("arm", "GET", base + "/versions", bound(list_versions), versions),
        Route("arm", "GET", base + "/versions/{version}", bound(get_version), versions),
        Route("arm", "PUT", base + "/versions/{version}", bound(put_version), versions),
    ]


ROUTES = [
    *_routes("codes", CODE_VERSIONS),
    Route("arm", "POST", WS + "/codes/{name}/versions/{version}/startPendingUpload", start_pending_upload, CODE_VERSIONS),
    *_routes("environments", ENVIRONMENT_VERSIONS),
]
