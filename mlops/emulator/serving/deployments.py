"""Managed online deployments: a model behind an endpoint, served by a container of its own.

Azure Machine Learning REST, ``onlineEndpoints/deployments`` of 2022-02-01-preview and 2023-04-01-preview, and what the service is known to
refuse: a deployment that failed at first can't be updated, one that takes traffic can't be deleted. Served is what the service can serve
without code: MLflow models. Scoring scripts and environments of one's own are refused.
"""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path
from typing import Any, Literal

from starlette.requests import Request
from starlette.responses import Response

from mlops.emulator.base.azure import LOCATION, Azure, arm_id
from mlops.emulator.base.errors import AzureFault, not_implemented
from mlops.emulator.base.store import Document
from mlops.emulator.serving import containers
from mlops.emulator.serving.containers import Launch, Unhealthy
from mlops.emulator.serving.deployment_body import Count, Put, described, probe, seconds
from mlops.emulator.serving.endpoints import BUSY, NAME, VERSIONS, endpoint
from mlops.emulator.wire import operations
from mlops.emulator.wire.app import WS, Answer, Route
from mlops.emulator.wire.resources import Body, conflict, page, read, refused, resource
from mlops.emulator.workspace import uris, vm_sizes

__all__ = ["ROUTES", "shutdown", "startup", "timeout_s"]

TROUBLESHOOTING = "Please see troubleshooting guide, available here: https://aka.ms/oe-tsg#error-"
SICK = "User container has crashed or terminated: Liveness probe failed: HTTP probe failed with statuscode: 502."

log = logging.getLogger("mlops.emulator")

_starting: set[asyncio.Task[None]] = set()


class LogsRequest(Body):
    """``DeploymentLogsRequest``."""

    container_type: Literal["InferenceServer", "StorageInitializer"] | None = None
    tail: Count | None = None


def deployment(azure: Azure, request: Request) -> tuple[str, Document]:
    """Key and document of the deployment that a request names.

    Raises:
        AzureFault: 404, the endpoint or the deployment is not there.
    """
    stored = endpoint(azure, request.path_params["endpoint"])
    name = request.path_params["deployment"]
    key = f"{stored['name']}/{name}".lower()
    found = azure.store.get("deployment", key)
    if found is None:
        raise AzureFault(
            404,
            "NotFound",
            "The specified resource was not found.",
            details=[("NoSuchDeployment", f"There is no deployment with name: {name} in endpoint {stored['name']}")],
        )
    return key, found


def timeout_s(stored: Document) -> float:
    """How long a scoring request to the deployment may take, in seconds."""
    return seconds(stored["request_settings"]["requestTimeout"])


async def put_deployment(azure: Azure, request: Request) -> Answer:
    """Create a deployment, or roll one over to another model, other settings or another number of containers."""
    parent, name = endpoint(azure, request.path_params["endpoint"]), request.path_params["deployment"]
    if parent["ruined"] or parent["state"] in ("Creating", "Deleting"):
        raise refused(
            "This endpoint has not been created successfully or is in deleting provisioning state. Please recreate endpoint and then try"
            " again to create deployment."
        )
    if not 3 <= len(name) <= 32 or not NAME.fullmatch(name):
        raise refused(f"Deployment name [{name}] must have 3 to 32 letters, digits and '-', begin with a letter and end with none of '-'.")
    key = f"{parent['name']}/{name}".lower()
    content = await read(request, Put)
    known = azure.store.get("deployment", key)
    if known is not None and known["state"] in BUSY:
        raise conflict(f"Deployment {name}", known["state"])
    if known is not None and known["ruined"]:
        raise refused(
            f"Specified deployment [{name}] failed during initial provisioning and is in an unrecoverable state. Delete and re-create."
        )
    changed = described(azure, content, known, name)
    await asyncio.to_thread(_mlflow_model, azure, changed["model"])
    version = request.query_params["api-version"]
    before = known or changed
    path = operations.start(azure, "mfeOperationsStatus", "od:", _provision(azure, key, changed), name)
    state = {"state": "Updating" if known else "Creating", "ruined": known is None, "endpoint": parent["name"]}
    state["operation"] = f"https://management.azure.com{path}?api-version={version}"
    stored = azure.store.put("deployment", key, before | state)
    here = f"https://management.azure.com{request.url.path}?api-version={version}"
    return operations.accepted(200 if known else 201, path, version, shown(azure, stored), here)


