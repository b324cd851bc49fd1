"""Models of the workspace: names with versions, each pointing to files that exist when it is registered.

Azure Machine Learning REST, ``models`` and ``models/versions`` of 2023-08-01-preview. A job's output becomes a path in the datastore when
the model is registered. The path can't be changed afterwards; tags, description, stage and archival can.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from starlette.requests import Request
from starlette.responses import Response

from mlops.emulator.base.azure import Azure, arm_id
from mlops.emulator.base.errors import not_implemented, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.storage import blobs
from mlops.emulator.wire.app import WS, Answer, Route
from mlops.emulator.wire.limits import AssetTags
from mlops.emulator.wire.resources import Body, SentResource, add_system_data, list_response, parse_body, put_response, render_resource
from mlops.emulator.wire.versions import published_since
from mlops.emulator.workspace import uris
from mlops.emulator.workspace.datastores import containers
from mlops.emulator.workspace.uris import get_model, get_model_version
from mlops.emulator.workspace.versions import select_view

__all__ = ["ROUTES", "VersionProperties", "check_name", "next_version", "register"]

VERSIONS = published_since("2022-02-01-preview")
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9\-._]{0,254}")
VERSION = re.compile(r"[1-9][0-9]{0,9}")
"""Models are the only assets whose versions are numbers: positive integers of 32 bits (Azure/azureml-examples#2725)."""
MAX_VERSION = 2**31 - 1
ORDERS = {"createdtime desc": True, "createdtime asc": False}
"""``$orderBy`` → newest first."""

_OUTPUT = re.compile(r"azureml://jobs/(?P<job>[^/]+)/outputs/.+", re.IGNORECASE)


class VersionProperties(Body):
    """``ModelVersion``. Read-only fields are accepted, because a client sends back what it has read, and ignored."""

    auto_delete_setting: None = None
    description: str | None = None
    flavors: dict[str, Any] | None = None
    intellectual_property: None = None
    is_anonymous: bool = False
    is_archived: bool = False
    job_name: str | None = None
    model_type: Literal["mlflow_model", "custom_model", "triton_model"] | None = None
    model_uri: str | None = None
    properties: dict[str, str | None] | None = None
    provisioning_state: str | None = None
    stage: str | None = None
    tags: AssetTags = None


class ContainerProperties(Body):
    """``ModelContainer``."""

    description: str | None = None
    is_archived: bool = False
    latest_version: str | None = None
    next_version: str | None = None
    properties: dict[str, str | None] | None = None
    provisioning_state: str | None = None
    tags: AssetTags = None


class PutVersion(SentResource):
    """``ModelVersionResource``."""

    properties: VersionProperties


class PutContainer(SentResource):
    """``ModelContainerResource``."""

    properties: ContainerProperties


async def put_version(azure: Azure, request: Request) -> Answer:
    """Register a version, or change an existing one where that is allowed."""
    name, version = request.path_params["model"], request.path_params["version"]
    is_new = azure.store.get("model", f"{name}/{version}") is None
    stored = register(azure, name, version, (await parse_body(request, PutVersion)).properties)
    return put_response(request, to_version_resource(azure, stored), is_new=is_new)


def register(azure: Azure, name: str, version: str, sent: VersionProperties) -> Document:
    """Register a version, or change an existing one where that is allowed, and return its document.

    Raises:
        AzureFault: 400 or 404, name, version or files are invalid, or the change is not allowed.
    """
    check_name(name)
    if not VERSION.fullmatch(version) or int(version) > MAX_VERSION:
        raise user_error(f"The model version '{version}' is invalid: the version of a model must be a positive integer.")
    existing = azure.store.get("model", f"{name}/{version}")
    if not sent.model_uri:
        raise user_error("The field modelUri is required.")
    uri, files = _locate_files(azure, sent.model_uri)
    output = _OUTPUT.fullmatch(sent.model_uri)
    if existing is not None and existing["uri"] != uri:
        raise user_error("Asset paths cannot be updated.")
    model_type = sent.model_type or (existing["model_type"] if existing else "custom_model")
    if existing is not None and existing["model_type"] != model_type:
        raise user_error(f"The model type can't be changed from {existing['model_type']} to {model_type}.")
    stored = add_system_data(
        azure,
        existing,
        {
            "name": name,
            "version": version,
            "uri": uri,
            "job": existing["job"] if existing else sent.job_name or (output and output["job"]),
            "model_type": model_type,
            "flavors": existing["flavors"] if existing else _read_flavors(sent, files, model_type),
            "anonymous": sent.is_anonymous,
            "archived": sent.is_archived,
            "description": sent.description,
            "mlflow_stage": (existing or {}).get("mlflow_stage", "None"),
            "properties": sent.properties or {},
            "stage": sent.stage or "Development",
            "tags": sent.tags or {},
        },
    )
    azure.store.put("model", f"{name}/{version}", stored)
    if azure.store.get("model-container", name) is None:
        blank: Document = {"archived": False, "description": None, "properties": {}, "tags": {}}
        azure.store.put("model-container", name, add_system_data(azure, None, blank))
    return stored


def check_name(name: str) -> None:
    """Refuse a name that a model can't have.

    Raises:
        AzureFault: 400.
    """
    if not NAME.fullmatch(name):
        raise user_error(f"The model name {name} has other characters than letters, digits, '-', '_' and '.'.")


def next_version(azure: Azure, name: str) -> str:
    """Return the version that follows the highest one of a model."""
    return str(max((int(stored["version"]) for _, stored in azure.store.list("model", f"{name}/")), default=0) + 1)


async def get_version(azure: Azure, request: Request) -> Answer:
    """Return one version."""
    return to_version_resource(azure, get_model_version(azure, request.path_params["model"], request.path_params["version"]))


async def delete_version(azure: Azure, request: Request) -> Answer:
    """Delete a version; its files stay. 204 if it does not exist."""
    name = request.path_params["model"]
    deleted = azure.store.delete("model", f"{name}/{request.path_params['version']}")
    return Response(status_code=200 if deleted else 204)


async def list_versions(azure: Azure, request: Request) -> Answer:
    """List the versions of a model."""
    name, query = request.path_params["model"], request.query_params
    _check_query(
        query.keys(), {"$orderBy", "$top", "$skip", "offset", "listViewType", "tags", "properties", "stage", "version", "description"}
    )
    order = query.get("$orderBy", "createdtime desc")
    if order.lower() not in ORDERS:
        raise user_error(f"$orderBy '{order}' is not supported: write one of {', '.join(ORDERS)}.")
    get_model(azure, name)
    matching = [to_version_resource(azure, stored) for _, stored in azure.store.list("model", f"{name}/") if _matches(stored, query)]
    versions = select_view(request, matching)
    if ORDERS[order.lower()]:
        versions.reverse()
    begin = _number(query.get("offset") or query.get("$skip"), 0)
    return list_response(versions[begin : begin + _number(query.get("$top"), len(versions))])


async def put_container(azure: Azure, request: Request) -> Answer:
    """Create a model without versions, or change its description, tags and archival."""
    name = request.path_params["model"]
    check_name(name)
    sent = (await parse_body(request, PutContainer)).properties
    existing = azure.store.get("model-container", name)
    content = {
        "archived": sent.is_archived,
        "description": sent.description,
        "properties": sent.properties or {},
        "tags": sent.tags or {},
    }
    stored = azure.store.put("model-container", name, add_system_data(azure, existing, content))
    return put_response(request, to_container_resource(azure, name, stored), is_new=existing is None)


async def get_container(azure: Azure, request: Request) -> Answer:
    """Return one model, with its latest and its next version."""
    name = request.path_params["model"]
    return to_container_resource(azure, name, get_model(azure, name))


async def delete_container(azure: Azure, request: Request) -> Answer:
    """Delete a model and its versions."""
    name = request.path_params["model"]
    for key, _ in azure.store.list("model", f"{name}/"):
        azure.store.delete("model", key)
    return Response(status_code=200 if azure.store.delete("model-container", name) else 204)


async def list_containers(azure: Azure, request: Request) -> Answer:
    """List all models, newest first."""
    query = request.query_params
    _check_query(query.keys(), {"count", "listViewType", "$skip"})
    resources = [to_container_resource(azure, name, stored) for name, stored in reversed(azure.store.list("model-container"))]
    models = select_view(request, resources)
    return list_response(models[: _number(query.get("count"), len(models))])


def to_version_resource(azure: Azure, stored: Document) -> dict[str, Any]:
    """Return a version as Azure's resource."""
    return render_resource(
        arm_id(azure, "models", stored["name"], "versions", stored["version"]),
        "models/versions",
        stored["version"],
        stored,
        properties={
            "description": stored["description"],
            "tags": stored["tags"],
            "properties": stored["properties"],
            "isArchived": stored["archived"],
            "isAnonymous": stored["anonymous"],
            "flavors": stored["flavors"],
            "modelType": stored["model_type"],
            "modelUri": stored["uri"],
            "jobName": stored["job"],
            "stage": stored["stage"],
            "provisioningState": "Succeeded",
        },
    )


def to_container_resource(azure: Azure, name: str, stored: Document) -> dict[str, Any]:
    """Return a model as Azure's resource."""
    versions = [stored_version["version"] for _, stored_version in azure.store.list("model", f"{name}/")]
    return render_resource(
        arm_id(azure, "models", name),
        "models",
        name,
        stored,
        properties={
            "description": stored["description"],
            "tags": stored["tags"],
            "properties": stored["properties"],
            "isArchived": stored["archived"],
            "latestVersion": versions[-1] if versions else None,
            "nextVersion": next_version(azure, name),
            "provisioningState": "Succeeded",
        },
    )


def _locate_files(azure: Azure, uri: str) -> tuple[str, Path]:
    """Return a model's path in its datastore, in the long form that the SDK's download reads, and on this machine.

    Raises:
        AzureFault: it is not in a datastore, or has no files. The SDK registers outputs of failed jobs without checking.
    """
    files = uris.resolve_model(azure, uri)
    if not files.is_file() and not (files.is_dir() and any(file.is_file() for file in files.rglob("*"))):
        raise user_error(
            f"The path {uri} has no files: nothing can be registered from it.", "BadArgument", "ArgumentInvalid", "NoFilesFound"
        )
    i = azure.identity
    for store, container in containers(azure).items():
        root = blobs.path(azure, container)
        if files.is_relative_to(root):
            workspace = f"azureml://subscriptions/{i.subscription}/resourceGroups/{i.group}/workspaces/{i.workspace}"
            return f"{workspace}/datastores/{store}/paths/{files.relative_to(root).as_posix()}", files
    raise not_implemented(f"models of the workspace that are made of {uri}: name a job's output or a path in a datastore")


def _read_flavors(sent: VersionProperties, files: Path, model_type: str) -> dict[str, Any]:
    """Return the flavors of ``MLmodel`` as Azure stores them: name → ``data`` with strings."""
    if model_type != "mlflow_model":
        return sent.flavors or {}
    description = files / "MLmodel"
    if not description.is_file():
        raise user_error(f"The path {sent.model_uri} holds no MLflow model: there is no file MLmodel in it.")
    try:
        flavors = yaml.safe_load(description.read_text(encoding="utf-8"))["flavors"]
        return {name: {"data": {key: str(value) for key, value in data.items()}} for name, data in flavors.items()}
    except (ValueError, yaml.YAMLError, KeyError, TypeError, AttributeError):
        raise user_error(f"The file MLmodel in {sent.model_uri} is not valid.") from None


def _matches(stored: Document, query: Mapping[str, str]) -> bool:
    for field in ("tags", "properties"):
        for condition in filter(None, query.get(field, "").split(",")):
            key, equals, value = condition.partition("=")
            if key not in stored[field] or (equals and stored[field][key] != value):
                return False
    exact = {field: query.get(field) for field in ("stage", "version", "description")}
    return all(value is None or value == stored[field] for field, value in exact.items())


def _check_query(parameters: Iterable[str], supported: set[str]) -> None:
    unknown = set(parameters) - supported - {"api-version"}
    if unknown:
        raise not_implemented(f"listing models by {', '.join(sorted(unknown))}")


def _number(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdecimal():
        raise user_error(f"'{text}' is not a number.")
    return int(text)


_MODELS = WS + "/models"
ROUTES = [
    Route("arm", "GET", _MODELS, list_containers, VERSIONS),
    Route("arm", "GET", _MODELS + "/{model}", get_container, VERSIONS),
    Route("arm", "PUT", _MODELS + "/{model}", put_container, VERSIONS),
    Route("arm", "DELETE", _MODELS + "/{model}", delete_container, VERSIONS),
    Route("arm", "GET", _MODELS + "/{model}/versions", list_versions, VERSIONS),
    Route("arm", "GET", _MODELS + "/{model}/versions/{version}", get_version, VERSIONS),
    Route("arm", "PUT", _MODELS + "/{model}/versions/{version}", put_version, VERSIONS),
    Route("arm", "DELETE", _MODELS + "/{model}/versions/{version}", delete_version, VERSIONS),
]
