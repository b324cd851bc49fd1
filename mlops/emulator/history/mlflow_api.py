"""MLflow tracking as the workspace serves it under its ``azureml://`` URI: MLflow's REST API v2, backed by a real MLflow server.

On Azure the id of a job's MLflow run is the job's name. The server makes ids of its own, so requests and answers are rewritten on their
way: run ids, ``mlflow.parentRunId`` and ``mlflow.rootRunId`` tags, filters over them, and artifact URIs in the form that azureml-mlflow
takes apart. Endpoints are those of azureml-mlflow 1.62; whatever else MLflow has is refused.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from mlops.emulator.base.azure import API_HOST, Azure
from mlops.emulator.base.errors import not_implemented
from mlops.emulator.history import mlflow_server, runstore
from mlops.emulator.jobs import scheduler
from mlops.emulator.wire.app import WS, Answer, Route, body

__all__ = ["ROUTES", "shutdown", "startup", "url"]

# MLflow 3 looks for logged models whenever it lists artifacts below a path. None are ever made here: Azure has none either.
SERVED = {
    "GET": {"experiments/get", "experiments/get-by-name", "experiments/search", "runs/get", "metrics/get-history"},
    "POST": {
        "experiments/create", "experiments/delete", "experiments/restore", "experiments/search", "experiments/set-experiment-tag",
        "experiments/update", "runs/create", "runs/delete", "runs/delete-tag", "runs/log-batch", "runs/log-inputs", "runs/log-metric",
        "runs/log-model", "runs/log-parameter", "logged-models/search", "runs/restore", "runs/search", "runs/set-tag", "runs/update",
    },
}  # fmt: skip
RUN_KEYS = {"run_id", "run_uuid"}
RUN_TAGS = {"mlflow.parentRunId", "mlflow.rootRunId"}
RUN_FIELD = re.compile(
    r"\s*(?:(?:attributes?|run)\.)?[`\"]?run_(?:id|uuid)\b|\s*tags?\.[`\"]?mlflow\.(?:parent|root)RunId\b", re.IGNORECASE
)
CLAUSES = re.compile(r"(\s+and\s+)", re.IGNORECASE)
QUOTED = re.compile(r"(['\"])([^'\"]+)\1")
STATUSES = {"RUNNING": "Running", "SCHEDULED": "Queued", "FINISHED": "Completed", "FAILED": "Failed", "KILLED": "Canceled"}


async def startup(azure: Azure) -> None:
    """Start the MLflow server, and the jobs that report to it."""
    await mlflow_server.startup(azure)
    await scheduler.startup(azure)


async def shutdown(azure: Azure) -> None:
    """The other way round."""
    await scheduler.shutdown(azure)
    await mlflow_server.shutdown(azure)


def url(azure: Azure) -> str:
    """The server's page, for a browser."""
    return mlflow_server.of(azure).url


async def relay(azure: Azure, request: Request) -> Answer:
    """Pass a request on, with job names where the server has run ids."""
    path = request.path_params["path"]
    if path not in SERVED[request.method]:
        raise not_implemented(f"{request.method} {path} of the MLflow API")
    query = [(key, _uuid(azure, value) if key in RUN_KEYS else value) for key, value in request.query_params.multi_items()]
    asked = await body(request) if request.method == "POST" else None
    if path == "experiments/create" and asked and asked.get("artifact_location"):
        return _refused("The workspace decides where artifacts are stored: leave artifact_location out.")
    response = await mlflow_server.of(azure).forward(request.method, path, query, inward(asked, lambda name: _uuid(azure, name)))
    answer = response.json() if response.content else {}
    if response.is_success and asked is not None:
        await _note(azure, path, asked, answer)
    return JSONResponse(outward(answer, lambda known: _name(azure, known), lambda name: _artifacts(azure, name)), response.status_code)


async def get_clouds(azure: Azure, request: Request) -> Answer:
    """The one cloud there is, with what azureml-mlflow reads of it: where to sign in, what for, and where storage is."""
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
    """azureml-mlflow's own batch: taken at once, so that its status is complete whenever it is asked."""
    asked = await body(request)
    batch = inward(asked, lambda name: _uuid(azure, name))
    response = await mlflow_server.of(azure).forward("POST", "runs/log-batch", [], batch)
    if not response.is_success:
        return JSONResponse(response.json(), response.status_code)
    await _note(azure, "runs/log-batch", asked, {})
    return {"batch_tracking_id": str(uuid.uuid4())}


async def get_run_data_status(azure: Azure, request: Request) -> Answer:
    """How such a batch stands."""
    return {"is_complete": True}


