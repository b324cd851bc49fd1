"""Base models and components of a registry, and the models registered in the workspace."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from typing import Any

from mlops.cloud.creators import creator_of
from mlops.cloud.entities import as_text
from mlops.cloud.errors import NotFound, translate_errors
from mlops.cloud.session import Session
from mlops.core.errors import AzureError

__all__ = ["Assets", "BaseModel", "Component", "ComponentInput", "RegisteredModel"]


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A registry model that can be fine-tuned."""

    id: str
    """azureml://registries/{registry}/models/{name}/versions/{version}."""
    name: str
    version: str
    tags: Mapping[str, str]
    archived: bool
    retired_on: str | None
    """Date (ISO 8601) on which fine-tuning ends, if the registry gives one."""
    finetune_skus: tuple[str, ...] | None
    """VM sizes it may be fine-tuned on; None if the registry gives no list."""
    inference_skus: tuple[str, ...] | None
    """VM sizes it may be served on; None if the registry gives no list."""
    defaults: Mapping[str, Any]
    """``model_specific_defaults``: component inputs and others, values of any type."""
    context: int | None = None
    """The longest input in tokens, from the registry's metadata or else the model's name (``-4k-``); None if neither says."""


@dataclass(frozen=True, kw_only=True)
class ComponentInput:
    """An input of a component, with the rules that the SDK does not check."""

    name: str
    type: str
    optional: bool
    default: str | None = None
    enum: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, kw_only=True)
class Component:
    """A version of a registry component."""

    id: str
    name: str
    version: str
    inputs: Mapping[str, ComponentInput]
    outputs: Mapping[str, str]
    """Output → type."""
    sdk: Any
    """An ``azure.ai.ml.entities.Component``, to be called inside a pipeline function."""


@dataclass(frozen=True, kw_only=True)
class RegisteredModel:
    """A model version in the workspace."""

    id: str
    """Full ARM id."""
    name: str
    version: str
    tags: Mapping[str, str]
    path: str
    identity: str
    """When this version was created (ISO 8601, UTC), which distinguishes it from others of the same name and version."""
    creator: str = ""
    """Who created it according to Azure (see :mod:`mlops.cloud.creators`)."""


_DISCOVERY = "https://eastus.api.azureml.ms/registrymanagement/v1.0/registries/{registry}/discovery"
_DATAPLANE = "2021-10-01-dataplanepreview"
_MAX_SUCCESSORS = 5


class Assets:
    """Models and components. Use it as ``workspace.assets``."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._discoveries: dict[str, Mapping[str, str]] = {}

    def get_base_model(self, registry: str, name: str, version: str) -> BaseModel:
        """Read a base model; ``version`` may be ``latest``.

        Raises:
            NotFound: the registry has no such model or version.
        """
        with translate_errors(f"reading model {name}:{version} of registry {registry}", "check [model] in pipeline.toml"):
            models = self._session.registry(registry).models
            model = models.get(name, label="latest") if version == "latest" else models.get(name, version=version)
            raw = self._raw_model(registry, name, str(model.version))
        metadata = raw.get("systemMetadata") or raw.get("system_metadata") or {}
        computes = metadata.get("supportedComputes") or {}
        tags = {key: str(value) for key, value in (model.tags or {}).items()}
        return BaseModel(
            id=f"azureml://registries/{registry}/models/{name}/versions/{model.version}",
            name=name,
            version=str(model.version),
            tags=tags,
            archived=bool(raw.get("isArchived")),
            retired_on=(metadata.get("deprecation") or {}).get("finetuneRetirementDate"),
            finetune_skus=_names(tags.get("finetune_compute_allow_list"), computes.get("finetuneComputes")),
            inference_skus=_names(tags.get("inference_compute_allow_list"), computes.get("inferenceComputes")),
            defaults=_mapping(tags.get("model_specific_defaults")),
            context=_context(metadata.get("textContextWindow"), name),
        )

    def find_successors(self, registry: str, name: str) -> list[str]:
        """Return the ids of at most five models that can replace an archived one: same family, can be fine-tuned, not archived."""
        models = self._session.registry(registry).models
        family = _family(name)
        with translate_errors(f"listing the models of registry {registry}"):
            names = sorted({str(model.name) for model in models.list(list_view_type="ActiveOnly") if _family(str(model.name)) == family})
        successors: list[str] = []
        for candidate in names:
            try:
                model = self.get_base_model(registry, candidate, "latest")
            except AzureError:
                continue
            # Only models that can be fine-tuned have defaults for it.
            if model.defaults and not model.archived:
                successors.append(model.id)
            if len(successors) == _MAX_SUCCESSORS:
                break
        return successors

    def get_component(self, registry: str, name: str, version: str) -> Component:
        """Read a component; ``version`` may be ``latest``.

        Raises:
            NotFound: the registry has no such component or version.
        """
        with translate_errors(f"reading component {name}:{version} of registry {registry}", "check training.component in pipeline.toml"):
            components = self._session.registry(registry).components
            component = components.get(name, label="latest") if version == "latest" else components.get(name, version=version)
        return Component(
            id=f"azureml://registries/{registry}/components/{name}/versions/{component.version}",
            name=name,
            version=str(component.version),
            inputs={key: _input(key, entity) for key, entity in component.inputs.items()},
            outputs={key: as_text(entity.type) for key, entity in component.outputs.items()},
            sdk=component,
        )

    def register_model(self, *, name: str, version: str, path: str, description: str, tags: Mapping[str, str]) -> RegisteredModel:
        """Register an MLflow model; ``path`` is ``azureml://jobs/{job}/outputs/{output}``."""
        from azure.ai.ml.constants import AssetTypes
        from azure.ai.ml.entities import Model

        model = Model(
            name=name,
            version=version,
            path=path,
            type=AssetTypes.MLFLOW_MODEL,
            description=description,
            tags={**self._session.tags, **tags},
        )
        with translate_errors(f"registering model {name}:{version}"):
            return _view(self._session.ml.models.create_or_update(model))

    def find_model(self, name: str, tags: Mapping[str, str]) -> RegisteredModel | None:
        """Return the newest version of a model with all of these tags that was created by an identity that we trust, or None."""
        try:
            with translate_errors(f"listing the versions of model {name}"):
                versions = [
                    model
                    for model in self._session.ml.models.list(name)
                    if tags.items() <= (model.tags or {}).items() and self._session.trusts(creator_of(model.creation_context))
                ]
        except NotFound:
            return None
        return _view(max(versions, key=lambda model: str(model.creation_context.created_at))) if versions else None

    def get_model(self, name: str, version: str) -> RegisteredModel:
        """Read a model version.

        Raises:
            NotFound: there is no such version.
        """
        with translate_errors(f"reading model {name}:{version}"):
            return _view(self._session.ml.models.get(name, version=version))

    def tag_model(self, name: str, version: str, tags: Mapping[str, str]) -> RegisteredModel:
        """Set some tags of a model version and keep its other tags.

        Raises:
            NotFound: there is no such version.
        """
        with translate_errors(f"tagging model {name}:{version}"):
            model = self._session.ml.models.get(name, version=version)
            model.tags = {**(model.tags or {}), **tags}
            return _view(self._session.ml.models.create_or_update(model))

    def _raw_model(self, registry: str, name: str, version: str) -> Mapping[str, Any]:
        """Return the model's ``properties`` as the service sends them: the SDK's entity drops ``isArchived`` and ``systemMetadata``."""
        home = self._discover(registry)
        body = self._session.rest.get(
            f"{home['primaryRegionResourceProviderUri']}mferp/managementfrontend/subscriptions/{home['subscriptionId']}"
            f"/resourceGroups/{home['resourceGroup']}/providers/Microsoft.MachineLearningServices/registries/{registry}"
            f"/models/{name}/versions/{version}",
            **{"api-version": _DATAPLANE},
        )
        properties = body.get("properties")
        return properties if isinstance(properties, Mapping) else {}

    def _discover(self, registry: str) -> Mapping[str, str]:
        if registry not in self._discoveries:
            self._discoveries[registry] = self._session.rest.get(_DISCOVERY.format(registry=registry), **{"api-version": "v1.0"})
        return self._discoveries[registry]


