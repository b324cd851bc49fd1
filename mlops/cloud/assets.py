"""Base models and components of a registry, and the workspace's own models."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC
from functools import cached_property
from typing import Any

from mlops.cloud.entities import word
from mlops.cloud.errors import NotFound, translated
from mlops.cloud.rest import Rest
from mlops.cloud.session import Session
from mlops.core.errors import AzureError

__all__ = ["Assets", "BaseModel", "Component", "ComponentInput", "RegisteredModel"]


@dataclass(frozen=True, kw_only=True)
class BaseModel:
    """A model of a registry that can be fine-tuned."""

    id: str
    """azureml://registries/{registry}/models/{name}/versions/{version}."""
    name: str
    version: str
    tags: Mapping[str, str]
    archived: bool
    retired_on: str | None
    """Date (ISO 8601) on which fine-tuning is retired, where the registry gives one."""
    finetune_skus: tuple[str, ...] | None
    """VM sizes it may be fine-tuned on; None where the registry gives no list."""
    inference_skus: tuple[str, ...] | None
    """VM sizes it may be served on; None where the registry gives no list."""
    defaults: Mapping[str, Any]
    """``model_specific_defaults``: component inputs and others, values of any type."""


@dataclass(frozen=True, kw_only=True)
class ComponentInput:
    """One input of a component, with the rules that the SDK does not check."""

    name: str
    type: str
    optional: bool
    default: str | None = None
    enum: tuple[str, ...] = ()
    min: float | None = None
    max: float | None = None


@dataclass(frozen=True, kw_only=True)
class Component:
    """A component of a registry at one version."""

    id: str
    name: str
    version: str
    inputs: Mapping[str, ComponentInput]
    outputs: Mapping[str, str]
    """Output → type."""
    sdk: Any
    """``azure.ai.ml.entities.Component``; call it inside a pipeline function."""


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
    """When this version was created (ISO 8601, UTC), which tells it from another one that had the same name and version."""


_DISCOVERY = "https://eastus.api.azureml.ms/registrymanagement/v1.0/registries/{registry}/discovery"
_DATAPLANE = "2021-10-01-dataplanepreview"
_SUCCESSORS = 5


class Assets:
    """Models and components. Use it as ``workspace.assets``."""

    def __init__(self, session: Session) -> None:
        self._session = session

    def base_model(self, registry: str, name: str, version: str) -> BaseModel:
        """A base model; ``version`` may be ``latest``.

        Raises:
            NotFound: the registry has no such model or version.
        """
        with translated(f"reading model {name}:{version} of registry {registry}", "check [model] in pipeline.toml"):
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
        )

    def successors(self, registry: str, name: str) -> list[str]:
        """Ids of models that may be taken instead of an archived one, at most five: same family, made for fine-tuning, not archived."""
        models = self._session.registry(registry).models
        family = _family(name)
        with translated(f"listing the models of registry {registry}"):
            names = sorted({str(model.name) for model in models.list(list_view_type="ActiveOnly") if _family(str(model.name)) == family})
        found: list[str] = []
        for candidate in names:
            try:
                model = self.base_model(registry, candidate, "latest")
            except AzureError:
                continue
            # Only models that can be fine-tuned carry defaults for it.
            if model.defaults and not model.archived:
                found.append(model.id)
            if len(found) == _SUCCESSORS:
                break
        return found

    def component(self, registry: str, name: str, version: str) -> Component:
        """A component; ``version`` may be ``latest``.

        Raises:
            NotFound: the registry has no such component or version.
        """
        with translated(f"reading component {name}:{version} of registry {registry}", "check training.component in pipeline.toml"):
            components = self._session.registry(registry).components
            found = components.get(name, label="latest") if version == "latest" else components.get(name, version=version)
        return Component(
            id=f"azureml://registries/{registry}/components/{name}/versions/{found.version}",
            name=name,
            version=str(found.version),
            inputs={key: _input(key, given) for key, given in found.inputs.items()},
            outputs={key: word(given.type) for key, given in found.outputs.items()},
            sdk=found,
        )

    def register_model(self, *, name: str, version: str, path: str, description: str, tags: Mapping[str, str]) -> RegisteredModel:
        """Register an MLflow model; ``path`` is ``azureml://jobs/{job}/outputs/{output}``."""
        from azure.ai.ml.constants import AssetTypes
        from azure.ai.ml.entities import Model

        wanted = Model(
            name=name,
            version=version,
            path=path,
            type=AssetTypes.MLFLOW_MODEL,
            description=description,
            tags={**self._session.tags, **tags},
        )
        with translated(f"registering model {name}:{version}"):
            return _registered(self._session.ml.models.create_or_update(wanted))

    def find_model(self, name: str, tags: Mapping[str, str]) -> RegisteredModel | None:
        """The newest version of a model that has all of these tags, or None."""
        try:
            with translated(f"listing the versions of model {name}"):
                versions = [model for model in self._session.ml.models.list(name) if tags.items() <= (model.tags or {}).items()]
        except NotFound:
            return None
        return _registered(max(versions, key=lambda model: str(model.creation_context.created_at))) if versions else None

    def model(self, name: str, version: str) -> RegisteredModel:
        """A model version.

        Raises:
            NotFound: there is none.
        """
        with translated(f"reading model {name}:{version}"):
            return _registered(self._session.ml.models.get(name, version=version))

    def tag_model(self, name: str, version: str, tags: Mapping[str, str]) -> RegisteredModel:
        """Change some tags of a model version; the others stay.

        Raises:
            NotFound: there is none.
        """
        with translated(f"tagging model {name}:{version}"):
            model = self._session.ml.models.get(name, version=version)
            model.tags = {**(model.tags or {}), **tags}
            return _registered(self._session.ml.models.create_or_update(model))

    def _raw_model(self, registry: str, name: str, version: str) -> Mapping[str, Any]:
        """The model's ``properties`` as the service sends them: the SDK's entity drops ``isArchived`` and ``systemMetadata``."""
        where = self._discovered(registry)
        body = self._rest.get(
            f"{where['primaryRegionResourceProviderUri']}mferp/managementfrontend/subscriptions/{where['subscriptionId']}"
            f"/resourceGroups/{where['resourceGroup']}/providers/Microsoft.MachineLearningServices/registries/{registry}"
            f"/models/{name}/versions/{version}",
            **{"api-version": _DATAPLANE},
        )
        properties = body.get("properties")
        return properties if isinstance(properties, Mapping) else {}

    def _discovered(self, registry: str) -> Mapping[str, str]:
        if registry not in self._discoveries:
            self._discoveries[registry] = self._rest.get(_DISCOVERY.format(registry=registry), **{"api-version": "v1.0"})
        return self._discoveries[registry]

    @cached_property
    def _discoveries(self) -> dict[str, Mapping[str, str]]:
        return {}

    @cached_property
    def _rest(self) -> Rest:
        return Rest(self._session.credential)


