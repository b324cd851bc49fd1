"""The ``azureml`` registry, read-only: its address, models, components and environments.

The SDK asks for discovery in eastus, then uses the management front end of the registry's region.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from starlette.requests import Request

from mlops.emulator.base.azure import API_HOST, LOCATION, Azure
from mlops.emulator.base.errors import AzureFault, not_found, not_implemented, user_error
from mlops.emulator.registry import catalog
from mlops.emulator.wire.app import PROVIDER, Answer, Route
from mlops.emulator.wire.resources import list_response

__all__ = ["ROUTES", "find_base_model", "model_id"]

REGISTRY = "azureml"
SUBSCRIPTION = "00000000-0000-4000-8000-000000000001"
GROUP = "registry-builtin-eastus-prod"
REGISTRY_ID = "00000000-0000-4000-8000-000000000002"
TENANT = "00000000-0000-4000-8000-000000000003"
"""Microsoft's, not the workspace's."""
TYPE = "Microsoft.MachineLearningServices/registries"
VERSION = "2021-10-01-dataplanepreview"
CREATED = "2026-07-01T00:00:00+00:00"
SYSTEM_DATA = {
    "createdAt": CREATED,
    "createdBy": "Microsoft",
    "createdByType": "User",
    "lastModifiedAt": CREATED,
    "lastModifiedBy": "Microsoft",
    "lastModifiedByType": "User",
}

Asset = TypeVar("Asset", catalog.Model, catalog.Component, catalog.Environment)


def find_base_model(azure: Azure, name: str, version: str) -> catalog.Model | None:
    """Return a model of the registry by its version number, or None. ``latest`` is a label, not a version."""
    return next((model for model in catalog.models(azure.options) if (model.name, model.version) == (name, version)), None)


def model_id(model: catalog.Model) -> str:
    """Return the ``azureml://`` id."""
    return _id("models", model.name, model.version)


async def get_discovery(azure: Azure, request: Request) -> Answer:
    """Return the address of the registry."""
    _check_registry(request)
    return {
        "registryId": REGISTRY_ID,
        "registryName": REGISTRY,
        "tenantId": TENANT,
        "primaryRegion": LOCATION,
        "regions": [LOCATION],
        "subscriptionId": SUBSCRIPTION,
        "resourceGroup": GROUP,
        "workspaceName": None,
        "primaryRegionResourceProviderUri": f"https://{API_HOST}/",
        "registryFqdns": {LOCATION: {"uri": f"https://{REGISTRY_ID}.registry.{LOCATION}.privatelink.api.azureml.ms"}},
        "intellectualPropertyPublisher": None,
    }


async def list_models(azure: Azure, request: Request) -> Answer:
    """List the versions of a model."""
    versions = _with_name(catalog.models(azure.options), request)
    if not versions:
        raise _container_not_found("Model", request.path_params["name"])
    return _page(request, [(_model(model), model.archived) for model in versions])


async def get_model(azure: Azure, request: Request) -> Answer:
    """Return one version of a model, archived or not."""
    return _model(_get_version(catalog.models(azure.options), request, "models"))


async def list_components(azure: Azure, request: Request) -> Answer:
    """List the versions of a component."""
    versions = _with_name(catalog.components(azure.options), request)
    if not versions:
        raise _component_not_found(request)
    return _page(request, [(_component(component), False) for component in versions])


async def get_component(azure: Azure, request: Request) -> Answer:
    """Return one version of a component."""
    for component in _with_name(catalog.components(azure.options), request):
        if component.version == request.path_params["version"]:
            return _component(component)
    raise _component_not_found(request)


async def list_environments(azure: Azure, request: Request) -> Answer:
    """List the versions of an environment."""
    versions = _with_name(catalog.environments(), request)
    if not versions:
        raise _container_not_found("Environment", request.path_params["name"])
    return _page(request, [(_environment(environment), False) for environment in versions])


async def get_environment(azure: Azure, request: Request) -> Answer:
    """Return one version of an environment."""
    return _environment(_get_version(catalog.environments(), request, "environments"))


async def list_model_names(azure: Azure, request: Request) -> Answer:
    """List the models."""
    return _list_containers(request, "models", [(model.name, model.version, model.archived) for model in catalog.models(azure.options)])


