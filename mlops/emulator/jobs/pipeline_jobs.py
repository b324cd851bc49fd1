"""Pipeline jobs of the one registry component: checked as the service checks them, then run step by step.

Each step is a child process with a run, a log and a working folder of its own. Finished steps are not reused by later jobs, whatever
``force_rerun`` says.
"""

from __future__ import annotations

import json
import re
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault, not_implemented, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.component import spec
from mlops.emulator.component.inputs import PATH_TYPES
from mlops.emulator.history import mlflow_server, runstore
from mlops.emulator.jobs import environment
from mlops.emulator.jobs.body import Asset, JobProperties
from mlops.emulator.jobs.scheduler import SERVERLESS, JobFailure, Stopped, Worker, error_object
from mlops.emulator.registry import registry
from mlops.emulator.storage import blobs
from mlops.emulator.wire.resources import Body
from mlops.emulator.workspace import compute, uris

__all__ = ["PipelineProperties", "check", "outputs", "run"]

EXECUTION_LOG = "logs/azureml/executionlogs.txt"
STEP_LOG = "user_logs/std_log.txt"
TAIL_LINES = 40
EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
COMPONENT = re.compile(r"azureml://registries/(?P<registry>[^/]+)/components/(?P<name>[^/]+)/versions/(?P<version>[^/]+)")


class Node(Body):
    """One entry of ``jobs``; free-form in the OpenAPI, so this is what the SDK sends."""

    model_config = Body.model_config | {"alias_generator": None}

    name: str
    type: str = "pipeline"
    component_id: str = Field(alias="componentId")
    compute_id: str | None = Field(default=None, alias="computeId")
    inputs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    outputs: dict[str, dict[str, Any]] = Field(default_factory=dict)
    display_name: str | None = None
    tags: dict[str, str] = Field(default_factory=dict)
    properties: dict[str, str] = Field(default_factory=dict)
    comment: str | None = None
    source: str = Field(default="", alias="_source")


class Settings(Body):
    """``settings``."""

    model_config = Body.model_config | {"alias_generator": None}

    continue_on_step_failure: bool = False
    force_rerun: bool = False
    default_compute: str | None = None
    default_datastore: str | None = None
    source: str = Field(default="", alias="_source")


class PipelineProperties(JobProperties):
    """``properties`` of a pipeline job, 2024-01-01-preview."""

    jobs: dict[str, Node] = Field(default_factory=dict)
    settings: Settings = Settings()
    source_job_id: str | None = None

    @property
    def node(self) -> Node:
        """The one node there is."""
        (node,) = self.jobs.values()
        return node


def check(azure: Azure, job: PipelineProperties) -> None:
    """Refuse what the service refuses, all values included: the SDK checks none of them for a registry component.

    Raises:
        AzureFault: 400 or 404, with what is wrong; 501 for a pipeline of anything else than the one component.
    """
    if not job.jobs:
        raise user_error("The pipeline job has no jobs.", "BadArgument", "ArgumentInvalid", "InvalidPipelineJob")
    if len(job.jobs) > 1:
        raise not_implemented(f"pipelines of more than one node ({', '.join(job.jobs)})")
    node = job.node
    _check_component(node)
    for name in node.inputs:
        if name not in spec.INPUTS:
            raise _invalid(
                f"Invalid component job since input {name} for component job {node.name} does not exist.", "InvalidComponentJobInput"
            )
    for name in node.outputs:
        if name not in spec.OUTPUTS:
            raise _invalid(
                f"Invalid component job since output {name} for component job {node.name} does not exist.", "InvalidComponentJobOutput"
            )
    literals, assets = _values(job)
    if problems := spec.check(literals | assets):
        raise _invalid("; ".join(problems), "InvalidComponentJobInput")
    for name in (name for name in spec.resolve(literals) if name.startswith("compute_")):
        target = spec.resolve(literals)[name]
        if target != SERVERLESS and compute.find(azure, target) is None:
            raise user_error(f"{name}: compute {target} not found.", "NotFound", "ComputeNotFound", status=404)
    bound = set(_bound_outputs(job).values())
    if missing := [name for name in job.outputs if name not in bound]:
        raise _invalid(f"Output {missing[0]} of the pipeline job is bound to no output of a job in it.", "InvalidPipelineJob")
    for uri in assets.values():
        uris.check(azure, uri)
    for output in job.outputs.values():
        if output.uri:
            uris.resolve(azure, output.uri)


def outputs(job: PipelineProperties, name: str) -> dict[str, dict[str, str]]:
    """Where the pipeline's outputs go: name → ``{type, uri}``."""
    return {
        output: {"type": wanted.job_output_type, "uri": wanted.uri or uris.datastore_uri(name, output)}
        for output, wanted in job.outputs.items()
    }


