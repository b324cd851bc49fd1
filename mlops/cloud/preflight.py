"""What must hold of configuration and workspace before a GPU is paid for: pure rules over what the workspace session has read.

The SDK checks none of this for a component of a registry: a wrong enum value, ``num_train_epochs=0`` or a cluster that doesn't exist are
sent as they are, and the job fails once the nodes are up. Combinations follow the checks inside the component's fine-tuning step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import date
from typing import Literal

from mlops.cloud.assets import BaseModel, Component, ComponentInput
from mlops.cloud.compute import ComputeView, VmSize
from mlops.cloud.parameters import RESERVED
from mlops.core.config import ComputeConfig, EndpointConfig, Scalar, TrainingConfig
from mlops.core.console import did_you_mean
from mlops.core.records import Finding

__all__ = [
    "UNSUPPORTED_SIZES",
    "check_cluster",
    "check_endpoint_size",
    "check_model",
    "check_parameters",
    "check_size",
    "estimate_cost",
    "finding",
]

UNSUPPORTED_SIZES = ("standard_nc6", "standard_nc12", "standard_nc24", "standard_nc24r")
"""VM sizes that can't fine-tune whatever the model; asked where a model gives no allow-list."""

DATA_TYPES = ("uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model")

IGNORED = {
    "evaluation_config": "the component no longer evaluates; the evaluate stage does",
    "evaluation_config_params": "the component no longer evaluates; the evaluate stage does",
    "instance_type_finetune": "it counts on serverless compute only; [compute] says where training runs",
    "instance_type_model_evaluation": "it counts on serverless compute only; [compute] says where training runs",
    "instance_type_model_import": "it counts on serverless compute only; [compute] says where training runs",
    "instance_type_preprocess": "it counts on serverless compute only; [compute] says where training runs",
}
"""Inputs that the component takes and makes no use of here."""

Locate = Callable[[str], str]
"""Dotted key of pipeline.toml → where it stands."""


def check_parameters(component: Component, training: TrainingConfig, model_defaults: Mapping[str, object], locate: Locate) -> list[Finding]:
    """``training.parameters`` and the base model's defaults against the component's own inputs: name, type, enum, range, combinations.

    Defaults of the model that the component doesn't take are not a finding: the train stage leaves them out and says so.
    """
    found: list[Finding] = []
    effective = {name: given.default for name, given in component.inputs.items() if given.default is not None}
    for name, value in model_defaults.items():
        if name in component.inputs:
            effective[name] = wire(value)
            if name not in training.parameters:
                found += _check_value(component.inputs[name], value, f"model_specific_defaults.{name}")
    for name, value in training.parameters.items():
        where = locate(f"training.parameters.{name}")
        problems = list(_check_name(component, name, where)) or list(_check_value(component.inputs[name], value, where))
        found += problems
        if not problems:
            effective[name] = wire(value)
    for names, message in _combinations(effective):
        given_here = next((name for name in names if name in training.parameters), None)
        place = locate(f"training.parameters.{given_here}") if given_here else f"model_specific_defaults.{names[0]}"
        found.append(finding("parameter.combination", place, message))
    missing = [name for name, given in component.inputs.items() if not (given.optional or name in effective or name in RESERVED)]
    found += [finding("parameter.missing", locate("training.parameters"), f"{name} has no default and is not given") for name in missing]
    return found


def check_model(model: BaseModel, successors: Iterable[str], allow_archived: bool, today: date, where: str) -> list[Finding]:
    """The base model is neither archived nor past the date on which its fine-tuning ends.

    Args:
        model: as the registry has it.
        successors: ids of models that may be taken instead.
        allow_archived: makes either a warning.
        today: to hold the date against.
        where: where ``model.name`` was given.
    """
    found = []
    severity: Literal["error", "warning"] = "warning" if allow_archived else "error"
    instead = ", ".join(successors) or "none that the registry lists"
    advice = f"Successors: {instead}. Set model.name to one of them, or model.allow_archived = true to go on."
    if model.archived:
        found.append(finding("model.archived", where, f"{model.id} is archived and may vanish. {advice}", severity))
    if model.retired_on and model.retired_on[:10] < today.isoformat():
        found.append(finding("model.retired", where, f"Fine-tuning of {model.id} ended on {model.retired_on[:10]}. {advice}", severity))
    return found


