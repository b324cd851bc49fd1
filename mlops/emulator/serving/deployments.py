"""Managed online deployments: a model behind an endpoint, served by its own container.

Azure Machine Learning REST, ``onlineEndpoints/deployments`` of 2022-02-01-preview and 2023-04-01-preview. As on Azure, a deployment that
failed when it was created can't be updated, and one that receives traffic can't be deleted. A deployment serves an MLflow model without
code, or has a scoring script and an environment of its own; the environment has no effect here beyond the check that it exists.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from pathlib import Path
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from mlops.emulator.base.azure import LOCATION, Azure, arm_id
from mlops.emulator.base.errors import AzureFault, not_found, not_implemented
from mlops.emulator.base.store import Document
from mlops.emulator.registry import catalog
from mlops.emulator.serving import containers
from mlops.emulator.serving.containers import ContainerSpec, Unhealthy
from mlops.emulator.serving.deployment_body import Count, Patch, Put, apply_patch, build_document, parse_duration, probe_settings
from mlops.emulator.serving.endpoints import BUSY, VERSIONS, is_valid_name, load_endpoint
from mlops.emulator.wire import operations
from mlops.emulator.wire.app import WS, Answer, Route, arm_url
from mlops.emulator.wire.resources import Body, conflict, inference_error, list_response, parse_body, render_resource
from mlops.emulator.workspace import assets, quota, uris, vm_sizes

__all__ = ["ROUTES", "request_timeout_s", "shutdown", "startup"]

TROUBLESHOOTING = "Please see troubleshooting guide, available here: https://aka.ms/oe-tsg#error-"
PROBE_FAILURE = "User container has crashed or terminated: Liveness probe failed: HTTP probe failed with statuscode: 502."

log = logging.getLogger("mlops.emulator")


class LogsRequest(Body):
    """``DeploymentLogsRequest``."""

    container_type: Literal["InferenceServer", "StorageInitializer"] | None = None
    tail: Count | None = None


def load_deployment(azure: Azure, request: Request) -> tuple[str, Document]:
    """Return the key and the document of the deployment in the request's path.

    Raises:
        AzureFault: 404, the endpoint or the deployment does not exist.
    """
    endpoint = load_endpoint(azure, request.path_params["endpoint"])
    name = request.path_params["deployment"]
    key = f"{endpoint['name']}/{name}".lower()
    stored = azure.store.get("deployment", key)
    if stored is None:
        raise AzureFault(
            404,
            "NotFound",
            "The specified resource was not found.",
            details=[("NoSuchDeployment", f"There is no deployment with name: {name} in endpoint {endpoint['name']}")],
        )
    return key, stored


def request_timeout_s(stored: Document) -> float:
    """Return the time limit of a scoring request to a deployment, in seconds."""
    return parse_duration(stored["request_settings"]["requestTimeout"])


async def put_deployment(azure: Azure, request: Request) -> Answer:
    """Create a deployment, or roll it over to another model, other settings or another number of instances."""
    endpoint, name = load_endpoint(azure, request.path_params["endpoint"]), request.path_params["deployment"]
    if endpoint["unrecoverable"] or endpoint["state"] in ("Creating", "Deleting"):
        raise inference_error(
            "This endpoint has not been created successfully or is in deleting provisioning state. Please recreate endpoint and then try"
            " again to create deployment."
        )
    if not is_valid_name(name):
        raise inference_error(
            f"Deployment name [{name}] must have 3 to 32 letters, digits and '-', begin with a letter and not end with '-'."
        )
    key = f"{endpoint['name']}/{name}".lower()
    body = await parse_body(request, Put)
    previous = azure.store.get("deployment", key)
    if previous is not None:
        _check_changeable(previous)
    changed = build_document(azure, body, previous, name)
    await asyncio.to_thread(_locate, azure, changed)
    path, state = _start_provisioning(azure, request, key, changed | {"endpoint": endpoint["name"]}, previous)
    # The response has the new values at once; until the operation has succeeded, reads have the previous ones.
    return operations.accept(request, 201, path, _render(azure, changed | state), request.url.path)


async def patch_deployment(azure: Azure, request: Request) -> Answer:
    """Change the number of instances, or tags."""
    key, previous = load_deployment(azure, request)
    body = await parse_body(request, Patch)
    _check_changeable(previous)
    path, _ = _start_provisioning(azure, request, key, apply_patch(azure, body, previous), previous)
    return operations.accept(request, 202, path, None, path.replace("mfeOperationsStatus", operations.RESULTS))


def _check_changeable(stored: Document) -> None:
    if stored["state"] in BUSY:
        raise conflict(f"Deployment {stored['name']}", stored["state"])
    if stored["unrecoverable"]:
        raise inference_error(
            f"Specified deployment [{stored['name']}] failed during initial provisioning and is in an unrecoverable state. Delete and"
            " re-create."
        )


def _start_provisioning(azure: Azure, request: Request, key: str, changed: Document, previous: Document | None) -> tuple[str, Document]:
    """Start an operation; return the path of its status, and what it changes in the document at once."""
    end = partial(_end, azure, key)
    path = operations.start(azure, "mfeOperationsStatus", "od:", _provision(azure, key, changed), changed["name"], end=end)
    state = {
        "state": "Updating" if previous else "Creating",
        "unrecoverable": previous is None,
        "endpoint": changed["endpoint"],
        "operation": arm_url(request, path),
    }
    azure.store.put("deployment", key, (previous or changed) | state)
    return path, state


async def get_deployment(azure: Azure, request: Request) -> Answer:
    """Return one deployment."""
    return _render(azure, load_deployment(azure, request)[1])


async def list_deployments(azure: Azure, request: Request) -> Answer:
    """List the deployments of an endpoint, oldest first."""
    endpoint = load_endpoint(azure, request.path_params["endpoint"])
    unsupported = set(request.query_params) - {"api-version"}
    if unsupported:
        raise not_implemented(f"listing deployments by {', '.join(sorted(unsupported))}")
    return list_response([_render(azure, stored) for _, stored in azure.store.list("deployment", f"{endpoint['name'].lower()}/")])


async def delete_deployment(azure: Azure, request: Request) -> Answer:
    """Delete a deployment that receives no traffic."""
    endpoint = azure.store.get("endpoint", request.path_params["endpoint"].lower())
    key = f"{request.path_params['endpoint']}/{request.path_params['deployment']}".lower()
    stored = azure.store.get("deployment", key)
    if endpoint is None or stored is None:
        return Response(status_code=204)
    if stored["state"] in BUSY:
        raise conflict(f"Deployment {stored['name']}", stored["state"])
    for kind in ("traffic", "mirror"):
        if percent := endpoint[kind].get(stored["name"], 0):
            what = "the endpoint's traffic" if kind == "traffic" else "the mirrored traffic"
            raise inference_error(f"Deployment [{stored['name']}] takes {percent} % of {what}. Set it to 0 before deleting the deployment.")
    azure.store.put("deployment", key, stored | {"state": "Deleting"})
    return operations.start_deletion(azure, request, "od:", _delete(azure, key), stored["name"], partial(_end, azure, key))


async def get_logs(azure: Azure, request: Request) -> Answer:
    """Return the last lines of a container's log, which exists even if the deployment has failed."""
    body = await parse_body(request, LogsRequest)
    key, stored = load_deployment(azure, request)
    if body.container_type == "StorageInitializer":
        lines = [f"Downloading {stored['model']}", "Done."]
    else:
        file = containers.log_file(azure, key)
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return {"content": "\n".join([*_status_lines(stored), *lines[-body.tail if body.tail else 0 :]])}


