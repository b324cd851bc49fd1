"""The order of the statuses that jobs, pipelines and their nodes go through, each of them, however short."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from mlops.emulator.base.store import Document
from mlops.emulator.history import runstore
from mlops.emulator.server import Emulator
from tests.emulator.jobs.test_graph_jobs import ENVIRONMENT, pipeline, write
from tests.emulator.jobs.test_jobs import put, wait_for_job

Sequences = dict[str, list[str]]
NODE = ["NotStarted", "Preparing", "Queued", "Running"]


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> Sequences:
    """Return the name of each run → its statuses, each once, as they are recorded."""
    sequences: Sequences = defaultdict(list)
    add, apply_status = runstore.add, runstore.apply_status

    def note(run: Document) -> None:
        if sequences[run["name"]][-1:] != [run["status"]]:
            sequences[run["name"]].append(run["status"])

    def add_and_note(azure: Any, run: Document) -> Document:
        note(run)
        return add(azure, run)

    def apply_and_note(run: Document, status: str) -> None:
        apply_status(run, status)
        note(run)

    monkeypatch.setattr(runstore, "add", add_and_note)
    monkeypatch.setattr(runstore, "apply_status", apply_and_note)
    return sequences


def of_nodes(ml: Any, job: str, seen: Sequences) -> Sequences:
    return {child.display_name: seen[child.name] for child in ml.jobs.list(parent_job_name=job)}


def two_nodes(first: str, second: str, **settings: Any) -> Any:
    """Return a pipeline of two commands that don't need each other."""
    from azure.ai.ml import dsl

    @dsl.pipeline(default_compute="serverless", **settings)
    def both():  # type: ignore[no-untyped-def]
        first_node, second_node = write(first)(), write(second)()
        return {"first": first_node.outputs.folder, "second": second_node.outputs.folder}

    return both()


def test_of_a_command(emulator: Emulator, ml: Any, credential: Any, seen: Sequences) -> None:
    job = {"jobType": "Command", "command": "true", "environmentId": ENVIRONMENT}
    assert put(emulator, credential, "statuses", job).json()["properties"]["status"] == "Starting"
    wait_for_job(ml, "statuses")
    assert seen["statuses"] == ["Starting", "Preparing", "Queued", "Running", "Finalizing", "Completed"]


def test_of_a_pipeline_and_its_nodes(ml: Any, seen: Sequences) -> None:
    job = wait_for_job(ml, ml.jobs.create_or_update(pipeline()).name)
    assert seen[job.name] == ["Preparing", "Running", "Finalizing", "Completed"]
    assert of_nodes(ml, job.name, seen) == {key: [*NODE, "Finalizing", "Completed"] for key in ("first", "second", "both")}


@pytest.mark.parametrize("continues", [True, False])
def test_of_a_node_that_fails_and_of_one_that_does_not_need_it(ml: Any, seen: Sequences, continues: bool) -> None:
    submitted = ml.jobs.create_or_update(two_nodes("x; exit 3; ", "fine", continue_on_step_failure=continues))
    job = wait_for_job(ml, submitted.name)
    assert seen[job.name] == ["Preparing", "Running", "Failed"]
    other = {"second_node": [*NODE, "Finalizing", "Completed"]} if continues else {}
    assert of_nodes(ml, job.name, seen) == {"first_node": [*NODE, "Failed"]} | other


def test_of_a_pipeline_that_is_canceled(emulator: Emulator, ml: Any, seen: Sequences, tmp_path: Path) -> None:
    begun = tmp_path / "begun"
    submitted = ml.jobs.create_or_update(two_nodes(f"x; touch {begun}; sleep 100; ", "never"))
    while not begun.exists():
        assert ml.jobs.get(submitted.name).status in ("Preparing", "Running")
    ml.jobs.begin_cancel(submitted.name).result()
    assert seen[submitted.name] == ["Preparing", "Running", "CancelRequested", "Canceled"]
    assert of_nodes(ml, submitted.name, seen) == {"first_node": [*NODE, "Canceled"]}
