"""The value of each input of the training component, and where it comes from.

In order of precedence, later wins: the component's own defaults, the base model's ``model_specific_defaults`` (only those that the
component has: Azure ML's notebook passes all of them and fails at ``learning_rate_min``), the pipeline itself, pipeline.toml, the command
line.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from mlops.cloud.assets import Component, ComponentInput
from mlops.core.console import did_you_mean
from mlops.core.errors import ConfigError
from mlops.core.records import Parameter
from mlops.core.settings import Scalar, TrainingConfig

__all__ = ["COMPUTES", "RESERVED", "Parameters", "resolve", "text", "typed"]

COMPUTES = frozenset({"compute_finetune", "compute_model_evaluation", "compute_model_import", "compute_preprocess"})
"""Inputs that name the cluster of a step."""
RESERVED = COMPUTES | {"mlflow_model_path", "test_file_path", "train_file_path"}
"""Inputs that the pipeline sets from [compute], [model] and [data] of pipeline.toml."""


@dataclass(frozen=True)
class Parameters:
    """The literal inputs of the component."""

    parameters: tuple[Parameter, ...]
    """All inputs that have a value, in the component's order."""
    dropped: tuple[str, ...]
    """``model_specific_defaults`` that the component doesn't have as inputs."""

    def overrides(self) -> dict[str, str]:
        """Return the inputs whose value is not the component's own default: only these need to be sent."""
        return {parameter.name: parameter.value for parameter in self.parameters if parameter.source != "default"}


def resolve(
    component: Component,
    model_defaults: Mapping[str, object],
    training: TrainingConfig,
    command_line: tuple[str, ...],
    compute: str,
    gpus: int,
) -> Parameters:
    """Decide the value of every literal input of the component.

    Args:
        component: the training component.
        model_defaults: the base model's ``model_specific_defaults``.
        training: settings; ``parameters`` includes those from the command line.
        command_line: names of the parameters that were set on the command line.
        compute: the cluster for every step.
        gpus: GPUs of one node; the default of ``number_of_gpu_to_use_finetuning``.

    Raises:
        ConfigError: a parameter that the component does not take, or that the pipeline sets itself.
    """
    parameters: dict[str, Parameter] = {}

    def put(name: str, value: object, source: str) -> None:
        parameters[name] = Parameter(name=name, value=text(component.inputs[name], value), source=source)

    for name, declared in component.inputs.items():
        if declared.default is not None:
            put(name, declared.default, "default")
    for name, value in model_defaults.items():
        if name in component.inputs:
            put(name, value, "model_specific_defaults")
    put("number_of_gpu_to_use_finetuning", gpus, "pipeline")
    for name in COMPUTES & component.inputs.keys():
        put(name, compute, "pipeline")
    for name, value in training.parameters.items():
        _check(component, name)
        put(name, value, "command line" if name in command_line else "pipeline.toml")
    ordered = tuple(parameters[name] for name in component.inputs if name in parameters)
    return Parameters(ordered, tuple(sorted(name for name in model_defaults if name not in component.inputs)))


def text(declared: ComponentInput, value: object) -> str:
    """Return a value in the form in which it is sent, with one spelling for equal values.

    ``5e-6``, ``"5e-6"`` and ``0.000005`` become the same text.

    Raises:
        ConfigError: the value is not a number, and the input takes one.
    """
    try:
        if isinstance(value, bool):
            return "true" if value else "false"
        if declared.type == "integer":
            return str(_integer(value))
        if declared.type == "number":
            return repr(float(str(value)))
    except ValueError:
        raise ConfigError(
            f"training.parameters.{declared.name} = {value!r} is not of type {declared.type}.", "fix pipeline.toml or the --set option"
        ) from None
    return str(value)


def typed(declared: ComponentInput, value: str) -> Scalar:
    """Convert a value to the Python type that the SDK expects for this input."""
    if declared.type == "integer":
        return int(value)
    return float(value) if declared.type == "number" else value


def _integer(value: object) -> int:
    number = float(str(value))
    if not number.is_integer():
        raise ValueError(value)
    return int(number)


def _check(component: Component, name: str) -> None:
    if name in RESERVED:
        raise ConfigError(
            f"training.parameters.{name} is set by the pipeline itself.", "set [compute], [model] and [data] in pipeline.toml instead"
        )
    if name not in component.inputs:
        raise ConfigError(
            f"training.parameters.{name} is not an input of {component.name} {component.version}{did_you_mean(name, component.inputs)}.",
            "fix pipeline.toml or the --set option",
        )
