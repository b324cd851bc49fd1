"""MLflow under the workspace's tracking URI, through mlflow and azureml-mlflow."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import time
from pathlib import Path
from typing import Any

import pytest
import requests

from mlops.emulator.base.azure import Options
from mlops.emulator.base.fork_servers import ForkServers
from mlops.emulator.history import mlflow_api, mlflow_server
from mlops.emulator.server import Emulator


@pytest.fixture
def client(emulator: Emulator, environment: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A client of the workspace's tracking URI."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=emulator.azure.tracking_uri)


@pytest.fixture
def experiment(client: Any, request: pytest.FixtureRequest) -> str:
    """A new experiment, named after the test."""
    experiment_id: str = client.create_experiment(re.sub(r"\W", "_", request.node.name))
    return experiment_id


def test_runs_metrics_params_and_tags_are_written_and_read(client: Any, experiment: str) -> None:
    from mlflow.entities import Metric, Param, RunTag

    run = client.create_run(experiment, tags={"kind": "test"}, run_name="by hand").info.run_id
    for step in range(3):
        client.log_metric(run, "loss", 1 / (step + 1), step=step)
    client.log_batch(run, [Metric("rows", 7, 0, 0)], [Param("rank", "8")], [RunTag("color", "blue")])
    client.log_param(run, "alpha", 16)
    client.set_tag(run, "gone", "soon")
    client.delete_tag(run, "gone")
    client.set_terminated(run)
    read = client.get_run(run)
    assert read.data.metrics == {"loss": pytest.approx(1 / 3), "rows": 7}
    assert read.data.params == {"rank": "8", "alpha": "16"}
    assert {name: value for name, value in read.data.tags.items() if "mlflow" not in name} == {"kind": "test", "color": "blue"}
    assert (read.info.status, read.info.run_name) == ("FINISHED", "by hand")
    assert [(point.step, point.value) for point in client.get_metric_history(run, "loss")] == [(0, 1), (1, 0.5), (2, pytest.approx(1 / 3))]
    assert [result.info.run_id for result in client.search_runs([experiment], "metrics.rows > 6 and tags.color = 'blue'")] == [run]
    assert client.search_runs([experiment], "tags.gone = 'soon'") == []


def test_runs_are_searched_as_azure_documents_it(client: Any, experiment: str) -> None:
    from mlflow.exceptions import MlflowException

    runs = {}
    for name, minutes in (("short", 1), ("long", 90), ("medium", 10), ("running", None)):
        run = client.create_run(experiment, start_time=1_000_000, run_name=name)
        client.log_param(run.info.run_id, "rows", minutes or 0)
        client.log_metric(run.info.run_id, "loss", minutes or 0)
        if minutes is not None:
            client.set_terminated(run.info.run_id, "FAILED" if name == "short" else "FINISHED", end_time=1_000_000 + minutes * 60_000)
        runs[run.info.run_id] = name

    def search(filter_string: str = "", **options: Any) -> list[str]:
        return [runs[run.info.run_id] for run in client.search_runs([experiment], filter_string, **options)]

    assert search(order_by=["attributes.duration DESC"]) == ["long", "medium", "short", "running"]
    assert search(order_by=["attributes.duration"]) == ["short", "medium", "long", "running"]
    assert search("attributes.duration > '60000' and params.rows != '10'") == ["long"]
    assert search("attributes.duration <= '600000'", order_by=["attributes.duration DESC", "start_time"]) == ["medium", "short"]
    first = client.search_runs([experiment], order_by=["attributes.duration"], max_results=3)
    second = client.search_runs([experiment], order_by=["attributes.duration"], max_results=3, page_token=first.token)
    assert ([runs[run.info.run_id] for run in second], second.token) == (["running"], None)
    assert search("attributes.status = 'Failed'") == search("attributes.status = 'FAILED'") == ["short"]
    assert search("attributes.creation_time > '999999'", order_by=["attributes.start_time DESC"], max_results=1) != []
    assert search("attributes.creation_time > '1000001'") == []
    for refused in ("metrics.`loss` > 1", "tags.kind != 'x'", "attributes.duration > 5", "attributes.duration > 'long'"):
        with pytest.raises(MlflowException, match="Invalid clause in filter"):
            search(refused)
    for refused in ("metrics.loss DESC", "params.rows", "tags.`mlflow.runName` ASC"):
        with pytest.raises(MlflowException, match="can't be ordered by metrics, parameters or tags"):
            search(order_by=[refused])
    with pytest.raises(MlflowException, match=r"does not implement attributes\.duration in order_by behind another key"):
        search(order_by=["start_time", "attributes.duration"])


def test_nested_runs_know_their_parent(client: Any, experiment: str) -> None:
    parent = client.create_run(experiment).info.run_id
    child = client.create_run(experiment, tags={"mlflow.parentRunId": parent}).info.run_id
    children = client.search_runs([experiment], f"tags.mlflow.parentRunId = '{parent}'")
    assert [run.info.run_id for run in children] == [child]


def test_experiments_are_created_found_and_tagged(client: Any, experiment: str) -> None:
    from mlflow.exceptions import MlflowException

    created = client.get_experiment(experiment)
    assert client.get_experiment_by_name(created.name).experiment_id == experiment
    assert experiment in [result.experiment_id for result in client.search_experiments()]
    client.set_experiment_tag(experiment, "owner", "me")
    assert client.get_experiment(experiment).tags["owner"] == "me"
    with pytest.raises(MlflowException, match="already exists"):
        client.create_experiment(created.name)
    with pytest.raises(MlflowException, match="The workspace decides where artifacts are stored"):
        client.create_experiment("elsewhere", artifact_location="/tmp/elsewhere")
    assert client.get_experiment_by_name("elsewhere") is None


def test_the_fluent_interface_and_asynchronous_logging(
    emulator: Emulator, environment: Any, client: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow

    # Where set_experiment stores its choice, which must not outlive this test.
    monkeypatch.setattr("mlflow.tracking.fluent._active_experiment_id", None)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_ID", "")
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
        mlflow.set_tracking_uri(None)  # "" would hide MLFLOW_TRACKING_URI from later tests


def test_runs_of_a_client_are_in_run_history(ml: Any, client: Any, experiment: str) -> None:
    run = client.create_run(experiment, run_name="seen", tags={"color": "red"}).info.run_id
    run_history = ml.jobs._runs_operations.get_run(run)
    assert (run_history.display_name, run_history.status, run_history.tags) == ("seen", "Running", {"color": "red"})
    client.set_tag(run, "color", "green")
    client.set_terminated(run, "FAILED")
    run_history = ml.jobs._runs_operations.get_run(run)
    assert (run_history.status, run_history.tags) == ("Failed", {"color": "green"})


def test_a_missing_run_is_not_found(client: Any) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match=r"Run.* not found"):
        client.get_run("0" * 32)


def test_an_unsupported_request_is_refused(client: Any) -> None:
    from mlflow.exceptions import MlflowException

    with pytest.raises(MlflowException, match="does not implement GET registered-models/alias of the MLflow API"):
        client.get_model_version_by_alias("nothing", "best")


def test_logged_models_and_traces_are_not_there_as_on_azure(client: Any, experiment: str, tmp_path: Path) -> None:
    from mlflow.exceptions import MlflowException

    absent = "API request to endpoint .* failed with error code 404 != 200. Response body: ''"
    for method, argument in (
        (client.create_logged_model, experiment),
        (client.search_logged_models, [experiment]),
        (client.get_logged_model, "m-1"),
        (client.search_traces, [experiment]),
    ):
        with pytest.raises(MlflowException, match=absent):
            method(argument)


def refuse(client: Any, run: str, *, metrics: Any = (), params: Any = (), tags: Any = ()) -> str:
    """Send a batch that is too big, and return why it is refused."""
    from mlflow.exceptions import RestException

    with pytest.raises(RestException) as refused:
        client.log_batch(run, metrics, params, tags)
    assert refused.value.error_code == "INVALID_PARAMETER_VALUE"
    return str(refused.value)


def test_the_limits_of_the_service_are_enforced(client: Any, experiment: str) -> None:
    from mlflow.entities import Metric, Param, RunTag

    run = client.create_run(experiment, tags={"mlflow.note.content": "x" * 2000}).info.run_id
    excess = "A field of the entity is over the size limit. FieldName={}, Limit={}, Size={}."
    # The run keeps what it had: each limit counts over all requests.
    client.log_batch(run, tags=[RunTag(f"tag{number}", "") for number in range(50)])
    assert excess.format("Tags", 50, 51) in refuse(client, run, tags=[RunTag("one-more", "")])
    client.set_tag(run, "tag7", "a tag that exists")
    for _ in range(2):
        client.log_batch(run, params=[Param(f"p{number}", "1") for number in range(100)])
    client.log_batch(run, params=[Param(f"q{number}", "1") for number in range(100)])
    assert excess.format("Parameters", 200, 201) in refuse(client, run, params=[Param("r", "1")])
    assert excess.format("Tags.Value", 1000, 1001) in refuse(client, run, tags=[RunTag("tag1", "x" * 1001)])
    assert excess.format("Tags.Key", 100, 101) in refuse(client, client.create_run(experiment).info.run_id, tags=[RunTag("k" * 101, "")])
    points = [Metric("loss", 1.0, step, step) for step in range(251)]
    client.log_batch(run, points[:250])
    assert excess.format("MetricV2Dto.Value/Count", 250, 251) in refuse(client, run, metrics=points)
    assert "Invalid metric name" in refuse(client, run, metrics=[Metric("eval:loss", 1.0, 0, 0)])
    assert set(client.get_run(run).data.metrics) == {"loss"}


@pytest.mark.parametrize(("kind", "limit"), [("metrics", 1000), ("params", 100), ("tags", 100)])
def test_the_limits_of_a_batch_are_enforced(
    kind: str, limit: int, emulator: Emulator, credential: Any, client: Any, experiment: str
) -> None:
    """Without MLflow's client, which splits a batch of metrics itself."""
    run = client.create_run(experiment).info.run_id
    items = [
        {"key": f"mlflow.{number}", "value": 1 if kind == "metrics" else "1", "timestamp": 0, "step": 0} for number in range(limit + 1)
    ]
    url = f"https://eastus.api.azureml.ms/mlflow/v2.0{emulator.azure.workspace_id}/api/2.0/mlflow/runs/log-batch"
    headers = {"Authorization": f"Bearer {credential.get_token('https://management.azure.com/.default').token}"}
    answer = requests.post(url, json={"run_id": run, kind: items}, headers=headers, timeout=60)
    assert (answer.status_code, answer.json()["error_code"]) == (400, "INVALID_PARAMETER_VALUE")
    assert f"{limit}" in answer.json()["message"]