async def get_deployment(azure: Azure, request: Request) -> Answer:
    """One deployment."""
    return shown(azure, deployment(azure, request)[1])


async def list_deployments(azure: Azure, request: Request) -> Answer:
    """The deployments of an endpoint, oldest first."""
    stored = endpoint(azure, request.path_params["endpoint"])
    unknown = set(request.query_params) - {"api-version"}
    if unknown:
        raise not_implemented(f"listing deployments by {', '.join(sorted(unknown))}")
    return page([shown(azure, found) for _, found in azure.store.list("deployment", f"{stored['name'].lower()}/")])


async def delete_deployment(azure: Azure, request: Request) -> Answer:
    """End and forget a deployment that takes no traffic."""
    parent = azure.store.get("endpoint", request.path_params["endpoint"].lower())
    key = f"{request.path_params['endpoint']}/{request.path_params['deployment']}".lower()
    stored = azure.store.get("deployment", key)
    if parent is None or stored is None:
        return Response(status_code=204)
    if stored["state"] in BUSY:
        raise conflict(f"Deployment {stored['name']}", stored["state"])
    if percent := parent["traffic"].get(stored["name"], 0):
        raise refused(
            f"Deployment [{stored['name']}] takes {percent} % of the endpoint's traffic. Set its traffic to 0 before deleting it."
        )
    azure.store.put("deployment", key, stored | {"state": "Deleting"})
    return operations.deletion(azure, request, "od:", _delete(azure, key), stored["name"])


async def get_logs(azure: Azure, request: Request) -> Answer:
    """The last lines of a container's log; kept when the deployment fails."""
    content = await read(request, LogsRequest)
    key, stored = deployment(azure, request)
    if content.container_type == "StorageInitializer":
        lines = [f"Downloading {stored['model']}", "Done."]
    else:
        file = containers.log_file(azure, key)
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else []
    return {"content": "\n".join([*_status(stored), *lines[-content.tail if content.tail else 0 :]])}


def shown(azure: Azure, stored: Document) -> dict[str, Any]:
    """A deployment as Azure answers it."""
    path = arm_id(azure, "onlineEndpoints", stored["endpoint"], "deployments", stored["name"])
    ready = stored["state"] == "Succeeded"
    return resource(
        path,
        "onlineEndpoints/deployments",
        stored["name"],
        stored,
        location=LOCATION,
        kind="Managed",
        tags=stored["tags"],
        sku={"name": "Default", "capacity": stored["capacity"]},
        properties={
            "endpointComputeType": "Managed",
            "appInsightsEnabled": stored["app_insights"],
            "codeConfiguration": None,
            "dataCollector": None,
            "description": stored["description"],
            "egressPublicNetworkAccess": stored["egress"],
            "environmentId": None,
            "environmentVariables": stored["variables"],
            "instanceType": stored["instance_type"],
            "livenessProbe": probe(stored["liveness"], ready),
            "model": stored["model"],
            "modelMountPath": stored["mount"],
            "properties": stored["properties"] | {"AzureAsyncOperationUri": stored["operation"]},
            "provisioningState": stored["state"],
            "readinessProbe": probe(stored["readiness"], ready),
            "requestSettings": stored["request_settings"],
            "scaleSettings": {"scaleType": "Default"},
        },
    )


async def startup(azure: Azure) -> None:
    """Bring to an end what was half done, and start the containers of what had succeeded, in the background."""
    for key, stored in azure.store.list("deployment"):
        if stored["state"] == "Deleting":
            await _delete(azure, key)
            continue
        if stored["state"] in BUSY:
            stored = azure.store.put("deployment", key, stored | {"state": "Failed" if stored["ruined"] else "Succeeded"})
        if stored["state"] == "Succeeded":
            task = asyncio.create_task(_start_again(azure, key, stored))
            _starting.add(task)  # asyncio itself holds tasks only weakly
            task.add_done_callback(_starting.discard)


async def shutdown(azure: Azure) -> None:
    """End the containers."""
    await containers.forget(azure)


