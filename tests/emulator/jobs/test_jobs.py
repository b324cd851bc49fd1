"""Jobs through the real SDK: submit, stream, read, list, cancel; invalid jobs, and jobs that fail."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import io
import json
import os
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from mlops.emulator.base.azure import Options
from mlops.emulator.base.fork_servers import ForkServers
from mlops.emulator.history import runstore
from mlops.emulator.jobs import jobs
from mlops.emulator.server import Emulator
from mlops.emulator.workspace import uris
from tests.support.project import open_sdk

ENVIRONMENT = "azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112"
STEPS = [
    "ft_nlp_common_validation",
    "chat_completion_model_import",
    "chat_completion_datapreprocess",
    "chat_completion_finetune",
    "ft_nlp_model_converter",
]
TERMINAL = ("Completed", "Failed", "Canceled")


@pytest.fixture(scope="module", autouse=True)
def _poll_every_second() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        # The SDK reads these on its first import; setting them later has no effect.
        patch.setenv("AZUREML_RUN_POLLING_INTERVAL_MIN", "1")
        patch.setenv("AZUREML_RUN_POLLING_INTERVAL_MAX", "1")
        yield


@pytest.mark.parametrize("value", [1, 1.5, True])
def test_a_literal_input_that_is_not_a_string_is_refused(emulator: Emulator, credential: Any, value: Any) -> None:
    inputs: dict[str, dict[str, Any]] = {"number": {"jobInputType": "literal", "value": value}}
    body = {"jobType": "Command", "command": "true", "environmentId": ENVIRONMENT, "experimentName": "e", "inputs": inputs}
    refused = put(emulator, credential, f"literal-{type(value).__name__}", body)
    assert (refused.status_code, "value" in refused.text) == (400, True)
    inputs["number"]["value"] = str(value)
    assert put(emulator, credential, f"text-{type(value).__name__}", body).status_code == 201


def test_a_command_job_has_the_states_of_azure_in_their_order(ml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorded are Starting, then Queued or Preparing, and for pipelines Finalizing before Completed."""
    states: dict[str, list[str]] = {}
    set_status = runstore.set_status

    async def record(azure: Any, name: str, status: str, *arguments: Any) -> None:
        states.setdefault(name, []).append(status)
        await set_status(azure, name, status, *arguments)

    monkeypatch.setattr(runstore, "set_status", record)
    job = submit_command(ml, "true")
    assert job.status == "Starting"
    assert wait_for_job(ml, job.name).status == "Completed"
    assert [state for state in states[job.name] if state not in ("Preparing", "Queued")] == ["Running", "Finalizing", "Completed"]
    waiting = states[job.name][: states[job.name].index("Running")]
    assert set(waiting) <= {"Preparing", "Queued"}


def wait_for(condition: Callable[[], Any], seconds: float = 120) -> Any:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.05)
    raise AssertionError(f"the condition has not become true in {seconds} s")


def wait_for_job(ml: Any, name: str) -> Any:
    wait_for(lambda: ml.jobs.get(name).status in TERMINAL)
    return ml.jobs.get(name)


def stream_finished_job(ml: Any, name: str) -> None:
    # While a command runs, the SDK signs the URLs of its logs with a SAS, as if that were the account's key, and Python 3.13.18 and 3.14.10
    # refuse to decode it.
    wait_for_job(ml, name)
    ml.jobs.stream(name)


def submit_command(ml: Any, command_line: str, **options: Any) -> Any:
    from azure.ai.ml import command

    return ml.jobs.create_or_update(command(command=command_line, environment=ENVIRONMENT, **options))


def processes_below(folder: Path) -> list[int]:
    """Return the ids of processes whose working directory is below ``folder``."""
    pids = []
    for link in Path("/proc").glob("[0-9]*/cwd"):
        with contextlib.suppress(OSError):
            if link.readlink().is_relative_to(folder):
                pids.append(int(link.parent.name))
    return pids


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"


# ---- one pipeline, run once for all tests that inspect it


@pytest.fixture(scope="module")
def client(emulator: Emulator) -> Iterator[Any]:
    """A workspace client for the whole module."""
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    with pytest.MonkeyPatch.context() as patch:
        for name, value in emulator.environment().items():
            patch.setenv(name, value)
        with DefaultAzureCredential() as credential:
            i = emulator.azure.identity
            yield MLClient(credential, i.subscription, i.group, i.workspace), MLClient(credential, registry_name="azureml")