async def run(worker: Worker, job: PipelineProperties) -> None:
    """Run the steps.

    Raises:
        JobFailure: a step has failed.
        Stopped: the job has been cancelled.
    """
    azure, name = worker.azure, worker.name
    log = ExecutionLog(azure, name)
    literals, files = _values(job)
    parent = spec.resolve(literals)
    await runstore.move(azure, name, "Running")
    for item, uri in files.items():
        parent[item] = str(await uris.locate(azure, uri))
    with runstore.change(azure, name) as document:
        document["properties"]["PipelineType"] = "Finetune"
    made: dict[str, dict[str, str]] = {}
    for number, node in enumerate(spec.NODES, 1):
        log.line(f"Submitting step {number} of {len(spec.NODES)}: {node.name}")
        made[node.name] = await _step(worker, job, node, node.bind(parent, made), parent, log)
    log.line("Finishing experiment: no runs left and nothing to schedule.")
    await runstore.move(azure, name, "Finalizing")
    _note_stages(azure, name)


class ExecutionLog:
    """``logs/azureml/executionlogs.txt``, which is what ``jobs.stream`` prints of a pipeline."""

    def __init__(self, azure: Azure, name: str) -> None:
        self._path = blobs.path(azure, blobs.ARTIFACTS, f"ExperimentRun/dcid.{name}/{EXECUTION_LOG}")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        for other in ("stderrlogs.txt", "stdoutlogs.txt"):
            (self._path.parent / other).touch()

    def line(self, text: str) -> None:
        """Add a line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(f"[{runstore.now()[:19].replace('T', ' ')}Z] {text}\n")


class _Tail:
    """Passes on what a step prints, line by line. Azure's own log says only which steps run; here it shows their progress too."""

    def __init__(self, source: Path, log: ExecutionLog, prefix: str) -> None:
        self._source, self._log, self._prefix, self._at = source, log, prefix, 0

    def __call__(self) -> None:
        if not self._source.exists() or self._source.stat().st_size == self._at:
            return
        with self._source.open("rb") as file:
            file.seek(self._at)
            whole, newline, _ = file.read().rpartition(b"\n")
        self._at += len(whole) + len(newline)
        for line in whole.decode("utf-8", "replace").splitlines():
            self._log.line(f"{self._prefix}: {line}")


async def _step(
    worker: Worker, job: PipelineProperties, node: spec.Node, inputs: Mapping[str, str], parent: Mapping[str, str], log: ExecutionLog
) -> dict[str, str]:
    azure, run = worker.azure, str(uuid.uuid4())
    target = parent[node.compute]
    nodes = int(parent[node.settings["instance_count"].partition("inputs.")[2].rstrip("}")]) if "instance_count" in node.settings else 1
    given = _places(azure, job, worker.name, node, run)
    root = runstore.get(azure, worker.name)
    assert root is not None
    known = await runstore.create(
        azure,
        run,
        root["experiment"],
        kind="step",
        display_name=node.name,
        parent=worker.name,
        compute=target,
        nodes=nodes,
        properties={"azureml.moduleid": node.component_id, "azureml.moduleName": node.name, "azureml.runsource": "azureml.StepRun"},
        outputs={name: {"type": node.outputs[name].type, "uri": uri} for name, (uri, _) in given.items()},
    )
    try:
        async with worker.nodes(run, target, nodes):
            await runstore.move(azure, run, "Running")
            await _execute(
                worker, node, known, {"inputs": dict(inputs), "outputs": {name: str(path) for name, (_, path) in given.items()}}, log
            )
        await runstore.move(azure, run, "Completed")
    except Stopped:
        await runstore.move(azure, run, "Canceled")
        raise
    except JobFailure as failure:
        await runstore.move(azure, run, "Failed", error_object(failure))
        log.line(f"Step {node.name} has failed: {failure.message}")
        message = "Pipeline has failed child jobs. For more details and logs, please go to the job detail page and check the child jobs."
        raise JobFailure(failure.code, f"{message} Failed nodes: /{node.name} ({run}). {failure.message}", *failure.inner) from failure
    return {name: str(path) for name, (_, path) in given.items()}


async def _execute(worker: Worker, node: spec.Node, known: Document, specification: dict[str, Any], log: ExecutionLog) -> None:
    azure, root = worker.azure, runstore.get(worker.azure, worker.name)
    assert root is not None
    folder = azure.folder("jobs", worker.name, node.name)
    (folder / "spec.json").write_text(json.dumps(specification, indent=2), encoding="utf-8")
    output = blobs.path(azure, blobs.ARTIFACTS, f"ExperimentRun/dcid.{known['name']}/{STEP_LOG}")
    output.parent.mkdir(parents=True, exist_ok=True)
    variables = environment.for_component() | {
        "EMULATOR_MLFLOW_URI": mlflow_server.of(azure).url,
        "EMULATOR_MLFLOW_RUNS": f"{known['uuid']},{root['uuid']}",
    }
    tail = _Tail(output, log, node.name)
    command = [sys.executable, "-m", "mlops.emulator.component", node.name, "spec.json"]
    code = await worker.execute(command, cwd=folder, environment=variables, output=output, meanwhile=tail)
    tail()
    if code != 0:
        raise _failure(folder, output, code)
    _take_properties(worker, known, folder)