async def _provision(azure: Azure, key: str, changed: Document) -> None:
    try:
        _planned_failure(azure, changed)
        # Even so the container really runs first: its log is there to be read.
        doom = SICK if azure.faults.take("deployment-unhealthy", changed["name"]) else None
        await containers.start(azure, key, _launch(azure, changed), doom)
    except (AzureFault, Unhealthy) as problem:
        with azure.store.change("deployment", key) as stored:
            stored["state"] = "Failed"
        raise _failed("ResourceNotReady", str(problem)) if isinstance(problem, Unhealthy) else problem from None
    with azure.store.change("deployment", key) as stored:
        stored |= changed | {"state": "Succeeded", "ruined": False}


def _planned_failure(azure: Azure, changed: Document) -> None:
    name = changed["name"]
    if azure.faults.take("deployment-quota", name):
        size = vm_sizes.find(changed["instance_type"])
        cores = (size.cores if size else 1) * changed["capacity"]
        raise _failed(
            "OutOfQuota",
            f"Not enough cluster CPU quota. The amount of additional CPU quota requested is {cores}, and you are currently using"
            f" {cores}. Your amount of maximum quota is {cores}.",
        )
    if azure.faults.take("deployment-image", name):
        raise _failed("ImageBuildFailure", "The build of the environment's image has failed: a package could not be installed.")


def _failed(code: str, sentence: str) -> AzureFault:
    """How a failed operation tells why: no code, the class of failure before the text, and the text again in ``details``."""
    message = f"{code}: {sentence} {TROUBLESHOOTING}{code.lower()}"
    return AzureFault(
        400, code, message, body={"error": {"code": None, "message": message, "details": [{"code": None, "message": message}]}}
    )


def _mlflow_model(azure: Azure, model: str) -> Path:
    """Where the deployment's model is; what the emulator can serve without code.

    Raises:
        AzureFault: there is no such model, or it is no MLflow model.
    """
    folder = uris.resolve(azure, model)
    if not (folder / "MLmodel").is_file():
        raise refused(f"Model [{model}] is no MLflow model: a deployment of it needs codeConfiguration and environmentId.")
    return folder


def _launch(azure: Azure, stored: Document) -> Launch:
    settings = stored["request_settings"]
    liveness = probe(stored["liveness"], True) or {}
    return Launch(
        model=_mlflow_model(azure, stored["model"]),
        concurrency=settings["maxConcurrentRequestsPerInstance"] * stored["capacity"],
        timeout_ms=round(timeout_s(stored) * 1000),
        patience_s=seconds(liveness["initialDelay"]) + liveness["failureThreshold"] * seconds(liveness["period"]),
        variables={name: value or "" for name, value in stored["variables"].items()},
    )


def _status(stored: Document) -> list[str]:
    """The platform's own lines above the container's."""
    done = {"Succeeded": "Succeeded", "Failed": "Failed", "Updating": "Succeeded"}.get(stored["state"], "InProgress")
    return ["Instance status:", "SystemSetup: Succeeded", "ModelDownload: Succeeded", f"UserContainerStart: {done}", ""]


async def _start_again(azure: Azure, key: str, stored: Document) -> None:
    try:
        await containers.start(azure, key, _launch(azure, stored))
    except (Unhealthy, AzureFault) as problem:
        log.error("deployment %s did not come up again: %s", key, problem)
        azure.store.put("deployment", key, stored | {"state": "Failed"})


async def _delete(azure: Azure, key: str) -> None:
    await containers.stop(azure, key, remove=True)
    azure.store.delete("deployment", key)


_DEPLOYMENTS = WS + "/onlineEndpoints/{endpoint}/deployments"
ROUTES = [
    Route("arm", "GET", _DEPLOYMENTS, list_deployments, VERSIONS),
    Route("arm", "GET", _DEPLOYMENTS + "/{deployment}", get_deployment, VERSIONS),
    Route("arm", "PUT", _DEPLOYMENTS + "/{deployment}", put_deployment, VERSIONS),
    Route("arm", "DELETE", _DEPLOYMENTS + "/{deployment}", delete_deployment, VERSIONS),
    Route("arm", "POST", _DEPLOYMENTS + "/{deployment}/getLogs", get_logs, VERSIONS),
]
