"""MLflow tracking as the workspace serves it under its ``azureml://`` URI: MLflow's REST API v2, backed by a real MLflow server.

On Azure the id of a job's MLflow run is the job's name. The server generates its own ids, so requests and answers are rewritten in
transit: run ids, ``mlflow.parentRunId`` and ``mlflow.rootRunId`` tags, filters over them, and artifact URIs in the form that azureml-mlflow
parses. Endpoints are those of azureml-mlflow 1.62; the rest of MLflow's API is refused. What Azure itself does not serve, the logged models
and traces of MLflow 3, is answered as there: 404 without a body (Azure/azure-sdk-for-python#44896).
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from mlops.emulator.base.azure import API_HOST, Azure
from mlops.emulator.base.errors import not_implemented
from mlops.emulator.history import mlflow_search, mlflow_server, runstore
from mlops.emulator.wire import limits
from mlops.emulator.wire.app import WS, Answer, Route, read_json

__all__ = ["ROUTES", "get_url", "shutdown", "startup"]

SERVED = {
    "GET": {"experiments/get", "experiments/get-by-name", "experiments/search", "runs/get", "metrics/get-history"},
    "POST": {
        "experiments/create", "experiments/delete", "experiments/restore", "experiments/search", "experiments/set-experiment-tag",
        "experiments/update", "runs/create", "runs/delete", "runs/delete-tag", "runs/log-batch", "runs/log-inputs", "runs/log-metric",
        "runs/log-model", "runs/log-parameter", "runs/restore", "runs/search", "runs/set-tag", "runs/update",
    },
}  # fmt: skip
RUN_KEYS = {"run_id", "run_uuid"}
RUN_TAGS = {"mlflow.parentRunId", "mlflow.rootRunId"}
RUN_FIELD = re.compile(
    r"\s*(?:(?:attributes?|run)\.)?[`\"]?run_(?:id|uuid)\b|\s*tags?\.[`\"]?mlflow\.(?:parent|root)RunId\b", re.IGNORECASE
)
CLAUSES = re.compile(r"(\s+and\s+)", re.IGNORECASE)
QUOTED = re.compile(r"(['\"])([^'\"]+)\1")
MOST_RUNS = 50_000
"""Runs on a page of the server, at most."""
STATUSES = {"RUNNING": "Running", "SCHEDULED": "Queued", "FINISHED": "Completed", "FAILED": "Failed", "KILLED": "Canceled"}


async def startup(azure: Azure) -> None:
    """Start up the MLflow server."""
    await mlflow_server.startup(azure)


async def shutdown(azure: Azure) -> None:
    """Disconnect from the MLflow server."""
    await mlflow_server.shutdown(azure)


def get_url(azure: Azure) -> str:
    """Return the URL of the server's page, for a browser."""
    return mlflow_server.get_server(azure).url


async def relay(azure: Azure, request: Request) -> Answer:
    """Pass a request on to the server, with job names translated into run ids and back."""
    path = request.path_params["path"]
    if path not in SERVED[request.method]:
        raise not_implemented(f"{request.method} {path} of the MLflow API")
    query = [(key, _uuid(azure, value) if key in RUN_KEYS else value) for key, value in request.query_params.multi_items()]
    content = await read_json(request) if request.method == "POST" else None
    if content is not None:
        _check_limits(azure, path, content)
    if path == "experiments/create" and content and content.get("artifact_location"):
        message = "The workspace decides where artifacts are stored: leave artifact_location out."
        return JSONResponse({"error_code": "INVALID_PARAMETER_VALUE", "message": message}, status_code=400)
    search = None
    if path == "runs/search" and content is not None:
        content, search = mlflow_search.translate(content)
    sent = translate_request(content, lambda name: _uuid(azure, name))
    if search is not None:
        return await _search_by_duration(azure, sent, search)
    response = await mlflow_server.get_server(azure).forward(request.method, path, query, sent)
    answer = response.json() if response.content else {}
    if response.is_success and content is not None:
        await _update_run_history(azure, path, content, answer)
    return JSONResponse(_translate_answer(azure, answer), response.status_code)


async def answer_absent(azure: Azure, request: Request) -> Answer:
    """Answer for a part of MLflow that Azure does not serve. MLflow's client takes an empty body for a server without this part."""
    return Response(status_code=404)


