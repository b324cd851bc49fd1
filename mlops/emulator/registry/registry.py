"""The ``azureml`` registry, read-only: where it is, and its models, components and environments.

Served as the SDK asks for it: discovery in eastus, then the management front end of the registry's region.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from mlops.emulator.base.azure import API_HOST, LOCATION, Azure
from mlops.emulator.base.errors import AzureFault, not_found, not_implemented, user_error
from mlops.emulator.registry import catalog
from mlops.emulator.wire.app import PROVIDER, Answer, Route
from mlops.emulator.wire.resources import page

__all__ = ["ROUTES", "base_model", "model_id"]

REGISTRY = "azureml"
SUBSCRIPTION = "00000000-0000-4000-8000-000000000001"
GROUP = "registry-builtin-eastus-prod"
TYPE = "Microsoft.MachineLearningServices/registries"
VERSION = "2021-10-01-dataplanepreview"
BORN = "2026-07-01T00:00:00+00:00"

Asset = TypeVar("Asset", catalog.Model, catalog.Component, catalog.Environment)


def base_model(azure: Azure, name: str, version: str) -> catalog.Model | None:
    """A model of the registry, or None; a version or nothing: ``latest`` is a label, not a version."""
    return next((model for model in catalog.models(azure.options) if (model.name, model.version) == (name, version)), None)


def model_id(model: catalog.Model) -> str:
    """``azureml://`` id."""
    return _id("models", model.name, model.version)


async def get_discovery(azure: Azure, request: Request) -> Answer:
    """Where the registry is."""
    _check_registry(request)
    return {
        "registryName": REGISTRY,
        "primaryRegion": LOCATION,
        "primaryRegionResourceProviderUri": f"https://{API_HOST}/",
        "resourceGroup": GROUP,
        "subscriptionId": SUBSCRIPTION,
        "additionalRegions": [],
    }


async def list_models(azure: Azure, request: Request) -> Answer:
    """Versions of a model."""
    found = _named(catalog.models(azure.options), request)
    if not found:
        raise _no_container("Model", request.path_params["name"])
    return _page(request, [(_model(model), model.archived) for model in found])


async def get_model(azure: Azure, request: Request) -> Answer:
    """One version of a model, archived or not."""
    return _model(_versioned(catalog.models(azure.options), request, "models"))


async def list_components(azure: Azure, request: Request) -> Answer:
    """Versions of a component."""
    found = _named(catalog.components(), request)
    if not found:
        raise _no_component(request)
    return _page(request, [(_component(component), False) for component in found])


async def get_component(azure: Azure, request: Request) -> Answer:
    """One version of a component."""
    found = [item for item in _named(catalog.components(), request) if item.version == request.path_params["version"]]
    if not found:
        raise _no_component(request)
    return _component(found[0])


async def list_environments(azure: Azure, request: Request) -> Answer:
    """Versions of an environment."""
    found = _named(catalog.environments(), request)
    if not found:
        raise _no_container("Environment", request.path_params["name"])
    return _page(request, [(_environment(environment), False) for environment in found])


async def get_environment(azure: Azure, request: Request) -> Answer:
    """One version of an environment."""
    return _environment(_versioned(catalog.environments(), request, "environments"))


async def list_model_names(azure: Azure, request: Request) -> Answer:
    """Every model."""
    return _names(request, "models", [(model.name, model.version, model.archived) for model in catalog.models(azure.options)])


async def list_component_names(azure: Azure, request: Request) -> Answer:
    """Every component."""
    return _names(request, "components", [(component.name, component.version, False) for component in catalog.components()])


async def list_environment_names(azure: Azure, request: Request) -> Answer:
    """Every environment."""
    return _names(request, "environments", [(environment.name, environment.version, False) for environment in catalog.environments()])


def _check_registry(request: Request) -> None:
    name = request.path_params["registry"]
    if name != REGISTRY:
        raise AzureFault(401, "UserError", f"User/tenant/subscription is not allowed to access registry {name}")


def _named(assets: Sequence[Asset], request: Request) -> list[Asset]:
    _check_registry(request)
    return [asset for asset in assets if asset.name == request.path_params["name"]]


def _versioned(assets: Sequence[Asset], request: Request, kind: str) -> Asset:
    name, version = request.path_params["name"], request.path_params["version"]
    for asset in _named(assets, request):
        if asset.version == version:
            return asset
    raise not_found(f"Could not find asset with ID: {_id(kind, name, version)}", "NotFound")


def _no_container(kind: str, name: str) -> AzureFault:
    return not_found(
        "The specified resource was not found.", details=[(f"{kind}NotFound", f"{kind} container with name: {name} not found.")]
    )


def _no_component(request: Request) -> AzureFault:
    return not_found(f"Not found component {request.path_params['name']}.", "NotFound", "ComponentNotFound")


