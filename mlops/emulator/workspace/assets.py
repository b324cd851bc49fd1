"""Assets of jobs: code snapshots and environments. Versions are immutable, as on Azure.

A code asset is the folder of blobs that the client has uploaded. An environment is stored and returned but has no effect: jobs run with
the emulator's own Python.
"""

from __future__ import annotations

import json
import re
import uuid
from pathlib import Path
from typing import Any, Literal
from urllib.parse import unquote, urlsplit

import yaml
from pydantic import Field
from starlette.requests import Request
from starlette.responses import Response

from mlops.emulator.base.azure import BLOB_SUFFIX, Azure, arm_id
from mlops.emulator.base.errors import AzureFault, not_found, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.storage import blobs
from mlops.emulator.storage.files import BlobError
from mlops.emulator.wire.app import WS, Answer, Route, read_json
from mlops.emulator.wire.resources import Body, Labels, add_system_data, list_response, put_response, render_resource, validate_body
from mlops.emulator.wire.versions import published_since
from mlops.emulator.workspace import curated
from mlops.emulator.workspace.versions import read_archival, select_view

__all__ = ["ROUTES", "code_folder", "has_environment"]

VERSIONS = published_since("2022-02-01-preview")
KINDS = {"codes": "Code", "environments": "Environment"}
PYTHON_PIN = re.compile(r"python *={1,2} *((\d+)(?:\.(\d+))?(?:\.(\d+))?)")
LAST_REFUSED_PYTHON = (3, 7, 6)
"""The newest version of Python that a recording shows to be refused; 3.7.10 is accepted."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "codes": {"provisioningState": "Succeeded"},
    "environments": {
        "environmentType": "UserCreated",
        "osType": "Linux",
        "image": None,
        "condaFile": "",
        "build": None,
        "inferenceConfig": None,
        "autoDeleteSetting": None,
        "autoRebuild": "Disabled",
        "provisioningState": "Succeeded",
        "stage": "Development",
        "intellectualProperty": None,
    },
}
"""Kind → what the service adds to the properties of a version."""


class Common(Body):
    """``AssetBase``: the fields of any version."""

    description: str | None = None
    tags: Labels | None = None
    properties: Labels | None = None
    is_anonymous: bool = False
    is_archived: bool = False
    auto_delete_setting: dict[str, Any] | None = None
    provisioning_state: str | None = Field(default=None, exclude=True)


class Code(Common):
    """``CodeVersion``."""

    code_uri: str


class Environment(Common):
    """``EnvironmentVersion``."""

    image: str | None = None
    conda_file: str | None = None
    build: dict[str, Any] | None = None
    inference_config: dict[str, Any] | None = None
    os_type: Literal["Linux", "Windows"] = "Linux"
    auto_rebuild: Literal["Disabled", "OnBaseImageUpdate"] = "Disabled"
    stage: str = "Development"
    environment_type: str | None = Field(default=None, exclude=True)
    intellectual_property: dict[str, Any] | None = None


BODIES: dict[str, type[Code] | type[Environment]] = {"codes": Code, "environments": Environment}


async def start_pending_upload(azure: Azure, request: Request) -> Answer:
    """Create a container for the upload of a code snapshot, or point to the one that this version has been uploaded to."""
    name, version = request.path_params["name"], request.path_params["version"]
    existing = azure.store.get("codes", f"{name}/{version}")
    container = _container(existing) if existing else f"code-{uuid.uuid4()}"
    blobs.path(azure, container)
    url = f"https://{azure.identity.account}.{BLOB_SUFFIX}/{container}"
    group = azure.workspace_id.partition("/providers/")[0]
    return {
        "pendingUploadId": str(uuid.uuid4()),
        "pendingUploadType": "None" if existing else "TemporaryBlobReference",
        "blobReferenceForConsumption": {
            "blobUri": url,
            "storageAccountArmId": f"{group}/providers/Microsoft.Storage/storageAccounts/{azure.identity.account}",
            "credential": {"credentialType": "SAS", "sasUri": f"{url}?{blobs.sas_token(azure, container, permissions='racwl')}"},
        },
    }


async def list_versions(azure: Azure, request: Request) -> Answer:
    """List the versions of an asset, newest first; of code, all assets' versions with the content hash in the query."""
    kind, name = _kind(request), request.path_params["name"]
    content_hash = request.query_params.get("hash")
    versions: list[tuple[str, str, Document]] = [
        (key.partition("/")[0], key.partition("/")[2], stored)
        for key, stored in reversed(azure.store.list(kind, "" if content_hash else f"{name}/"))
        if content_hash is None or (stored["properties"].get("properties") or {}).get("hash_sha256") == content_hash
    ]
    if not versions and kind == "environments" and (latest := curated.find_latest(name)):
        versions = [(name, latest, curated.document(name, latest))]
    items = select_view(request, [_resource(azure, kind, *version) for version in versions])
    return list_response(items[: int(request.query_params.get("$top") or len(items))])


