"""Pipeline jobs: those of the registry's component are checked and run here, those of the workspace's components in ``graph_jobs``.

Each step is a child process with its own run, log and working folder. Later jobs never reuse finished steps, whatever ``force_rerun`` says.
"""

from __future__ import annotations

import functools
import json
import re
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.children import package_environment
from mlops.emulator.base.errors import AzureFault, not_implemented, user_error
from mlops.emulator.base.libraries import preload_for_package
from mlops.emulator.base.store import Document
from mlops.emulator.component import spec
from mlops.emulator.component.inputs import PATH_TYPES
from mlops.emulator.history import mlflow_server, runstore
from mlops.emulator.jobs import graph, graph_jobs
from mlops.emulator.jobs.body import AssetInput, Filled, JobProperties
from mlops.emulator.jobs.registration import register_outputs
from mlops.emulator.jobs.scheduler import SERVERLESS, STD_LOG, JobFailure, Worker, describe_exit
from mlops.emulator.jobs.steps import CHILD_FAILED, ExecutionLog, link_outputs, record_stages, record_status, step_properties, step_tags
from mlops.emulator.registry import catalog, registry
from mlops.emulator.storage import blobs
from mlops.emulator.wire.resources import Body, Labels, validate_body
from mlops.emulator.workspace import compute, uris

__all__ = ["PipelineProperties", "run", "validate"]

EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
COMPONENT = re.compile(r"azureml://registries/(?P<registry>[^/]+)/components/(?P<name>[^/]+)/versions/(?P<version>[^/]+)")


class Node(Body):
    """One entry of ``jobs``. The OpenAPI leaves it open; these are the fields that the SDK sends."""

    model_config = Body.model_config | {"alias_generator": None}

    name: str
    type: str = "pipeline"
    component_id: str = Field(alias="componentId")
    compute_id: str | None = Field(default=None, alias="computeId")
    inputs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    outputs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    display_name: str | None = None
    tags: Filled[Labels] = Field(default_factory=dict)
    properties: Filled[Labels] = Field(default_factory=dict)
    comment: str | None = None
    source: str = Field(default="", alias="_source")


class Settings(Body):
    """``settings``."""

    model_config = Body.model_config | {"alias_generator": None}

    continue_on_step_failure: bool | None = None
    force_rerun: bool = False
    default_compute: str | None = None
    default_datastore: str | None = None
    source: str = Field(default="", alias="_source")


class PipelineProperties(JobProperties):
    """``properties`` of a pipeline job, 2024-01-01-preview."""

    jobs: Filled[dict[str, dict[str, Any]]] = Field(default_factory=dict)
    settings: Filled[Settings] = Settings()
    source_job_id: str | None = None

    def output_locations(self, job: str) -> dict[str, dict[str, str]]:  # noqa: ARG002 - the steps have names of their own
        """Return type and URI of each output; an output that names no URI has it from the step that writes it."""
        return {name: {"type": output.job_output_type, "uri": output.uri or ""} for name, output in self.outputs.items()}

    @property
    def is_graph(self) -> bool:
        """Whether this is anything but one node of a registry's component."""
        identifiers = [str(node.get("componentId")) for node in self.jobs.values()]
        is_of_registry = len(identifiers) == 1 and identifiers[0].startswith("azureml://registries/")
        return self.component_id is not None or not is_of_registry or graph.BUILT_IN.fullmatch(identifiers[0]) is not None

    @functools.cached_property
    def node(self) -> Node:
        """The only node."""
        ((name, node),) = self.jobs.items()
        return validate_body(node, Node, f"properties.jobs.{name}.")


