"""Nodes that run as commands: parallel nodes over files, and data transfer nodes that copy."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

from mlops.emulator.base.store import Document
from mlops.emulator.jobs import node_copy, node_parallel
from mlops.emulator.jobs.graph import Node, Scope

__all__ = ["as_command"]

ENVIRONMENT = "azureml://registries/azureml/environments/data-transfer/versions/1"
"""Placeholder for the environment of a data transfer node, which doesn't have one."""
SETTINGS = ("input_data", "mini_batch_size", "error_threshold", "mini_batch_error_threshold")


def as_command(spec: Document, node: Node, scope: Scope) -> Document | None:
    """Return the specification of the command that a node of this component runs as, or None if nodes of its type don't run.

    Args:
        spec: the component's specification.
        node: the node, whose settings replace those of the component.
        scope: what the settings are bound to.
    """
    if spec["type"] == "command":
        return spec
    if spec["type"] == "parallel":
        return _parallel(spec, node, scope)
    if spec["type"] == "data_transfer" and spec.get("task") == "copy_data":
        return _copy(spec, node)
    return None


def _parallel(spec: Document, node: Node, scope: Scope) -> Document:
    sent: dict[str, Any] = {key: value for key, value in (node.model_extra or {}).items() if value is not None}
    settings = spec | {key: sent[key] for key in SETTINGS if key in sent}
    task = spec["task"] | (sent.get("task") or {})
    retries = (spec.get("retry_settings") or {}) | (sent.get("retry_settings") or {})
    options = {
        "--input": settings["input_data"],
        "--entry": task["entry_script"],
        "--size": settings.get("mini_batch_size", node_parallel.SIZE),
        "--failed-items": settings.get("error_threshold", -1),
        "--failed-batches": settings.get("mini_batch_error_threshold", -1),
        "--retries": retries.get("max_retries", node_parallel.RETRIES),
        "--append-to": task.get("append_row_to"),
    }
    words = [f"{name}={_resolve(value, scope)}" for name, value in options.items() if value is not None]
    command = f"python {shlex.quote(str(Path(node_parallel.__file__)))} {' '.join(words)} -- {task.get('program_arguments') or ''}"
    return spec | {"command": command, "code": task.get("code"), "environment": task["environment"]}


def _resolve(value: Any, scope: Scope) -> str:
    """Return a setting, with the pipeline's input that it is bound to replaced by its value. Bindings to the node's own inputs stay."""
    return scope.literal(str(value)) if "parent.inputs." in str(value) else str(value)


def _copy(spec: Document, node: Node) -> Document:
    output, item = next(iter(spec["outputs"].items()))
    mode = (node.model_extra or {}).get("data_copy_mode") or spec.get("data_copy_mode") or ""
    to_file = ["--to-file"] if item["type"] == "uri_file" else []
    sources = [f"${{{{inputs.{name}}}}}" for name in spec["inputs"]]
    words = ["python", shlex.quote(str(Path(node_copy.__file__))), f"--mode={mode}", *to_file, f"${{{{outputs.{output}}}}}", *sources]
    return spec | {"command": " ".join(words), "environment": ENVIRONMENT}
