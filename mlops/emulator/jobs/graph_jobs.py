"""Pipelines of command components: checked as the service checks them, then run node by node in the order of their graph.

A node runs as a command job does, with its own run. What one node writes, another reads where it is.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator
from typing import Any

from pydantic import Field

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault, not_implemented, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.history import runstore
from mlops.emulator.jobs import command_jobs
from mlops.emulator.jobs.body import AssetInput, Filled, Input, JobProperties
from mlops.emulator.jobs.command_jobs import CommandProperties
from mlops.emulator.jobs.scheduler import SERVERLESS, JobCanceled, JobFailure, Worker, error_object
from mlops.emulator.jobs.steps import ExecutionLog, link_outputs, record_stages, step_properties, step_tags
from mlops.emulator.wire.resources import Body, Labels, validate_body
from mlops.emulator.workspace import components, compute, uris

__all__ = ["invalid_binding", "invalid_pipeline", "run", "validate"]

EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
JOB_OUTPUT = re.compile(r"parent\.jobs\.(?P<node>[^.]+)\.outputs\.(?P<output>[^.]+)")
PARENT = re.compile(r"parent\.(?P<kind>inputs|outputs)\.(?P<name>.+)")
"""A binding to the pipeline; names of grouped inputs contain dots."""
PATHS = ("uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model", "triton_model")


class CommandNode(Body):
    """A node of type command. The OpenAPI leaves nodes open, and the service ignores fields that it doesn't know."""

    model_config = Body.model_config | {"alias_generator": None, "extra": "ignore"}

    name: str
    type: str
    component_id: str = Field(alias="componentId")
    compute_id: str | None = Field(default=None, alias="computeId")
    inputs: Filled[dict[str, dict[str, Any]]] = Field(default_factory=dict)
    outputs: Filled[dict[str, dict[str, Any] | str]] = Field(default_factory=dict)
    resources: dict[str, Any] | None = None
    distribution: dict[str, Any] | None = None
    limits: dict[str, Any] | None = None
    environment_variables: Filled[dict[str, str]] = Field(default_factory=dict)
    display_name: str | None = None
    experiment_name: str | None = None
    tags: Filled[Labels] = Field(default_factory=dict)
    properties: Filled[Labels] = Field(default_factory=dict)
    identity: dict[str, Any] | None = None
    comment: str | None = None
    services: dict[str, Any] | None = None
    queue_settings: dict[str, Any] | None = None
    source: str = Field(default="", alias="_source")


def validate(azure: Azure, job: JobProperties, nodes: dict[str, Document]) -> None:
    """Check that a pipeline can run.

    Raises:
        AzureFault: 400 or 404, it is invalid; 501, it has a node that isn't a command.
    """
    for source in job.inputs.values():
        if isinstance(source, AssetInput):
            uris.refuse_job_output(source.uri)
    for name, sent in nodes.items():
        if sent.get("type") != "command":
            raise not_implemented(f"the node {name} of type {sent.get('type')} in a pipeline: only command components of the workspace")
    parsed = {name: validate_body(node, CommandNode, f"properties.jobs.{name}.") for name, node in nodes.items()}
    for name, node in parsed.items():
        _, _, spec = components.find(azure, node.component_id)
        if spec.get("type") != "command":
            raise not_implemented(f"the component of node {name} of type {spec.get('type')} in a pipeline")
        _check_names(name, node, spec)
        for item in node.inputs.values():
            uris.refuse_job_output(str(item.get("uri") or item.get("value")))
        for expression in _expressions(node):
            _check_binding(job, parsed, expression, azure)
        if "/virtualclusters/" in str(node.compute_id or job.compute_id).lower():
            raise not_implemented("jobs on virtual clusters")
        target = _compute_name(job, node)
        if target != SERVERLESS and compute.find(azure, target) is None:
            raise user_error(f"Compute {target} not found.", "NotFound", "ComputeNotFound", status=404)
    _sort(parsed)