async def get_clouds(azure: Azure, request: Request) -> Answer:
    """List the one cloud that exists, with the fields that azureml-mlflow reads: sign-in endpoint, audiences, storage suffix."""
    return [
        {
            "name": "AzureCloud",
            "portal": "https://portal.azure.com",
            "resourceManager": "https://management.azure.com/",
            "authentication": {
                "loginEndpoint": "https://login.microsoftonline.com/",
                "audiences": ["https://management.core.windows.net/", "https://management.azure.com/"],
                "tenant": "common",
                "identityProvider": "AAD",
            },
            "suffixes": {"storage": "core.windows.net"},
        }
    ]


async def log_batch_async(azure: Azure, request: Request) -> Answer:
    """Log azureml-mlflow's own kind of batch. It is logged at once, so its status is always complete."""
    content = await read_json(request)
    _check_limits(azure, "runs/log-batch", content)
    batch = translate_request(content, lambda name: _uuid(azure, name))
    response = await mlflow_server.get_server(azure).forward("POST", "runs/log-batch", [], batch)
    if not response.is_success:
        return JSONResponse(response.json(), response.status_code)
    await _update_run_history(azure, "runs/log-batch", content, {})
    return {"batch_tracking_id": str(uuid.uuid4())}


async def get_run_data_status(azure: Azure, request: Request) -> Answer:
    """Return the status of such a batch."""
    return {"is_complete": True}


def translate_request(value: Any, to_uuid: Callable[[str], str], key: str = "") -> Any:
    """Replace job names by the server's run ids in a request's JSON."""
    if isinstance(value, dict):
        if value.get("key") in RUN_TAGS and isinstance(value.get("value"), str):
            return value | {"value": to_uuid(value["value"])}
        return {name: translate_request(item, to_uuid, name) for name, item in value.items()}
    if isinstance(value, list):
        return [translate_request(item, to_uuid) for item in value]
    if isinstance(value, str) and key in RUN_KEYS:
        return to_uuid(value)
    if isinstance(value, str) and key == "filter":
        clauses = CLAUSES.split(value)
        return "".join(
            QUOTED.sub(lambda match: f"{match[1]}{to_uuid(match[2])}{match[1]}", clause) if RUN_FIELD.match(clause) else clause
            for clause in clauses
        )
    return value


def translate_answer(value: Any, to_name: Callable[[str], str], artifact_uri: Callable[[str], str]) -> Any:
    """Replace the server's run ids and artifact URIs in an answer's JSON by job names and the workspace's URIs."""
    if isinstance(value, dict):
        translated = {name: translate_answer(item, to_name, artifact_uri) for name, item in value.items()}
        if translated.get("key") in RUN_TAGS:
            translated["value"] = to_name(translated["value"])
        for key in RUN_KEYS & translated.keys():
            translated[key] = to_name(translated[key])
        if "artifact_uri" in translated:
            translated["artifact_uri"] = artifact_uri(translated["run_id"])
        if "artifact_location" in translated:
            translated["artifact_location"] = ""
        return translated
    if isinstance(value, list):
        return [translate_answer(item, to_name, artifact_uri) for item in value]
    return value


def _translate_answer(azure: Azure, answer: Any) -> Any:
    return translate_answer(answer, lambda uuid: _name(azure, uuid), lambda name: _artifact_uri(azure, name))


async def _search_by_duration(azure: Azure, sent: dict[str, Any], search: mlflow_search.DurationSearch) -> Answer:
    """Answer a search that needs the duration, which the server doesn't know: read all runs, and return a page of what remains."""
    runs: list[dict[str, Any]] = []
    token = ""
    while True:
        whole = {key: value for key, value in sent.items() if key != "page_token"} | {"max_results": MOST_RUNS}
        response = await mlflow_server.get_server(azure).forward(
            "POST", "runs/search", [], whole | ({"page_token": token} if token else {})
        )
        answer = response.json()
        if not response.is_success:
            return JSONResponse(answer, response.status_code)
        runs += answer.get("runs", [])
        token = answer.get("next_page_token", "")
        if not token:
            break
    return JSONResponse(_translate_answer(azure, mlflow_search.page("runs", search.apply(runs), {"max_results": 1000} | sent)))