async def get_version(azure: Azure, request: Request) -> Answer:
    """Return one version."""
    kind, name, version = _kind(request), request.path_params["name"], request.path_params["version"]
    stored = _find(azure, kind, name, version)
    if stored is None and kind == "environments":
        raise _no_environment(name, version)
    if stored is None:
        raise not_found(f"Not found {KINDS[kind].lower()} {name}:{version}.", "NotFound", f"{KINDS[kind]}NotFound")
    return _resource(azure, kind, name, version, stored)


async def put_version(azure: Azure, request: Request) -> Answer:
    """Create a version, or send an existing one again: 201 in both cases, but 200 for code in the default datastore.

    What a version consists of can't be changed: another image is refused, another code URI is ignored.
    """
    kind, name, version = _kind(request), request.path_params["name"], request.path_params["version"]
    body = validate_body((await read_json(request)).get("properties"), BODIES[kind], "properties.")
    properties = body.model_dump(by_alias=True)
    existing = azure.store.get(kind, f"{name}/{version}")
    is_default_store = False
    if isinstance(body, Environment):
        properties["condaFile"] = _normalize_conda(body.conda_file)
        if existing is not None and any(existing["properties"].get(key) != properties[key] for key in ("image", "condaFile", "build")):
            raise user_error(
                f"Environment {name} with version {version} is already registered and cannot be changed. Use another version.",
                "BadArgument", "ArgumentInvalid", "UpdateEnvironmentFailed", status=409,
            )  # fmt: skip
    else:
        # The service doesn't look at the files, and forgets that the SDK has called them anonymous.
        _upload_path(azure, body.code_uri)
        properties["isAnonymous"] = False
        is_default_store = _container({"properties": properties}) == blobs.datastore_container(azure)
    if existing is not None and not is_default_store:
        properties = existing["properties"] | {name: properties[name] for name in ("description", "tags", "properties", "isArchived")}
    stored = azure.store.put(kind, f"{name}/{version}", add_system_data(azure, existing, {"properties": properties}))
    return put_response(request, _resource(azure, kind, name, version, stored), is_new=not is_default_store)


async def get_container(azure: Azure, request: Request) -> Answer:
    """Return an asset without its versions."""
    kind, name = _kind(request), request.path_params["name"]
    versions = azure.store.list(kind, f"{name}/")
    if not versions and kind == "environments" and (latest := curated.find_latest(name)):
        versions = [(f"{name}/{latest}", curated.document(name, latest))]
    if not versions:
        raise _no_environment(name, "") if kind == "environments" else not_found(f"Not found code {name}.", "NotFound", "CodeNotFound")
    return _render_container(azure, kind, name, versions)


async def list_containers(azure: Azure, request: Request) -> Answer:
    """List all assets of a kind, newest first; of environments also the curated ones, which are older than all others."""
    kind = _kind(request)
    names: dict[str, list[tuple[str, Document]]] = {}
    if kind == "environments":
        latest = {name: str(version) for name, version in curated.LATEST.items()}
        names = {name: [(f"{name}/{version}", curated.document(name, version))] for name, version in latest.items()}
    for key, stored in azure.store.list(kind):
        if not stored["properties"].get("isAnonymous"):
            names.setdefault(key.partition("/")[0], []).append((key, stored))
    return list_response(select_view(request, [_render_container(azure, kind, *named) for named in reversed(names.items())]))


async def put_environment(azure: Azure, request: Request) -> Answer:
    """Archive or restore all versions of an environment."""
    name, is_archived = request.path_params["name"], await read_archival(request)
    versions = azure.store.list("environments", f"{name}/")
    if not versions:
        raise _no_environment(name, "")
    for key, stored in versions:
        azure.store.put("environments", key, stored | {"properties": stored["properties"] | {"isArchived": is_archived}})
    return _render_container(azure, "environments", name, azure.store.list("environments", f"{name}/"))


