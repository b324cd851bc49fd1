"""The registry component ``chat_completion_pipeline``, versions 0.0.81 and 0.0.82: inputs, nodes, outputs, and its form on the wire.

Facts from Azure/azureml-assets, ``assets/training/finetune_acft_hf_nlp/components/`` (2026-06-30). Literals are strings throughout,
as the SDK sends them (``"5e-06"``, ``"true"``) and as the service returns them (``"optional": "True"``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from mlops.core.console import did_you_mean
from mlops.emulator.component.inputs import INPUTS, PATH_TYPES, Input

__all__ = [
    "INPUTS", "NAME", "NODES", "OUTPUTS", "RELEASES", "VERSION", "Input", "Node", "Output", "Release", "fill_defaults", "find_problems",
    "inputs", "nodes", "to_wire",
]  # fmt: skip

NAME = "chat_completion_pipeline"
VERSION = "0.0.82"
"""The newest version, which :data:`INPUTS` and :data:`NODES` describe."""


@dataclass(frozen=True)
class Release:
    """The differences of a version of the component.

    Attributes:
        environment: environment id of every node.
        transformers: its version in that environment.
        lacks: inputs that this version doesn't have.
        age: how many patch versions older its nodes are.
    """

    environment: str
    transformers: str
    lacks: frozenset[str] = frozenset()
    age: int = 0


RELEASES: Mapping[str, Release] = {
    "0.0.81": Release(
        "azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/105",
        "4.55.0",
        frozenset({"finetune_config_path", "trust_remote_code"}),
        age=1,
    ),
    VERSION: Release("azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112", "5.3.0"),
}
"""Version → its differences, oldest first."""

_BINDING = re.compile(r"^\$\{\{parent\.(?:inputs\.(?P<input>\w+)|jobs\.(?P<node>\w+)\.outputs\.(?P<output>\w+))\}\}$")


@dataclass(frozen=True)
class Output:
    """An output of a node or of the pipeline.

    Attributes:
        type: Azure ML's asset type.
        pipeline: name of the pipeline's output that this node output becomes, or empty.
    """

    type: str
    pipeline: str = ""


@dataclass(frozen=True)
class Node:
    """One command node of the pipeline.

    Attributes:
        name: of the node and of its component.
        version: of the component.
        compute: the pipeline input that names the compute.
        instance_type: the pipeline input that names the SKU if that compute is ``serverless``.
        inputs: the node's input → a literal, ``${{parent.inputs.X}}`` or ``${{parent.jobs.NODE.outputs.X}}``.
        outputs: by name.
        settings: bindings of ``distribution`` and ``resources`` apart from the instance type.
    """

    name: str
    version: str
    compute: str
    instance_type: str
    inputs: Mapping[str, str]
    outputs: Mapping[str, Output]
    settings: Mapping[str, str] = field(default_factory=dict)

    @property
    def component_id(self) -> str:
        """The registry id of the node's component."""
        return f"azureml://registries/azureml/components/{self.name}/versions/{self.version}"

    @property
    def dependencies(self) -> tuple[str, ...]:
        """The nodes whose outputs this one reads."""
        matches = (_BINDING.match(value) for value in self.inputs.values())
        return tuple(dict.fromkeys(match["node"] for match in matches if match and match["node"]))

    def bind(self, parent: Mapping[str, str], outputs: Mapping[str, Mapping[str, str]]) -> dict[str, str]:
        """Return the node's inputs with every binding replaced; bindings to inputs that the parent lacks are left out.

        Args:
            parent: the pipeline's inputs, literals and paths alike.
            outputs: node → output name → path.

        Raises:
            KeyError: an output of an earlier node is missing.
        """
        bound = {}
        for name, value in self.inputs.items():
            match = _BINDING.match(value)
            if match is None:
                bound[name] = value
            elif match["node"]:
                bound[name] = outputs[match["node"]][match["output"]]
            elif match["input"] in parent:
                bound[name] = parent[match["input"]]
        return bound


