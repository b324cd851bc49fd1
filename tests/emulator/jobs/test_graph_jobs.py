"""Pipelines of command components, through the real SDK: components are registered, bound together and run."""

from __future__ import annotations

import ast
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
    definitions = [ast.literal_eval(ml.jobs._runs_operations.get_run_data(name).run_definition) for name in (job.name, children[1].name)]
    assert (definitions[0]["JobType"], definitions[0]["Jobs"].keys()) == ("Pipeline", {"first", "second", "both"})
    assert (
        definitions[0]["OutputBindings"]["joined"] | {"JobOutputType": 3, "Mode": "ReadWriteMount"}
        == definitions[0]["OutputBindings"]["joined"]
    )
    assert definitions[1]["command"] == "printf '%s' one > DatasetOutputConfig:folder/text.txt"
    assert definitions[1]["environmentVariables"] == {"AZUREML_PARAMETER_Node_Count": "1", "AZUREML_PARAMETER_text": "one"}
    assert [(child.display_name, child.status) for child in children] == [(name, "Completed") for name in ("both", "first", "second")]


def test_nodes_that_need_a_failed_node_do_not_run(emulator: Emulator, ml: Any) -> None:
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


def put_component(emulator: Emulator, version: str, spec: dict[str, Any], name: str = "write") -> requests.Response:
    return requests.put(
        MANAGEMENT + arm_id(emulator.azure, "components", name, "versions", version),
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


def spell() -> Any:
    """Return a pipeline component: one node writes a word, the other one joins it with the input ``before``."""
    from azure.ai.ml import Input, dsl

    def spelled(before, word):  # type: ignore[no-untyped-def]
        written = write()(text=word)
        return {"spelled": join()(first=before, second=written.outputs.folder).outputs.folder}

    spelled.__annotations__ = {"before": Input(type="uri_folder"), "word": Input(type="string", default="-three")}
    return dsl.pipeline(name="spell")(spelled)


def read_output(emulator: Emulator, job: str, output: str) -> str:
    return (uris.output_path(emulator.azure, job, output) / "text.txt").read_text()


class TestNested:
    """Nodes that are pipelines, and jobs of a pipeline component."""

    def test_a_node_can_be_a_pipeline(self, emulator: Emulator, ml: Any) -> None:
        from azure.ai.ml import dsl

        @dsl.pipeline
        def outer(word):  # type: ignore[no-untyped-def]
            first = write()(text=word)
            inner = spell()(before=first.outputs.folder)
            again = spell()(before=inner.outputs.spelled, word=word)
            return {"all": again.outputs.spelled}

        pipeline_job = outer(word="one")
        pipeline_job.settings.default_compute = "serverless"
        job = wait_for_job(ml, ml.jobs.create_or_update(pipeline_job).name)
        assert (job.status, read_output(emulator, job.name, "all")) == ("Completed", "one-threeone")
        children = {child.display_name: child.name for child in ml.jobs.list(parent_job_name=job.name)}
        assert children.keys() == {"first", "inner", "again"}
        below = [child.display_name for child in ml.jobs.list(parent_job_name=children["again"])]
        assert len(below) == 2
        assert "written" in below

    def test_a_nested_node_runs_on_the_compute_of_an_input(self, emulator: Emulator, ml: Any) -> None:
        from azure.ai.ml import Input, Output, dsl
        from azure.ai.ml.entities import AmlCompute

        ml.compute.begin_create_or_update(AmlCompute(name="nested", size="Standard_DS3_v2", max_instances=1)).result()

        def inner(cluster):  # type: ignore[no-untyped-def]
            node = write()(text="text")
            node.compute = cluster
            return {"out": node.outputs.folder}

        inner.__annotations__ = {"cluster": Input(type="string")}

        @dsl.pipeline(default_compute="serverless")
        def outer():  # type: ignore[no-untyped-def]
            return {"out": dsl.pipeline(inner)(cluster="nested").outputs.out}

        pipeline_job = outer()
        path = "azureml://datastores/workspaceblobstore/paths/own/${{name}}/${{output_name}}"
        pipeline_job.outputs.out = Output(type="uri_folder", path=path)
        job = wait_for_job(ml, ml.jobs.create_or_update(pipeline_job).name)
        assert job.status == "Completed"
        (step,) = [run for _, run in emulator.azure.store.list("run") if run["compute"] == "nested"]
        uri = f"azureml://datastores/workspaceblobstore/paths/own/{step['name']}/folder"
        assert step["outputs"]["folder"]["uri"] == uri
        assert (uris.resolve(emulator.azure, uri) / "text.txt").read_text() == "text"

    def test_a_failure_in_a_nested_pipeline_fails_the_job(self, emulator: Emulator, ml: Any) -> None:
        from azure.ai.ml import dsl

        @dsl.pipeline
        def inner():  # type: ignore[no-untyped-def]
            return {"out": write("x; exit 3; ")().outputs.folder}

        @dsl.pipeline
        def outer():  # type: ignore[no-untyped-def]
            broken = inner()
            join()(first=broken.outputs.out, second=broken.outputs.out)

        pipeline_job = outer()
        pipeline_job.settings.default_compute = "serverless"
        job = wait_for_job(ml, ml.jobs.create_or_update(pipeline_job).name)
        children = {child.display_name: child.status for child in ml.jobs.list(parent_job_name=job.name)}
        assert (job.status, children) == ("Failed", {"broken": "Failed"})

    def test_a_job_of_a_pipeline_component(self, emulator: Emulator, credential: Any, ml: Any) -> None:
        component = ml.components.create_or_update(spell()(before=None).component)
        path = uris.datastore_path(emulator.azure, "workspaceblobstore", "before/text.txt")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("before")
        given = {"uri": "azureml://datastores/workspaceblobstore/paths/before/", "jobInputType": "uri_folder"}
        properties = {"jobType": "Pipeline", "componentId": component.id, "jobs": {}, "inputs": {"before": given}}
        answer = put(emulator, credential, "of-component", properties)
        assert (answer.status_code, answer.json()["properties"]["properties"]["azureml.SourceComponentId"]) == (201, component.id)
        job = wait_for_job(ml, "of-component")
        assert (job.status, read_output(emulator, job.name, "spelled")) == ("Completed", "before-three")
        for change, text in (({"inputs": {}}, "Required input before"), ({"inputs": {"other": given, "before": given}}, "no input other")):
            answer = put(emulator, credential, "refused", properties | change)
            assert (answer.status_code, text in answer.json()["error"]["message"]) == (400, True), answer.text


def test_a_node_is_sent_in_other_ways_too(emulator: Emulator, credential: Any, ml: Any) -> None:
    """Without a type, its component in another case, its compute with a prefix, and texts around bindings."""
    from azure.ai.ml.entities import AmlCompute

    ml.compute.begin_create_or_update(AmlCompute(name="prefixed", size="Standard_DS3_v2", max_instances=2)).result()
    line = "printf '%s' ${{inputs.text}} $RANK > ${{outputs.folder}}/text.txt"
    component = ml.components.create_or_update(write())
    spec = {"name": "ranked", "version": "1", "type": "command", "command": line, "environment": ENVIRONMENT}
    ports = {"inputs": {"text": {"type": "string"}}, "outputs": {"folder": {"type": "uri_folder"}}}
    assert put_component(emulator, "1", spec | ports, name="ranked").status_code == 201
    node = {
        "name": "node",
        "componentId": component.id.rpartition("/components/")[0] + "/components/Ranked/versions/1",
        "inputs": {"text": {"job_input_type": "literal", "value": "a_${{parent.inputs.word}}_"}},
        "outputs": {"folder": {"value": "${{parent.outputs.out}}", "type": "literal"}},
        "distribution": {"distribution_type": "PyTorch", "process_count_per_instance": "${{parent.inputs.count}}"},
        "resources": {"instance_count": "${{parent.inputs.count}}"},
    }
    literal = {"jobInputType": "literal"}
    properties = {
        "jobType": "Pipeline",
        "jobs": {"node": node},
        "inputs": {"word": literal | {"value": "b"}, "count": literal | {"value": "2"}},
        "outputs": {"out": {"jobOutputType": "uri_folder"}},
        "settings": {"default_compute": arm_id(emulator.azure, "computes", "azureml:prefixed")},
    }
    answer = put(emulator, credential, "other-ways", properties)
    assert answer.status_code == 201, answer.text
    assert wait_for_job(ml, "other-ways").status == "Completed"
    assert read_output(emulator, "other-ways", "out") == "a_b_0"
    (step,) = [run for _, run in emulator.azure.store.list("run") if run["parent"] == "other-ways"]
    assert (step["compute"], step["nodes"]) == ("prefixed", 2)


class TestRefused:
    """Pipelines that the service refuses, or the emulator doesn't run. The body is changed after the SDK has made it."""

    @pytest.fixture
    def nodes(self, emulator: Emulator, ml: Any) -> dict[str, Any]:
        names = [name for name, run in emulator.azure.store.list("run") if run["job"] and "both" in (run["job"].get("jobs") or {})]
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
            ("first", {"componentId": "azureml://registries/azureml/components/x/versions/1"}, 501, "with a component of a registry"),
            (
                "both",
                {"inputs": {"first": {"value": "${{parent.inputs.word}}/file.csv"}, "second": {"value": "x"}}},
                400,
                "input first for component job both does not exist",
            ),
            ("first", {"inputs": {"text": {"value": "a${{parent.jobs.second.outputs.folder}}"}}}, 400, "Invalid expression parent.jobs"),
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


class TestTakenOnly:
    """What Azure takes and the emulator does not run: the job is created, and fails where it would be needed."""

    def test_nodes_of_other_types(self, emulator: Emulator, credential: Any, ml: Any) -> None:
        written = ml.components.create_or_update(write())
        ports = {"inputs": {"data": {"type": "uri_folder"}}, "outputs": {"folder": {"type": "uri_folder"}}}
        spec = {"name": "sparkling", "version": "1", "type": "spark", "entry": {"file": "wordcount.py"}, "args": "x"} | ports
        assert put_component(emulator, "1", spec, name="sparkling").status_code == 201
        sparkling = arm_id(emulator.azure, "components", "sparkling", "versions", "1")
        builtin = "azureml://registries/azureml/components/import_data_database/versions/0.0.1"

        def read(node: str) -> dict[str, Any]:
            return {"data": {"job_input_type": "literal", "value": f"${{{{parent.jobs.{node}.outputs.folder}}}}"}}

        nodes = {
            "first": {"name": "first", "type": "command", "componentId": written.id},
            "spark": {"name": "spark", "type": "spark", "componentId": sparkling, "inputs": read("first")},
            "import": {"name": "import", "type": "data_transfer", "task": "import_data", "componentId": builtin},
            "body": {"name": "body", "type": "command", "componentId": written.id},
            "loop": {"type": "parallel_for", "body": "${{parent.jobs.body}}", "items": '[{"text": 1}, {"text": 2}]'},
            "after": {"name": "after", "type": "spark", "componentId": sparkling, "inputs": read("loop")},
            "if": {"type": "if_else", "condition": True, "true_block": ["${{parent.jobs.chosen}}"]},
            "chosen": {"name": "chosen", "type": "command", "componentId": written.id},
            "while": {
                "type": "do_while",
                "condition": "${{parent.jobs.again.outputs.folder}}",
                "body": "${{parent.jobs.again}}",
                "mapping": {"folder": ["text"]},
                "limits": {"max_iteration_count": 2},
            },
            "again": {"name": "again", "type": "command", "componentId": written.id},
        }
        properties = {"jobType": "Pipeline", "jobs": nodes, "settings": {"default_compute": "serverless"}}
        answer = put(emulator, credential, "other-types", properties)
        assert (answer.status_code, answer.json()["properties"]["jobs"]) == (201, nodes), answer.text
        assert wait_for_job(ml, "other-types").status == "Failed"
        children = {child.display_name: child.status for child in ml.jobs.list(parent_job_name="other-types")}
        assert children == {"first": "Completed", "spark": "Failed", "import": "Failed"}
        error = ml.jobs._runs_operations.get_run_details("other-types").error.error
        assert "Failed nodes: /import, /loop, /if, /while, /spark." in error.message
        assert "The emulator does not run nodes of type data_transfer with the task import_data. Azure does." in error.message
        assert error.inner_error.code == "NotImplementedByEmulator"
        log = (uris.output_path(emulator.azure, "other-types", "artifacts") / "logs" / "azureml" / "executionlogs.txt").read_text()
        assert "Node spark has failed: The emulator does not run nodes of type spark. Azure does." in log
        for change, text in (({"body": "${{parent.jobs.none}}"}, "Invalid expression parent.jobs.none"), ({"body": None}, "names no node")):
            refused = put(emulator, credential, "refused", properties | {"jobs": nodes | {"loop": nodes["loop"] | change}})
            assert (refused.status_code, text in refused.json()["error"]["message"]) == (400, True), refused.text

    def test_an_import_of_data(self, ml: Any) -> None:
        from azure.ai.ml.data_transfer import Database
        from azure.ai.ml.entities import DataImport

        source = Database(query="select 1", connection="azureml:sales")
        path = "azureml://datastores/workspaceblobstore/paths/sales"
        job = wait_for_job(ml, ml.data.import_data(DataImport(name="sales", path=path, source=source)).name)
        error = ml.jobs._runs_operations.get_run_details(job.name).error.error
        assert (job.status, "does not run nodes of type data_transfer with the task import_data" in error.message) == ("Failed", True)

    def test_virtual_clusters(self, emulator: Emulator, credential: Any, ml: Any) -> None:
        cluster = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/virtualclusters/vc"
        job = {"jobType": "Command", "command": "true", "environmentId": ENVIRONMENT, "computeId": cluster}
        node = {"name": "node", "type": "command", "componentId": ml.components.create_or_update(write()).id}
        pipeline_job = {"jobType": "Pipeline", "jobs": {"node": node}, "settings": {"default_compute": cluster}}
        for name, properties in (("on-a-virtual-cluster", job), ("pipeline-on-a-virtual-cluster", pipeline_job)):
            assert put(emulator, credential, name, properties).status_code == 201
            assert wait_for_job(ml, name).status == "Failed"
            message = ml.jobs._runs_operations.get_run_details(name).error.error.message
            assert f"The emulator does not run jobs on virtual clusters, such as {cluster}. Azure does." in message


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


class TestNamedOutputs:
    """Outputs that a job gives a name become assets."""

    def test_of_a_pipeline_and_of_its_nodes(self, emulator: Emulator, ml: Any) -> None:
        from azure.ai.ml import Output, dsl

        @dsl.pipeline
        def naming(word):  # type: ignore[no-untyped-def]
            first, second = write()(text=word), write()(text="two")
            second.outputs.folder = Output(type="uri_folder", name="of-node", version="v1")
            return {"first": first.outputs.folder}

        pipeline_job = naming(word="one")
        pipeline_job.settings.default_compute = "serverless"
        pipeline_job.outputs.first = Output(type="uri_folder", name="of-pipeline")
        job = wait_for_job(ml, ml.jobs.create_or_update(pipeline_job).name)
        assert job.status == "Completed"
        for name, version, text in (("of-pipeline", "1", "one"), ("of-node", "v1", "two")):
            folder = uris.resolve(emulator.azure, ml.data.get(name, version=version).path)
            assert (folder / "text.txt").read_text() == text
        asset = ml.jobs._runs_operations.get_run_data(job.name).run_metadata.outputs["first"].asset_id
        assert asset.endswith("/data/of-pipeline/versions/1")

    def test_of_a_command(self, emulator: Emulator, ml: Any, tmp_path: Path) -> None:
        from azure.ai.ml import Output, command

        def submit(text: str, **output: Any) -> Any:
            outputs = {"out": Output(**output)}
            line = f"printf '%s' '{text}' > ${{{{outputs.out}}}}/MLmodel"
            return wait_for_job(ml, ml.jobs.create_or_update(command(command=line, outputs=outputs, environment=ENVIRONMENT)).name)

        flavors = "flavors: {python_function: {loader_module: x}}"
        assert [submit(flavors, type="mlflow_model", name="trained").status for _ in range(2)] == ["Completed", "Completed"]
        newest = ml.models.get("trained", version="2")
        assert (newest.type, list(newest.flavors)) == ("mlflow_model", ["python_function"])
        assert submit("no model", type="mlflow_model", name="broken").status == "Failed"
        again = [submit("x", type="uri_folder", name="once", version="7").status for _ in range(2)]
        assert again == ["Completed", "Failed"], "a version is never replaced"
