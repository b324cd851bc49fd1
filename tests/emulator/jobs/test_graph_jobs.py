"""Pipelines of command components, through the real SDK: components are registered, bound together and run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import requests

from mlops.emulator.base.azure import arm_id
from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.server import Emulator
from mlops.emulator.workspace import uris
from tests.emulator.jobs.test_jobs import put, wait_for_job

ENVIRONMENT = "azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112"


def write(text: str = "${{inputs.text}}") -> Any:
    from azure.ai.ml import Input, Output, command

    return command(
        name="write",
        command=f"printf '%s' {text} > ${{{{outputs.folder}}}}/text.txt",
        inputs={"text": Input(type="string", default="nothing")},
        outputs={"folder": Output(type="uri_folder")},
        environment=ENVIRONMENT,
    ).component


def join() -> Any:
    from azure.ai.ml import Input, Output, command

    return command(
        name="join",
        command="cat ${{inputs.first}}/text.txt ${{inputs.second}}/text.txt > ${{outputs.folder}}/text.txt $[[; echo ${{inputs.note}}]]",
        inputs={"first": Input(type="uri_folder"), "second": Input(type="uri_folder"), "note": Input(type="string", optional=True)},
        outputs={"folder": Output(type="uri_folder")},
        environment=ENVIRONMENT,
    ).component


def pipeline(*, text: str = "${{inputs.text}}", **settings: Any) -> Any:
    from azure.ai.ml import dsl

    @dsl.pipeline(**settings)
    def joined(word=""):  # type: ignore[no-untyped-def]
        first, second = write()(text=word), write(text)(text="-two")
        both = join()(first=first.outputs.folder, second=second.outputs.folder)
        return {"joined": both.outputs.folder}

    job = joined(word="one")
    job.settings.default_compute = "serverless"
    return job


def test_nodes_run_in_the_order_of_their_graph(emulator: Emulator, ml: Any) -> None:
    submitted = ml.jobs.create_or_update(pipeline())
    assert submitted.status in ("Preparing", "Running")
    job = wait_for_job(ml, submitted.name)
    assert job.status == "Completed"
    children = sorted(ml.jobs.list(parent_job_name=job.name), key=lambda child: child.display_name)
    written = uris.resolve(emulator.azure, f"azureml://datastores/workspaceblobstore/paths/azureml/{children[0].name}/folder/text.txt")
    assert written.read_text() == "one-two"
    output = ml.jobs._runs_operations.get_run_data(job.name).run_metadata.outputs["joined"]
    assert output.asset_id.endswith(f"/data/azureml_{children[0].name}_output_data_folder/versions/1")
    assert [(child.display_name, child.status) for child in children] == [(name, "Completed") for name in ("both", "first", "second")]


def test_what_needs_a_failed_node_does_not_run(emulator: Emulator, ml: Any) -> None:
    job = wait_for_job(ml, ml.jobs.create_or_update(pipeline(text="x; exit 3; ")).name)
    assert job.status == "Failed"
    children = {child.display_name: child.status for child in ml.jobs.list(parent_job_name=job.name)}
    assert children == {"first": "Completed", "second": "Failed"}


def test_a_component_is_registered_and_reused(emulator: Emulator, ml: Any) -> None:
    first = ml.components.create_or_update(write())
    assert (first.name, first.version, first.inputs["text"].default) == ("write", first.version, "nothing")
    assert first.version == "1"
    assert ml.components.get("write", label="latest").version == ml.components.get("write").version == first.version
    assert "write" in [component.name for component in ml.components.list()]
    ((key, stored),) = emulator.azure.store.list("components", "write/")
    version = key.partition("/")[2]
    spec = stored["properties"]["componentSpec"]
    answers = [put_component(emulator, version, spec | change) for change in ({}, {"command": "another"})]
    assert [answer.status_code for answer in answers] == [200, 400]
    assert 'since field "command" is immutable' in answers[1].json()["error"]["message"]


def put_component(emulator: Emulator, version: str, spec: dict[str, Any]) -> requests.Response:
    return requests.put(
        MANAGEMENT + arm_id(emulator.azure, "components", "write", "versions", version),
        params={"api-version": "2023-04-01"},
        headers={"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"},
        json={"properties": {"componentSpec": spec}},
        timeout=30,
    )


def test_equal_anonymous_components_are_one(emulator: Emulator, ml: Any) -> None:
    keys = []
    for _ in range(2):
        wait_for_job(ml, ml.jobs.create_or_update(pipeline()).name)
        keys.append({key for key, _ in emulator.azure.store.list("components", "azureml_anonymous/")})
    assert keys[0] == keys[1]


class TestRefused:
    """Pipelines that the service refuses, or the emulator doesn't run. The body is changed after the SDK has made it."""

    @pytest.fixture
    def nodes(self, emulator: Emulator, ml: Any) -> dict[str, Any]:
        names = [name for name, run in emulator.azure.store.list("run") if run["job"] and run["job"]["jobType"] == "Pipeline"]
        if not names:
            names = [wait_for_job(ml, ml.jobs.create_or_update(pipeline()).name).name]
        properties: dict[str, Any] = emulator.azure.store.get("run", names[0])["job"]  # type: ignore[index]
        return properties

    @pytest.mark.parametrize(
        ("node", "change", "status", "text"),
        [
            (
                "both",
                {"inputs": {"third": {"job_input_type": "literal", "value": "x"}}},
                400,
                "input third for component job both does not",
            ),
            ("both", {"inputs": {}}, 400, "Required input first of component job both has no value"),
            (
                "first",
                {"inputs": {"text": {"job_input_type": "literal", "value": "${{parent.name}}"}}},
                400,
                "Invalid expression parent.name",
            ),
            ("first", {"inputs": {"text": {"value": "${{parent.jobs.both.outputs.folder}}"}}}, 400, "form a cycle"),
            ("first", {"componentId": "azureml:nothing:1"}, 404, "Not found component nothing (version: 1)"),
            ("first", {"computeId": "nowhere"}, 404, "Compute nowhere not found"),
            ("first", {"type": "sweep"}, 501, "the node first of type sweep"),
            (
                "first",
                {"inputs": {"text": {"job_input_type": "uri_folder", "uri": "azureml://jobs/earlier/outputs/joined"}}},
                501,
                "the URI azureml://jobs/earlier/outputs/joined for anything but registering a model",
            ),
        ],
    )
    def test_an_invalid_node(
        self, emulator: Emulator, credential: Any, nodes: dict[str, Any], node: str, change: dict[str, Any], status: int, text: str
    ) -> None:
        properties = nodes | {"jobs": nodes["jobs"] | {node: nodes["jobs"][node] | change}}
        answer = put(emulator, credential, "refused", properties)
        assert (answer.status_code, text in answer.json()["error"]["message"]) == (status, True), answer.text


def test_a_data_asset_is_an_input(emulator: Emulator, ml: Any, tmp_path: Path) -> None:
    from azure.ai.ml import Input, command
    from azure.ai.ml.entities import Data

    file = tmp_path / "words.txt"
    file.write_text("from an asset")
    first = ml.data.create_or_update(Data(name="words", path=str(file), type="uri_file", tags={"a": None}))
    assert (first.version, first.type, first.tags) == ("1", "uri_file", {"a": None})
    assert ml.data.create_or_update(Data(name="words", path=str(file), type="uri_file")).version == "2"
    assert [data.name for data in ml.data.list()] == ["words"]
    assert sorted(data.version for data in ml.data.list(name="words")) == ["1", "2"]
    given = Input(type="uri_file", path="azureml:words:1")
    job = command(command="cat ${{inputs.words}}", inputs={"words": given}, environment=ENVIRONMENT)
    job = wait_for_job(ml, ml.jobs.create_or_update(job).name)
    log = uris.output_path(emulator.azure, job.name, "artifacts") / "user_logs" / "std_log.txt"
    assert (job.status, log.read_text()) == ("Completed", "from an asset")
    ml.data.archive("words", version="1")
    assert [data.version for data in ml.data.list(name="words")] == ["2"]