def _bind_inputs(*names: str, **others: str) -> dict[str, str]:
    """Return bindings to pipeline inputs of the same name, or ``child=parent`` where the names differ."""
    return {name: f"${{{{parent.inputs.{name}}}}}" for name in names} | {
        child: f"${{{{parent.inputs.{parent}}}}}" for child, parent in others.items()
    }


def _bind_output(node: str, output: str) -> str:
    return f"${{{{parent.jobs.{node}.outputs.{output}}}}}"


_DATA = (
    "train_file_path", "validation_file_path", "test_file_path", "train_mltable_path", "validation_mltable_path", "test_mltable_path",
)  # fmt: skip

NODES: tuple[Node, ...] = (
    Node(
        name="ft_nlp_common_validation",
        version="0.0.80",
        compute="compute_model_import",
        instance_type="instance_type_model_import",
        inputs=_bind_inputs(
            "mlflow_model_path", "compute_finetune", "compute_model_import", "num_nodes_finetune", "number_of_gpu_to_use_finetuning",
            *_DATA, "num_train_epochs", "max_steps", "per_device_train_batch_size", "per_device_eval_batch_size", "learning_rate",
            "adam_beta1", "adam_beta2", "adam_epsilon", "apply_deepspeed", "precision", "deepspeed_stage", "apply_ort", "apply_lora",
            "ignore_mismatched_sizes", "max_seq_length", "auto_find_batch_size", compute_data_preprocess="compute_preprocess",
        )
        | {"task_name": "chat-completion", "user_column_names": "messages"},
        outputs={"validation_info": Output("uri_file")},
    ),
    Node(
        name="chat_completion_model_import",
        version="0.0.81",
        compute="compute_model_import",
        instance_type="instance_type_model_import",
        inputs=_bind_inputs("huggingface_id", "pytorch_model_path", "mlflow_model_path", "finetune_config_path")
        | {"validation_output": _bind_output("ft_nlp_common_validation", "validation_info")},
        outputs={"output_dir": Output("uri_folder")},
    ),
    Node(
        name="chat_completion_datapreprocess",
        version="0.0.80",
        compute="compute_preprocess",
        instance_type="instance_type_preprocess",
        inputs=_bind_inputs("batch_size", "pad_to_max_length", "max_seq_length", *_DATA, "trust_remote_code")
        | {"model_selector_output": _bind_output("chat_completion_model_import", "output_dir")},
        outputs={"output_dir": Output("uri_folder")},
    ),
    Node(
        name="chat_completion_finetune",
        version="0.0.81",
        compute="compute_finetune",
        instance_type="instance_type_finetune",
        inputs=_bind_inputs(
            "apply_lora", "merge_lora_weights", "lora_alpha", "lora_r", "lora_dropout", "num_train_epochs", "max_steps",
            "per_device_train_batch_size", "per_device_eval_batch_size", "auto_find_batch_size", "optim", "learning_rate", "warmup_steps",
            "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon", "gradient_accumulation_steps", "eval_accumulation_steps",
            "lr_scheduler_type", "precision", "seed", "enable_full_determinism", "dataloader_num_workers", "ignore_mismatched_sizes",
            "max_grad_norm", "evaluation_strategy", "evaluation_steps_interval", "eval_steps", "logging_strategy", "logging_steps",
            "metric_for_best_model", "resume_from_checkpoint", "save_total_limit", "apply_early_stopping", "early_stopping_patience",
            "early_stopping_threshold", "apply_deepspeed", "deepspeed", "deepspeed_stage", "apply_ort",
        )
        | {
            "preprocess_output": _bind_output("chat_completion_datapreprocess", "output_dir"),
            "model_selector_output": _bind_output("chat_completion_model_import", "output_dir"),
        },
        outputs={"pytorch_model_folder": Output("uri_folder", pipeline="pytorch_model_folder")},
        settings=_bind_inputs(
            process_count_per_instance="number_of_gpu_to_use_finetuning",
            instance_count="num_nodes_finetune",
            shm_size="shm_size_finetune",
        ),
    ),
    Node(
        name="ft_nlp_model_converter",
        version="0.0.80",
        compute="compute_finetune",
        instance_type="instance_type_finetune",
        inputs={"model_path": _bind_output("chat_completion_finetune", "pytorch_model_folder")},
        outputs={"mlflow_model_folder": Output("mlflow_model", pipeline="mlflow_model_folder")},
    ),
)  # fmt: skip
"""The graph, in execution order."""

