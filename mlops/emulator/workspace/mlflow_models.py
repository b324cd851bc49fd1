"""MLflow's model registry, as the workspace serves it under its tracking URI: its registered models are the models of the workspace.

Source: "Manage models registry in Azure Machine Learning with MLflow" on learn.microsoft.com, with its table of what is supported, and
azureml-mlflow 1.62. What a client registers is a model of type ``mlflow_model``. A search finds all models that are not archived, by name
only, so the one that MLflow 3 sends, which excludes prompts by a tag, is refused. Stages belong to MLflow: Azure Resource Manager doesn't
show them, and its own ``stage`` is another field. Models can't be renamed or deleted as a whole, and aliases are not documented: 501.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault, not_implemented, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.history import artifacts, runstore
from mlops.emulator.history.mlflow_search import page
from mlops.emulator.wire import limits
from mlops.emulator.wire.app import WS, Answer, Handler, Route, read_json
from mlops.emulator.wire.resources import add_system_data, validate_body
from mlops.emulator.workspace import models, uris
from mlops.emulator.workspace.datastores import ARTIFACT_STORE

__all__ = ["ROUTES"]

STAGES = ("None", "Staging", "Production", "Archived")
"""Stages of a version. Their names are case-sensitive here."""
ORDERS: dict[str, Callable[[Mapping[str, Any]], Any]] = {
    "name": lambda item: item["name"],
    "version": lambda item: int(item.get("version", 0)),
    "creation_timestamp": lambda item: item["creation_timestamp"],
    "last_updated_timestamp": lambda item: item["last_updated_timestamp"],
}
"""Key of ``order_by`` → what a registered model or a version is sorted by."""
ORDER = re.compile(r"\s*(\w+)(?:\s+(asc|desc))?\s*", re.IGNORECASE)
NAME_FILTER = re.compile(r"\s*name\s*=\s*(['\"])(?P<name>[^'\"]*)\1\s*", re.IGNORECASE)
ARTIFACT = re.compile(rf"azureml://artifacts/(?P<path>(?:{artifacts.RUNS}|{artifacts.UPLOADS})/[^/]+/.+)")
RUN_ARTIFACT = re.compile(r"azureml://[^/]+/mlflow/v[0-9.]+(?P<workspace>/.+)/experiments/[^/]+/runs/(?P<run>[^/]+)/artifacts/(?P<path>.+)")
STORED = re.compile(rf"azureml://.+/datastores/{ARTIFACT_STORE}/paths/(?P<path>.+)")
CODES = {400: "INVALID_PARAMETER_VALUE", 404: "RESOURCE_DOES_NOT_EXIST"}


class Sent(BaseModel):
    """The query or the body of a request: what identifies a registered model, and no unknown fields."""

    model_config = ConfigDict(extra="forbid", protected_namespaces=())

    name: str


class Tag(BaseModel):
    """``RegisteredModelTag`` and ``ModelVersionTag``."""

    key: str
    value: str = ""


class SentModel(Sent):
    """``CreateRegisteredModel`` and ``UpdateRegisteredModel``."""

    description: str | None = None
    tags: list[Tag] = Field(default=[])


class SentTag(Sent, Tag):
    """``SetRegisteredModelTag`` and ``DeleteRegisteredModelTag``."""


class SentVersion(Sent):
    """The fields that identify a version."""

    version: str


class SentVersionTag(SentVersion, Tag):
    """``SetModelVersionTag`` and ``DeleteModelVersionTag``."""


class NewVersion(SentModel):
    """``CreateModelVersion``."""

    source: str
    run_id: str | None = None


class NewDescription(SentVersion):
    """``UpdateModelVersion``."""

    description: str = ""


class Transition(SentVersion):
    """``TransitionModelVersionStage``."""

    stage: str
    archive_existing_versions: bool = False


S = TypeVar("S", bound=Sent)


async def create_model(azure: Azure, request: Request) -> Answer:
    """Create a registered model without versions."""
    sent = await _read(request, SentModel)
    if azure.store.get("model-container", sent.name) is not None:
        raise limits.mlflow_fault(f"A model with the name {sent.name} exists already.", "RESOURCE_ALREADY_EXISTS", code="UserError")
    models.check_name(sent.name)
    content = {"archived": False, "description": sent.description, "properties": {}, "tags": _tags(sent.tags)}
    stored = azure.store.put("model-container", sent.name, add_system_data(azure, None, content))
    return {"registered_model": _render_model(azure, sent.name, stored)}


async def get_model(azure: Azure, request: Request) -> Answer:
    """Return a registered model."""
    name = (await _read(request, Sent)).name
    return {"registered_model": _render_model(azure, name, uris.get_model(azure, name))}


async def search_models(azure: Azure, request: Request) -> Answer:
    """Return a page of all registered models, or the one of a name."""
    name = _read_filter(request)
    models = [
        _render_model(azure, key, stored)
        for key, stored in azure.store.list("model-container")
        if not stored["archived"] and name in (None, key)
    ]
    return page("registered_models", _sort(models, request.query_params.getlist("order_by") or ["name"]), request.query_params)


async def update_model(azure: Azure, request: Request) -> Answer:
    """Change the description of a registered model."""
    sent = await _read(request, SentModel)
    return {"registered_model": _render_model(azure, sent.name, _change_model(azure, sent.name, description=sent.description))}


async def set_model_tag(azure: Azure, request: Request) -> Answer:
    """Set a tag of a registered model."""
    sent = await _read(request, SentTag)
    _change_model(azure, sent.name, tags=_tags([sent], uris.get_model(azure, sent.name)["tags"]))
    return {}


async def delete_model_tag(azure: Azure, request: Request) -> Answer:
    """Delete a tag of a registered model."""
    sent = await _read(request, SentTag)
    _change_model(azure, sent.name, tags=_without(uris.get_model(azure, sent.name)["tags"], sent.key))
    return {}


async def get_latest_versions(azure: Azure, request: Request) -> Answer:
    """Return the newest version in each of the stages."""
    content = request.query_params if request.method == "GET" else await read_json(request)
    name = str(content.get("name", ""))
    stages = request.query_params.getlist("stages") if request.method == "GET" else content.get("stages") or []
    for stage in stages:
        _check_stage(stage)
    uris.get_model(azure, name)
    return {"model_versions": _latest_versions(azure, name, stages or STAGES)}


async def create_version(azure: Azure, request: Request) -> Answer:
    """Register what a run or a client has stored as an artifact."""
    sent = await _read(request, NewVersion)
    uris.get_model(azure, sent.name)
    if sent.run_id and runstore.get(azure, sent.run_id) is None:
        raise AzureFault(404, "UserError", f"Run {sent.run_id} not found.")
    resource = {
        "description": sent.description,
        "jobName": sent.run_id or None,
        "modelType": "mlflow_model",
        "modelUri": f"azureml://datastores/{ARTIFACT_STORE}/paths/{_locate(azure, sent.source)}",
        "tags": _tags(sent.tags),
    }
    properties = validate_body(resource, models.VersionProperties)
    stored = models.register(azure, sent.name, models.next_version(azure, sent.name), properties)
    return {"model_version": _render_version(stored)}


async def get_version(azure: Azure, request: Request) -> Answer:
    """Return a version."""
    return {"model_version": _render_version(_get_version(azure, await _read(request, SentVersion)))}


async def get_download_uri(azure: Azure, request: Request) -> Answer:
    """Return where azureml-mlflow finds the files of a version.

    Raises:
        AzureFault: 501, they are no artifacts: azureml-mlflow reads nothing else, and what the service answers then is not documented.
    """
    stored = _get_version(azure, await _read(request, SentVersion))
    source = _source(stored)
    if not ARTIFACT.fullmatch(source):
        raise not_implemented(f"the download by MLflow of a model at {source}: download it with azure-ai-ml, or register a run's artifact")
    return {"artifact_uri": source}


async def search_versions(azure: Azure, request: Request) -> Answer:
    """Return a page of the versions of one registered model, newest first."""
    name = _read_filter(request)
    if name is None:
        raise not_implemented("a search for model versions without the name of their model")
    versions = [_render_version(stored) for _, stored in reversed(azure.store.list("model", f"{name}/")) if not stored["archived"]]
    return page("model_versions", _sort(versions, request.query_params.getlist("order_by")), request.query_params)


async def update_version(azure: Azure, request: Request) -> Answer:
    """Change the description of a version."""
    sent = await _read(request, NewDescription)
    return {"model_version": _render_version(_change_version(azure, sent, description=sent.description))}


async def delete_version(azure: Azure, request: Request) -> Answer:
    """Delete a version; its files stay."""
    stored = _get_version(azure, await _read(request, SentVersion))
    azure.store.delete("model", f"{stored['name']}/{stored['version']}")
    return {}


async def set_version_tag(azure: Azure, request: Request) -> Answer:
    """Set a tag of a version."""
    sent = await _read(request, SentVersionTag)
    _change_version(azure, sent, tags=_tags([sent], _get_version(azure, sent)["tags"]))
    return {}


async def delete_version_tag(azure: Azure, request: Request) -> Answer:
    """Delete a tag of a version."""
    sent = await _read(request, SentVersionTag)
    _change_version(azure, sent, tags=_without(_get_version(azure, sent)["tags"], sent.key))
    return {}


async def transition_stage(azure: Azure, request: Request) -> Answer:
    """Move a version to a stage, and those that are in it to ``Archived`` if the client says so."""
    sent = await _read(request, Transition)
    _check_stage(sent.stage)
    chosen = _get_version(azure, sent)
    if sent.archive_existing_versions:
        for key, other in azure.store.list("model", f"{sent.name}/"):
            if other.get("mlflow_stage") == sent.stage and other["version"] != chosen["version"]:
                _change(azure, "model", key, other | {"mlflow_stage": "Archived"})
    return {"model_version": _render_version(_change_version(azure, sent, mlflow_stage=sent.stage))}


def _serve(handler: Handler) -> Handler:
    """Return a handler whose errors have the envelope of the workspace's MLflow service; the emulator's own 501 keeps its own."""

    async def handle(azure: Azure, request: Request) -> Answer:
        try:
            return await handler(azure, request)
        except AzureFault as fault:
            if fault.body is not None or fault.status not in CODES:
                raise
            text = "; ".join(message for _, message in fault.details) or fault.message
            raise limits.mlflow_fault(
                text, CODES[fault.status], fault.status, "ValidationError" if fault.status == 400 else "UserError"
            ) from None

    return handle


async def _read(request: Request, kind: type[S]) -> S:
    """Return the validated query or body of a request."""
    return validate_body(dict(request.query_params) if request.method == "GET" else await read_json(request), kind)


def _read_filter(request: Request) -> str | None:
    """Return the name that a search is limited to, if any.

    Raises:
        AzureFault: 400, it filters by something else. Tags, ``LIKE`` and ``ILIKE`` are documented as not supported; the text is that of
            Azure/azure-sdk-for-python#42155.
    """
    text = request.query_params.get("filter", "")
    if not text:
        return None
    if (match := NAME_FILTER.fullmatch(text)) is None:
        unsupported = f"Currently unsupported filter string format (we currently do not support OR). Provided filter string: {text}"
        raise limits.mlflow_fault(unsupported, code="UserError")
    return match["name"]


def _sort(items: list[dict[str, Any]], order_by: Sequence[str]) -> list[dict[str, Any]]:
    for text in reversed(order_by):
        match = ORDER.fullmatch(text)
        if match is None or match[1].lower() not in ORDERS:
            raise user_error(f"Invalid order_by '{text}': supported are {', '.join(ORDERS)}, with ASC or DESC.")
        items = sorted(items, key=ORDERS[match[1].lower()], reverse=(match[2] or "").lower() == "desc")
    return items


def _locate(azure: Azure, source: str) -> str:
    """Return the path in the artifact store of what a version is made of.

    Raises:
        AzureFault: 400, it is not an artifact, in the service's words (mlflow/mlflow#15329); 501, it is one of another workspace.
    """
    if match := ARTIFACT.fullmatch(source):
        return match["path"]
    if (match := RUN_ARTIFACT.fullmatch(source)) is None:
        raise user_error(
            "Model source from file must be in the following format: azureml://artifacts/<origin>/<container>/<artifact_prefix>."
            f" Provided model source: {source}"
        )
    if match["workspace"].lower() != azure.workspace_id.lower():
        raise not_implemented(f"registering a model with MLflow from another workspace, as from {source}")
    return artifacts.Container(artifacts.RUNS, artifacts.container_name(match["run"])).blob(match["path"])


def _source(stored: Document) -> str:
    match = STORED.fullmatch(stored["uri"])
    return f"azureml://artifacts/{match['path']}" if match else stored["uri"]


def _check_stage(stage: str) -> None:
    if stage not in STAGES:
        raise user_error(f"Invalid Model Version stage: {stage}. Value must be one of {', '.join(STAGES)}.")


def _tags(sent: Sequence[Tag], previous: Mapping[str, Any] | None = None) -> dict[str, Any]:
    tags = dict(previous or {}) | {tag.key: tag.value for tag in sent}
    limits.check_asset_tags(tags)
    return tags


def _without(tags: Mapping[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in tags.items() if name != key}


def _get_version(azure: Azure, sent: SentVersion) -> Document:
    return uris.get_model_version(azure, sent.name, sent.version)


def _change_model(azure: Azure, name: str, **changes: Any) -> Document:
    return _change(azure, "model-container", name, uris.get_model(azure, name) | changes)


def _change_version(azure: Azure, sent: SentVersion, **changes: Any) -> Document:
    return _change(azure, "model", f"{sent.name}/{sent.version}", _get_version(azure, sent) | changes)


def _change(azure: Azure, kind: str, key: str, changed: Document) -> Document:
    return azure.store.put(kind, key, add_system_data(azure, changed, changed))


def _latest_versions(azure: Azure, name: str, stages: Sequence[str] = STAGES) -> list[dict[str, Any]]:
    # Later ones replace earlier ones.
    newest = {stored.get("mlflow_stage", "None"): stored for _, stored in azure.store.list("model", f"{name}/")}
    return [_render_version(newest[stage]) for stage in stages if stage in newest]


def _render_model(azure: Azure, name: str, stored: Document) -> dict[str, Any]:
    return {"name": name, "latest_versions": _latest_versions(azure, name), **_common(stored)}


def _render_version(stored: Document) -> dict[str, Any]:
    return {
        "name": stored["name"],
        "version": stored["version"],
        "current_stage": stored.get("mlflow_stage", "None"),
        "source": _source(stored),
        "run_id": stored["job"] or "",
        "status": "READY",
        **_common(stored),
    }


def _common(stored: Document) -> dict[str, Any]:
    return {
        "creation_timestamp": _milliseconds(stored["created"]["at"]),
        "last_updated_timestamp": _milliseconds(stored["modified"]["at"]),
        "user_id": stored["created"]["by"],
        "description": stored["description"] or "",
        "tags": [{"key": key, "value": value or ""} for key, value in stored["tags"].items()],
    }


def _milliseconds(time: str) -> int:
    return int(datetime.fromisoformat(time).timestamp() * 1000)


_HANDLERS: dict[tuple[str, str], Callable[[Azure, Request], Awaitable[Answer]]] = {
    ("POST", "registered-models/create"): create_model,
    ("GET", "registered-models/get"): get_model,
    ("GET", "registered-models/search"): search_models,
    ("PATCH", "registered-models/update"): update_model,
    ("POST", "registered-models/set-tag"): set_model_tag,
    ("DELETE", "registered-models/delete-tag"): delete_model_tag,
    ("GET", "registered-models/get-latest-versions"): get_latest_versions,
    ("POST", "registered-models/get-latest-versions"): get_latest_versions,
    ("POST", "model-versions/create"): create_version,
    ("GET", "model-versions/get"): get_version,
    ("GET", "model-versions/get-download-uri"): get_download_uri,
    ("GET", "model-versions/search"): search_versions,
    ("PATCH", "model-versions/update"): update_version,
    ("DELETE", "model-versions/delete"): delete_version,
    ("POST", "model-versions/set-tag"): set_version_tag,
    ("DELETE", "model-versions/delete-tag"): delete_version_tag,
    ("POST", "model-versions/transition-stage"): transition_stage,
}
ROUTES = [
    Route("api", method, "/mlflow/{version}" + WS + f"/api/2.0/mlflow/{path}", _serve(handler))
    for (method, path), handler in _HANDLERS.items()
]