def validate(azure: Azure, job: PipelineProperties) -> None:
    """Check a job as the service does, including all values: the SDK checks none of them for a registry component.

    Raises:
        AzureFault: 400 or 404, the job is invalid; 501, it is a pipeline of anything but the one component.
    """
    if not job.jobs and not job.component_id:
        raise user_error("The pipeline job has no jobs.", "BadArgument", "ArgumentInvalid", "InvalidPipelineJob")
    if job.is_graph:
        graph_jobs.validate(azure, job, job.jobs)
    else:
        _validate_component(azure, job)


async def run(worker: Worker, job: PipelineProperties) -> None:
    """Run the nodes.

    Raises:
        JobFailure: one has failed.
        JobCanceled: the job has been canceled.
    """
    if job.is_graph:
        await graph_jobs.run(worker, job, job.jobs, job.settings.continue_on_step_failure is not False)
    else:
        await _run_component(worker, job)
    register_outputs(worker.azure, worker.name, job.asset_names())


def _validate_component(azure: Azure, job: PipelineProperties) -> None:
    ((name, sent),) = job.jobs.items()
    if sent.get("type", "pipeline") != "pipeline":
        raise not_implemented(f"the node {name} of type {sent['type']} with a component of a registry")
    node = job.node
    version = _component_version(azure, node)
    for name in node.inputs:
        if name not in spec.inputs(version):
            raise graph.invalid_pipeline(
                f"Invalid component job since input {name} for component job {node.name} does not exist.", "InvalidComponentJobInput"
            )
    for name in node.outputs:
        if name not in spec.OUTPUTS:
            raise graph.invalid_pipeline(
                f"Invalid component job since output {name} for component job {node.name} does not exist.", "InvalidComponentJobOutput"
            )
    literals, assets = _input_values(job)
    if problems := spec.find_problems(literals | assets, version):
        raise graph.invalid_pipeline("; ".join(problems), "InvalidComponentJobInput")
    for name, value in spec.fill_defaults(literals).items():
        if name.startswith("compute_") and value != SERVERLESS and compute.find(azure, value) is None:
            raise user_error(f"{name}: compute {value} not found.", "NotFound", "ComputeNotFound", status=404)
    bound = set(_output_bindings(job).values())
    if unbound := [name for name in job.outputs if name not in bound]:
        raise graph.invalid_pipeline(f"Output {unbound[0]} of the pipeline job is bound to no output of a job in it.", "InvalidPipelineJob")
    for uri in assets.values():
        uris.check_exists(azure, uri)
    for output in job.outputs.values():
        if output.uri:
            uris.resolve(azure, uris.datastore_uri("run", "output", output.uri))


async def _run_component(worker: Worker, job: PipelineProperties) -> None:
    """Run the steps of the registry's component. Raises as :func:`run`."""
    azure, name = worker.azure, worker.name
    log = ExecutionLog(azure, name)
    literals, assets = _input_values(job)
    inputs = spec.fill_defaults(literals)
    await runstore.set_status(azure, name, "Running")
    for item, uri in assets.items():
        inputs[item] = str(await worker.unless_canceled(uris.materialize(azure, uri)))
    with runstore.change(azure, name) as document:
        document["properties"]["PipelineType"] = "Finetune"
    outputs: dict[str, dict[str, str]] = {}
    nodes = spec.nodes(_component_version(azure, job.node))
    for number, node in enumerate(nodes, 1):
        log.write(f"Submitting step {number} of {len(nodes)}: {node.name}")
        outputs[node.name] = await _run_step(worker, job, node, node.bind(inputs, outputs), inputs, log)
    log.write("Finishing experiment: no runs left and nothing to schedule.")
    await runstore.set_status(azure, name, "Finalizing")
    record_stages(azure, name)


class _LogForwarder:
    """Copies the output of a step to the execution log, line by line.

    Azure's own execution log only says which steps run; here it also shows their progress.
    """

    def __init__(self, source: Path, log: ExecutionLog, prefix: str) -> None:
        self._source = source
        self._log = log
        self._prefix = prefix
        self._position = 0

    def __call__(self) -> None:
        if not self._source.exists() or self._source.stat().st_size == self._position:
            return
        with self._source.open("rb") as file:
            file.seek(self._position)
            complete, newline, _ = file.read().rpartition(b"\n")
        self._position += len(complete) + len(newline)
        for line in complete.decode("utf-8", "replace").splitlines():
            self._log.write(f"{self._prefix}: {line}")