OUTPUTS: Mapping[str, Output] = {
    output.pipeline: Output(output.type) for node in NODES for output in node.outputs.values() if output.pipeline
}
"""Outputs of the pipeline."""


def inputs(version: str) -> dict[str, Input]:
    """Return the inputs of a version."""
    return {name: item for name, item in INPUTS.items() if name not in RELEASES[version].lacks}


def nodes(version: str) -> tuple[Node, ...]:
    """Return the graph of a version, in execution order. Bindings to inputs that it lacks are never filled."""
    return tuple(replace(node, version=_older(node.version, RELEASES[version].age)) for node in NODES)


def _older(version: str, by: int) -> str:
    rest, _, patch = version.rpartition(".")
    return f"{rest}.{int(patch) - by}"


def find_problems(values: Mapping[str, str], version: str = VERSION) -> list[str]:
    """Return all problems of submitted inputs: unknown names, types, enums, minima, and required inputs without a value.

    Args:
        values: input name → literal as a string; for a path input, any non-empty string.
        version: of the component.

    Returns:
        One sentence per problem, in the order of the inputs; empty if there are none.
    """
    problems = []
    for name, value in values.items():
        if name not in inputs(version):
            problems.append(f"{name}: no such input of {NAME} {version}{did_you_mean(name, inputs(version))}")
        elif problem := _problem(INPUTS[name], value):
            problems.append(f"{name}: {problem}")
    missing = [item.name for item in INPUTS.values() if not item.optional and item.default is None and item.name not in values]
    return problems + [f"{name}: required, but missing" for name in missing]


def fill_defaults(values: Mapping[str, str]) -> dict[str, str]:
    """Return the inputs with their defaults; inputs with neither a value nor a default are left out."""
    defaults = {item.name: item.default for item in INPUTS.values() if item.default is not None}
    return defaults | dict(values)


def to_wire(version: str = VERSION) -> dict[str, Any]:
    """Return ``componentSpec`` as the registry does: scalars are strings, ``jobs`` is left out."""
    return {
        "name": NAME,
        "version": version,
        "display_name": "Chat Completion Pipeline",
        "description": "Fine-tunes a chat model and returns it as an MLflow model.",
        "type": "pipeline",
        "inputs": {item.name: _input_to_wire(item) for item in inputs(version).values()},
        "outputs": {name: {"type": output.type, "mode": "rw_mount"} for name, output in OUTPUTS.items()},
    }


def _input_to_wire(item: Input) -> dict[str, Any]:
    entry: dict[str, Any] = {"type": item.type, "optional": str(item.optional), "description": item.effect}
    if item.default is not None:
        entry["default"] = item.default
    if item.minimum is not None:
        entry["min"] = str(item.minimum)
    if item.enum:
        entry["enum"] = list(item.enum)
    if item.mode:
        entry["mode"] = item.mode
    return entry


def _problem(item: Input, value: str) -> str:
    if item.enum:
        return "" if value in item.enum else f"{value!r} is not one of {', '.join(item.enum)}"
    if item.type in PATH_TYPES:
        return "" if value.strip() else f"a {item.type} is required, but the value is empty"
    if item.type == "string":
        return ""
    if item.type == "integer":
        if not re.fullmatch(r"[+-]?[0-9]+", value):
            return f"{value!r} is not an integer"
        number: float = int(value)
    else:
        try:
            number = float(value)
        except ValueError:
            number = math.nan
        if not math.isfinite(number):
            return f"{value!r} is not a finite number"
    if item.minimum is not None and number < item.minimum:
        return f"{value} is less than the minimum, {item.minimum}"
    return ""
