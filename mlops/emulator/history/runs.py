"""Run history: a run's status, logs and children, and edits of its tags. ``jobs.stream`` and ``jobs.download`` read it.

Shapes follow the service's OpenAPI (``run-history.json`` in Azure/azure-sdk-for-python) and recorded traffic.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

from starlette.requests import Request

from mlops.emulator.base.azure import API_HOST, LOCATION, Azure
from mlops.emulator.base.clock import now
from mlops.emulator.base.errors import AzureFault, not_implemented, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.history import artifacts, definitions, runstore
from mlops.emulator.storage import blobs
from mlops.emulator.storage.files import Blob, walk
from mlops.emulator.wire import limits
from mlops.emulator.wire.app import WS, Answer, Route, read_json

__all__ = ["DEFAULT_OUTPUT", "ROUTES", "get_existing", "job_services", "list_outputs"]

LOGS = ("user_logs/", "logs/azureml/")
EDITABLE = {"displayName": "display_name", "description": "description", "hidden": "hidden"}
MERGED = ("tags", "properties")
ASSET_TYPES = {
    "uri_file": "UriFile", "uri_folder": "UriFolder", "mltable": "MLTable", "mlflow_model": "MLFlowModel", "custom_model": "CustomModel",
    "triton_model": "TritonModel",
}  # fmt: skip
DEFAULT_OUTPUT = "default"
"""The output that every job and every step has: the artifacts of its run."""
PAGE = 100
UNSET = (
    "token", "tokenExpiryTimeUtc", "warnings", "lastStartTimeUtc", "effectiveStartTimeUtc", "cancelationReason", "completeUri",
    "createdFrom", "primaryMetricName", "queueingInfo", "scheduleId", "scriptName", "runDefinition", "jobSpecification",
    "retainForLifetimeOfWorkspace",
)  # fmt: skip
"""Fields of a run that are always null here."""


async def get_run(azure: Azure, request: Request) -> Answer:
    """Return a run."""
    return _without_outputs(to_run(azure, get_existing(azure, request.path_params["run"])))


async def get_details(azure: Azure, request: Request) -> Answer:
    """Return a run with its definition and the URLs of its logs."""
    runstore.get_for_client(azure, request.path_params["run"])
    run = get_existing(azure, request.path_params["run"])
    names = (
        "rootRunId", "runNumber", "status", "parentRunId", "startTimeUtc", "endTimeUtc", "error", "warnings", "tags", "properties",
        "parameters", "services", "inputDatasets", "outputDatasets", "revision", "runTypeV2", "settings", "computeRequest", "compute",
        "createdBy", "computeDuration", "effectiveStartTimeUtc", "userId", "statusRevision", "currentComputeTime", "lastStartTimeUtc",
        "lastModifiedBy", "lastModifiedUtc", "duration", "inputs", "outputs", "runId", "runUuid", "parentRunUuid", "rootRunUuid", "target",
        "dataContainerId",
    )  # fmt: skip
    details = to_run(azure, run)
    return {name: details[name] for name in names} | {
        "createdTimeUtc": details["createdUtc"],
        "runDefinition": definitions.of_run(run),
        "logFiles": log_files(azure, run["name"]),
        "jobCost": None,
        "currentAttemptId": 1,
    }


async def get_children(azure: Azure, request: Request) -> Answer:
    """List the runs directly below a run, oldest first."""
    run = get_existing(azure, request.path_params["run"])
    query = request.query_params
    if query.get("$filter") or query.get("$orderby"):
        raise user_error("Children can't be filtered or ordered here.")
    begin = int(query.get("$continuationtoken") or 0)
    count = int(query.get("$top") or PAGE)
    children = runstore.list_children(azure, run["name"])
    page = children[begin : begin + count]
    end = begin + len(page)
    next_link = None
    # The SDK sends its max_results as $top, a limit on the whole list, so a limited list has no second page.
    if end < len(children) and "$top" not in query:
        next_link = str(request.url.include_query_params(**{"$continuationtoken": end}))
    return {
        "value": [_without_outputs(to_run(azure, child)) for child in page],
        "continuationToken": str(end) if next_link else None,
        "nextLink": next_link,
    }


async def post_rundata(azure: Azure, request: Request) -> Answer:
    """Return the selected parts of one run."""
    selection = await read_json(request)
    return run_data(azure, get_existing(azure, str(selection.get("runId"))), selection)


async def post_batch_rundata(azure: Azure, request: Request) -> Answer:
    """Return the selected parts of several runs, and an error for each that does not exist."""
    content = await read_json(request)
    results, errors = {}, {}
    for key, selection in (content.get("requests") or {}).items():
        try:
            results[key] = run_data(azure, get_existing(azure, str(selection.get("runId"))), selection)
        except AzureFault as fault:
            errors[key] = fault.envelope(LOCATION)
    return {"results": results, "errors": errors}


async def patch_run(azure: Azure, request: Request) -> Answer:
    """Edit name, description, tags and properties. Tags and properties are merged, as ``jobs.update`` expects."""
    run = get_existing(azure, request.path_params["run"])
    edits = {key: value for key, value in (await read_json(request)).items() if value is not None}
    if unknown := sorted(edits.keys() - EDITABLE.keys() - set(MERGED) - {"runId"}):
        raise user_error(f"The request is invalid: run history does not let {', '.join(unknown)} be changed here.")
    _check_tags(run["tags"] | (edits.get("tags") or {}))
    with runstore.change(azure, run["name"]) as document:
        for key, name in EDITABLE.items():
            document[name] = edits.get(key, document[name])
        for key in MERGED:
            document[key] |= {name: str(value) for name, value in (edits.get(key) or {}).items()}
        if document["job"] is not None and edits.get("tags"):
            # Unlike MLflow's, this edit reaches the job too: the studio and ``jobs.update`` rely on it.
            document["job"]["tags"] = {**(document["job"].get("tags") or {}), **edits["tags"]}
        document |= {"modified": now(), "revision": document["revision"] + 1}
    await runstore.send_tags(azure, run["name"], edits.get("tags") or {}, edits.get("displayName"))
    return to_run(azure, get_existing(azure, run["name"]))


async def patch_tags(azure: Azure, request: Request) -> Answer:
    """Set and delete tags."""
    run = get_existing(azure, request.path_params["run"])
    content = await read_json(request)
    values = {name: str(value) for name, value in (content.get("values") or content.get("tags") or {}).items()}
    _check_tags(run["tags"] | values)
    with runstore.change(azure, run["name"]) as document:
        document["tags"] = {k: v for k, v in document["tags"].items() if k not in (content.get("remove") or [])} | values
    await runstore.send_tags(azure, run["name"], values)
    return to_run(azure, get_existing(azure, run["name"]))


async def get_service_instances(azure: Azure, request: Request) -> Answer:
    """Return the services of a run on one of its nodes: none, since a job that asks for some does not get them here."""
    run, node = get_existing(azure, request.path_params["run"]), request.path_params["node"]
    if not node.isdecimal() or int(node) >= run["nodes"]:
        raise user_error(f"The run {run['name']} has no node {node}: it has {run['nodes']}, counted from 0.")
    if (run["job"] or {}).get("services"):
        raise not_implemented(f"interactive services on the nodes of a job, such as those of {run['name']}")
    return {"instances": {}}


def _check_tags(tags: dict[str, Any]) -> None:
    if problem := limits.check_run_tags(tags):
        raise user_error(problem)


def get_existing(azure: Azure, name: str) -> Document:
    """Return the run.

    Raises:
        AzureFault: 404, it does not exist.
    """
    run = runstore.get(azure, name)
    if run is None:
        raise AzureFault(404, "UserError", f"Run {name} was not found", inner=("NotFound", "RunNotFound"))
    return run


def job_services(azure: Azure, run: Document) -> dict[str, Any]:
    """Return the links to a run, as job resources have them."""
    i = azure.identity
    wsid = f"/subscriptions/{i.subscription}/resourcegroups/{i.group}/workspaces/{i.workspace}"
    endpoints = {
        "Tracking": f"azureml://{API_HOST}/mlflow/v1.0{azure.workspace_id}?",
        "Studio": f"https://ml.azure.com/runs/{run['name']}?wsid={wsid}",
    }
    return {
        name: {
            "jobServiceType": name,
            "port": None,
            "endpoint": endpoint,
            "status": None,
            "errorMessage": None,
            "properties": None,
            "nodes": None,
        }
        for name, endpoint in endpoints.items()
    }


def log_files(azure: Azure, run: str) -> dict[str, str]:
    """Return the name of each log → a URL that reads it."""
    prefix = blobs.artifact(run) + "/"
    return {
        blob.name.removeprefix(prefix): blobs.sas_url(azure, blobs.ARTIFACTS, blob.name, "r")
        for folder in LOGS
        for blob in walk(azure, blobs.ARTIFACTS, prefix + folder, "", "")
        if isinstance(blob, Blob)
    }


def run_data(azure: Azure, run: Document, selection: dict[str, Any]) -> dict[str, Any]:
    """Return ``GetRunDataResult`` with the selected parts."""
    return {
        "runMetadata": to_run(azure, run) if selection.get("selectRunMetadata", True) else None,
        "runDefinition": definitions.of_run(run) if selection.get("selectRunDefinition") else None,
        "jobSpecification": None,  # also for a client that selects it
        "systemSettings": None,
    }


def to_run(azure: Azure, run: Document) -> dict[str, Any]:
    """Return a run as run history's ``Run``."""
    parent = runstore.get(azure, run["parent"]) if run["parent"] else None
    root = runstore.get(azure, run["root"])
    user = {
        "userObjectId": run["author"],
        "userIss": f"https://sts.windows.net/{azure.identity.tenant}/",
        "userTenantId": azure.identity.tenant,
        "userName": run["author"],
    } | dict.fromkeys(("userPuId", "userIdp", "userAltSecId", "upn"))
    kind = {"Pipeline": "azureml.PipelineRun", "Command": "azureml.scriptrun"}.get((run["job"] or {}).get("jobType", ""), "azureml.StepRun")
    compute = run["compute"]
    return {
        "runNumber": run["number"],
        "rootRunId": run["root"],
        "createdUtc": run["created"],
        "createdBy": user,
        "userId": run["author"],
        "error": run["error"],
        "revision": run["revision"],
        "statusRevision": run["revision"],
        "runUuid": run["uuid"],
        "parentRunUuid": parent["uuid"] if parent else None,
        "rootRunUuid": root["uuid"] if root else run["uuid"],
        "currentComputeTime": None if run["end"] else "00:00:00",
        "computeDuration": _duration(run["start"], run["end"]),
        "lastModifiedBy": user,
        "lastModifiedUtc": run["modified"],
        "duration": _duration(run["created"], run["end"]),
        "runId": run["name"],
        "parentRunId": run["parent"],
        "experimentId": run["experiment_id"],
        "status": run["status"],
        "startTimeUtc": run["start"],
        "endTimeUtc": run["end"],
        "displayName": run["display_name"],
        "name": run["display_name"],
        "dataContainerId": artifacts.container_name(run["name"]),
        "description": run["description"],
        "hidden": run["hidden"],
        "runType": kind if run["kind"] != "mlflow" else "mlflow",
        "runTypeV2": _run_type(run),
        "properties": run["properties"],
        "parameters": run["parameters"],
        "actionUris": {"Cancel": _cancel_uri(azure, run), "Diagnose": ""},
        "cancelUri": _cancel_uri(azure, run),
        "diagnosticsUri": "",
        "currentAttemptId": 1,
        "uniqueChildRunComputeTargets": sorted(
            {child["compute"] for child in runstore.list_children(azure, run["name"]) if child["compute"]}
        ),
        "target": compute,
        "tags": run["tags"],
        "settings": {},
        "services": {name: {"type": name, "endpoint": service["endpoint"]} for name, service in job_services(azure, run).items()},
        "inputDatasets": [],
        "outputDatasets": [],
        "computeRequest": {"nodeCount": run["nodes"], "gpuCount": 0},
        "compute": dict.fromkeys(("vmSize", "instanceType", "priority", "region", "armId", "properties"))
        | {"target": compute, "targetType": "amlcompute", "instanceCount": run["nodes"], "gpuCount": 0}
        if compute
        else None,
        "inputs": {},
        "outputs": list_outputs(azure, run),
    } | dict.fromkeys(UNSET)


