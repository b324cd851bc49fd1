from __future__ import annotations

import pytest

from mlops.cloud.assets import Component, ComponentInput
from mlops.cloud.parameters import RESERVED, Parameters, resolve, text, typed
from mlops.core.errors import ConfigError
from mlops.core.settings import Scalar, TrainingConfig


def component(*inputs: ComponentInput) -> Component:
    return Component(id="azureml://c", name="c", version="1", inputs={each.name: each for each in inputs}, outputs={}, sdk=None)


def declare(name: str, kind: str = "string", default: str | None = None, enum: tuple[str, ...] = ()) -> ComponentInput:
    return ComponentInput(name=name, type=kind, optional=True, default=default, enum=enum)


COMPONENT = component(
    declare("compute_finetune", default="serverless"),
    declare("train_file_path", "uri_file"),
    declare("number_of_gpu_to_use_finetuning", "integer", "1"),
    declare("learning_rate", "number", "0.00002"),
    declare("num_train_epochs", "integer", "1"),
    declare("apply_lora", default="false"),
    declare("seed", "integer", "42"),
)


def resolve_all(model: dict[str, object], settings: dict[str, Scalar], command_line: tuple[str, ...] = ()) -> Parameters:
    return resolve(COMPONENT, model, TrainingConfig(parameters=settings), command_line, "cluster", 4)


def table(result: Parameters) -> dict[str, tuple[str, str]]:
    return {parameter.name: (parameter.value, parameter.source) for parameter in result.parameters}


def test_each_source_overrides_the_previous_one_and_is_recorded() -> None:
    model = {"learning_rate": "5e-6", "num_train_epochs": 2, "apply_lora": "true"}
    result = table(resolve_all(model, {"num_train_epochs": 3, "learning_rate": 1e-4}, ("learning_rate",)))
    assert result == {
        "compute_finetune": ("cluster", "pipeline"),
        "number_of_gpu_to_use_finetuning": ("4", "pipeline"),
        "learning_rate": ("0.0001", "command line"),
        "num_train_epochs": ("3", "pipeline.toml"),
        "apply_lora": ("true", "model_specific_defaults"),
        "seed": ("42", "default"),
    }


def test_model_defaults_that_the_component_does_not_accept_are_dropped_and_listed() -> None:
    result = resolve_all({"learning_rate_min": 5e-7, "learning_rate_max": 5e-5, "apply_lora": "true"}, {})
    assert result.dropped == ("learning_rate_max", "learning_rate_min")
    assert "learning_rate_min" not in table(result)


def test_only_values_that_differ_from_the_component_are_sent() -> None:
    assert resolve_all({"apply_lora": "true"}, {}).overrides() == {
        "apply_lora": "true",
        "compute_finetune": "cluster",
        "number_of_gpu_to_use_finetuning": "4",
    }


def test_an_unknown_parameter_suggests_the_nearest_one() -> None:
    with pytest.raises(ConfigError, match=r"num_train_epoch is not an input of c 1.*num_train_epochs"):
        resolve_all({}, {"num_train_epoch": 1})


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_parameters_that_the_pipeline_sets_are_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is set by the pipeline itself"):
        resolve_all({}, {name: "x"})


@pytest.mark.parametrize("value", [5e-6, "5e-6", "0.000005", "5E-06"])
def test_equal_numbers_have_equal_text(value: object) -> None:
    assert text(declare("learning_rate", "number"), value) == "5e-06"


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [("string", True, "true"), ("string", False, "false"), ("string", 16, "16"), ("integer", "2", "2"), ("integer", 2.0, "2")],
)
def test_values_are_converted_to_text(kind: str, value: object, expected: str) -> None:
    assert text(declare("x", kind), value) == expected


@pytest.mark.parametrize(("kind", "value"), [("integer", "three"), ("integer", 1.5), ("number", "fast")])
def test_a_value_of_another_type_is_refused(kind: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"not of type {kind}"):
        text(declare("x", kind), value)


def test_the_sdk_receives_typed_values() -> None:
    assert [typed(declare("x", kind), value) for kind, value in [("integer", "3"), ("number", "5e-06"), ("string", "16")]] == [
        3,
        5e-6,
        "16",
    ]
