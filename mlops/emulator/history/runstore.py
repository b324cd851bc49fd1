"""Run documents: the record of each job, of each step of a pipeline, and of each run that an MLflow client created.

One document per run, kind ``run``, keyed by the run's name, which is the job's name where there is a job. Each has its run in MLflow.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.clock import now
from mlops.emulator.base.store import Document
from mlops.emulator.history import mlflow_server

__all__ = [
    "ACTIVE", "TERMINAL", "add", "apply_status", "change", "create", "find_name", "get", "get_for_client", "list_all", "list_children",
    "new_document", "send_status", "send_tags", "set_status",
]  # fmt: skip

TERMINAL = frozenset({"Completed", "Failed", "Canceled"})
"""Statuses that a run never leaves."""
ACTIVE = frozenset({"Running", "Finalizing"})
MLFLOW = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"} | dict.fromkeys(
    ("Running", "Finalizing", "CancelRequested", "NotResponding"), "RUNNING"
)


def new_document(**fields: Any) -> Document:
    """Return a run's document: ``fields`` over the defaults.

    ``kind`` is ``job``, ``step`` or ``mlflow``; ``job`` the resource's properties as submitted; ``command`` those of the command job that a
    pipeline's step is; ``error`` the error object of run history; ``outputs`` name → ``{type, uri}``, and for a pipeline also the ``run``
    and the ``output`` of the step that writes it. Until that step starts, a pipeline's output has an empty URI if the job doesn't set one.
    """
    defaults: Document = {
        "kind": "mlflow", "job": None, "command": None, "display_name": "", "description": None, "parent": None, "root": None,
        "status": "NotStarted", "tags": {}, "properties": {}, "parameters": {}, "compute": None, "nodes": 1, "inputs": {}, "outputs": {},
        "error": None, "hidden": False, "created": now(), "start": None, "end": None, "modified": now(), "revision": 1, "queued_reads": 0,
    }  # fmt: skip
    return defaults | fields | {"start": now() if fields.get("status") in ACTIVE else None}


def get(azure: Azure, name: str) -> Document | None:
    """Return the run with this name, or None."""
    return azure.store.get("run", name)


def get_for_client(azure: Azure, name: str) -> Document | None:
    """Return the run as :func:`get` does, and count a client's read of it for the fault ``job-queued``."""
    run = get(azure, name)
    if run is not None and run["queued_reads"] > 0:
        with change(azure, name) as document:
            document["queued_reads"] -= 1
    return run


def change(azure: Azure, name: str) -> AbstractContextManager[Document]:
    """Change a run's document in place; see :meth:`Store.change`."""
    return azure.store.change("run", name)


def list_all(azure: Azure) -> list[Document]:
    """Return all runs, oldest first."""
    return [run for _, run in azure.store.list("run")]


def list_children(azure: Azure, name: str) -> list[Document]:
    """Return the runs whose parent is ``name``, oldest first."""
    return [run for run in list_all(azure) if run["parent"] == name]


def find_name(azure: Azure, uuid: str) -> str | None:
    """Return the name of the run that has this id in MLflow, or None."""
    entry = azure.store.get("run-uuid", uuid)
    return entry["name"] if entry else None


def add(azure: Azure, run: Document) -> Document:
    """Number and store a new run."""
    parent = get(azure, run["parent"]) if run["parent"] else None
    run |= {"root": parent["root"] if parent else run["name"], "number": len(list_all(azure)) + 1, "author": azure.author}
    azure.store.put("run-uuid", run["uuid"], {"name": run["name"]})
    return azure.store.put("run", run["name"], run)


def apply_status(run: Document, status: str) -> None:
    """Set a document's status and the times that go with it."""
    moment = now()
    run |= {"status": status, "modified": moment, "revision": run["revision"] + 1}
    if status in ACTIVE and run["start"] is None:
        run["start"] = moment
    if status in TERMINAL:
        run["end"] = moment


async def create(azure: Azure, name: str, experiment: str, **fields: Any) -> Document:
    """Create a run with its run in MLflow, nested under the run of ``parent`` if there is one; see :func:`new_document` for the fields."""
    server = mlflow_server.get_server(azure)
    experiment_id = await server.ensure_experiment(experiment)
    run = new_document(name=name, experiment=experiment, experiment_id=experiment_id, **fields)
    tags = {"mlflow.user": azure.identity.client, "azureml.job": name} | run["tags"]
    if parent := get(azure, run["parent"]) if run["parent"] else None:
        root = get(azure, parent["root"])
        tags |= {"mlflow.parentRunId": parent["uuid"], "mlflow.rootRunId": root["uuid"] if root else parent["uuid"]}
    answer = await server.call(
        "POST",
        "runs/create",
        {
            "experiment_id": experiment_id,
            "run_name": run["display_name"] or name,
            "start_time": _milliseconds(),
            "tags": [{"key": key, "value": value or ""} for key, value in tags.items()],
        },
    )
    run["uuid"] = answer["run"]["info"]["run_id"]
    await server.call("POST", "runs/update", {"run_id": run["uuid"], "status": "SCHEDULED"})
    server.link_artifacts(experiment_id, run["uuid"], name)
    return add(azure, run)


async def set_status(azure: Azure, name: str, status: str, error: dict[str, Any] | None = None) -> None:
    """Set a run's status here and in MLflow. A run that has ended keeps its status, and one that is being canceled can only end."""
    with change(azure, name) as run:
        if run["status"] in TERMINAL or (run["status"] == "CancelRequested" and status not in TERMINAL):
            return
        is_same_in_mlflow = status not in TERMINAL and _mlflow_status(run["status"]) == _mlflow_status(status)
        apply_status(run, status)
        if error is not None:
            run["error"] = error
        uuid = run["uuid"]
    if not is_same_in_mlflow:
        await send_status(azure, uuid, status)


async def send_status(azure: Azure, uuid: str, status: str) -> None:
    """Pass a status on to MLflow."""
    update: dict[str, Any] = {"run_id": uuid, "status": _mlflow_status(status)}
    if status in TERMINAL:
        update["end_time"] = _milliseconds()
    await mlflow_server.get_server(azure).call("POST", "runs/update", update)


async def send_tags(azure: Azure, name: str, tags: dict[str, Any], display_name: str | None = None) -> None:
    """Pass changed tags, and a changed name, on to MLflow."""
    run = get(azure, name)
    if run is None:
        return
    server = mlflow_server.get_server(azure)
    for key, value in tags.items():
        await server.call("POST", "runs/set-tag", {"run_id": run["uuid"], "key": key, "value": str(value)})
    if display_name:
        await server.call("POST", "runs/update", {"run_id": run["uuid"], "run_name": display_name})


def _mlflow_status(status: str) -> str:
    return MLFLOW.get(status, "SCHEDULED")


def _milliseconds() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)
