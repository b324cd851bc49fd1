"""Run documents: what run history knows of each job, of each step of a pipeline, and of each run that an MLflow client made.

One document per run, kind ``run``, keyed by the run's name, which is the job's name where there is a job. Each has its run in MLflow.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.store import Document
from mlops.emulator.history import mlflow_server

__all__ = [
    "TERMINAL", "advance", "change", "children", "create", "document", "everything", "get", "move", "name_of", "now", "remember",
    "seen", "tell_status", "tell_tags",
]  # fmt: skip

TERMINAL = frozenset({"Completed", "Failed", "Canceled"})
"""What a run never leaves again."""
ACTIVE = frozenset({"Running", "Finalizing"})
MLFLOW = {"Completed": "FINISHED", "Failed": "FAILED", "Canceled": "KILLED"} | dict.fromkeys(
    ("Running", "Finalizing", "CancelRequested", "NotResponding"), "RUNNING"
)


def now() -> str:
    """UTC, ISO 8601."""
    return datetime.now(UTC).isoformat()


def document(**fields: Any) -> Document:
    """A run's document: ``fields`` over the defaults.

    ``kind`` is ``job``, ``step`` or ``mlflow``; ``job`` the resource's properties as submitted; ``outputs`` name → ``{type, uri}``;
    ``error`` the error object of run history.
    """
    defaults: Document = {
        "kind": "mlflow", "job": None, "display_name": "", "description": None, "parent": None, "root": None, "status": "NotStarted",
        "tags": {}, "properties": {}, "parameters": {}, "compute": None, "nodes": 1, "inputs": {}, "outputs": {}, "error": None,
        "hidden": False, "created": now(), "start": None, "end": None, "modified": now(), "revision": 1, "queued_reads": 0,
    }  # fmt: skip
    return defaults | fields | {"start": now() if fields.get("status") in ACTIVE else None}


def get(azure: Azure, name: str) -> Document | None:
    """The run of that name, or None."""
    return azure.store.get("run", name)


def change(azure: Azure, name: str) -> AbstractContextManager[Document]:
    """Change a run's document in place; see :meth:`Store.change`."""
    return azure.store.change("run", name)


def everything(azure: Azure) -> list[Document]:
    """All runs, oldest first."""
    return [run for _, run in azure.store.list("run")]


def children(azure: Azure, name: str) -> list[Document]:
    """Runs whose parent is ``name``, oldest first."""
    return [run for run in everything(azure) if run["parent"] == name]


def name_of(azure: Azure, uuid: str) -> str | None:
    """Which run has this id in MLflow."""
    known = azure.store.get("run-uuid", uuid)
    return known["name"] if known else None


def remember(azure: Azure, run: Document) -> Document:
    """Store a new run, numbered."""
    parent = get(azure, run["parent"]) if run["parent"] else None
    run |= {"root": parent["root"] if parent else run["name"], "number": len(everything(azure)) + 1}
    azure.store.put("run-uuid", run["uuid"], {"name": run["name"]})
    return azure.store.put("run", run["name"], run)


def advance(run: Document, status: str) -> None:
    """Give a document another status, and the times that go with it."""
    moment = now()
    run |= {"status": status, "modified": moment, "revision": run["revision"] + 1}
    if status in ACTIVE and run["start"] is None:
        run["start"] = moment
    if status in TERMINAL:
        run["end"] = moment


async def create(azure: Azure, name: str, experiment: str, **fields: Any) -> Document:
    """Make a run with its run in MLflow, nested under the run of ``parent`` if that is given; see :func:`document` for the fields."""
    server = mlflow_server.of(azure)
    experiment_id = await server.experiment(experiment)
    run = document(name=name, experiment=experiment, experiment_id=experiment_id, **fields)
    tags = {"mlflow.user": azure.identity.client, "azureml.job": name} | run["tags"]
    if parent := get(azure, run["parent"]) if run["parent"] else None:
        root = get(azure, parent["root"])
        tags |= {"mlflow.parentRunId": parent["uuid"], "mlflow.rootRunId": root["uuid"] if root else parent["uuid"]}
    made = await server.call(
        "POST",
        "runs/create",
        {
            "experiment_id": experiment_id,
            "run_name": run["display_name"] or name,
            "start_time": _milliseconds(),
            "tags": [{"key": key, "value": value} for key, value in tags.items()],
        },
    )
    run["uuid"] = made["run"]["info"]["run_id"]
    await server.call("POST", "runs/update", {"run_id": run["uuid"], "status": "SCHEDULED"})
    server.link(azure, experiment_id, run["uuid"], name)
    return remember(azure, run)


async def move(azure: Azure, name: str, status: str, error: dict[str, Any] | None = None) -> None:
    """Give a run another status, here and in MLflow. A run that has ended stays as it is, and one that is to be cancelled only ends."""
    with change(azure, name) as run:
        if run["status"] in TERMINAL or (run["status"] == "CancelRequested" and status not in TERMINAL):
            return
        advance(run, status)
        if error is not None:
            run["error"] = error
        uuid = run["uuid"]
    await tell_status(azure, uuid, status)


async def tell_status(azure: Azure, uuid: str, status: str) -> None:
    """Pass a status on to MLflow."""
    update: dict[str, Any] = {"run_id": uuid, "status": MLFLOW.get(status, "SCHEDULED")}
    if status in TERMINAL:
        update["end_time"] = _milliseconds()
    await mlflow_server.of(azure).call("POST", "runs/update", update)


def seen(azure: Azure, name: str) -> Document | None:
    """The run, as a client reads its status; counts down the fault ``job-queued``."""
    known = get(azure, name)
    if known is None or known["queued_reads"] == 0:
        return known
    with change(azure, name) as run:
        run["queued_reads"] -= 1
    return known


async def tell_tags(azure: Azure, name: str, tags: dict[str, Any], display_name: str | None = None) -> None:
    """Pass on to MLflow what was changed here."""
    run = get(azure, name)
    if run is None:
        return
    server = mlflow_server.of(azure)
    for key, value in tags.items():
        await server.call("POST", "runs/set-tag", {"run_id": run["uuid"], "key": key, "value": str(value)})
    if display_name:
        await server.call("POST", "runs/update", {"run_id": run["uuid"], "run_name": display_name})


def _milliseconds() -> int:
    return int(datetime.now(UTC).timestamp() * 1000)
