"""Pipelines of the workspace's components, run node by node in the order of their graph.

A command runs as a command job does, with its own run. A pipeline has a run too, whose children are its nodes. What one node writes,
another reads where it is.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault, not_implemented
from mlops.emulator.base.store import Document
from mlops.emulator.history import runstore
from mlops.emulator.jobs import command_jobs, graph
from mlops.emulator.jobs.body import AssetInput, JobProperties
from mlops.emulator.jobs.command_jobs import CommandProperties
from mlops.emulator.jobs.node_commands import as_command
from mlops.emulator.jobs.registration import register_outputs
from mlops.emulator.jobs.scheduler import JobFailure, Worker, not_run
from mlops.emulator.jobs.steps import CHILD_FAILED, ExecutionLog, link_outputs, record_stages, record_status, step_properties, step_tags
from mlops.emulator.wire.resources import validate_body
from mlops.emulator.workspace import components, uris

__all__ = ["run", "validate"]

INLINE = "azureml://registries/azureml/environments/inline/versions/1"
"""Stands for an environment that a component defines in place."""
DISTRIBUTIONS = {"pytorch": "PyTorch", "mpi": "Mpi", "tensorflow": "TensorFlow", "ray": "Ray"}


def validate(azure: Azure, job: JobProperties, nodes: dict[str, Document]) -> None:
    """Check that a pipeline can run.

    Raises:
        AzureFault: 400 or 404, it is invalid; 501, it has a node of a type that is not known.
    """
    for source in job.inputs.values():
        if isinstance(source, AssetInput):
            uris.refuse_job_output(source.uri)
    scope, nodes = _read_job(azure, job, nodes)
    graph.check(azure, scope, nodes)


async def run(worker: Worker, job: JobProperties, nodes: dict[str, Document], continue_on_failure: bool) -> None:
    """Run the nodes in the order of their graph.

    Raises:
        JobFailure: a node has failed. The nodes that don't need its outputs have run, if ``continue_on_failure``.
        JobCanceled: the job has been canceled.
    """
    azure, name = worker.azure, worker.name
    await runstore.set_status(azure, name, "Running")
    level = _Level(worker, ExecutionLog(azure, name), name, *_read_job(azure, job, nodes), continue_on_failure)
    try:
        await level.run()
    finally:
        level.log.write("Finishing experiment: no runs left and nothing to schedule.")
    await runstore.set_status(azure, name, "Finalizing")
    record_stages(azure, name)


def _read_job(azure: Azure, job: JobProperties, nodes: dict[str, Document]) -> tuple[graph.Scope, dict[str, Document]]:
    """Return what the nodes of a job are bound to, and the nodes: its own, or those of the component that it names.

    Raises:
        AzureFault: 400 or 404, the component or what the job gives to it is invalid; 501, it is in a registry.
    """
    scope = graph.Scope.of_job(job)
    if job.component_id is None:
        return scope, nodes
    if job.component_id.startswith("azureml://registries/"):
        raise not_implemented(f"pipeline jobs of a component of a registry: {job.component_id}")
    _, _, spec = components.find(azure, job.component_id)
    if nodes or spec.get("type") != "pipeline":
        raise graph.invalid_pipeline("A pipeline job of a component has no jobs, and its component is a pipeline.", "InvalidPipelineJob")
    for kind, values in (("inputs", job.inputs), ("outputs", job.outputs)):
        if unknown := sorted(values.keys() - spec[kind].keys()):
            raise graph.invalid_pipeline(f"The component {job.component_id} has no {kind[:-1]} {unknown[0]}.", "InvalidPipelineJob")
    for name, item in spec["inputs"].items():
        if name not in job.inputs and item.get("optional") != "True" and "default" not in item:
            raise graph.invalid_pipeline(f"Required input {name} of the pipeline job has no value.", "InvalidPipelineJob")
    outputs = dict.fromkeys(spec["outputs"]) | dict(scope.outputs)
    return graph.Scope(graph.nested_inputs(spec, job.inputs), outputs, scope.compute), spec.get("jobs") or {}


class _Level:
    """The nodes of one pipeline: of the job, or of a node that is a pipeline.

    Args:
        worker: the job's worker.
        log: the job's execution log.
        parent: name of the run whose children the nodes' runs are.
        scope: what the nodes are bound to.
        nodes: the nodes as they were sent.
        continue_on_failure: whether nodes run that don't need the outputs of a node that has failed.
    """

    def __init__(
        self, worker: Worker, log: ExecutionLog, parent: str, scope: graph.Scope, nodes: Mapping[str, Document], continue_on_failure: bool
    ) -> None:
        self.log = log
        self._worker = worker
        self._azure = worker.azure
        self._parent = parent
        self._scope = scope
        self._nodes = graph.read_nodes(nodes)
        self._continues = continue_on_failure
        self._outputs: dict[str, dict[str, str]] = {}
        """Node → output → URI of the nodes that have run."""

    async def run(self) -> None:
        """Run the nodes. Raises as :func:`run`."""
        failed: dict[str, JobFailure] = {}
        for key in graph.sort(self._nodes):
            missing = sorted(graph.needs(self._nodes, key) - self._outputs.keys())
            if missing or (failed and not self._continues):
                self.log.write(f"Skipping node {key}: {', '.join(missing) or 'another node'} has failed.")
                continue
            self.log.write(f"Submitting node {key}")
            try:
                self._outputs[key] = await self._run_node(key, self._nodes[key])
            except JobFailure as failure:
                failed[key] = failure
                self.log.write(f"Node {key} has failed: {failure.message}")
        if failed:
            first = next(iter(failed.values()))
            names = ", ".join(f"/{key}" for key in failed)
            raise JobFailure(first.code, f"{CHILD_FAILED} Failed nodes: {names}. {first.message}", *first.inner)

    async def _run_node(self, key: str, node: graph.Node) -> dict[str, str]:
        """Run a node and return the URI of each of its outputs."""
        azure, step = self._azure, str(uuid.uuid4())
        if node.type in graph.CONTROL:
            raise not_run(f"nodes of type {node.type}")
        name, version, spec = graph.find_spec(azure, node)
        try:
            command = as_command(spec, node, self._scope)
            body = self._command_body(node, command) if command else None
        except AzureFault as refused:
            raise JobFailure("UserError", refused.message, *refused.inner) from refused
        root = runstore.get(azure, self._worker.name)
        assert root is not None
        document = await runstore.create(
            azure,
            step,
            root["experiment"],
            kind="step",
            display_name=node.display_name or key,
            parent=self._parent,
            command=body.model_dump(by_alias=True, exclude_none=True) if body else None,
            compute=command_jobs.compute_name(body) if body else None,
            nodes=body.resources.instance_count if body else 1,
            properties=step_properties(step, root["name"], node.component_id, name, version) | node.properties,
            tags=step_tags(step, root["name"]) | node.tags,
            outputs=body.output_locations(step)
            if body
            else {name: {"type": _path_type(item), "uri": ""} for name, item in spec["outputs"].items()},
        )
        async with record_status(azure, step):
            if body:
                link_outputs(azure, self._parent, document, graph.output_bindings(node))
                await command_jobs.execute(self._worker, document, body)
            elif spec["type"] != "pipeline":
                raise not_run(f"nodes of type {spec['type']}" + (f" with the task {spec['task']}" if "task" in spec else ""))
            else:
                await self._run_pipeline(step, node, spec)
            register_outputs(azure, step, graph.asset_names(node))
        finished = runstore.get(azure, step)
        assert finished is not None
        if body is None:
            link_outputs(azure, self._parent, finished, graph.output_bindings(node))
        return {output: location["uri"] for output, location in finished["outputs"].items() if location.get("uri")}

    async def _run_pipeline(self, step: str, node: graph.Node, spec: Document) -> None:
        """Run the nodes of a node that is a pipeline."""
        values = {name: value for name, item in node.inputs.items() if (value := graph.input_value(self._scope, item, self._outputs))}
        outputs = {name: graph.output_uri(self._scope, node.outputs.get(name)) for name in spec["outputs"]}
        scope = graph.Scope(graph.nested_inputs(spec, values), outputs, node.compute_id or self._scope.compute)
        await runstore.set_status(self._azure, step, "Running")
        await _Level(self._worker, self.log, step, scope, spec.get("jobs") or {}, self._continues).run()

    def _command_body(self, node: graph.Node, spec: Document) -> CommandProperties:
        """Return the command job that a node is, with its inputs resolved."""
        inputs = {}
        for name, item in spec["inputs"].items():
            value = graph.input_value(self._scope, node.inputs.get(name), self._outputs)
            if value is None and "default" in item:
                value = graph.literal_input(item["default"])
            if value is not None:
                inputs[name] = value.model_dump(by_alias=True, exclude_none=True)
        environment = spec["environment"]
        count = self._scope.literal(
            str((node.resources or {}).get("instance_count") or (spec.get("resources") or {}).get("instance_count") or 1)
        )
        distribution = node.distribution or spec.get("distribution") or {}
        kind = str(distribution.get("distribution_type") or distribution.get("type") or "")
        return validate_body(
            {
                "jobType": "Command",
                "command": spec["command"],
                "codeId": spec.get("code"),
                "environmentId": environment if isinstance(environment, str) else INLINE,
                "environmentVariables": (spec.get("environment_variables") or {}) | node.environment_variables,
                "computeId": graph.compute_id(self._scope, node),
                "inputs": inputs,
                "outputs": {
                    name: {"jobOutputType": _path_type(item), "uri": graph.output_uri(self._scope, node.outputs.get(name))}
                    for name, item in spec["outputs"].items()
                },
                "resources": {"instanceCount": int(count) if count.isdecimal() else count},
                "distribution": {"distributionType": DISTRIBUTIONS.get(kind.lower(), kind)} if kind else None,
            },
            CommandProperties,
        )


def _path_type(item: Document) -> str:
    kind: str = item.get("type", "")
    return kind if kind in graph.PATHS else "uri_folder"