async def startup(azure: Azure) -> None:
    """Finish interrupted operations, and start the containers of healthy deployments in the background."""
    for key, stored in azure.store.list("deployment"):
        if stored["state"] == "Deleting":
            await _delete(azure, key)
            continue
        if stored["state"] in BUSY:
            stored = azure.store.put("deployment", key, stored | {"state": "Failed" if stored["unrecoverable"] else "Succeeded"})
        if stored["state"] == "Succeeded":
            azure.start_task(_restart_container(azure, key, stored))


async def shutdown(azure: Azure) -> None:
    """Stop the containers."""
    await containers.stop_all(azure)


def _render(azure: Azure, stored: Document) -> dict[str, Any]:
    path = arm_id(azure, "onlineEndpoints", stored["endpoint"], "deployments", stored["name"])
    is_ready = stored["state"] == "Succeeded"
    return render_resource(
        path,
        "onlineEndpoints/deployments",
        stored["name"],
        stored,
        location=LOCATION,
        kind="Managed",
        tags=stored["tags"],
        sku={"name": "Default", "tier": "Standard", "capacity": stored["capacity"]},
        properties={
            "endpointComputeType": "Managed",
            "appInsightsEnabled": stored["app_insights"],
            "codeConfiguration": stored["code"],
            "dataCollector": stored.get("collector"),
            "description": stored["description"],
            "egressPublicNetworkAccess": stored["egress"],
            "environmentId": stored["environment"],
            "environmentVariables": stored["variables"],
            "instanceType": stored["instance_type"],
            "livenessProbe": probe_settings(stored["liveness"], is_ready),
            "model": stored["model"],
            "modelMountPath": stored["mount"],
            "privateNetworkConnection": False,
            "properties": stored["properties"] | {"AzureAsyncOperationUri": stored["operation"]},
            "provisioningState": stored["state"],
            "readinessProbe": probe_settings(stored["readiness"], is_ready),
            "requestSettings": stored["request_settings"],
            "scaleSettings": {"scaleType": "Default"},
        },
    )


