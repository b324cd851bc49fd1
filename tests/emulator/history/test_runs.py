"""Run history through the SDK."""

from __future__ import annotations

import ast
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from mlops.emulator.history import runs
from mlops.emulator.server import Emulator

ENVIRONMENT = "azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112"


def submit(ml: Any, line: str, **more: Any) -> str:
    from azure.ai.ml import command

    name: str = ml.jobs.create_or_update(command(command=line, environment=ENVIRONMENT, **more)).name
    return name


def wait(ml: Any, name: str, *statuses: str) -> None:
    end = time.monotonic() + 120
    while ml.jobs.get(name).status not in statuses:
        assert time.monotonic() < end
        time.sleep(0.1)


def read_log(details: Any) -> str:
    return requests.get(details.log_files["user_logs/std_log.txt"], timeout=30).text


def test_a_log_grows_while_the_job_runs(ml: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    name = submit(ml, f"echo one; while [ ! -e {gate} ]; do sleep 0.1; done; echo two")
    history = ml.jobs._runs_operations
    wait(ml, name, "Running")
    end = time.monotonic() + 60
    while "user_logs/std_log.txt" not in (details := history.get_run_details(name)).log_files or read_log(details) != "one\n":
        assert time.monotonic() < end
        time.sleep(0.1)
    assert (details.status, details.end_time_utc, details.error) == ("Running", None, None)
    gate.touch()
    wait(ml, name, "Completed")
    details = history.get_run_details(name)
    assert read_log(details) == "one\ntwo\n"
    assert details.end_time_utc >= details.start_time_utc
    assert (details.effective_start_time_utc, details.last_start_time_utc) == (None, None)


def test_a_failed_run_has_an_error_object(ml: Any) -> None:
    name = submit(ml, "echo it broke; exit 2")
    wait(ml, name, "Failed")
    error = ml.jobs._runs_operations.get_run_details(name).error
    assert error.error.code == "UserError"
    assert error.error.message.startswith("Execution failed. User process 'echo' exited with status code 2.")
    assert "it broke" in error.error.message
    assert (error.location, error.error.inner_error.code) == ("eastus", "UserProcessError")


def test_rundata_has_outputs_once_the_run_has_completed(emulator: Emulator, ml: Any, credential: Any) -> None:
    from azure.ai.ml import Output

    good = submit(ml, "echo x > ${{outputs.out}}/x", outputs={"out": Output(type="uri_folder")}, display_name="good", tags={"a": "b"})
    bad = submit(ml, "exit 1", outputs={"out": Output(type="uri_folder")})
    wait(ml, good, "Completed")
    wait(ml, bad, "Failed")
    data = ml.jobs._runs_operations.get_run_data(good)
    assert (data.run_metadata.display_name, data.run_metadata.tags) == ("good", {"a": "b"})
    assets = {name: output.asset_id for name, output in data.run_metadata.outputs.items()}
    assert {output.type for output in data.run_metadata.outputs.values()} == {"UriFolder"}
    assert assets["out"].endswith(f"/data/azureml_{good}_output_data_out/versions/1")
    assert ml.jobs._runs_operations.get_run(good).outputs is None
    token = credential.get_token("https://management.azure.com/.default").token
    answer = requests.post(
        f"https://eastus.api.azureml.ms/data/v1.0{emulator.azure.workspace_id}/dataversion/batchGetResolvedUris",
        json={"values": list(assets.values())},
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    ).json()
    i = emulator.azure.identity
    stores = f"azureml://subscriptions/{i.subscription}/resourcegroups/{i.group}/workspaces/{i.workspace}/datastores"
    uris = {"default": f"workspaceartifactstore/paths/ExperimentRun/dcid.{good}/", "out": f"workspaceblobstore/paths/azureml/{good}/out/"}
    assert answer["values"] == {
        assets[name]: {"uri": f"{stores}/{uri}", "type": "UriFolder", "legacyDatasetType": None} for name, uri in uris.items()
    }
    definition = ast.literal_eval(data.run_definition)
    assert (definition["command"], definition["target"], definition["nodeCount"]) == ("echo x > DatasetOutputConfig:out/x", "serverless", 1)
    location = definition["outputData"]["out"]["outputLocation"]
    assert location["uri"] == {"path": f"azureml://datastores/workspaceblobstore/paths/azureml/{good}/out/", "isFile": False}
    assert data.job_specification is None
    assert not ml.jobs._runs_operations.get_run_data(bad).run_metadata.outputs


def test_children_are_listed_page_by_page(emulator: Emulator, ml: Any, credential: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=emulator.azure.tracking_uri)
    parent = submit(ml, "true")
    children = [client.create_run("0", tags={"mlflow.parentRunId": parent}).info.run_id for _ in range(5)]
    monkeypatch.setattr(runs, "PAGE", 2)
    token = credential.get_token("https://management.azure.com/.default").token
    listed: list[str] = []
    # The SDK reads the first page only.
    next_link = f"https://eastus.api.azureml.ms/history/v1.0{emulator.azure.workspace_id}/runs/{parent}/children?api-version=v1.0"
    while next_link:
        page = requests.get(next_link, headers={"Authorization": f"Bearer {token}"}, timeout=30).json()
        assert len(page["value"]) <= 2
        listed += [run["runId"] for run in page["value"]]
        next_link = page["nextLink"]
    assert listed == children
    wait(ml, parent, "Completed")


def test_a_missing_run_is_not_found(ml: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    with pytest.raises(ResourceNotFoundError, match="Run nothing was not found"):
        ml.jobs._runs_operations.get_run_details("nothing")


def test_a_read_only_field_cannot_be_edited(emulator: Emulator, ml: Any, credential: Any) -> None:
    name = submit(ml, "true")
    wait(ml, name, "Completed")
    token = credential.get_token("https://management.azure.com/.default").token
    answer = requests.patch(
        f"https://eastus.api.azureml.ms/history/v1.0{emulator.azure.workspace_id}/experiments/Default/runs/{name}",
        json={"status": "Failed"},
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    )
    assert (answer.status_code, "does not let status be changed" in answer.text) == (400, True)
    assert ml.jobs.get(name).status == "Completed"


def test_changed_tags_and_names_reach_mlflow(emulator: Emulator, ml: Any) -> None:
    from mlflow import MlflowClient

    name = submit(ml, "true", display_name="before")
    wait(ml, name, "Completed")
    ml.jobs.update(name, display_name="after", tags={"verdict": "PROMOTE"})
    run = MlflowClient(tracking_uri=emulator.azure.tracking_uri).get_run(name)
    assert (run.info.run_name, run.data.tags["verdict"]) == ("after", "PROMOTE")