async def list_component_names(azure: Azure, request: Request) -> Answer:
    """List the components."""
    return _list_containers(
        request, "components", [(component.name, component.version, False) for component in catalog.components(azure.options)]
    )


async def list_environment_names(azure: Azure, request: Request) -> Answer:
    """List the environments."""
    return _list_containers(
        request, "environments", [(environment.name, environment.version, False) for environment in catalog.environments()]
    )


def _check_registry(request: Request) -> None:
    name = request.path_params["registry"]
    if name != REGISTRY:
        raise AzureFault(401, "UserError", f"User/tenant/subscription is not allowed to access registry {name}")


def _with_name(assets: Sequence[Asset], request: Request) -> list[Asset]:
    _check_registry(request)
    return [asset for asset in assets if asset.name == request.path_params["name"]]


def _get_version(assets: Sequence[Asset], request: Request, kind: str) -> Asset:
    name, version = request.path_params["name"], request.path_params["version"]
    for asset in _with_name(assets, request):
        if asset.version == version:
            return asset
    # As recorded: the front end asks the registry of models itself.
    raise not_found(f"Could not find asset with ID: {_id(kind, name, version)}", "NotFoundError" if kind == "models" else "NotFound")


def _container_not_found(kind: str, name: str) -> AzureFault:
    return not_found(
        "The specified resource was not found.", details=[(f"{kind}NotFound", f"{kind} container with name: {name} not found.")]
    )


def _component_not_found(request: Request) -> AzureFault:
    return not_found(f"Not found component {request.path_params['name']}.", "NotFound", "ComponentNotFound")


def _list_containers(request: Request, kind: str, versions: list[tuple[str, str, bool]]) -> dict[str, Any]:
    """List the containers. One is archived if all its versions are."""
    _check_registry(request)
    containers = {}
    for name, version, _ in versions:
        archived = all(is_archived for other, _, is_archived in versions if other == name)
        properties: dict[str, Any] = {"description": None, "tags": {}, "properties": {}, "isArchived": archived, "latestVersion": version}
        path = f"azureml://registries/{REGISTRY}/{kind}/{name}"
        container = {"id": path, "name": name, "type": f"{TYPE}/{kind}", "systemData": SYSTEM_DATA, "properties": properties}
        containers[name] = (container, archived)
    return _page(request, list(containers.values()))


def _page(request: Request, items: list[tuple[dict[str, Any], bool]]) -> dict[str, Any]:
    """Return one page of the items, given as (item, whether it is archived), with the order and the size that the query requests.

    Archived versions are left out unless ``listViewType`` includes them, but exist under their number. So ``label=latest``, for which
    the SDK takes the first of this list, does not find a model whose versions are all archived.
    """
    query = request.query_params
    order, top, view = query.get("$orderBy"), query.get("$top"), query.get("listViewType", "ActiveOnly")
    if unknown := set(query) - {"api-version", "$orderBy", "$top", "listViewType"}:
        raise not_implemented(f"the query parameter {min(unknown)} of a registry list")
    if order not in (None, "createdtime desc", "createdtime asc") or (top is not None and (not top.isdecimal() or int(top) == 0)):
        raise user_error(f"The query is invalid: $orderBy={order}, $top={top}.")
    if view not in ("ActiveOnly", "ArchivedOnly", "All"):
        raise user_error(f"listViewType must be ActiveOnly, ArchivedOnly or All, not '{view}'.")
    archival = {"ActiveOnly": {False}, "ArchivedOnly": {True}, "All": {False, True}}[view]
    selected = [item for item, is_archived in items if is_archived in archival]
    if order == "createdtime desc":
        selected.reverse()
    return list_response(selected[: int(top)] if top else selected)


def _id(kind: str, name: str, version: str) -> str:
    return f"azureml://registries/{REGISTRY}/{kind}/{name}/versions/{version}"


def _resource(kind: str, name: str, version: str, properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "id": _id(kind, name, version),
        "name": version,
        "type": f"{TYPE}/{kind}/versions",
        "systemData": SYSTEM_DATA,
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