def check_size(size: str, model: BaseModel, sizes: Mapping[str, VmSize], where: str) -> list[Finding]:
    """The training cluster's VM size is offered here and may fine-tune this model. Case doesn't count.

    Args:
        size: a VM size.
        model: whose allow-list is asked; without one, :data:`UNSUPPORTED_SIZES` is.
        sizes: what the workspace's region offers, by lower-case name.
        where: where the size was given.
    """
    found = []
    if size.lower() not in sizes:
        near = did_you_mean(size, [offered.name for offered in sizes.values()])
        found.append(finding("compute.size.unknown", where, f"{size} is not offered in the workspace's region{near}"))
    if model.finetune_skus is None:
        if size.lower() in UNSUPPORTED_SIZES:
            message = f"{size} can't fine-tune: it is one of {', '.join(UNSUPPORTED_SIZES)}"
            found.append(finding("compute.size.unsupported", where, message))
    elif not _contains(model.finetune_skus, size):
        message = f"{size} is not in the list of sizes that {model.name} may be fine-tuned on: {', '.join(model.finetune_skus)}"
        found.append(finding("compute.size.not-allowed", where, message))
    return found


def check_cluster(cluster: ComputeView, wanted: ComputeConfig, parameters: Mapping[str, Scalar], locate: Locate) -> list[Finding]:
    """The cluster is usable, is of the size that pipeline.toml says, and holds what the training asks of it."""
    found = []
    if cluster.state.lower() != "succeeded":
        message = f"cluster {cluster.name} is {cluster.state}; look at it in the studio, and delete it if it has failed: it is made again"
        found.append(finding("compute.state", locate("compute.name"), message))
    if cluster.size.lower() != wanted.size.lower():
        message = (
            f"cluster {cluster.name} exists with size {cluster.size}, pipeline.toml says {wanted.size}; set compute.size or compute.name"
        )
        found.append(finding("compute.size.differs", locate("compute.size"), message))
    for name, limit, what in (
        ("num_nodes_finetune", wanted.max_instances, "nodes (compute.max_instances)"),
        ("number_of_gpu_to_use_finetuning", max(1, cluster.gpus_per_node), "GPUs on a node"),
    ):
        asked = _number(parameters.get(name, 1))
        if asked is not None and asked > limit:
            message = f"{name} is {asked:g}, but {cluster.name} has {limit} {what}: the job would wait for ever"
            found.append(finding("compute.too-small", locate(f"training.parameters.{name}"), message))
    return found


def check_endpoint_size(endpoint: EndpointConfig, model: BaseModel, sizes: Mapping[str, VmSize], where: str) -> list[Finding]:
    """The endpoint's VM size is one that the model may be served on. Case doesn't count; a model without a list says nothing."""
    size = endpoint.instance_type
    found = []
    if size.lower() not in sizes:
        near = did_you_mean(size, [offered.name for offered in sizes.values()])
        found.append(finding("endpoint.size.unknown", where, f"{size} is not offered in the workspace's region{near}"))
    if model.inference_skus is not None and not _contains(model.inference_skus, size):
        message = f"{size} is not in the list of sizes that {model.name} may be served on: {', '.join(model.inference_skus)}"
        found.append(finding("endpoint.size.not-allowed", where, message))
    return found