def test_the_page_is_open_to_a_browser(emulator: Emulator, client: Any, experiment: str) -> None:
    client.create_run(experiment)  # starts the server
    session = requests.Session()
    session.trust_env = False
    page = session.get(mlflow_api.get_url(emulator.azure), timeout=30)
    assert (page.status_code, "<title>MLflow</title>" in page.text) == (200, True)


def lookup(names: dict[str, str]) -> Any:
    return lambda name: names.get(name, name)


@pytest.mark.parametrize(
    ("request_body", "sent"),
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
def test_job_names_become_run_ids_in_requests(request_body: dict[str, Any], sent: dict[str, Any]) -> None:
    assert mlflow_api.translate_request(request_body, lookup({"job": "u"})) == sent


def test_run_ids_become_job_names_in_answers() -> None:
    answer = {
        "run": {
            "info": {"run_id": "u", "run_uuid": "u", "artifact_uri": "/state/u/artifacts", "experiment_id": "1"},
            "data": {"tags": [{"key": "mlflow.parentRunId", "value": "p"}, {"key": "x", "value": "u"}]},
        },
        "experiment": {"artifact_location": "/state/1"},
    }
    assert mlflow_api.translate_answer(answer, lookup({"u": "job", "p": "parent"}), lambda name: f"azureml://{name}") == {
        "run": {
            "info": {"run_id": "job", "run_uuid": "job", "artifact_uri": "azureml://job", "experiment_id": "1"},
            "data": {"tags": [{"key": "mlflow.parentRunId", "value": "parent"}, {"key": "x", "value": "u"}]},
        },
        "experiment": {"artifact_location": ""},
    }


def test_the_server_is_the_same_after_a_restart(
    tmp_path: Path, weights_cache: Path, fork_servers: ForkServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlflow import MlflowClient

    def client(emulator: Emulator) -> Any:
        for name, value in emulator.environment().items():
            monkeypatch.setenv(name, value)
        return MlflowClient(tracking_uri=emulator.azure.tracking_uri)

    options = Options(cache=weights_cache)
    with Emulator(tmp_path, options, fork_servers=fork_servers) as emulator:
        url = mlflow_api.get_url(emulator.azure)
        run = client(emulator).create_run("0", run_name="kept").info.run_id
    assert not (tmp_path / "mlflow.json").exists()
    with Emulator(tmp_path, options, fork_servers=fork_servers) as emulator:
        assert mlflow_api.get_url(emulator.azure) == url
        assert client(emulator).get_run(run).info.run_name == "kept"


def test_the_server_starts_with_the_emulator_only_if_the_options_say_so(
    tmp_path: Path, weights_cache: Path, fork_servers: ForkServers
) -> None:
    log = Path("mlflow", "server.log")
    with Emulator(tmp_path / "eager", Options(cache=weights_cache, mlflow_at_start=True), fork_servers=fork_servers):
        end = time.monotonic() + 60
        while not (tmp_path / "eager" / log).exists():
            assert time.monotonic() < end
            time.sleep(0.02)
    with Emulator(tmp_path / "lazy", Options(cache=weights_cache)):
        time.sleep(0.2)
    assert not (tmp_path / "lazy" / log).exists()


def test_a_database_from_the_template_has_its_own_default_experiment(
    tmp_path: Path, weights_cache: Path, fork_servers: ForkServers, emulator: Emulator, experiment: str
) -> None:
    (template,) = weights_cache.glob("mlflow-*.db")
    with contextlib.closing(sqlite3.connect(template)) as database:
        assert database.execute("SELECT COUNT(*) FROM experiments").fetchone() == (0,)
        assert database.execute("SELECT COUNT(*) FROM alembic_version").fetchone() == (1,)
    with Emulator(tmp_path, Options(cache=weights_cache), fork_servers=fork_servers) as other:
        server = mlflow_server.get_server(other.azure)
        answer = asyncio.run_coroutine_threadsafe(server.call("POST", "experiments/search", {"max_results": 5}), other._loop).result(120)
    assert [each["name"] for each in answer["experiments"]] == ["Default"]
    assert str(tmp_path) in answer["experiments"][0]["artifact_location"]
