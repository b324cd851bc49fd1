"""MLflow under the workspace's tracking URI, through mlflow and azureml-mlflow."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import requests

from mlops.emulator.history import mlflow_api
from mlops.emulator.server import Emulator


@pytest.fixture
def client(emulator: Emulator, environment: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the tracking URI that the workspace tells."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=emulator.azure.tracking_uri)


@pytest.fixture
def experiment(client: Any, request: pytest.FixtureRequest) -> str:
    """An experiment of the test's own."""
    made: str = client.create_experiment(re.sub(r"\W", "_", request.node.name))
    return made


def test_runs_metrics_params_and_tags_are_written_and_read(client: Any, experiment: str) -> None:
    from mlflow.entities import Metric, Param, RunTag

    run = client.create_run(experiment, tags={"kind": "test"}, run_name="by hand").info.run_id
    for step in range(3):
        client.log_metric(run, "loss", 1 / (step + 1), step=step)
    client.log_batch(run, [Metric("rows", 7, 0, 0)], [Param("rank", "8")], [RunTag("colour", "blue")])
    client.log_param(run, "alpha", 16)
    client.set_tag(run, "gone", "soon")
    client.delete_tag(run, "gone")
    client.set_terminated(run)
    read = client.get_run(run)
    assert read.data.metrics == {"loss": pytest.approx(1 / 3), "rows": 7}
    assert read.data.params == {"rank": "8", "alpha": "16"}
    assert {name: value for name, value in read.data.tags.items() if "mlflow" not in name} == {"kind": "test", "colour": "blue"}
    assert (read.info.status, read.info.run_name) == ("FINISHED", "by hand")
    assert [(point.step, point.value) for point in client.get_metric_history(run, "loss")] == [(0, 1), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert [found.info.run_id for found in client.search_runs([experiment], "metrics.rows > 6 and tags.colour = 'blue'")] == [run]
    assert client.search_runs([experiment], "tags.gone = 'soon'") == []


def test_nested_runs_know_their_parent(client: Any, experiment: str) -> None:
    parent = client.create_run(experiment).info.run_id
    child = client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id
    found = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")
    assert [run.info.run_id for run in found] == [child]


def test_experiments(client: Any, experiment: str) -> None:
    from mlflow.exceptions import MlflowException

    known = client.get_experiment(experiment)
    assert client.get_experiment_by_name(known.name).experiment_id == experiment
    assert experiment in [found.experiment_id for found in client.search_experiments()]
    client.set_experiment_tag(experiment, "owner", "me")
    assert client.get_experiment(experiment).tags["owner"] == "me"
    with pytest.raises(MlflowException, match="already exists"):
        client.create_experiment(known.name)
    with pytest.raises(MlflowException, match="The workspace decides where artifacts are stored"):
        client.create_experiment("elsewhere", artifact_location="/tmp/elsewhere")
    assert client.get_experiment_by_name("elsewhere") is None


def test_the_fluent_interface_and_asynchronous_logging(emulator: Emulator, environment: Any, client: Any) -> None:
    import mlflow

    mlflow.set_tracking_uri(emulator.azure.tracking_uri)
    try:
        mlflow.set_experiment("fluent")
        with mlflow.start_run(run_name="outer") as outer, mlflow.start_run(run_name="inner", nested=True) as inner:
            mlflow.log_metric("speed", 3, synchronous=False)
            mlflow.log_params({"a": 1, "b": 2}, synchronous=False)
            mlflow.flush_async_logging()
        assert client.get_run(inner.info.run_id).data.metrics == {"speed": 3}
        assert client.get_run(inner.info.run_id).data.tags["mlflow.parentRunId"] == outer.info.run_id
        assert client.get_run(outer.info.run_id).info.status == "FINISHED"
    finally:
        mlflow.set_tracking_uri("")


def test_runs_of_a_client_are_in_run_history(ml: Any, client: Any, experiment: str) -> None:
    run = client.create_run(experiment, run_name="seen", tags={"colour": "red"}).info.run_id
    known = ml.jobs._runs_operations.get_run(run)
    assert (known.display_name, known.status, known.tags) == ("seen", "Running", {"colour": "red"})
    client.set_tag(run, "colour", "green")
    client.set_terminated(run, "FAILED")
    known = ml.jobs._runs_operations.get_run(run)
    assert (known.status, known.tags) == ("Failed", {"colour": "green"})


def test_a_run_that_is_not_there(client: Any) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=r"Run.* not found"):
        client.get_run("0" * 32)


