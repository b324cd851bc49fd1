"""The specification compared with Azure's, as of 2026-07-23 from Azure/azureml-assets."""

from __future__ import annotations

import hashlib
import json

import pytest

from mlops.emulator.component import spec

# name | type | default | enum | min | mode | optional, one line per input of the published spec.yaml, sorted; scalars as YAML has them.
PUBLISHED = "6a8146a5f5e86bd9ac53ae0ea0d092a058de0602ad37b756d26d724d25eb033a"


def test_the_69_inputs_are_azures() -> None:
    lines = []
    for item in spec.INPUTS.values():
        default = item.default
        if default is not None and item.type == "number":
            default = repr(float(default))
        cells = (item.name, item.type, default, ",".join(item.enum), item.minimum, item.mode, item.optional)
        lines.append(" | ".join("" if cell is None else str(cell) for cell in cells))
    assert len(lines) == 69
    assert hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest() == PUBLISHED


def test_the_graph_is_azures() -> None:
    assert [(node.name, node.version, len(node.inputs), node.dependencies) for node in spec.NODES] == [
        ("ft_nlp_common_validation", "0.0.80", 30, ()),
        ("chat_completion_model_import", "0.0.81", 5, ("ft_nlp_common_validation",)),
        ("chat_completion_datapreprocess", "0.0.80", 11, ("chat_completion_model_import",)),
        ("chat_completion_finetune", "0.0.81", 43, ("chat_completion_datapreprocess", "chat_completion_model_import")),
        ("ft_nlp_model_converter", "0.0.80", 1, ("chat_completion_finetune",)),
    ]
    assert dict(spec.OUTPUTS) == {"pytorch_model_folder": spec.Output("uri_folder"), "mlflow_model_folder": spec.Output("mlflow_model")}


def test_every_binding_exists() -> None:
    nodes = {node.name: node for node in spec.NODES}
    for node in spec.NODES:
        assert {node.compute, node.instance_type} <= set(spec.INPUTS)
        parent = {name: name for name in spec.INPUTS}
        outputs = {name: {output: f"{name}/{output}" for output in nodes[name].outputs} for name in node.dependencies}
        assert set(node.bind(parent, outputs)) == set(node.inputs)
        for value in node.settings.values():
            assert value.removeprefix("${{parent.inputs.").removesuffix("}}") in spec.INPUTS


def test_bind_replaces_bindings_and_leaves_out_missing_inputs() -> None:
    node = spec.NODES[2]
    bound = node.bind({"batch_size": "5"}, {"chat_completion_model_import": {"output_dir": "/models"}})
    assert bound == {"batch_size": "5", "model_selector_output": "/models"}
    assert spec.NODES[0].bind({}, {})["task_name"] == "chat-completion"
    with pytest.raises(KeyError):
        node.bind({}, {})


@pytest.mark.parametrize(
    ("name", "value", "problem"),
    [
        (
            "learning_rate_min",
            "5e-7",
            "learning_rate_min: no such input of chat_completion_pipeline 0.0.82 (did you mean 'learning_rate'?)",
        ),
        ("num_train_epochs", "0", "num_train_epochs: 0 is less than the minimum, 1"),
        ("num_train_epochs", "three", "num_train_epochs: 'three' is not an integer"),
        ("num_train_epochs", "1.0", "num_train_epochs: '1.0' is not an integer"),
        ("learning_rate", "nan", "learning_rate: 'nan' is not a finite number"),
        ("learning_rate", "", "learning_rate: '' is not a finite number"),
        ("apply_lora", "True", "apply_lora: 'True' is not one of true, false"),
        ("deepspeed_stage", "5", "deepspeed_stage: '5' is not one of 2, 3"),
        ("lr_scheduler_type", "bogus", "lr_scheduler_type: 'bogus' is not one of linear, cosine, "),
        ("train_file_path", " ", "train_file_path: a uri_file is required, but the value is empty"),
    ],
)
def test_find_problems_names_the_problem(name: str, value: str, problem: str) -> None:
    (message,) = spec.find_problems({name: value})
    assert message.startswith(problem)


def test_an_older_version_lacks_inputs_and_has_older_nodes() -> None:
    (message,) = spec.find_problems({"trust_remote_code": "true"}, "0.0.81")
    assert message.startswith("trust_remote_code: no such input of chat_completion_pipeline 0.0.81")
    assert spec.find_problems({"trust_remote_code": "true"}) == []
    assert [node.version for node in spec.nodes("0.0.81")] == ["0.0.79", "0.0.80", "0.0.79", "0.0.80", "0.0.79"]
    assert spec.nodes(spec.VERSION) == spec.NODES
    assert (spec.to_wire("0.0.81")["version"], len(spec.to_wire("0.0.81")["inputs"])) == ("0.0.81", 67)


def test_find_problems_returns_all_and_none_for_the_notebooks_inputs() -> None:
    assert len(spec.find_problems({"a": "1", "apply_lora": "1", "batch_size": "0"})) == 3
    assert not spec.find_problems(
        {"learning_rate": "5e-06", "apply_lora": "true", "deepspeed_stage": "2", "train_file_path": "azureml://x"}
    )
    assert not spec.find_problems(spec.fill_defaults({}))


def test_fill_defaults_keeps_existing_values() -> None:
    values = spec.fill_defaults({"seed": "1"})
    assert values["seed"] == "1"
    assert values["lora_alpha"] == "128"
    assert "train_file_path" not in values


@pytest.mark.filterwarnings("ignore")  # the SDK, on import
def test_the_sdk_reads_the_wire_form() -> None:
    from azure.ai.ml._restclient.arm_ml_service.models import ComponentVersion
    from azure.ai.ml.entities import PipelineComponent
    from azure.ai.ml.entities._component.component import Component

    answer = ComponentVersion(
        {
            "id": f"azureml://registries/azureml/components/{spec.NAME}/versions/{spec.VERSION}",
            "name": spec.VERSION,
            "properties": {"componentSpec": json.loads(json.dumps(spec.to_wire())), "isAnonymous": False},
        }
    )
    component = Component._from_rest_object(answer)
    assert isinstance(component, PipelineComponent)
    assert set(component.inputs) == set(spec.INPUTS)
    assert set(component.outputs) == set(spec.OUTPUTS)
    epochs = component.inputs["num_train_epochs"]
    assert (epochs.type, epochs.default, epochs.min, epochs.optional) == ("integer", 1, 1, True)
    assert component.inputs["lr_scheduler_type"].enum == list(spec.INPUTS["lr_scheduler_type"].enum)
    assert not component.inputs["task_name"].optional