@pytest.fixture(scope="module")
def pipeline(emulator: Emulator, client: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """Name of a finished pipeline, and what ``jobs.stream`` printed."""
    from azure.ai.ml import Input, dsl

    ml, registry = client
    component = registry.components.get("chat_completion_pipeline", label="latest")
    model = registry.models.get("Phi-4", label="latest")
    data = tmp_path_factory.mktemp("data") / "train.jsonl"
    turns = [[{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"I say {n}"}] for n in range(6)]
    data.write_text("\n".join(json.dumps({"messages": messages}) for messages in turns), encoding="utf-8")

    def finetune() -> dict[str, Any]:
        file = Input(type="uri_file", path=str(data))
        node = component(
            mlflow_model_path=model.id,
            train_file_path=file,
            validation_file_path=file,
            test_file_path=file,
            apply_lora="true",
            max_steps=2,
            logging_steps=1,
            learning_rate=5e-4,
        )
        return {"trained_model": node.outputs.mlflow_model_folder}

    job = dsl.pipeline(finetune)()
    job.settings.force_rerun = True
    job.settings.continue_on_step_failure = False
    job.display_name = "tiny fine-tune"
    job.tags = {"run_key": "abc", "purpose": "test"}
    name = ml.jobs.create_or_update(job, experiment_name="finetuning").name
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        ml.jobs.stream(name)
    return name, printed.getvalue()


def test_pipeline_completes_and_stream_shows_its_steps(ml: Any, pipeline: tuple[str, str]) -> None:
    name, printed = pipeline
    job = ml.jobs.get(name)
    assert job.status == "Completed"
    assert (job.display_name, job.experiment_name) == ("tiny fine-tune", "finetuning")
    assert job.tags["run_key"] == "abc"
    assert job.properties["PipelineType"] == "Finetune"
    assert job.properties["azureml.pipelineComponent"] == "pipelinerun"
    assert f"RunId: {name}" in printed
    assert "Streaming logs/azureml/executionlogs.txt" in printed
    for step in STEPS:
        assert step in printed
    assert "Finishing experiment: no runs left and nothing to schedule." in printed


def test_pipeline_has_a_run_per_step(ml: Any, pipeline: tuple[str, str]) -> None:
    children = list(ml.jobs.list(parent_job_name=pipeline[0]))
    assert [child.display_name for child in children] == STEPS
    assert {child.status for child in children} == {"Completed"}
    assert len({child.name for child in children}) == len(STEPS)
    step = ml.jobs.get(children[3].name)
    assert step.display_name == "chat_completion_finetune"
    assert step.properties["showMetricsAtRoot"] == "true"
    # The client applies this limit itself: it requests no second page.
    assert len(list(ml.jobs.list(parent_job_name=pipeline[0], max_results=2))) == 2


def test_pipeline_metrics_are_on_the_step_and_on_the_root_run(ml: Any, pipeline: tuple[str, str]) -> None:
    import mlflow

    uri = ml.workspaces.get(ml.workspace_name).mlflow_tracking_uri
    client = mlflow.MlflowClient(tracking_uri=uri)
    step = list(ml.jobs.list(parent_job_name=pipeline[0]))[3].name
    for run in (pipeline[0], step):
        metrics = client.get_run(run).data.metrics
        assert {"loss", "eval_loss", "learning_rate", "train_runtime"} <= metrics.keys()
        history = client.get_metric_history(run, "loss")
        assert [point.step for point in history] == [1, 2]
    assert client.get_run(step).data.tags["mlflow.parentRunId"] == pipeline[0]
    assert client.get_run(pipeline[0]).info.status == "FINISHED"


def test_a_pipelines_output_is_in_the_folder_of_the_step_that_wrote_it(
    emulator: Emulator, ml: Any, credential: Any, pipeline: tuple[str, str]
) -> None:
    name, i = pipeline[0], emulator.azure.identity
    assert ml.jobs.get(name).outputs["trained_model"].path is None
    step = list(ml.jobs.list(parent_job_name=name))[-1].name
    history = ml.jobs._runs_operations
    output = history.get_run_data(name).run_metadata.outputs["trained_model"]
    assert (output.type, step in output.asset_id) == ("MLFlowModel", True)
    assert history.get_run_data(step).run_metadata.outputs["mlflow_model_folder"].asset_id == output.asset_id
    token = credential.get_token("https://management.azure.com/.default").token
    answers = [
        requests.post(
            f"https://eastus.api.azureml.ms/modelregistry/v1.0{emulator.azure.workspace_id}/models/batchGetResolvedUris",
            json={"values": [asset]},
            headers={"Authorization": f"Bearer {token}"},
            timeout=60,
        )
        for asset in (
            output.asset_id,
            output.asset_id.replace(step, "nobody"),
            output.asset_id.replace("/models/", "/data/"),
            output.asset_id.replace(i.workspace_guid, str(uuid.uuid4())),
        )
    ]
    assert [answer.status_code for answer in answers] == [200, 404, 400, 501]
    workspace = f"subscriptions/{i.subscription}/resourcegroups/{i.group}/workspaces/{i.workspace}"
    uri = f"azureml://{workspace}/datastores/workspaceblobstore/paths/azureml/{step}/mlflow_model_folder/"
    assert answers[0].json() == {"values": {output.asset_id: {"path": uri, "type": "MLFlowModel"}}}
    folder = uris.resolve(emulator.azure, uri)
    assert folder == uris.resolve_model(emulator.azure, f"azureml://jobs/{name}/outputs/trained_model")
    assert "transformers_version: 5.3.0" in (folder / "MLmodel").read_text(), "that of the component's environment"


def test_pipeline_runs_are_on_the_tracking_page(emulator: Emulator, pipeline: tuple[str, str]) -> None:
    page = json.loads((emulator.state / "mlflow.json").read_text())["url"]
    session = requests.Session()
    session.trust_env = False
    api = f"{page}/api/2.0/mlflow"
    experiments = session.post(f"{api}/experiments/search", json={"max_results": 50}, timeout=60).json()["experiments"]
    query: dict[str, Any] = {"experiment_ids": [each["experiment_id"] for each in experiments], "max_results": 50}
    runs = session.post(f"{api}/runs/search", json=query, timeout=60).json()["runs"]
    tags = {run["info"]["run_name"]: {tag["key"]: tag["value"] for tag in run["data"]["tags"]} for run in runs}
    assert tags["tiny fine-tune"]["azureml.job"] == pipeline[0]
    assert set(tags) >= set(STEPS)
    assert session.get(page, timeout=60).text.startswith("<!doctype html>")


def test_jobs_are_listed_by_tag_and_kind(ml: Any, pipeline: tuple[str, str]) -> None:
    assert [job.name for job in ml.jobs.list(tag="run_key=abc")] == [pipeline[0]]
    assert [job.name for job in ml.jobs.list(tag="run_key")] == [pipeline[0]]
    assert list(ml.jobs.list(tag="run_key=other")) == []
    assert [job.name for job in ml.jobs.list(job_type="Pipeline")] == [pipeline[0]]


# ---- jobs that are rejected before anything runs


def pipeline_body() -> dict[str, Any]:
    def literal(value: str) -> dict[str, str]:
        return {"value": value, "job_input_type": "literal"}

    node = {
        "name": "n",
        "type": "pipeline",
        "inputs": {
            "mlflow_model_path": {
                "uri": "azureml://registries/azureml/models/Phi-4/versions/8",
                "job_input_type": "mlflow_model",
            },
            "train_file_path": {"value": "${{parent.inputs.data}}", "job_input_type": "literal"},
            "num_train_epochs": literal("1"),
        },
        "outputs": {"mlflow_model_folder": {"value": "${{parent.outputs.trained_model}}", "type": "literal"}},
        "_source": "REMOTE.REGISTRY",
        "componentId": "azureml://registries/azureml/components/chat_completion_pipeline/versions/0.0.81",
    }
    return {
        "jobType": "Pipeline",
        "experimentName": "rejected",
        "jobs": {"n": node},
        "inputs": {"data": {"jobInputType": "uri_file", "uri": "azureml://datastores/workspaceblobstore/paths/nothing.jsonl"}},
        "outputs": {"trained_model": {"mode": "ReadWriteMount", "jobOutputType": "mlflow_model"}},
        "settings": {"continue_on_step_failure": False, "force_rerun": True, "_source": "DSL"},
    }


def put(emulator: Emulator, credential: Any, name: str, properties: dict[str, Any], token: str | None = None) -> requests.Response:
    arm = credential.get_token("https://management.azure.com/.default").token
    ml = credential.get_token("https://ml.azure.com/.default").token if token is None else token
    return requests.put(
        f"https://management.azure.com{emulator.azure.workspace_id}/jobs/{name}?api-version=2024-01-01-preview",
        json={"properties": properties},
        headers={"Authorization": f"Bearer {arm}", "x-azureml-token": ml},
        timeout=60,
    )


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(document: dict[str, Any]) -> None:
        *parents, last = path.split("/")
        for parent in parents:
            document = document[parent]
        document[last] = value

    return change


LITERAL = {"value": "1", "job_input_type": "literal"}
JOB_OUTPUT = "azureml://jobs/earlier/outputs/trained_model"


@pytest.mark.parametrize(
    ("change", "status", "text"),
    [
        (
            _set("jobs/n/inputs/learning_rate_min", LITERAL),
            400,
            "Invalid component job since input learning_rate_min for component job n does not exist.",
        ),
        (
            _set("jobs/n/outputs/evaluation_result", {"value": "${{parent.outputs.trained_model}}", "type": "literal"}),
            400,
            "Invalid component job since output evaluation_result for component job n does not exist.",
        ),
        (_set("jobs/n/inputs/lr_scheduler_type", {"value": "bogus", "job_input_type": "literal"}), 400, "lr_scheduler_type: 'bogus'"),
        (_set("jobs/n/inputs/num_train_epochs", {"value": "0", "job_input_type": "literal"}), 400, "num_train_epochs: 0 is less"),
        (
            _set("jobs/n/inputs/mlflow_model_path", LITERAL),
            400,
            "mlflow_model_path of component job n is of type mlflow_model, not literal",
        ),
        (
            _set("jobs/n/inputs/train_file_path", {"value": "${{parent.name}}", "job_input_type": "literal"}),
            400,
            "Invalid expression parent.name. Only parent.inputs, parent.jobs.[source_job_name].outputs or parent.outputs can be used"
            " for binding.",
        ),
        (_set("jobs/n/inputs/compute_finetune", {"value": "no-such", "job_input_type": "literal"}), 404, "compute no-such not found"),
        (
            _set("jobs/n/componentId", "azureml://registries/azureml/components/chat_completion_pipeline/versions/0.0.1"),
            404,
            "Not found component chat_completion_pipeline (version: 0.0.1).",
        ),
        (
            _set(
                "jobs/n/inputs/mlflow_model_path",
                {"uri": "azureml://registries/azureml/models/No-Model/versions/1", "job_input_type": "mlflow_model"},
            ),
            404,
            "Could not find asset with ID: azureml://registries/azureml/models/No-Model/versions/1",
        ),
        (_set("jobs/n/outputs", {}), 400, "Output trained_model of the pipeline job is bound to no output"),
        (_set("jobs/n/whatever", 1), 400, "jobs.n.whatever: Extra inputs are not permitted"),
        (_set("whatever", 1), 400, "whatever: Extra inputs are not permitted"),
        (_set("jobType", "Sweep"), 501, "jobs of type Sweep"),
        (_set("jobs/n/componentId", "azureml://registries/other/components/x/versions/1"), 404, "Not found component x (version: 1)."),
        (_set("inputs/data/uri", JOB_OUTPUT), 501, f"the URI {JOB_OUTPUT} for anything but registering a model"),
        (_set("jobs/n/inputs/mlflow_model_path/uri", JOB_OUTPUT), 501, f"the URI {JOB_OUTPUT} for anything but registering a model"),
        (lambda document: None, 404, "paths/nothing.jsonl' does not exist or is not accessible"),
    ],
)
def test_an_invalid_pipeline_is_rejected(
    emulator: Emulator, credential: Any, change: Callable[[dict[str, Any]], None], status: int, text: str
) -> None:
    properties = pipeline_body()
    change(properties)
    answer = put(emulator, credential, "rejected_1", properties)
    assert (answer.status_code, text in answer.json()["error"]["message"]) == (status, True), answer.text
    assert emulator.azure.store.get("run", "rejected_1") is None


def test_a_pipeline_requires_the_users_own_token(emulator: Emulator, credential: Any) -> None:
    arm = credential.get_token("https://management.azure.com/.default").token
    for token in ("", "nonsense", arm):
        answer = put(emulator, credential, "rejected_2", pipeline_body(), token)
        assert answer.status_code == 401
        assert "x-azureml-token" in answer.json()["error"]["message"]


def test_a_command_that_refers_to_a_missing_input_is_rejected(emulator: Emulator, credential: Any) -> None:
    properties = {"jobType": "Command", "command": "echo ${{inputs.nothing}}", "environmentId": ENVIRONMENT}
    answer = put(emulator, credential, "rejected_3", properties)
    assert (answer.status_code, answer.json()["error"]["message"]) == (
        400,
        "Invalid expression inputs.nothing: the job has no inputs of that name.",
    )


def test_a_command_reads_no_output_by_the_name_of_its_job(emulator: Emulator, credential: Any) -> None:
    source = {"jobInputType": "mlflow_model", "uri": JOB_OUTPUT}
    properties = {"jobType": "Command", "command": "ls ${{inputs.model}}", "environmentId": ENVIRONMENT, "inputs": {"model": source}}
    answer = put(emulator, credential, "rejected_4", properties)
    assert (answer.status_code, f"the URI {JOB_OUTPUT} for anything but registering a model" in answer.text) == (501, True)


def test_a_missing_job_is_not_found(ml: Any) -> None:
    from azure.core.exceptions import ResourceNotFoundError

    with pytest.raises(ResourceNotFoundError, match=r"\(UserError\) Job no_such_job not found\."):
        ml.jobs.get("no_such_job")


# ---- command jobs


@pytest.mark.filterwarnings("ignore:The use of a 'BlobProperties' instance:DeprecationWarning")  # the SDK's own download
@pytest.mark.filterwarnings("ignore:content_as_bytes is deprecated:DeprecationWarning")
def test_a_command_job_has_code_inputs_outputs_and_environment(emulator: Emulator, ml: Any, tmp_path: Path) -> None:
    from azure.ai.ml import Input, Output, command

    code = tmp_path / "code"
    (code / "package").mkdir(parents=True)
    (code / "package" / "main.py").write_text(
        "import json, os, pathlib, sys\n"
        "data, number, folder, file = sys.argv[1:5]\n"
        "rows = pathlib.Path(data, 'rows.txt').read_text().split()\n"
        "pathlib.Path(folder, 'result.json').write_text(json.dumps({'rows': rows, 'number': number, 'rest': sys.argv[5:]}))\n"
        "pathlib.Path(file).write_text(json.dumps(dict(os.environ)))\n"
        "print('it ran in', pathlib.Path.cwd().name)\n"
    )
    data = tmp_path / "data"
    data.mkdir()
    (data / "rows.txt").write_text("a b c")
    job = command(
        code=str(code),
        command="python package/main.py ${{inputs.data}} ${{inputs.number}} ${{outputs.folder}} ${{outputs.file}}"
        " $[[--present ${{inputs.present}}]] $[[--absent ${{inputs.absent}}]]",
        inputs={"data": Input(type="uri_folder", path=str(data)), "number": 3, "present": "yes"},
        outputs={"folder": Output(type="uri_folder"), "file": Output(type="uri_file")},
        environment=ENVIRONMENT,
        environment_variables={"GREETING": "hello"},
        experiment_name="commands",
        display_name="a command",
        tags={"kind": "test"},
    )
    submitted = ml.jobs.create_or_update(job)
    assert wait_for_job(ml, submitted.name).status == "Completed"
    log = uris.output_path(emulator.azure, submitted.name, "artifacts") / "user_logs" / "std_log.txt"
    assert log.read_text() == "it ran in wd\n"
    outputs = uris.output_path(emulator.azure, submitted.name, "folder"), uris.output_path(emulator.azure, submitted.name, "file")
    assert json.loads((outputs[0] / "result.json").read_text()) == {"rows": ["a", "b", "c"], "number": "3", "rest": ["--present", "yes"]}
    variables = json.loads(outputs[1].read_text())
    expected = {"GREETING": "hello", "AZUREML_RUN_ID": submitted.name, "MLFLOW_EXPERIMENT_NAME": "commands"}
    assert variables.items() >= expected.items()
    assert variables["MLFLOW_TRACKING_URI"].startswith("azureml://")
    secret = emulator.azure.identity.client_secret
    assert not [name for name, value in variables.items() if value == secret]
    # The same code is not uploaded twice.
    again = ml.jobs.create_or_update(job)
    assert again.name != submitted.name
    assert len(emulator.azure.store.list("codes")) == 1
    ml.jobs.download(submitted.name, output_name="folder", download_path=str(tmp_path / "downloaded"))
    assert (tmp_path / "downloaded" / "named-outputs" / "folder" / "result.json").is_file()
    wait_for_job(ml, again.name)


def test_a_failed_command_reports_its_log(ml: Any) -> None:
    from azure.ai.ml.exceptions import JobException

    name = submit_command(ml, "echo before; echo 'the disk is on fire' >&2; exit 3").name
    with pytest.raises(JobException, match=r"exited with status code 3.*the disk is on fire"):
        stream_finished_job(ml, name)
    assert ml.jobs.get(name).status == "Failed"


def test_a_killed_command_fails(ml: Any) -> None:
    from azure.ai.ml.exceptions import JobException

    name = submit_command(ml, "echo alive; kill -9 $$").name
    with pytest.raises(JobException, match=r"was ended by signal 9.*alive"):
        stream_finished_job(ml, name)


def test_cancel_stops_the_process_and_its_children(emulator: Emulator, ml: Any) -> None:
    from azure.core.exceptions import HttpResponseError

    job = submit_command(ml, "sleep 600 & echo $$ $! > outputs/pids; wait")
    file = emulator.state / "blobs" / "azureml" / "ExperimentRun" / f"dcid.{job.name}" / "outputs" / "pids"
    wait_for(lambda: file.is_file() and file.read_text().endswith("\n"))
    assert ml.jobs.get(job.name).status == "Running"
    pids = [int(pid) for pid in file.read_text().split()]
    assert all(is_running(pid) for pid in pids)
    ml.jobs.begin_cancel(job.name).wait()
    assert ml.jobs.get(job.name).status == "Canceled"
    assert not any(is_running(pid) for pid in pids)
    ml.jobs.stream(job.name)  # Returns: a canceled job is not a failed one.
    with pytest.raises(HttpResponseError, match=f"The run {job.name} is in terminal status, it can't be canceled."):
        ml.jobs.begin_cancel(job.name)


def test_cancel_does_not_wait_until_the_inputs_are_ready(ml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Creating the base model's weights takes up to a minute on a busy machine."""
    from azure.ai.ml import Input

    async def hang(*_: object) -> Path:
        await asyncio.sleep(600)
        raise AssertionError

    monkeypatch.setattr(uris, "materialize", hang)
    model = Input(type="mlflow_model", path="azureml://registries/azureml/models/Phi-4/versions/8")
    job = submit_command(ml, "ls ${{inputs.model}}", inputs={"model": model})
    wait_for(lambda: ml.jobs.get(job.name).status == "Queued")
    start = time.monotonic()
    ml.jobs.begin_cancel(job.name).wait()
    assert ml.jobs.get(job.name).status == "Canceled"
    assert time.monotonic() - start < 60


def test_a_job_that_exceeds_its_time_limit_is_canceled(ml: Any) -> None:
    from azure.ai.ml import command

    job = command(command="sleep 600", environment=ENVIRONMENT)
    job.set_limits(timeout=1)
    assert wait_for_job(ml, ml.jobs.create_or_update(job).name).status == "Canceled"


def test_jobs_wait_for_a_node(ml: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import AmlCompute

    ml.compute.begin_create_or_update(AmlCompute(name="one-node", size="Standard_NC6s_v3", max_instances=1)).result()
    gate = tmp_path / "gate"
    first = submit_command(ml, f"while [ ! -e {gate} ]; do sleep 0.1; done", compute="one-node")
    wait_for(lambda: ml.jobs.get(first.name).status == "Running")
    second = submit_command(ml, "true", compute="one-node")
    wait_for(lambda: ml.jobs.get(second.name).status == "Queued")
    third = submit_command(ml, "true")
    assert wait_for_job(ml, third.name).status == "Completed"  # It runs on another compute.
    assert ml.jobs.get(second.name).status == "Queued"
    (node,) = ml.compute.list_nodes("one-node")
    # The SDK sets attributes by their names on the wire.
    assert (node.nodeState, node.runId) == ("running", first.name)
    gate.touch()
    assert wait_for_job(ml, first.name).status == "Completed"
    assert wait_for_job(ml, second.name).status == "Completed"
    assert list(ml.compute.list_nodes("one-node")) == []


def test_the_services_on_the_nodes_of_a_job(ml: Any) -> None:
    from azure.ai.ml.entities import SshJobService
    from azure.core.exceptions import HttpResponseError

    name = submit_command(ml, "true").name
    assert ml.jobs.show_services(name) is None
    with pytest.raises(HttpResponseError, match=f"The run {name} has no node 1"):
        ml.jobs.show_services(name, 1)
    asked = submit_command(ml, "true", services={"shell": SshJobService(ssh_public_keys="ssh-rsa AAAA")}).name
    with pytest.raises(HttpResponseError, match="interactive services on the nodes of a job"):
        ml.jobs.show_services(asked)


def test_a_job_that_requires_more_nodes_than_the_compute_has_fails(ml: Any) -> None:
    from azure.ai.ml.entities import AmlCompute
    from azure.ai.ml.exceptions import JobException

    ml.compute.begin_create_or_update(AmlCompute(name="small", size="Standard_NC6s_v3", max_instances=2)).result()
    name = submit_command(ml, "true", compute="small", instance_count=3).name
    with pytest.raises(JobException, match="requires 3 nodes, but compute small has at most 2"):
        ml.jobs.stream(name)


def test_jobs_wait_for_quota(emulator: Emulator, ml: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from azure.ai.ml.entities import AmlCompute
    from azure.ai.ml.exceptions import JobException

    monkeypatch.setattr(emulator.azure, "options", dataclasses.replace(emulator.azure.options, quota={"standardNCSv3Family": 11}))
    for name in ("quota-a", "quota-b"):
        ml.compute.begin_create_or_update(AmlCompute(name=name, size="Standard_NC6s_v3", max_instances=2)).result()
    gate = tmp_path / "quota-gate"
    first = submit_command(ml, f"while [ ! -e {gate} ]; do sleep 0.1; done", compute="quota-a")
    wait_for(lambda: ml.jobs.get(first.name).status == "Running")
    assert {usage.currentValue for usage in ml.compute.list_usage() if usage.name["value"] == "standardNCSv3Family"} == {6, 0}
    second = submit_command(ml, "true", compute="quota-b")
    wait_for(lambda: ml.jobs.get(second.name).status == "Queued")
    gate.touch()
    assert wait_for_job(ml, second.name).status == "Completed"
    too_large = submit_command(ml, "true", compute="quota-a", instance_count=2)
    with pytest.raises(JobException, match=r"requires 12 vCPUs of compute quota-a, but the quota of Standard NCSv3 Family .* is 11"):
        ml.jobs.stream(too_large.name)


def test_a_preempted_job_is_queued_and_starts_again(emulator: Emulator, ml: Any, tmp_path: Path) -> None:
    from azure.ai.ml.entities import AmlCompute

    for name, tier in (("spot", "LowPriority"), ("safe", "Dedicated")):
        ml.compute.begin_create_or_update(AmlCompute(name=name, size="Standard_NC6s_v3", tier=tier, max_instances=1)).result()
    starts, gate = tmp_path / "starts", tmp_path / "preempted-gate"
    command = f"echo started >> {starts}; while [ ! -e {gate} ]; do sleep 0.1; done"
    jobs_by_compute = {name: submit_command(ml, command, compute=name, display_name=name).name for name in ("spot", "safe")}
    wait_for(lambda: starts.exists() and len(starts.read_text().splitlines()) == 2)
    for name in jobs_by_compute:
        emulator.azure.faults.add(f"node-preempted@{name}")
    assert wait_for(lambda: ml.jobs.get(jobs_by_compute["spot"]).status == "Queued")
    assert wait_for(lambda: ml.jobs.get(jobs_by_compute["spot"]).status == "Running")
    gate.touch()
    assert {wait_for_job(ml, job).status for job in jobs_by_compute.values()} == {"Completed"}
    assert len(starts.read_text().splitlines()) == 3
    # Dedicated nodes are not taken away.
    assert emulator.azure.faults.pending() == ["node-preempted@safe x1"]
    emulator.azure.faults.take("node-preempted", "safe")


def test_submitting_a_job_again_updates_it(emulator: Emulator, credential: Any, ml: Any) -> None:
    properties = {"jobType": "Command", "command": "true", "environmentId": ENVIRONMENT, "tags": {"a": "1"}}
    assert put(emulator, credential, "twice", properties).status_code == 201
    again = put(emulator, credential, "twice", properties | {"tags": {"a": "2"}})
    assert (again.status_code, again.json()["properties"]["tags"]) == (200, {"a": "2"})
    other = put(emulator, credential, "twice", properties | {"command": "false"})
    assert other.status_code == 400
    assert other.json()["error"]["message"].startswith('Failed to update job twice since field "command" is immutable')
    assert wait_for_job(ml, "twice").status == "Completed"


def test_the_tags_of_a_job_and_of_its_run_are_two_stores(emulator: Emulator, credential: Any, ml: Any) -> None:
    import mlflow

    client = mlflow.MlflowClient(tracking_uri=emulator.azure.tracking_uri)
    properties = {"jobType": "Command", "command": "true", "environmentId": ENVIRONMENT, "tags": {"at": "creation"}}
    assert put(emulator, credential, "stores", properties).status_code == 201
    assert client.get_run("stores").data.tags["at"] == "creation"
    client.set_tag("stores", "by", "mlflow")
    assert put(emulator, credential, "stores", properties | {"tags": {"at": "creation", "by": "arm"}}).status_code == 200
    assert ml.jobs.get("stores").tags == {"at": "creation", "by": "arm"}
    assert client.get_run("stores").data.tags["by"] == "mlflow"
    assert [job.name for job in ml.jobs.list(tag="by=arm")] == ["stores"]
    assert list(ml.jobs.list(tag="by=mlflow")) == []
    refused = put(emulator, credential, "much", properties | {"tags": {f"t{number}": "" for number in range(51)}})
    assert (refused.status_code, "FieldName=Tags, Limit=50, Size=51" in refused.text) == (400, True)


def test_a_job_that_is_submitted_several_times_at_once_runs_once(emulator: Emulator, credential: Any, ml: Any, tmp_path: Path) -> None:
    properties = {"jobType": "Command", "command": f"echo ran >> {tmp_path / 'runs'}", "environmentId": ENVIRONMENT}
    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(lambda _: put(emulator, credential, "repeated", properties).status_code, range(4)))
    assert sorted(answers) == [200, 200, 200, 201]
    assert wait_for_job(ml, "repeated").status == "Completed"
    assert (tmp_path / "runs").read_text() == "ran\n"


def test_many_jobs_are_listed_page_by_page(ml: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [submit_command(ml, "true", tags={"batch": "pages"}).name for _ in range(3)]
    monkeypatch.setattr(jobs, "PAGE_SIZE", 2)
    assert [job.name for job in ml.jobs.list(tag="batch=pages")] == names[::-1]


def test_jobs_can_be_archived_and_retagged(ml: Any) -> None:
    job = wait_for_job(ml, submit_command(ml, "true").name)
    updated = ml.jobs.update(job.name, display_name="renamed", tags={"colour": "blue"})
    assert (updated.display_name, updated.tags) == ("renamed", {"colour": "blue"})
    ml.jobs.archive(job.name)
    assert job.name not in [other.name for other in ml.jobs.list()]
    ml.jobs.restore(job.name)
    assert job.name in [other.name for other in ml.jobs.list()]


def test_an_inline_environment_is_recorded(emulator: Emulator, ml: Any) -> None:
    from azure.ai.ml import command
    from azure.ai.ml.entities import Environment

    job = ml.jobs.create_or_update(command(command="true", environment=Environment(name="mine", version="1", image="python:3.11")))
    assert wait_for_job(ml, job.name).status == "Completed"
    assert ml.environments.get("mine", version="1").image == "python:3.11"


def valid_pipeline_body(emulator: Emulator, **inputs: str) -> dict[str, Any]:
    """Return the body of a valid pipeline, and create its input data."""
    azure = emulator.azure
    data = uris.datastore_path(azure, "workspaceblobstore", "rows.jsonl")
    data.write_text('{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}\n')
    properties = pipeline_body()
    properties["inputs"]["data"]["uri"] = "azureml://datastores/workspaceblobstore/paths/rows.jsonl"
    for name, uri in inputs.items():
        properties["jobs"]["n"]["inputs"][name]["uri"] = uri
    return properties


def test_a_failed_step_fails_the_pipeline(emulator: Emulator, credential: Any, ml: Any) -> None:
    from azure.ai.ml.exceptions import JobException

    empty = uris.datastore_path(emulator.azure, "workspaceblobstore", "no-model")
    empty.mkdir()
    properties = valid_pipeline_body(emulator, mlflow_model_path="azureml://datastores/workspaceblobstore/paths/no-model")
    assert put(emulator, credential, "broken", properties).status_code == 201
    wait_for_job(ml, "broken")
    message = r"Pipeline has failed child jobs.*Failed nodes: /chat_completion_model_import.*contains no model"
    with pytest.raises(JobException, match=message):
        ml.jobs.stream("broken")
    children = {child.display_name: child for child in ml.jobs.list(parent_job_name="broken")}
    assert {name: child.status for name, child in children.items()} == {STEPS[0]: "Completed", STEPS[1]: "Failed"}
    error = ml.jobs._runs_operations.get_run_details(children[STEPS[1]].name).error.error
    assert (error.code, "contains no model" in error.message) == ("UserError", True)


def test_cancel_stops_a_pipeline_and_its_running_step(emulator: Emulator, credential: Any, ml: Any) -> None:
    assert put(emulator, credential, "canceled", valid_pipeline_body(emulator)).status_code == 201
    # This step takes a while because it imports torch.
    wait_for(lambda: processes_below(emulator.state / "jobs" / "canceled" / "chat_completion_datapreprocess"))
    ml.jobs.begin_cancel("canceled").wait()
    assert ml.jobs.get("canceled").status == "Canceled"
    statuses = [child.status for child in ml.jobs.list(parent_job_name="canceled")]
    assert statuses[-1] == "Canceled"
    assert set(statuses[:-1]) <= {"Completed"}
    assert processes_below(emulator.state / "jobs" / "canceled") == []


# ---- injected faults


def test_injected_faults_change_how_a_job_ends(emulator: Emulator, ml: Any) -> None:
    emulator.azure.faults.add("job-failed@failing")
    failed = wait_for_job(ml, submit_command(ml, "true", display_name="failing").name)
    assert failed.status == "Failed"
    emulator.azure.faults.add("job-canceled@canceled")
    assert wait_for_job(ml, submit_command(ml, "true", display_name="canceled").name).status == "Canceled"
    emulator.azure.faults.add("job-queued@queued")
    queued = submit_command(ml, "true", display_name="queued").name
    wait_for(lambda: emulator.azure.store.get("run", queued)["status"] == "Queued")  # type: ignore[index]
    assert [ml.jobs.get(queued).status for _ in range(3)] == ["Queued"] * 3
    assert wait_for_job(ml, queued).status == "Completed"
    assert emulator.azure.faults.pending() == []


# ---- jobs and the end of the emulator


def test_a_job_that_was_running_when_the_emulator_stopped_has_failed(
    tmp_path: Path, options: Options, fork_servers: ForkServers, monkeypatch: pytest.MonkeyPatch
) -> None:
    from azure.ai.ml.exceptions import JobException

    def client(emulator: Emulator) -> Any:
        return open_sdk(emulator, monkeypatch)

    with Emulator(tmp_path / "state", options, fork_servers=fork_servers) as emulator:
        ml = client(emulator)
        done = wait_for_job(ml, submit_command(ml, "true").name).name
        name = submit_command(ml, "echo $$ > outputs/pid; sleep 600").name
        file = emulator.state / "blobs" / "azureml" / "ExperimentRun" / f"dcid.{name}" / "outputs" / "pid"
        pid = int(wait_for(lambda: file.is_file() and file.read_text().strip()))
        assert is_running(pid)
    assert not is_running(pid)
    with Emulator(tmp_path / "state", options, fork_servers=fork_servers) as emulator:
        ml = client(emulator)
        assert ml.jobs.get(done).status == "Completed"
        assert ml.jobs.get(name).status == "Failed"
        with pytest.raises(JobException, match="The emulator was stopped while the job was running"):
            ml.jobs.stream(name)