async def run(worker: Worker, job: JobProperties, nodes: dict[str, Document], continue_on_failure: bool) -> None:
    """Run the nodes in the order of their graph.

    Raises:
        JobFailure: a node has failed. The nodes that don't need its outputs have run, if ``continue_on_failure``.
        JobCanceled: the job has been canceled.
    """
    azure, name = worker.azure, worker.name
    log = ExecutionLog(azure, name)
    parsed = {key: validate_body(node, CommandNode) for key, node in nodes.items()}
    await runstore.set_status(azure, name, "Running")
    outputs: dict[str, dict[str, str]] = {}
    failed: dict[str, JobFailure] = {}
    for key in _sort(parsed):
        missing = [needed for needed in _needs(parsed[key]) if needed not in outputs]
        if missing or (failed and not continue_on_failure):
            log.write(f"Skipping node {key}: {', '.join(missing) or 'another node'} has failed.")
            continue
        log.write(f"Submitting node {key}")
        try:
            outputs[key] = await _run_node(worker, job, key, parsed[key], outputs)
        except JobFailure as failure:
            failed[key] = failure
            log.write(f"Node {key} has failed: {failure.message}")
    log.write("Finishing experiment: no runs left and nothing to schedule.")
    if failed:
        first = next(iter(failed.values()))
        message = "Pipeline has failed child jobs. For more details and logs, please go to the job detail page and check the child jobs."
        names = ", ".join(f"/{key}" for key in failed)
        raise JobFailure(first.code, f"{message} Failed nodes: {names}. {first.message}", *first.inner)
    await runstore.set_status(azure, name, "Finalizing")
    record_stages(azure, name)


def invalid_pipeline(message: str, code: str) -> AzureFault:
    """Return the error for an invalid pipeline job, with the innermost ``code``."""
    codes = ("BadArgument", "ArgumentInvalid", "InvalidPipelineJob", code)
    return user_error(message, *dict.fromkeys(codes))


def invalid_binding(expression: str) -> AzureFault:
    """Return the error for an expression that refers to nothing."""
    text = "Only parent.inputs, parent.jobs.[source_job_name].outputs or parent.outputs can be used for binding."
    return invalid_pipeline(f"Invalid expression {expression}. {text}", "InvalidExpressionInJob")


async def _run_node(worker: Worker, job: JobProperties, key: str, node: CommandNode, outputs: dict[str, dict[str, str]]) -> dict[str, str]:
    """Run a node and return the URI of each of its outputs."""
    azure, step = worker.azure, str(uuid.uuid4())
    name, version, spec = components.find(azure, node.component_id)
    body = _command_body(azure, job, node, spec, outputs)
    root = runstore.get(azure, worker.name)
    assert root is not None
    document = await runstore.create(
        azure,
        step,
        root["experiment"],
        kind="step",
        display_name=node.display_name or key,
        parent=worker.name,
        compute=command_jobs.compute_name(body),
        nodes=body.resources.instance_count,
        properties=step_properties(step, worker.name, node.component_id, name, version) | node.properties,
        tags=step_tags(step, worker.name) | node.tags,
        outputs=body.output_locations(step),
    )
    link_outputs(azure, worker.name, document, _output_bindings(node))
    try:
        await command_jobs.execute(worker, document, body)
        await runstore.set_status(azure, step, "Completed")
    except JobCanceled:
        await runstore.set_status(azure, step, "Canceled")
        raise
    except AzureFault as refused:
        failure = JobFailure("UserError", refused.message, *refused.inner)
        await runstore.set_status(azure, step, "Failed", error_object(failure))
        raise failure from refused
    except JobFailure as failure:
        await runstore.set_status(azure, step, "Failed", error_object(failure))
        raise
    return {output: location["uri"] for output, location in document["outputs"].items()}


def _command_body(
    azure: Azure, job: JobProperties, node: CommandNode, spec: Document, outputs: dict[str, dict[str, str]]
) -> CommandProperties:
    """Return the command job that a node is, with its inputs resolved."""
    inputs = {}
    for name, item in spec["inputs"].items():
        value = _input_value(job, node.inputs.get(name), outputs)
        if value is None and "default" in item:
            value = {"jobInputType": "literal", "value": item["default"]}
        if value is not None:
            inputs[name] = value
    environment = spec["environment"]
    return validate_body(
        {
            "jobType": "Command",
            "command": spec["command"],
            "codeId": spec.get("code"),
            "environmentId": environment if isinstance(environment, str) else "azureml://registries/azureml/environments/inline/versions/1",
            "environmentVariables": (spec.get("environment_variables") or {}) | node.environment_variables,
            "computeId": _compute_name(job, node),
            "inputs": inputs,
            "outputs": {name: _output_body(job, node.outputs.get(name), item) for name, item in spec["outputs"].items()},
            "resources": {"instanceCount": int((node.resources or {}).get("instance_count") or spec["resources"]["instance_count"])},
        },
        CommandProperties,
    )