def _failure(folder: Path, output: Path, code: int) -> JobFailure:
    report = folder / "error.json"
    if report.is_file():
        error = json.loads(report.read_text(encoding="utf-8"))
        return JobFailure(error["code"], error["message"], error["inner"])
    tail = "\n".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-TAIL_LINES:])
    how = f"was ended by signal {code - 128}" if code > 128 else f"exited with status code {code}"
    return JobFailure(
        "SystemError", f"Execution failed. User process 'python' {how}. Please check log file '{STEP_LOG}'. Error: {tail}", "NodeFailure"
    )


def _take_properties(worker: Worker, known: Document, folder: Path) -> None:
    """What the component writes on its own run and on the root run."""
    report = folder / "properties.json"
    if not report.is_file():
        return
    properties = json.loads(report.read_text(encoding="utf-8"))
    with runstore.change(worker.azure, known["name"]) as document:
        document["properties"] |= properties | {"showMetricsAtRoot": "true"}
    with runstore.change(worker.azure, worker.name) as document:
        document["properties"] |= properties


def _note_stages(azure: Azure, name: str) -> None:
    with runstore.change(azure, name) as document:
        stages = {"Initialization": None, "Execution": {"StartTime": document["start"], "EndTime": runstore.now(), "Status": "Finished"}}
        document["properties"]["azureml.pipelines.stages"] = json.dumps(stages)


def _places(azure: Azure, job: PipelineProperties, name: str, node: spec.Node, run: str) -> dict[str, tuple[str, Path]]:
    """Each output of a step: its URI and its path."""
    bound, wanted = _bound_outputs(job), outputs(job, name)
    places = {}
    for output, kind in node.outputs.items():
        uri = wanted[bound[kind.pipeline]]["uri"] if kind.pipeline in bound else uris.datastore_uri(run, output)
        path = uris.resolve(azure, uri)
        (path.parent if kind.type == "uri_file" else path).mkdir(parents=True, exist_ok=True)
        places[output] = (uri, path)
    return places


def _check_component(node: Node) -> None:
    match = COMPONENT.fullmatch(node.component_id)
    if match is None:
        raise not_implemented(f"the component {node.component_id}: only those of the azureml registry")
    known = match["registry"] == registry.REGISTRY and (match["name"], match["version"]) == (spec.NAME, spec.VERSION)
    if not known:
        missing = f"Not found component {match['name']} (version: {match['version']})."
        raise AzureFault(404, "NotFound", f"key: {node.component_id}, Message: {missing}", inner=("NotFound", "ComponentNotFound"))


def _values(job: PipelineProperties) -> tuple[dict[str, str], dict[str, str]]:
    """The node's inputs with the pipeline's filled in: literals, and URIs of assets."""
    literals: dict[str, str] = {}
    assets: dict[str, str] = {}
    for name, given in job.node.inputs.items():
        kind, value = given.get("job_input_type"), given.get("uri") or given.get("value")
        if not isinstance(value, str):
            raise _invalid(f"Input {name} of component job {job.node.name} has no value.", "InvalidComponentJobInput")
        if match := EXPRESSION.fullmatch(value):
            kind, value = _parent_input(job, match[1])
        wanted = spec.INPUTS[name].type
        if (kind == "literal") != (wanted not in PATH_TYPES) or (wanted in PATH_TYPES and kind != wanted):
            raise _invalid(f"Input {name} of component job {job.node.name} is of type {wanted}, not {kind}.", "InvalidComponentJobInput")
        (assets if wanted in PATH_TYPES else literals)[name] = value
    return literals, assets


def _parent_input(job: PipelineProperties, expression: str) -> tuple[str, str]:
    head, _, name = expression.rpartition(".")
    if head != "parent.inputs" or name not in job.inputs:
        raise _binding(expression)
    given = job.inputs[name]
    return (given.job_input_type, given.uri) if isinstance(given, Asset) else ("literal", given.value)


def _bound_outputs(job: PipelineProperties) -> dict[str, str]:
    """The component's output → the pipeline's."""
    bound = {}
    for name, given in job.node.outputs.items():
        value = str(given.get("value") or given.get("uri") or "")
        match = EXPRESSION.fullmatch(value)
        expression = match[1] if match else value
        head, _, output = expression.rpartition(".")
        if head != "parent.outputs" or output not in job.outputs:
            raise _binding(expression)
        bound[name] = output
    return bound


def _binding(expression: str) -> AzureFault:
    text = "Only parent.inputs, parent.jobs.[source_job_name].outputs or parent.outputs can be used for binding."
    return _invalid(f"Invalid expression {expression}. {text}", "InvalidExpressionInJob")


def _invalid(message: str, code: str) -> AzureFault:
    codes = ("BadArgument", "ArgumentInvalid", "InvalidPipelineJob", code)
    return user_error(message, *dict.fromkeys(codes))
