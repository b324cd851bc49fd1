from __future__ import annotations

import pytest

from mlops.cloud.assets import Component, ComponentInput
from mlops.cloud.parameters import RESERVED, Resolved, resolve, text, typed
from mlops.core.config import Scalar, TrainingConfig
from mlops.core.errors import ConfigError


def component(*inputs: ComponentInput) -> Component:
    return Component(id="azureml://c", name="c", version="1", inputs={given.name: given for given in inputs}, outputs={}, sdk=None)


def given(name: str, kind: str = "string", default: str | None = None, enum: tuple[str, ...] = ()) -> ComponentInput:
    return ComponentInput(name=name, type=kind, optional=True, default=default, enum=enum)


COMPONENT = component(
    given("compute_finetune", default="serverless"),
    given("train_file_path", "uri_file"),
    given("number_of_gpu_to_use_finetuning", "integer", "1"),
    given("learning_rate", "number", "0.00002"),
    given("num_train_epochs", "integer", "1"),
    given("apply_lora", default="false"),
    given("seed", "integer", "42"),
)


def resolved(model: dict[str, object], settings: dict[str, Scalar], command_line: tuple[str, ...] = ()) -> Resolved:
    return resolve(COMPONENT, model, TrainingConfig(parameters=settings), command_line, "cluster", 4)


def table(answer: Resolved) -> dict[str, tuple[str, str]]:
    return {parameter.name: (parameter.value, parameter.source) for parameter in answer.parameters}


def test_each_source_overrides_the_one_before_and_is_told() -> None:
    model = {"learning_rate": "5e-6", "num_train_epochs": 2, "apply_lora": "true"}
    answer = table(resolved(model, {"num_train_epochs": 3, "learning_rate": 1e-4}, ("learning_rate",)))
    assert answer == {
        "compute_finetune": ("cluster", "pipeline"),
        "number_of_gpu_to_use_finetuning": ("4", "pipeline"),
        "learning_rate": ("0.0001", "command line"),
        "num_train_epochs": ("3", "pipeline.toml"),
        "apply_lora": ("true", "model_specific_defaults"),
        "seed": ("42", "default"),
    }


def test_defaults_of_the_model_that_the_component_does_not_take_are_dropped_and_told() -> None:
    answer = resolved({"learning_rate_min": 5e-7, "learning_rate_max": 5e-5, "apply_lora": "true"}, {})
    assert answer.dropped == ("learning_rate_max", "learning_rate_min")
    assert "learning_rate_min" not in table(answer)


def test_only_what_differs_from_the_component_is_sent() -> None:
    assert resolved({"apply_lora": "true"}, {}).overrides() == {
        "apply_lora": "true",
        "compute_finetune": "cluster",
        "number_of_gpu_to_use_finetuning": "4",
    }


def test_an_unknown_parameter_names_the_near_one() -> None:
    with pytest.raises(ConfigError, match=r"num_train_epoch is not an input of c 1.*num_train_epochs"):
        resolved({}, {"num_train_epoch": 1})


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_what_the_pipeline_sets_itself_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=f"{name} is set by the pipeline itself"):
        resolved({}, {name: "x"})


@pytest.mark.parametrize("written", [5e-6, "5e-6", "0.000005", "5E-06"])
def test_a_number_reads_the_same_whoever_wrote_it(written: object) -> None:
    assert text(given("learning_rate", "number"), written) == "5e-06"


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [("string", True, "true"), ("string", False, "false"), ("string", 16, "16"), ("integer", "2", "2"), ("integer", 2.0, "2")],
)
def test_values_become_the_text_that_the_wire_wants(kind: str, value: object, expected: str) -> None:
    assert text(given("x", kind), value) == expected


@pytest.mark.parametrize(("kind", "value"), [("integer", "three"), ("integer", 1.5), ("number", "fast")])
def test_a_value_of_another_type_is_refused(kind: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"not of type {kind}"):
        text(given("x", kind), value)


def test_the_sdk_gets_numbers_as_numbers() -> None:
    assert [typed(given("x", kind), value) for kind, value in [("integer", "3"), ("number", "5e-06"), ("string", "16")]] == [3, 5e-6, "16"]
