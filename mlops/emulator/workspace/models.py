"""Models of the workspace: names with versions, each pointing at files that are there when it is registered.

Azure Machine Learning REST, ``models`` and ``models/versions`` of 2023-08-01-preview. A job's output is a path in the datastore from the
moment the model is registered; what a model's path is can't be changed afterwards, only its tags, description, stage and archival.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import yaml
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlops.emulator.base.azure import Azure, arm_id
from mlops.emulator.base.errors import AzureFault, not_found, not_implemented, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.storage import blobs
from mlops.emulator.wire.app import WS, Answer, Route
from mlops.emulator.wire.resources import Body, document, page, read, resource
from mlops.emulator.workspace import uris
from mlops.emulator.workspace.workspace import datastores

__all__ = ["ROUTES", "model_path"]

VERSIONS = {"2023-08-01-preview"}
NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9\-._]{0,254}")
ORDERS = {"createdtime desc": True, "createdtime asc": False}
"""``$orderBy`` → newest first."""

_OUTPUT = re.compile(r"azureml://jobs/(?P<job>[^/]+)/outputs/.+", re.IGNORECASE)


class VersionProperties(Body):
    """``ModelVersion``. Read-only fields are accepted, as they are in what a client has read, and left alone."""

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
    tags: dict[str, str | None] | None = None


class ContainerProperties(Body):
    """``ModelContainer``."""

    description: str | None = None
    is_archived: bool = False
    latest_version: str | None = None
    next_version: str | None = None
    properties: dict[str, str | None] | None = None
    provisioning_state: str | None = None
    tags: dict[str, str | None] | None = None


class Proxy(Body):
    """``ProxyResource``: read-only fields that a client sends back."""

    id: str | None = None
    name: str | None = None
    type: str | None = None
    system_data: dict[str, Any] | None = None


class PutVersion(Proxy):
    """``ModelVersionResource``."""

    properties: VersionProperties


class PutContainer(Proxy):
    """``ModelContainerResource``."""

    properties: ContainerProperties


def model_path(azure: Azure, name: str, number: str) -> Path:
    """Where the files of a version are on this machine.

    Raises:
        AzureFault: 404.
    """
    return uris.resolve(azure, version(azure, name, number)["uri"])


def version(azure: Azure, name: str, number: str) -> Document:
    """What is stored of a version.

    Raises:
        AzureFault: 404.
    """
    if azure.store.get("model-container", name) is None:
        raise _absent(f"Model container with name: {name} not found.")
    stored = azure.store.get("model", f"{name}/{number}")
    if stored is None:
        raise _absent(f"Model version {number} of model {name} not found.")
    return stored


async def put_version(azure: Azure, request: Request) -> Answer:
    """Register a version, or change what may be changed of one."""
    name, number = request.path_params["model"], request.path_params["version"]
    if not NAME.fullmatch(name) or not NAME.fullmatch(number):
        raise user_error(f"The model name {name} or its version {number} has other characters than letters, digits, '-', '_' and '.'.")
    given = (await read(request, PutVersion)).properties
    known = azure.store.get("model", f"{name}/{number}")
    if not given.model_uri:
        raise user_error("The field modelUri is required.")
    uri, files = _located(azure, given.model_uri)
    made_by = _OUTPUT.fullmatch(given.model_uri)
    if known is not None and known["uri"] != uri:
        raise user_error("Asset paths cannot be updated.")
    kind = given.model_type or (known["model_type"] if known else "custom_model")
    if known is not None and known["model_type"] != kind:
        raise user_error(f"The model type can't be changed from {known['model_type']} to {kind}.")
    stored = document(
        azure,
        known,
        {
            "name": name,
            "version": number,
            "uri": uri,
            "job": known["job"] if known else given.job_name or (made_by and made_by["job"]),
            "model_type": kind,
            "flavors": known["flavors"] if known else _flavours(given, files, kind),
            "anonymous": given.is_anonymous,
            "archived": given.is_archived,
            "description": given.description,
            "properties": given.properties or {},
            "stage": given.stage,
            "tags": given.tags or {},
        },
    )
    azure.store.put("model", f"{name}/{number}", stored)
    if azure.store.get("model-container", name) is None:
        blank: Document = {"archived": False, "description": None, "properties": {}, "tags": {}}
        azure.store.put("model-container", name, document(azure, None, blank))
    return JSONResponse(shown(azure, stored), status_code=200 if known else 201)


async def get_version(azure: Azure, request: Request) -> Answer:
    """One version."""
    return shown(azure, version(azure, request.path_params["model"], request.path_params["version"]))


async def delete_version(azure: Azure, request: Request) -> Answer:
    """Forget a version; its files stay. Azure answers the same whether it was there."""
    name = request.path_params["model"]
    gone = azure.store.delete("model", f"{name}/{request.path_params['version']}")
    return Response(status_code=200 if gone else 204)


async def list_versions(azure: Azure, request: Request) -> Answer:
    """Versions of a model."""
    name, query = request.path_params["model"], request.query_params
    _known_query(
        query.keys(), {"$orderBy", "$top", "$skip", "offset", "listViewType", "tags", "properties", "stage", "version", "description"}
    )
    order = query.get("$orderBy", "createdtime desc")
    if order.lower() not in ORDERS:
        raise user_error(f"$orderBy '{order}' is not supported: write one of {', '.join(ORDERS)}.")
    if azure.store.get("model-container", name) is None:
        raise _absent(f"Model container with name: {name} not found.")
    found = [stored for _, stored in azure.store.list("model", f"{name}/") if _wanted(stored, query)]
    if ORDERS[order.lower()]:
        found.reverse()
    begin = _number(query.get("offset") or query.get("$skip"), 0)
    return page([shown(azure, stored) for stored in found[begin : begin + _number(query.get("$top"), len(found))]])


async def put_container(azure: Azure, request: Request) -> Answer:
    """Make a model without versions, or change its description, tags and archival."""
    name = request.path_params["model"]
    if not NAME.fullmatch(name):
        raise user_error(f"The model name {name} has other characters than letters, digits, '-', '_' and '.'.")
    given = (await read(request, PutContainer)).properties
    known = azure.store.get("model-container", name)
    content = {
        "archived": given.is_archived,
        "description": given.description,
        "properties": given.properties or {},
        "tags": given.tags or {},
    }
    stored = azure.store.put("model-container", name, document(azure, known, content))
    return JSONResponse(shown_container(azure, name, stored), status_code=200 if known else 201)


async def get_container(azure: Azure, request: Request) -> Answer:
    """One model, with its latest and its next version."""
    name = request.path_params["model"]
    stored = azure.store.get("model-container", name)
    if stored is None:
        raise _absent(f"Model container with name: {name} not found.")
    return shown_container(azure, name, stored)


async def delete_container(azure: Azure, request: Request) -> Answer:
    """Forget a model and its versions."""
    name = request.path_params["model"]
    for key, _ in azure.store.list("model", f"{name}/"):
        azure.store.delete("model", key)
    return Response(status_code=200 if azure.store.delete("model-container", name) else 204)


async def list_containers(azure: Azure, request: Request) -> Answer:
    """All models, newest first."""
    query = request.query_params
    _known_query(query.keys(), {"count", "listViewType", "$skip"})
    found = [(name, stored) for name, stored in reversed(azure.store.list("model-container")) if _visible(stored, query)]
    return page([shown_container(azure, name, stored) for name, stored in found[: _number(query.get("count"), len(found))]])


def shown(azure: Azure, stored: Document) -> dict[str, Any]:
    """A version as Azure answers it."""
    return resource(
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


def shown_container(azure: Azure, name: str, stored: Document) -> dict[str, Any]:
    """A model as Azure answers it."""
    versions = [found["version"] for _, found in azure.store.list("model", f"{name}/")]
    return resource(
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
            "nextVersion": str(max((int(number) for number in versions if number.isdecimal()), default=0) + 1),
            "provisioningState": "Succeeded",
        },
    )


def _located(azure: Azure, uri: str) -> tuple[str, Path]:
    """A model's path in its datastore, in the long form that the SDK's download reads, and on this machine.

    Raises:
        AzureFault: it lies nowhere in a datastore, or there is no file. The SDK registers outputs of failed jobs without a look.
    """
    files = uris.resolve(azure, uri)
    if not files.is_file() and not (files.is_dir() and any(file.is_file() for file in files.rglob("*"))):
        raise user_error(
            f"The path {uri} has no files: nothing can be registered from it.", "BadArgument", "ArgumentInvalid", "NoFilesFound"
        )
    i = azure.identity
    for store, container in datastores(azure).items():
        root = blobs.path(azure, container)
        if files.is_relative_to(root):
            workspace = f"azureml://subscriptions/{i.subscription}/resourceGroups/{i.group}/workspaces/{i.workspace}"
            return f"{workspace}/datastores/{store}/paths/{files.relative_to(root).as_posix()}", files
    raise not_implemented(f"models of the workspace that are made of {uri}: name a job's output or a path in a datastore")


def _flavours(given: VersionProperties, files: Path, kind: str) -> dict[str, Any]:
    """What ``MLmodel`` says, as Azure keeps it: flavour → ``data`` with texts."""
    if kind != "mlflow_model":
        return given.flavors or {}
    description = files / "MLmodel"
    if not description.is_file():
        raise user_error(f"The path {given.model_uri} holds no MLflow model: there is no file MLmodel in it.")
    content = yaml.safe_load(description.read_text(encoding="utf-8"))
    return {name: {"data": {key: str(value) for key, value in data.items()}} for name, data in content["flavors"].items()}


def _wanted(stored: Document, query: Mapping[str, str]) -> bool:
    if not _visible(stored, query):
        return False
    for field in ("tags", "properties"):
        for wish in filter(None, query.get(field, "").split(",")):
            key, equals, value = wish.partition("=")
            if key not in stored[field] or (equals and stored[field][key] != value):
                return False
    wishes = {field: query.get(field) for field in ("stage", "version", "description")}
    return all(wish is None or wish == stored[field] for field, wish in wishes.items())


def _visible(stored: Document, query: Mapping[str, str]) -> bool:
    view = query.get("listViewType", "ActiveOnly")
    if view not in ("ActiveOnly", "ArchivedOnly", "All"):
        raise user_error(f"listViewType '{view}' is none of ActiveOnly, ArchivedOnly, All.")
    return view == "All" or bool(stored["archived"]) == (view == "ArchivedOnly")


def _known_query(given: Iterable[str], known: set[str]) -> None:
    unknown = set(given) - known - {"api-version"}
    if unknown:
        raise not_implemented(f"listing models by {', '.join(sorted(unknown))}")


def _number(text: str | None, default: int) -> int:
    if text is None:
        return default
    if not text.isdecimal():
        raise user_error(f"'{text}' is not a number.")
    return int(text)


def _absent(message: str) -> AzureFault:
    return not_found("The specified resource was not found.", details=[("ModelNotFound", message)])


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
