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

from mlops.emulator.base.azure import BLOB_SUFFIX, Azure
from mlops.emulator.base.errors import AzureFault, not_found, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.storage import blobs
from mlops.emulator.storage.files import BlobError
from mlops.emulator.wire.app import WS, Answer, Route
from mlops.emulator.wire.resources import Body, Labels, list_response, validate_body
from mlops.emulator.wire.versions import published_since
from mlops.emulator.workspace import curated
from mlops.emulator.workspace.versions import Collection, select_view

__all__ = ["ROUTES", "code_folder", "has_environment"]

PYTHON_PIN = re.compile(r"python *={1,2} *((\d+)(?:\.(\d+))?(?:\.(\d+))?)")
LAST_REFUSED_PYTHON = (3, 7, 6)
"""The newest version of Python that a recording shows to be refused; 3.7.10 is accepted."""
ENVIRONMENT: Document = {
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
}
"""What the service adds to the properties of an environment."""


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


class JobAssets(Collection):
    """Assets of jobs: their lists have one page, and no version is the default one."""

    has_default = False

    def _page(self, request: Request, items: list[dict[str, Any]]) -> dict[str, Any]:
        items = select_view(request, items)
        return list_response(items[: int(request.query_params.get("$top") or len(items))])


class Codes(JobAssets):
    """Code snapshots."""

    async def list_versions(self, azure: Azure, request: Request) -> Answer:
        """List the versions of an asset, newest first, or all assets' versions with the content hash in the query."""
        content_hash = request.query_params.get("hash")
        if content_hash is None:
            return await super().list_versions(azure, request)
        versions = [self._render(azure, key, stored) for key, stored in reversed(self.find_all(azure))]
        return self._page(request, [each for each in versions if each["properties"]["properties"].get("hash_sha256") == content_hash])


class Environments(JobAssets):
    """Environments: those of users, and the curated ones, which are older than all others."""

    def find_all(self, azure: Azure, name: str = "") -> list[tuple[str, Document]]:
        """Return key and document of each version of a name, or of all names, oldest first; of a curated one the latest."""
        own = super().find_all(azure, name)
        names = list(curated.LATEST) if not name else [] if own or name not in curated.LATEST else [name]
        return [(f"{each}/{curated.LATEST[each]}", curated.document(each, str(curated.LATEST[each]))) for each in names] + own

    def get(self, azure: Azure, name: str, version: str) -> Document | None:
        """Return the document of a version, or None."""
        stored = super().get(azure, name, version)
        return curated.document(name, version) if stored is None and curated.has(name, version) else stored


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


def code_folder(azure: Azure, asset: str) -> Path:
    """Return the snapshot of a code asset, by its ARM id.

    Raises:
        AzureFault: 404, the asset does not exist.
    """
    name, _, version = asset.rpartition("/codes/")[2].partition("/versions/")
    stored = CODES.get(azure, name, version)
    if stored is None:
        raise _no_code(name, version)
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
        return label == "latest" and bool(ENVIRONMENTS.find_all(azure, name))
    return ENVIRONMENTS.get(azure, name, version) is not None


def _read_code(azure: Azure, name: str, version: str, sent: Any, existing: Document | None) -> Document:
    body = validate_body(sent, Code, "properties.")
    # The service doesn't look at the files, and forgets that the SDK has called them anonymous.
    _upload_path(azure, body.code_uri)
    properties = body.model_dump(by_alias=True) | {"isAnonymous": False}
    return properties if existing is None or _is_in_default_store(azure, properties) else _keep_content(existing, properties)


def _read_environment(azure: Azure, name: str, version: str, sent: Any, existing: Document | None) -> Document:
    body = validate_body(sent, Environment, "properties.")
    properties = body.model_dump(by_alias=True) | {"condaFile": _normalize_conda(body.conda_file)}
    if existing is None:
        return properties
    if any(existing["properties"].get(key) != properties[key] for key in ("image", "condaFile", "build")):
        raise user_error(
            f"Environment {name} with version {version} is already registered and cannot be changed. Use another version.",
            "BadArgument", "ArgumentInvalid", "UpdateEnvironmentFailed", status=409,
        )  # fmt: skip
    return _keep_content(existing, properties)


def _keep_content(existing: Document, properties: Document) -> Document:
    """Return the properties of a version that is sent again: what it consists of can't be changed."""
    kept: Document = existing["properties"]
    return kept | {name: properties[name] for name in ("description", "tags", "properties", "isArchived")}


def _no_code(name: str, version: str) -> AzureFault:
    return not_found(f"Not found code {name}{version and ':'}{version}.", "NotFound", "CodeNotFound")


def _no_environment(name: str, version: str) -> AzureFault:
    return not_found(f"No environment exists for name: {name}, version: {version}, label: ", "NotFoundError")


def _is_in_default_store(azure: Azure, properties: Document) -> bool:
    return _container({"properties": properties}) == blobs.datastore_container(azure)


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


SINCE = "2022-02-01-preview"
CODES = Codes(
    "codes",
    _read_code,
    _no_code,
    show=lambda properties: {"provisioningState": "Succeeded"} | properties,
    is_new=lambda azure, stored, _: not _is_in_default_store(azure, stored["properties"]),
    since=SINCE,
)
ENVIRONMENTS = Environments(
    "environments",
    _read_environment,
    _no_environment,
    show=lambda properties: ENVIRONMENT | properties,
    is_new=lambda *_: True,
    since=SINCE,
)
_UPLOAD = WS + "/codes/{name}/versions/{version}/startPendingUpload"
ROUTES = [
    # Code can't be archived or deleted.
    *(route for route in CODES.routes() if route.method == "GET" or (route.method, route.handler) == ("PUT", CODES.put_version)),
    Route("arm", "POST", _UPLOAD, start_pending_upload, published_since(SINCE)),
    *ENVIRONMENTS.routes(),
]