async def _run_step(
    worker: Worker, job: PipelineProperties, node: spec.Node, inputs: Mapping[str, str], job_inputs: Mapping[str, str], log: ExecutionLog
) -> dict[str, str]:
    """Run one step and return the path of each of its outputs."""
    azure, name = worker.azure, str(uuid.uuid4())
    target = job_inputs[node.compute]
    nodes = int(job_inputs[node.settings["instance_count"].partition("inputs.")[2].rstrip("}")]) if "instance_count" in node.settings else 1
    locations = _output_locations(azure, job, node, name)
    outputs = {output: str(path) for output, (_, path) in locations.items()}
    root = runstore.get(azure, worker.name)
    assert root is not None
    document = await runstore.create(
        azure,
        name,
        root["experiment"],
        kind="step",
        display_name=node.name,
        parent=worker.name,
        compute=target,
        nodes=nodes,
        properties=step_properties(name, worker.name, node.component_id, node.name, node.component_id.rpartition("/")[2]),
        tags=step_tags(name, worker.name),
        outputs={output: {"type": node.outputs[output].type, "uri": uri} for output, (uri, _) in locations.items()},
    )
    bindings = _output_bindings(job)
    written = {output: bindings[kind.pipeline] for output, kind in node.outputs.items() if kind.pipeline in bindings}
    link_outputs(azure, worker.name, document, written)
    try:
        async with record_status(azure, name), worker.nodes(name, target, nodes):
            await runstore.set_status(azure, name, "Running")
            release = spec.RELEASES[_component_version(azure, job.node)]
            specification = {"inputs": dict(inputs), "outputs": outputs, "transformers": release.transformers}
            await _execute(worker, node, document, root, specification, log)
    except JobFailure as failure:
        log.write(f"Step {node.name} has failed: {failure.message}")
        raise JobFailure(
            failure.code, f"{CHILD_FAILED} Failed nodes: /{node.name} ({name}). {failure.message}", *failure.inner
        ) from failure
    return outputs


async def _execute(
    worker: Worker, node: spec.Node, step: Document, root: Document, specification: dict[str, Any], log: ExecutionLog
) -> None:
    azure = worker.azure
    folder = azure.folder("jobs", worker.name, node.name)
    (folder / "spec.json").write_text(json.dumps(specification, indent=2), encoding="utf-8")
    output = blobs.path(azure, blobs.ARTIFACTS, blobs.artifact(step["name"], STD_LOG))
    output.parent.mkdir(parents=True, exist_ok=True)
    environment = package_environment() | {
        "EMULATOR_MLFLOW_URI": mlflow_server.get_server(azure).url,
        "EMULATOR_MLFLOW_RUNS": f"{step['uuid']},{root['uuid']}",
    }
    forward = _LogForwarder(output, log, node.name)
    command = [sys.executable, "-m", "mlops.emulator.component", node.name, "spec.json"]
    code = await worker.execute(
        command, run=step["name"], compute_name=step["compute"], cwd=folder, environment=environment, output=output, on_poll=forward,
        preload=preload_for_package(),
    )  # fmt: skip
    forward()
    if code != 0:
        raise _step_failure(folder, output, code)
    _copy_properties(azure, folder, step, root)


def _step_failure(folder: Path, output: Path, code: int) -> JobFailure:
    report = folder / "error.json"
    if report.is_file():
        error = json.loads(report.read_text(encoding="utf-8"))
        return JobFailure(error["code"], error["message"], error["inner"])
    return JobFailure("SystemError", describe_exit("python", code, output), "NodeFailure")