def inward(value: Any, to_uuid: Callable[[str], str], key: str = "") -> Any:
    """A request's JSON with the server's run ids."""
    if isinstance(value, dict):
        if value.get("key") in RUN_TAGS and isinstance(value.get("value"), str):
            return value | {"value": to_uuid(value["value"])}
        return {name: inward(item, to_uuid, name) for name, item in value.items()}
    if isinstance(value, list):
        return [inward(item, to_uuid) for item in value]
    if isinstance(value, str) and key in RUN_KEYS:
        return to_uuid(value)
    if isinstance(value, str) and key == "filter":
        clauses = CLAUSES.split(value)
        return "".join(
            QUOTED.sub(lambda match: f"{match[1]}{to_uuid(match[2])}{match[1]}", clause) if RUN_FIELD.match(clause) else clause
            for clause in clauses
        )
    return value


def outward(value: Any, to_name: Callable[[str], str], artifacts: Callable[[str], str]) -> Any:
    """An answer's JSON with job names, and artifact URIs as the workspace tells them."""
    if isinstance(value, dict):
        told = {name: outward(item, to_name, artifacts) for name, item in value.items()}
        if told.get("key") in RUN_TAGS:
            told["value"] = to_name(told["value"])
        for key in RUN_KEYS & told.keys():
            told[key] = to_name(told[key])
        if "artifact_uri" in told:
            told["artifact_uri"] = artifacts(told["run_id"])
        if "artifact_location" in told:
            told["artifact_location"] = ""
        return told
    if isinstance(value, list):
        return [outward(item, to_name, artifacts) for item in value]
    return value


async def _note(azure: Azure, path: str, asked: dict[str, Any], answer: dict[str, Any]) -> None:
    """Keep run history in step with what MLflow was told."""
    if path == "runs/create":
        info = answer["run"]["info"]
        tags = {tag["key"]: tag["value"] for tag in answer["run"]["data"].get("tags", [])}
        experiment = await mlflow_server.of(azure).call("GET", "experiments/get", {"experiment_id": info["experiment_id"]})
        parent = tags.get("mlflow.parentRunId")
        mlflow_server.of(azure).link(azure, info["experiment_id"], info["run_id"], info["run_id"])
        runstore.remember(
            azure,
            runstore.document(
                name=info["run_id"],
                uuid=info["run_id"],
                experiment=experiment["experiment"]["name"],
                experiment_id=info["experiment_id"],
                display_name=info.get("run_name", ""),
                parent=_name(azure, parent) if parent else None,
                status="Running",
                tags=_own(tags),
            ),
        )
        return
    name = asked.get("run_id") or asked.get("run_uuid")
    if not isinstance(name, str) or runstore.get(azure, name) is None:
        return
    with runstore.change(azure, name) as document:
        if path == "runs/update" and document["kind"] == "mlflow" and (status := asked.get("status")):
            runstore.advance(document, STATUSES[status])
        if path == "runs/update" and asked.get("run_name"):
            document["display_name"] = asked["run_name"]
        if path == "runs/set-tag":
            document["tags"] |= _own({asked["key"]: asked["value"]})
        if path == "runs/log-batch":
            document["tags"] |= _own({tag["key"]: tag["value"] for tag in asked.get("tags", [])})
        if path == "runs/delete-tag":
            document["tags"].pop(asked["key"], None)


def _own(tags: dict[str, str]) -> dict[str, str]:
    return {key: value for key, value in tags.items() if not key.startswith("mlflow.")}


def _uuid(azure: Azure, name: str) -> str:
    known = runstore.get(azure, name)
    return known["uuid"] if known else name


def _name(azure: Azure, known: str) -> str:
    return runstore.name_of(azure, known) or known


def _artifacts(azure: Azure, name: str) -> str:
    known = runstore.get(azure, name)
    experiment = known["experiment_id"] if known else "0"
    return f"azureml://{API_HOST}/mlflow/v2.0{azure.workspace_id}/experiments/{experiment}/runs/{name}/artifacts"


def _refused(message: str) -> JSONResponse:
    return JSONResponse({"error_code": "INVALID_PARAMETER_VALUE", "message": message}, status_code=400)


_API = "/mlflow/{version}" + WS + "/api/2.0/"
ROUTES = [
    Route("arm", "GET", "/metadata/endpoints", get_clouds, {"2019-05-01"}, public=True),
    Route("api", "GET", _API + "mlflow/{path:path}", relay),
    Route("api", "POST", _API + "mlflow/{path:path}", relay),
    Route("api", "POST", _API + "preview/mlflow/runs/log-batch-async", log_batch_async),
    Route("api", "GET", _API + "preview/mlflow/runs/get-run-data-status", get_run_data_status),
]