def list_outputs(azure: Azure, run: Document) -> dict[str, dict[str, str]]:
    """Return output → the asset that the service makes of it when the run completes; its name is generated.

    An output of a pipeline is the asset of the step that wrote it. The output ``default`` is the artifacts of the run.
    """
    if run["status"] != "Completed":
        return {}
    default = {} if run["kind"] == "mlflow" else {DEFAULT_OUTPUT: _asset(azure, run["name"], DEFAULT_OUTPUT, "uri_folder")}
    return default | {
        name: _asset(azure, output.get("run", run["name"]), output.get("output", name), output["type"], output.get("asset"))
        for name, output in run["outputs"].items()
    }


def _asset(azure: Azure, run: str, output: str, kind: str, named: dict[str, str] | None = None) -> dict[str, str]:
    """Return the asset of an output: the one that the job has ``named``, or one whose name is generated."""
    collection, middle = ("models", "") if kind.endswith("_model") else ("data", "data_")
    prefix = f"azureml://locations/{LOCATION}/workspaces/{azure.identity.workspace_guid}/{collection}"
    asset = named or {"name": f"azureml_{run}_output_{middle}{output}", "version": "1"}
    return {"assetId": f"{prefix}/{asset['name']}/versions/{asset['version']}", "type": ASSET_TYPES[kind]}