def _input_value(job: JobProperties, item: Document | None, outputs: dict[str, dict[str, str]]) -> Document | None:
    """Return a node's input as a job has it, with the binding resolved, or None if it isn't given."""
    if item is None:
        return None
    value = item.get("uri") or item.get("value")
    match = EXPRESSION.fullmatch(str(value))
    if match is None:
        kind = item.get("job_input_type", "literal")
        return {"jobInputType": kind, "value" if kind == "literal" else "uri": str(value)}
    if source := JOB_OUTPUT.fullmatch(match[1]):
        return {"jobInputType": "uri_folder", "uri": outputs[source["node"]][source["output"]]}
    bound: Input = job.inputs[match[1].removeprefix("parent.inputs.")]
    if isinstance(bound, AssetInput):
        return {"jobInputType": bound.job_input_type, "uri": bound.uri}
    return None if bound.value is None else {"jobInputType": "literal", "value": bound.value}


def _output_body(job: JobProperties, item: Document | str | None, spec: Document) -> Document:
    value: str | None = _text(item)
    if match := EXPRESSION.fullmatch(value or ""):
        value = job.outputs[match[1].removeprefix("parent.outputs.")].uri
    return {"jobOutputType": spec["type"] if spec["type"] in PATHS else "uri_folder", "uri": value or None}


def _output_bindings(node: CommandNode) -> dict[str, str]:
    """Return output of the node → output of the pipeline that it is bound to."""
    matches = {name: EXPRESSION.fullmatch(_text(item)) for name, item in node.outputs.items()}
    return {name: match[1].removeprefix("parent.outputs.") for name, match in matches.items() if match}


def _text(item: Document | str | None) -> str:
    """Return the value or URI of a node's output; empty if it has neither."""
    return item if isinstance(item, str) else str((item or {}).get("value") or (item or {}).get("uri") or "")


def _check_names(key: str, node: CommandNode, spec: Document) -> None:
    for name in node.inputs:
        if name not in spec["inputs"]:
            raise invalid_pipeline(
                f"Invalid component job since input {name} for component job {key} does not exist.", "InvalidComponentJobInput"
            )
    for name in node.outputs:
        if name not in spec["outputs"]:
            raise invalid_pipeline(
                f"Invalid component job since output {name} for component job {key} does not exist.", "InvalidComponentJobOutput"
            )
    for name, item in spec["inputs"].items():
        if name not in node.inputs and item["optional"] != "True" and "default" not in item:
            raise invalid_pipeline(f"Required input {name} of component job {key} has no value.", "InvalidComponentJobInput")


def _check_binding(job: JobProperties, nodes: dict[str, CommandNode], expression: str, azure: Azure) -> None:
    if match := PARENT.fullmatch(expression):
        is_known = match["name"] in (job.inputs if match["kind"] == "inputs" else job.outputs)
    else:
        match = JOB_OUTPUT.fullmatch(expression)
        source = nodes.get(match["node"]) if match else None
        is_known = bool(source and match and match["output"] in components.find(azure, source.component_id)[2]["outputs"])
    if not is_known:
        raise invalid_binding(expression)


def _expressions(node: CommandNode) -> Iterator[str]:
    for item in (*node.inputs.values(), *node.outputs.values()):
        value = item if isinstance(item, str) else item.get("uri") or item.get("value")
        if match := EXPRESSION.fullmatch(str(value)):
            yield match[1]


def _needs(node: CommandNode) -> set[str]:
    """Return the nodes whose outputs a node reads."""
    return {match["node"] for expression in _expressions(node) if (match := JOB_OUTPUT.fullmatch(expression))}


def _sort(nodes: dict[str, CommandNode]) -> list[str]:
    """Return the names of the nodes so that each comes after those whose outputs it reads.

    Raises:
        AzureFault: 400, the graph has a cycle.
    """
    ordered: list[str] = []
    while len(ordered) < len(nodes):
        ready = [name for name, node in nodes.items() if name not in ordered and _needs(node) <= set(ordered)]
        if not ready:
            rest = ", ".join(name for name in nodes if name not in ordered)
            raise invalid_pipeline(f"The jobs {rest} of the pipeline form a cycle.", "InvalidPipelineJob")
        ordered += ready
    return ordered


def _compute_name(job: JobProperties, node: CommandNode) -> str:
    settings = getattr(job, "settings", None)
    target: str = node.compute_id or (settings and settings.default_compute) or job.compute_id or SERVERLESS
    return target.removeprefix("azureml:").rpartition("/")[2]