async def delete_environment(azure: Azure, request: Request) -> Answer:
    """Delete a version of an environment, or all of them. 204 if there is none."""
    name, version = request.path_params["name"], request.path_params.get("version")
    keys = [key for key, _ in azure.store.list("environments", f"{name}/") if version in (None, key.partition("/")[2])]
    for key in keys:
        azure.store.delete("environments", key)
    return Response(status_code=200 if keys else 204)


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
    """Whether an environment with this ARM id, short name or registry id exists; any registry environment is assumed to."""
    if asset.startswith("azureml://registries/"):
        return True
    name, _, version = asset.rpartition("/environments/")[2].partition("/versions/")
    if not version:
        name, _, version = asset.removeprefix("azureml:").rpartition(":")
    if not name:  # NAME@LABEL, of which the service knows only the label latest
        name, _, label = version.partition("@")
        return label == "latest" and (bool(azure.store.list("environments", f"{name}/")) or curated.find_latest(name) is not None)
    return _find(azure, "environments", name, version) is not None


def _find(azure: Azure, kind: str, name: str, version: str) -> Document | None:
    stored = azure.store.get(kind, f"{name}/{version}")
    if stored is None and kind == "environments" and curated.has(name, version):
        return curated.document(name, version)
    return stored


def _no_environment(name: str, version: str) -> AzureFault:
    return not_found(f"No environment exists for name: {name}, version: {version}, label: ", "NotFoundError")


def _container(stored: Document) -> str:
    return unquote(urlsplit(stored["properties"]["codeUri"]).path).strip("/").partition("/")[0]


def _normalize_conda(conda_file: str | None) -> str | None:
    """Return a conda file as the service stores it: its YAML as JSON text.

    Raises:
        AzureFault: 400, it is no YAML mapping, or wants a version of Python that the service no longer builds.
    """
    if not conda_file:  # a client sends back the empty text that it has read
        return None
    try:
        content = yaml.safe_load(conda_file)
    except yaml.YAMLError as problem:
        raise user_error(f"The conda file is not valid YAML: {problem}") from None
    if not isinstance(content, dict):
        raise user_error("The conda file is not a YAML mapping.")
    for dependency in content.get("dependencies") or ():
        match = PYTHON_PIN.fullmatch(str(dependency))
        # Without a patch release, conda takes the newest.
        if match and tuple(int(number or 99) for number in match.group(2, 3, 4)) <= LAST_REFUSED_PYTHON:
            raise user_error(
                f"Python versions matching the specification {match[1]} have reached or are nearing end-of-life. Python versions 3.8+ are"
                " recommended.",
                "NewRecommendedPythonVersions",
            )
    return json.dumps(content, indent=2)


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


def _render_container(azure: Azure, kind: str, name: str, versions: list[tuple[str, Document]]) -> dict[str, Any]:
    key, newest = versions[-1]
    numbers = [int(version) for version in (key.rpartition("/")[2] for key, _ in versions) if version.isdecimal()]
    properties: dict[str, Any] = {
        "description": None,
        "tags": {},
        "properties": {},
        "isArchived": all(stored["properties"].get("isArchived") for _, stored in versions),
        "latestVersion": key.rpartition("/")[2],
        "nextVersion": str(max(numbers, default=0) + 1),
    }
    return render_resource(arm_id(azure, kind, name), kind, name, newest, properties=properties)


def _resource(azure: Azure, kind: str, name: str, version: str, stored: Document) -> dict[str, Any]:
    present = {key: value for key, value in stored["properties"].items() if value is not None}
    properties = {"description": None, "tags": {}, "properties": {}, "isArchived": False, "isAnonymous": False} | DEFAULTS[kind] | present
    return render_resource(arm_id(azure, kind, name, "versions", version), f"{kind}/versions", version, stored, properties=properties)


def _routes(kind: str) -> list[Route]:
    base = WS + "/" + kind + "/{name}"

    def bind(handler: Any) -> Any:
        async def handle(azure: Azure, request: Request) -> Answer:
            request.path_params["kind"] = kind
            answer: Answer = await handler(azure, request)
            return answer

        return handle

    return [
        Route("arm", "GET", WS + "/" + kind, bind(list_containers), VERSIONS),
        Route("arm", "GET", base, bind(get_container), VERSIONS),
        Route("arm", "GET", base + "/versions", bind(list_versions), VERSIONS),
        Route("arm", "GET", base + "/versions/{version}", bind(get_version), VERSIONS),
        Route("arm", "PUT", base + "/versions/{version}", bind(put_version), VERSIONS),
    ]


ROUTES = [
    *_routes("codes"),
    Route("arm", "POST", WS + "/codes/{name}/versions/{version}/startPendingUpload", start_pending_upload, VERSIONS),
    *_routes("environments"),
    Route("arm", "PUT", WS + "/environments/{name}", put_environment, VERSIONS),
    Route("arm", "DELETE", WS + "/environments/{name}", delete_environment, VERSIONS),
    Route("arm", "DELETE", WS + "/environments/{name}/versions/{version}", delete_environment, VERSIONS),
]