def _registered(model: Any) -> RegisteredModel:
    created = model.creation_context.created_at if model.creation_context else None
    return RegisteredModel(
        id=str(model.id),
        name=str(model.name),
        version=str(model.version),
        tags=dict(model.tags or {}),
        path=word(model.path),
        identity=created.astimezone(UTC).isoformat() if created else "",
    )


def _family(name: str) -> str:
    """``Phi-3-mini-4k-instruct`` → ``phi``."""
    match = re.match(r"[a-z]+", name.lower())
    return match[0] if match else name.lower()


def _input(name: str, given: Any) -> ComponentInput:
    # A registry sends every scalar of a component's spec as text: "optional": "True", "min": "1".
    default = getattr(given, "default", None)
    return ComponentInput(
        name=name,
        type=word(given.type),
        optional=str(getattr(given, "optional", False)).lower() == "true",
        default=None if default is None else str(default),
        enum=tuple(word(value) for value in getattr(given, "enum", None) or ()),
        min=_number(getattr(given, "min", None)),
        max=_number(getattr(given, "max", None)),
    )


def _number(value: Any) -> float | None:
    return None if value in (None, "") else float(value)


def _names(tag: str | None, listed: Any) -> tuple[str, ...] | None:
    """An allow-list: a tag (a Python or JSON list as text) or, since June 2026, a list in the system metadata. None: no list."""
    if listed:
        return tuple(str(name) for name in listed)
    parsed = _parsed(tag)
    return tuple(str(name) for name in parsed) if isinstance(parsed, list | tuple) and parsed else None


def _mapping(tag: str | None) -> dict[str, Any]:
    parsed = _parsed(tag)
    return {str(key): value for key, value in parsed.items()} if isinstance(parsed, Mapping) else {}


def _parsed(tag: str | None) -> Any:
    """A tag's value: registries write mappings as JSON and lists as Python does."""
    if not tag:
        return None
    try:
        return json.loads(tag)
    except ValueError:
        try:
            return ast.literal_eval(tag)
        except (ValueError, SyntaxError):
            raise AzureError(
                f"A tag of the base model is neither JSON nor a Python literal: {tag[:80]!r}", "choose another base model"
            ) from None
