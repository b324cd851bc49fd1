"""What the training component is told, and who said so.

Later wins: the component's own defaults, the base model's ``model_specific_defaults`` (only those that the component takes: the
notebook of Azure ML passes them all and stops at ``learning_rate_min``), pipeline.toml, the command line, the pipeline itself.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass

from mlops.cloud.assets import Component, ComponentInput
from mlops.core.config import Scalar, TrainingConfig
from mlops.core.errors import ConfigError
from mlops.core.records import Parameter

__all__ = ["COMPUTES", "RESERVED", "Resolved", "resolve", "text", "typed"]

COMPUTES = frozenset({"compute_finetune", "compute_model_evaluation", "compute_model_import", "compute_preprocess"})
"""Inputs that name the cluster of a step."""
RESERVED = COMPUTES | {"mlflow_model_path", "test_file_path", "train_file_path"}
"""Inputs that follow from the rest of pipeline.toml ([compute], [model], [data]) and are set by the pipeline."""


@dataclass(frozen=True)
class Resolved:
    """The answer to: which value does each input get, and from whom."""

    parameters: tuple[Parameter, ...]
    """Every literal input that has a value, in the component's order."""
    dropped: tuple[str, ...]
    """``model_specific_defaults`` that the component does not take."""

    def given(self) -> dict[str, str]:
        """Those that differ in their source from the component's own defaults: only these need to be sent."""
        return {parameter.name: parameter.value for parameter in self.parameters if parameter.source != "default"}


def resolve(
    component: Component,
    model_defaults: Mapping[str, object],
    training: TrainingConfig,
    command_line: tuple[str, ...],
    compute: str,
    gpus: int,
) -> Resolved:
    """Settle every literal input of the component.

    Args:
        component: whose inputs.
        model_defaults: the base model's ``model_specific_defaults``.
        training: settings; ``parameters`` holds the command line's, too.
        command_line: names of those parameters that were given on the command line.
        compute: the cluster, for every step.
        gpus: of one node; becomes ``number_of_gpu_to_use_finetuning`` unless that is set.

    Raises:
        ConfigError: a parameter that the component does not take, or that the pipeline sets itself.
    """
    found: dict[str, Parameter] = {}

    def put(name: str, value: object, source: str) -> None:
        found[name] = Parameter(name=name, value=text(component.inputs[name], value), source=source)

    for name, given in component.inputs.items():
        if given.default is not None:
            put(name, given.default, "default")
    for name, value in model_defaults.items():
        if name in component.inputs:
            put(name, value, "model_specific_defaults")
    put("number_of_gpu_to_use_finetuning", gpus, "pipeline")
    for name in COMPUTES & component.inputs.keys():
        put(name, compute, "pipeline")
    for name, value in training.parameters.items():
        _check(component, name)
        put(name, value, "command line" if name in command_line else "pipeline.toml")
    ordered = tuple(found[name] for name in component.inputs if name in found)
    return Resolved(ordered, tuple(sorted(name for name in model_defaults if name not in component.inputs)))


def text(given: ComponentInput, value: object) -> str:
    """A value as it goes over the wire: text that reads the same whoever wrote it (``5e-6``, ``"5e-6"`` and ``0.000005`` are one).

    Raises:
        ConfigError: a number that is none.
    """
    try:
        if isinstance(value, bool):
            return "true" if value else "false"
        if given.type == "integer":
            return str(_integer(value))
        if given.type == "number":
            return repr(float(str(value)))
    except ValueError:
        raise ConfigError(
            f"training.parameters.{given.name} = {value!r} is not of type {given.type}.", "mend pipeline.toml or the --set option"
        ) from None
    return str(value)


def typed(given: ComponentInput, value: str) -> Scalar:
    """The value as the SDK wants it for an input of this type."""
    if given.type == "integer":
        return int(value)
    return float(value) if given.type == "number" else value


def _integer(value: object) -> int:
    number = float(str(value))
    if not number.is_integer():
        raise ValueError(value)
    return int(number)


def _check(component: Component, name: str) -> None:
    if name in RESERVED:
        raise ConfigError(
            f"training.parameters.{name} is set by the pipeline itself.", "use [compute], [model] and [data] of pipeline.toml instead"
        )
    if name not in component.inputs:
        near = difflib.get_close_matches(name, component.inputs, n=1)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ConfigError(
            f"training.parameters.{name} is not an input of {component.name} {component.version}{hint}.",
            "mend pipeline.toml or the --set option",
        )