def test_what_the_workspace_does_not_serve_is_refused(client: Any) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="does not implement POST logged-models of the MLflow API"):
        client.create_logged_model("0")


def test_the_page_is_open_to_a_browser(emulator: Emulator, client: Any, experiment: str) -> None:
    client.create_run(experiment)  # the server answers by now
    session = requests.Session()
    session.trust_env = False
    page = session.get(mlflow_api.get_url(emulator.azure), timeout=30)
    assert (page.status_code, "<title>MLflow</title>" in page.text) == (200, True)


def names(known: dict[str, str]) -> Any:
    return lambda name: known.get(name, name)


@pytest.mark.parametrize(
    ("asked", "sent"),
    [
        ({"run_id": "job"}, {"run_id": "u"}),
        ({"run_uuid": "job", "key": "job", "value": "job"}, {"run_uuid": "u", "key": "job", "value": "job"}),
        ({"tags": [{"key": "mlflow.parentRunId", "value": "job"}]}, {"tags": [{"key": "mlflow.parentRunId", "value": "u"}]}),
        ({"tags": [{"key": "made_by", "value": "job"}]}, {"tags": [{"key": "made_by", "value": "job"}]}),
        ({"filter": "tags.mlflow.parentRunId = 'job'"}, {"filter": "tags.mlflow.parentRunId = 'u'"}),
        ({"filter": "tags.`mlflow.parentRunId` = 'job'"}, {"filter": "tags.`mlflow.parentRunId` = 'u'"}),
        ({"filter": "attributes.run_id IN ('job', 'other')"}, {"filter": "attributes.run_id IN ('u', 'other')"}),
        ({"filter": 'run_id = "job" AND tags.made_by = "job"'}, {"filter": 'run_id = "u" AND tags.made_by = "job"'}),
    ],
)
def test_job_names_become_run_ids_on_the_way_in(asked: dict[str, Any], sent: dict[str, Any]) -> None:
    assert mlflow_api.translate_request(asked, names({"job": "u"})) == sent


def test_run_ids_become_job_names_on_the_way_out() -> None:
    answer = {
        "run": {
            "info": {"run_id": "u", "run_uuid": "u", "artifact_uri": "/state/u/artifacts", "experiment_id": "1"},
            "data": {"tags": [{"key": "mlflow.parentRunId", "value": "p"}, {"key": "x", "value": "u"}]},
        },
        "experiment": {"artifact_location": "/state/1"},
    }
    assert mlflow_api.translate_answer(answer, names({"u": "job", "p": "parent"}), lambda name: f"azureml://{name}") == {
        "run": {
            "info": {"run_id": "job", "run_uuid": "job", "artifact_uri": "azureml://job", "experiment_id": "1"},
            "data": {"tags": [{"key": "mlflow.parentRunId", "value": "parent"}, {"key": "x", "value": "u"}]},
        },
        "experiment": {"artifact_location": ""},
    }


def test_the_server_is_the_same_after_a_restart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    def client(emulator: Emulator) -> Any:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        return MlflowClient(tracking_uri=emulator.azure.tracking_uri)

    with Emulator(tmp_path) as emulator:
        url = mlflow_api.get_url(emulator.azure)
        run = client(emulator).create_run("0", run_name="kept").info.run_id
    assert not (tmp_path / "mlflow.json").exists()
    with Emulator(tmp_path) as emulator:
        assert mlflow_api.get_url(emulator.azure) == url
        assert client(emulator).get_run(run).info.run_name == "kept"