def _names(request: Request, kind: str, versions: list[tuple[str, str, bool]]) -> dict[str, Any]:
    """Containers; one is archived if all its versions are."""
    _check_registry(request)
    containers = {}
    for name, version, _ in versions:
        archived = all(gone for other, _, gone in versions if other == name)
        properties: dict[str, Any] = {"description": None, "tags": {}, "properties": {}, "isArchived": archived, "latestVersion": version}
        author = {"createdAt": BORN, "createdBy": "Microsoft", "createdByType": "User", "lastModifiedAt": BORN}
        path = f"azureml://registries/{REGISTRY}/{kind}/{name}"
        container = {"id": path, "name": name, "type": f"{TYPE}/{kind}", "systemData": author, "properties": properties}
        containers[name] = (container, archived)
    return _page(request, list(containers.values()))


def _page(request: Request, items: list[tuple[dict[str, Any], bool]]) -> dict[str, Any]:
    """One page of (item, whether it is archived): newest first if asked for, and no more than asked for.

    An archived version is left out unless ``listViewType`` asks for it, and yet is found by number. So ``label=latest``, for which the
    SDK takes the first of this list, does not find a model that is archived altogether.
    """
    query = request.query_params
    order, top, view = query.get("$orderBy"), query.get("$top"), query.get("listViewType", "ActiveOnly")
    if unknown := set(query) - {"api-version", "$orderBy", "$top", "listViewType"}:
        raise not_implemented(f"the query parameter {min(unknown)} of a registry list")
    if order not in (None, "createdtime desc", "createdtime asc") or (top is not None and (not top.isdecimal() or int(top) == 0)):
        raise user_error(f"The query is invalid: $orderBy={order}, $top={top}.")
    if view not in ("ActiveOnly", "ArchivedOnly", "All"):
        raise user_error(f"listViewType must be ActiveOnly, ArchivedOnly or All, not '{view}'.")
    wanted = {"ActiveOnly": {False}, "ArchivedOnly": {True}, "All": {False, True}}[view]
    shown = [item for item, gone in items if gone in wanted]
    if order == "createdtime desc":
        shown.reverse()
    return page(shown[: int(top)] if top else shown)


def _id(kind: str, name: str, version: str) -> str:
    return f"azureml://registries/{REGISTRY}/{kind}/{name}/versions/{version}"


def _resource(kind: str, name: str, version: str, properties: dict[str, Any]) -> dict[str, Any]:
    author = {"createdAt": BORN, "createdBy": "Microsoft", "createdByType": "User", "lastModifiedAt": BORN}
    return {
        "id": _id(kind, name, version),
        "name": version,
        "type": f"{TYPE}/{kind}/versions",
        "systemData": author,
        "properties": {"description": None, "tags": {}, "properties": {}, "isAnonymous": False, "isArchived": False} | properties,
    }


def _model(model: catalog.Model) -> dict[str, Any]:
    return _resource(
        "models",
        model.name,
        model.version,
        {
            "tags": model.wire_tags(),
            "properties": dict(model.properties),
            "isArchived": model.archived,
            "flavors": {"python_function": {"data": {"loader_module": "mlflow.transformers"}}},
            "modelType": "mlflow_model",
            "modelUri": f"{model_id(model)}/paths/mlflow_model_folder",
            "jobName": None,
            "systemMetadata": dict(model.metadata),
        },
    )


def _component(component: catalog.Component) -> dict[str, Any]:
    return _resource("components", component.name, component.version, {"componentSpec": dict(component.spec)})


def _environment(environment: catalog.Environment) -> dict[str, Any]:
    return _resource(
        "environments",
        environment.name,
        environment.version,
        {"environmentType": "Curated", "image": environment.image, "osType": "Linux", "condaFile": None, "autoRebuild": "Disabled"},
    )


_BASE = (
    "/mferp/managementfrontend/subscriptions/{registry_subscription}/resourceGroups/{registry_group}" + PROVIDER + "/registries/{registry}"
)
ROUTES = [
    Route("api", "GET", "/registrymanagement/v1.0/registries/{registry}/discovery", get_discovery),
    Route("api", "GET", _BASE + "/models", list_model_names, {VERSION}),
    Route("api", "GET", _BASE + "/components", list_component_names, {VERSION}),
    Route("api", "GET", _BASE + "/environments", list_environment_names, {VERSION}),
    Route("api", "GET", _BASE + "/models/{name}/versions", list_models, {VERSION}),
    Route("api", "GET", _BASE + "/models/{name}/versions/{version}", get_model, {VERSION}),
    Route("api", "GET", _BASE + "/components/{name}/versions", list_components, {VERSION}),
    Route("api", "GET", _BASE + "/components/{name}/versions/{version}", get_component, {VERSION}),
    Route("api", "GET", _BASE + "/environments/{name}/versions", list_environments, {VERSION}),
    Route("api", "GET", _BASE + "/environments/{name}/versions/{version}", get_environment, {VERSION}),
]