def estimate_cost(compute: ComputeConfig, training: TrainingConfig, endpoint: EndpointConfig) -> tuple[float | None, str]:
    """US dollars of one training, or None where a figure is missing; and a sentence on what it holds or what is missing.

    Price of a node-hour × nodes × hours, all from pipeline.toml: Azure has no price on its control plane.
    """
    missing = [
        key
        for key, value in (("compute.price_per_hour_usd", compute.price_per_hour_usd), ("training.expected_hours", training.expected_hours))
        if value is None
    ]
    serving = ""
    if endpoint.price_per_hour_usd is not None:
        serving = f"; the endpoint adds {endpoint.price_per_hour_usd * endpoint.instance_count:,.2f} USD for every hour that it stands"
    if compute.price_per_hour_usd is None or training.expected_hours is None:
        return None, f"no estimate: {' and '.join(missing)} not set in pipeline.toml{serving}"
    nodes = int(_number(training.parameters.get("num_nodes_finetune", 1)) or 1)
    price, hours = compute.price_per_hour_usd, training.expected_hours
    return price * nodes * hours, f"{price:g} USD an hour × {nodes} node(s) of {compute.size} × {hours:g} h of training{serving}"


def finding(rule: str, where: str, message: str, severity: Literal["error", "warning"] = "error") -> Finding:
    """A finding of this module."""
    return Finding(rule=rule, severity=severity, where=where, message=message)


def wire(value: object) -> str:
    """A literal as it is sent: text."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_name(component: Component, name: str, where: str) -> Iterator[Finding]:
    if name not in component.inputs:
        message = f"{name} is not an input of {component.name} {component.version}{did_you_mean(name, component.inputs)}"
        yield finding("parameter.unknown", where, message)
    elif name in RESERVED:
        message = f"{name} is set by the pipeline itself; use [compute], [model] and [data] of pipeline.toml"
        yield finding("parameter.reserved", where, message)
    elif component.inputs[name].type in DATA_TYPES:
        message = f"{name} is a {component.inputs[name].type}; training.parameters holds plain values only"
        yield finding("parameter.type", where, message)
    elif name in IGNORED:
        yield finding("parameter.ignored", where, f"{name} has no effect: {IGNORED[name]}", "warning")


def _check_value(given: ComponentInput, value: object, where: str) -> Iterator[Finding]:
    text = wire(value)
    if given.type in ("integer", "number"):
        number = _number(text)
        whole = isinstance(value, int) or (number is not None and number.is_integer())
        if number is None or isinstance(value, bool) or (given.type == "integer" and not whole):
            yield finding("parameter.type", where, f"{given.name} is {text!r}, which is not of type {given.type}")
        elif given.min is not None and number < given.min:
            yield finding("parameter.range", where, f"{given.name} is {text}, less than {given.min:g}")
        elif given.max is not None and number > given.max:
            yield finding("parameter.range", where, f"{given.name} is {text}, more than {given.max:g}")
    elif given.type == "boolean" and text.lower() not in ("true", "false"):
        yield finding("parameter.type", where, f"{given.name} is {text!r}, which is not of type boolean")
    elif given.enum and text not in given.enum:
        message = f"{given.name} is {text!r}, not one of {', '.join(given.enum)}{did_you_mean(text, given.enum)}"
        yield finding("parameter.enum", where, message)


def _combinations(values: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Settings that are each right and together stop the fine-tuning step. Names, the one to change first; and why."""

    def on(name: str) -> bool:
        return values.get(name, "false").lower() == "true"

    rate = _number(values.get("learning_rate"))
    if rate is not None and rate <= 0:
        yield ("learning_rate",), f"learning_rate is {rate:g}; it must be greater than 0"
    if on("apply_early_stopping") and values.get("evaluation_strategy", "epoch") not in ("epoch", "steps"):
        yield ("apply_early_stopping", "evaluation_strategy"), "apply_early_stopping needs evaluation_strategy steps or epoch"
    if on("apply_deepspeed") and on("auto_find_batch_size"):
        yield ("auto_find_batch_size", "apply_deepspeed"), "auto_find_batch_size doesn't go with apply_deepspeed"
    if on("apply_deepspeed") and values.get("deepspeed_stage") == "3" and on("apply_ort"):
        yield ("apply_ort", "deepspeed_stage", "apply_deepspeed"), "DeepSpeed stage 3 doesn't go with apply_ort"


def _contains(sizes: Iterable[str], size: str) -> bool:
    return size.lower() in {known.lower() for known in sizes}


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