def _check_limits(azure: Azure, path: str, content: dict[str, Any]) -> None:
    """Refuse what exceeds the service's limits, together with what the run already has.

    Raises:
        AzureFault: 400, it does.
    """
    run = runstore.get(azure, str(content.get("run_id") or content.get("run_uuid") or "")) or runstore.new_document()
    try:
        tags, parameters, metrics = _parse_additions(path, content)
    except (AttributeError, KeyError, TypeError):
        return  # the server says what is wrong with it
    problem = (
        (tags and limits.check_run_tags(run["tags"] | tags))
        or (parameters and limits.check_parameters((run["parameters"] | parameters).keys()))
        or limits.check_metrics(metrics)
    )
    if problem:
        raise limits.mlflow_fault(str(problem))


def _parse_additions(path: str, content: dict[str, Any]) -> tuple[dict[str, str], dict[str, str], list[str]]:
    """Return what a request adds to a run: tags, parameters, and the name of each metric value."""
    if path in ("runs/create", "runs/log-batch"):
        tags, parameters, metrics = (content.get(key) or [] for key in ("tags", "params", "metrics"))
    else:
        tags, parameters, metrics = ([content] if path == own else [] for own in ("runs/set-tag", "runs/log-parameter", "runs/log-metric"))
    return (
        _without_mlflow_tags({tag["key"]: tag["value"] for tag in tags}),
        {parameter["key"]: parameter["value"] for parameter in parameters},
        [metric["key"] for metric in metrics],
    )


async def _update_run_history(azure: Azure, path: str, content: dict[str, Any], answer: dict[str, Any]) -> None:
    """Apply to run history what a client has changed in MLflow."""
    if path == "runs/create":
        info = answer["run"]["info"]
        tags = {tag["key"]: tag["value"] for tag in answer["run"]["data"].get("tags", [])}
        experiment = await mlflow_server.get_server(azure).call("GET", "experiments/get", {"experiment_id": info["experiment_id"]})
        parent = tags.get("mlflow.parentRunId")
        mlflow_server.get_server(azure).link_artifacts(info["experiment_id"], info["run_id"], info["run_id"])
        runstore.add(
            azure,
            runstore.new_document(
                name=info["run_id"],
                uuid=info["run_id"],
                experiment=experiment["experiment"]["name"],
                experiment_id=info["experiment_id"],
                display_name=info.get("run_name", ""),
                parent=_name(azure, parent) if parent else None,
                status="Running",
                tags=_without_mlflow_tags(tags),
            ),
        )
        return
    name = content.get("run_id") or content.get("run_uuid")
    if not isinstance(name, str) or runstore.get(azure, name) is None:
        return
    with runstore.change(azure, name) as document:
        if path == "runs/update" and document["kind"] == "mlflow" and (status := content.get("status")):
            runstore.apply_status(document, STATUSES[status])
        if path == "runs/update" and content.get("run_name"):
            document["display_name"] = content["run_name"]
        tags, parameters, _ = _parse_additions(path, content)
        document["tags"] |= tags
        document["parameters"] |= parameters
        if path == "runs/delete-tag":
            document["tags"].pop(content["key"], None)


def _without_mlflow_tags(tags: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if not key.startswith("mlflow.")}


def _uuid(azure: Azure, name: str) -> str:
    run = runstore.get(azure, name)
    return run["uuid"] if run else name


def _name(azure: Azure, uuid: str) -> str:
    return runstore.find_name(azure, uuid) or uuid


def _artifact_uri(azure: Azure, name: str) -> str:
    run = runstore.get(azure, name)
    experiment = run["experiment_id"] if run else "0"
    return f"azureml://{API_HOST}/mlflow/v2.0{azure.workspace_id}/experiments/{experiment}/runs/{name}/artifacts"


_API = "/mlflow/{version}" + WS + "/api/2.0/"
_ANY = "/mlflow/{version}" + WS + "/api/{api}/mlflow/"
ROUTES = [
    Route("arm", "GET", "/metadata/endpoints", get_clouds, {"2019-05-01"}, public=True),
    *(
        Route("api", method, _ANY + path + below, answer_absent)
        for method in ("GET", "POST", "PATCH", "DELETE")
        for path in ("logged-models", "traces")
        for below in ("", "/{rest:path}")
    ),
    Route("api", "GET", _API + "mlflow/{path:path}", relay),
    Route("api", "POST", _API + "mlflow/{path:path}", relay),
    Route("api", "POST", _API + "preview/mlflow/runs/log-batch-async", log_batch_async),
    Route("api", "GET", _API + "preview/mlflow/runs/get-run-data-status", get_run_data_status),
]