def _without_outputs(run: dict[str, Any]) -> dict[str, Any]:
    """Return a run as it is read by its name or as a child. Only ``details`` and ``rundata`` have inputs and outputs."""
    return run | {"inputs": None, "outputs": None}


def _cancel_uri(azure: Azure, run: Document) -> str:
    i = azure.identity
    workspace = f"subscriptions/{i.subscription}/resourceGroups/{i.group}/workspaces/{i.workspace}"
    return f"https://{API_HOST}/studioservice/apiv2/{workspace}/runs/{run['name']}/Cancel"


def _run_type(run: Document) -> dict[str, Any]:
    """Return ``runTypeV2``: who runs the job, and how."""
    if run["kind"] == "mlflow":
        return {"orchestrator": None, "traits": [], "attribution": None, "computeType": None}
    if (run["job"] or {}).get("jobType") == "Pipeline":
        return {"orchestrator": None, "traits": ["azureml.PipelineRun"], "attribution": "Aether", "computeType": None}
    is_step = run["kind"] == "step"
    traits = [*(["azureml.StepRun"] if is_step else ["DataPlane"]), "scriptRun", "remote", "OsType:Linux", "CommonRuntime"]
    return {"orchestrator": "Execution", "traits": traits, "attribution": "Aether" if is_step else None, "computeType": "AmlcTrain"}


def _duration(begin: str | None, end: str | None) -> str | None:
    if begin is None or end is None:
        return None
    return str(datetime.fromisoformat(end) - datetime.fromisoformat(begin)).zfill(8)


_HISTORY = "/history/v1.0" + WS
_BASES = ("/runs/{run}", "/experiments/{experiment}/runs/{run}", "/experimentids/{experiment}/runs/{run}")
ROUTES = [
    *(Route("api", "GET", _HISTORY + base, get_run) for base in _BASES),
    *(Route("api", "PATCH", _HISTORY + base, patch_run) for base in _BASES),
    *(Route("api", "PATCH", _HISTORY + base + "/tags", patch_tags) for base in _BASES),
    *(Route("api", "GET", _HISTORY + base + "/details", get_details) for base in _BASES),
    *(Route("api", "GET", _HISTORY + base + "/children", get_children) for base in _BASES),
    Route("api", "GET", _HISTORY + "/runs/{run}/serviceinstances/{node}", get_service_instances),
    Route("api", "POST", _HISTORY + "/rundata", post_rundata),
    Route("api", "POST", _HISTORY + "/batchrundata", post_batch_rundata),
]