async def _provision(azure: Azure, key: str, changed: Document) -> None:
    try:
        _inject_faults(azure, changed)
        if (shortage := quota.find_deployment_shortage(azure, key, changed["instance_type"], changed["capacity"])) is not None:
            raise _quota_failure(shortage)
        # An unhealthy container runs, too: users read its log.
        probe_failure = PROBE_FAILURE if azure.faults.take("deployment-unhealthy", changed["name"]) else None
        await containers.start(azure, key, _container_spec(azure, changed), probe_failure)
    except (AzureFault, Unhealthy) as problem:
        _end(azure, key, "Failed")
        raise _failure("ResourceNotReady", str(problem)) if isinstance(problem, Unhealthy) else problem from None
    with azure.store.change("deployment", key) as stored:
        stored |= changed | {"state": "Succeeded", "unrecoverable": False}


def _end(azure: Azure, key: str, state: str) -> None:
    with azure.store.change("deployment", key) as stored:
        stored["state"] = state


def _inject_faults(azure: Azure, changed: Document) -> None:
    name = changed["name"]
    if azure.faults.take("deployment-quota", name):
        size = vm_sizes.find(changed["instance_type"])
        cores = (size.cores if size else 1) * changed["capacity"]
        raise _quota_failure(quota.Shortage("", limit=cores, used=cores, requested=cores))
    if azure.faults.take("deployment-image", name):
        raise _failure("ImageBuildFailure", "The build of the environment's image has failed: a package could not be installed.")


def _quota_failure(shortage: quota.Shortage) -> AzureFault:
    return _failure(
        "OutOfQuota",
        f"Not enough cluster CPU quota. The amount of additional CPU quota requested is {shortage.requested}, and you are currently using"
        f" {shortage.used}. Your amount of maximum quota is {shortage.limit}.",
    )