def _copy_properties(azure: Azure, folder: Path, step: Document, root: Document) -> None:
    """Copy the properties that a step reports to its own run and to the root run."""
    report = folder / "properties.json"
    if not report.is_file():
        return
    properties = json.loads(report.read_text(encoding="utf-8"))
    with runstore.change(azure, step["name"]) as document:
        document["properties"] |= properties | {"showMetricsAtRoot": "true"}
    with runstore.change(azure, root["name"]) as document:
        document["properties"] |= properties


def _output_locations(azure: Azure, job: PipelineProperties, node: spec.Node, step: str) -> dict[str, tuple[str, Path]]:
    """Return URI and path of each output of a step, creating the folders."""
    bindings = _output_bindings(job)
    locations = {}
    for output, kind in node.outputs.items():
        uri = uris.datastore_uri(step, output, job.outputs[bindings[kind.pipeline]].uri if kind.pipeline in bindings else None)
        path = uris.resolve(azure, uri)
        (path.parent if kind.type == "uri_file" else path).mkdir(parents=True, exist_ok=True)
        locations[output] = (uri, path)
    return locations


def _component_version(azure: Azure, node: Node) -> str:
    """Return the version of the node's component.

    Raises:
        AzureFault: 404, the registry does not have it; 501, it is in no registry.
    """
    match = COMPONENT.fullmatch(node.component_id)
    if match is None:
        raise not_implemented(f"the component {node.component_id}, only those of the azureml registry")
    components = [(registry.REGISTRY, each.name, each.version) for each in catalog.components(azure.options)]
    if (match["registry"], match["name"], match["version"]) not in components:
        missing = f"Not found component {match['name']} (version: {match['version']})."
        raise AzureFault(404, "NotFound", f"key: {node.component_id}, Message: {missing}", inner=("NotFound", "ComponentNotFound"))
    return match["version"]


def _input_values(job: PipelineProperties) -> tuple[dict[str, str], dict[str, str]]:
    """Return the literals and the asset URIs of the node, with references to the pipeline's inputs resolved."""
    literals: dict[str, str] = {}
    assets: dict[str, str] = {}
    for name, item in job.node.inputs.items():
        kind, value = item.get("job_input_type"), item.get("uri") or item.get("value")
        if not isinstance(value, str):
            raise graph.invalid_pipeline(f"Input {name} of component job {job.node.name} has no value.", "InvalidComponentJobInput")
        if match := EXPRESSION.fullmatch(value):
            kind, value = _resolve_job_input(job, match[1])
        expected = spec.INPUTS[name].type
        is_asset = expected in PATH_TYPES
        if (kind == "literal") == is_asset or (is_asset and kind != expected):
            raise graph.invalid_pipeline(
                f"Input {name} of component job {job.node.name} is of type {expected}, not {kind}.", "InvalidComponentJobInput"
            )
        (assets if is_asset else literals)[name] = value
    return literals, assets


def _resolve_job_input(job: PipelineProperties, expression: str) -> tuple[str, str]:
    """Return type and value of the pipeline's input that an expression refers to."""
    head, _, name = expression.rpartition(".")
    if head != "parent.inputs" or name not in job.inputs:
        raise graph.invalid_binding(expression)
    item = job.inputs[name]
    return (item.job_input_type, item.uri) if isinstance(item, AssetInput) else ("literal", item.value or "")


def _output_bindings(job: PipelineProperties) -> dict[str, str]:
    """Return which output of the pipeline each output of the component is bound to."""
    bindings = {}
    for name, item in job.node.outputs.items():
        value = str(item.get("value") or item.get("uri") or "")
        match = EXPRESSION.fullmatch(value)
        expression = match[1] if match else value
        head, _, output = expression.rpartition(".")
        if head != "parent.outputs" or output not in job.outputs:
            raise graph.invalid_binding(expression)
        bindings[name] = output
    return bindings