def _view(model: Any) -> RegisteredModel:
    created = model.creation_context.created_at if model.creation_context else None
    return RegisteredModel(
        id=str(model.id),
        name=str(model.name),
        version=str(model.version),
        tags=dict(model.tags or {}),
        path=as_text(model.path),
        identity=created.astimezone(UTC).isoformat() if created else "",
        creator=creator_of(model.creation_context),
    )


def _family(name: str) -> str:
    """Return a model's family: ``Phi-3-mini-4k-instruct`` → ``phi``."""
    match = re.match(r"[a-z]+", name.lower())
    return match[0] if match else name.lower()


def _input(name: str, entity: Any) -> ComponentInput:
    # A registry sends every scalar of a component's specification as text: "optional": "True", "min": "1".
    default = getattr(entity, "default", None)
    return ComponentInput(
        name=name,
        type=as_text(entity.type),
        optional=str(getattr(entity, "optional", False)).lower() == "true",
        default=None if default is None else str(default),
        enum=tuple(as_text(value) for value in getattr(entity, "enum", None) or ()),
        min=_number(getattr(entity, "min", None)),
        max=_number(getattr(entity, "max", None)),
    )


def _number(value: Any) -> float | None:
    return None if value in (None, "") else float(value)


def _context(declared: object, name: str) -> int | None:
    if str(declared).isdecimal():
        return int(str(declared))
    match = re.search(r"(?:^|-)(\d+)k(?:-|$)", name.lower())
    return int(match[1]) * 1024 if match else None


def _names(tag: str | None, metadata: Any) -> tuple[str, ...] | None:
    """Read an allow-list from a tag (a Python or JSON list as text) or, since June 2026, the system metadata. None: there is no list."""
    if metadata:
        return tuple(str(name) for name in metadata)
    parsed = _parse(tag)
    return tuple(str(name) for name in parsed) if isinstance(parsed, list | tuple) and parsed else None


def _mapping(tag: str | None) -> dict[str, Any]:
    parsed = _parse(tag)
    return {str(key): value for key, value in parsed.items()} if isinstance(parsed, Mapping) else {}


def _parse(tag: str | None) -> Any:
    """Parse a tag's value. Registries write mappings as JSON and lists as Python literals."""
    if not tag:
        return None
    try:
        return json.loads(tag)
    except ValueError:
        try:
            return ast.literal_eval(tag)
        except (ValueError, SyntaxError):
            raise AzureError(
                f"A tag of the base model is neither JSON nor a Python literal: {tag[:80]!r}",
                "set model.name in pipeline.toml to another base model",
            ) from None