def _failure(code: str, sentence: str) -> AzureFault:
    """Return the error of a failed operation: without a code, the class of failure before the text, and the text again in ``details``."""
    message = f"{code}: {sentence} {TROUBLESHOOTING}{code.lower()}"
    return AzureFault(
        400, code, message, body={"error": {"code": None, "message": message, "details": [{"code": None, "message": message}]}}
    )


def _locate(azure: Azure, stored: Document) -> tuple[Path | None, Path | None]:
    """Return where a deployment's model and scoring script are.

    Raises:
        AzureFault: something does not exist, or the model isn't an MLflow model, which can't be served without a script.
    """
    model = uris.resolve(azure, stored["model"]) if stored["model"] else None
    if stored["code"] is not None:
        folder, script = assets.code_folder(azure, stored["code"]["codeId"]), stored["code"]["scoringScript"]
        if not assets.has_environment(azure, stored["environment"]):
            raise not_found(f"Not found environment {stored['environment']}.", "NotFound", "EnvironmentNotFound")
        path = (folder / script).resolve()
        if not path.is_file() or not path.is_relative_to(folder.resolve()):
            raise inference_error(f"The scoring script [{script}] does not exist in the code [{stored['code']['codeId']}].")
        return model, path
    if model is None or not (model / "MLmodel").is_file():
        raise inference_error(
            f"Model [{stored['model']}] is not an MLflow model: a deployment of it needs codeConfiguration and environmentId."
        )
    return model, None


def _container_spec(azure: Azure, stored: Document) -> ContainerSpec:
    settings = stored["request_settings"]
    liveness = probe_settings(stored["liveness"], True) or {}
    model, script = _locate(azure, stored)
    return ContainerSpec(
        model=model,
        script=script,
        concurrency=settings["maxConcurrentRequestsPerInstance"] * stored["capacity"],
        request_timeout_ms=round(request_timeout_s(stored) * 1000),
        transformers=catalog.SERVING_IMAGES.get(stored["environment"] or "", catalog.DEFAULT_IMAGE_TRANSFORMERS),
        answer_shape=azure.options.answer_shape,
        startup_timeout_s=parse_duration(liveness["initialDelay"]) + liveness["failureThreshold"] * parse_duration(liveness["period"]),
        variables={name: value or "" for name, value in stored["variables"].items()},
    )


def _status_lines(stored: Document) -> list[str]:
    """Return the platform's own lines above the container's."""
    status = {"Succeeded": "Succeeded", "Failed": "Failed", "Updating": "Succeeded"}.get(stored["state"], "InProgress")
    return ["Instance status:", "SystemSetup: Succeeded", "ModelDownload: Succeeded", f"UserContainerStart: {status}", ""]


async def _restart_container(azure: Azure, key: str, stored: Document) -> None:
    try:
        await containers.start(azure, key, _container_spec(azure, stored))
    except (Unhealthy, AzureFault) as problem:
        log.error("deployment %s could not be started again: %s", key, problem)
        azure.store.put("deployment", key, stored | {"state": "Failed"})


async def _delete(azure: Azure, key: str) -> None:
    await containers.stop(azure, key)
    azure.store.delete("deployment", key)


_DEPLOYMENTS = WS + "/onlineEndpoints/{endpoint}/deployments"
ROUTES = [
    Route("arm", "GET", _DEPLOYMENTS, list_deployments, VERSIONS),
    Route("arm", "GET", _DEPLOYMENTS + "/{deployment}", get_deployment, VERSIONS),
    Route("arm", "PUT", _DEPLOYMENTS + "/{deployment}", put_deployment, VERSIONS),
    Route("arm", "PATCH", _DEPLOYMENTS + "/{deployment}", patch_deployment, VERSIONS),
    Route("arm", "DELETE", _DEPLOYMENTS + "/{deployment}", delete_deployment, VERSIONS),
    Route("arm", "POST", _DEPLOYMENTS + "/{deployment}/getLogs", get_logs, VERSIONS),
]
