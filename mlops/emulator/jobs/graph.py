"""The graph of a pipeline: its nodes, their bindings, and the order in which they can run.

A node is a component of the workspace, or it decides which other nodes run. Commands, and pipelines with graphs of their own, run here;
nodes of other types are taken as on Azure, and fail. The service's checks are made when a pipeline is submitted, through all its levels.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import Field

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault, not_implemented, user_error
from mlops.emulator.base.store import Document
from mlops.emulator.jobs.body import AssetInput, Filled, Input, JobProperties, LiteralInput
from mlops.emulator.jobs.scheduler import SERVERLESS, check_compute
from mlops.emulator.wire.resources import Body, Labels, validate_body
from mlops.emulator.workspace import components, uris

__all__ = [
    "BUILT_IN", "CONTROL", "KINDS", "PATHS", "Node", "Scope", "asset_names", "check", "compute_id", "compute_name", "find_spec",
    "input_value", "invalid_binding", "invalid_pipeline", "literal_input", "needs", "nested_inputs", "output_bindings", "output_uri",
    "read_nodes", "sort",
]  # fmt: skip

EXPRESSION = re.compile(r"\$\{\{\s*(.*?)\s*\}\}")
JOB_OUTPUT = re.compile(r"parent\.jobs\.(?P<node>[^.]+)\.outputs\.(?P<output>[^.]+)")
PARENT = re.compile(r"parent\.(?P<kind>inputs|outputs)\.(?P<name>.+)")
"""A binding to the pipeline; names of grouped inputs contain dots."""
PART = re.compile(r"^\$\{\{\s*parent\.jobs\.(?P<node>[^.}\s]+)\s*\}\}$")
PATHS = ("uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model", "triton_model")
KINDS = ("command", "pipeline", "parallel", "data_transfer")
"""Types of nodes that the emulator runs. Of the data transfer nodes, it runs those that copy."""
CONTROL = ("if_else", "do_while", "parallel_for")
"""Types of nodes that decide which other nodes run, and how often. They are a private preview, and the emulator does not run them."""
STORED = ("spark", *components.INTERNAL)
"""Types of other nodes that the service accepts and the emulator does not run."""
BUILT_IN = re.compile(
    r"azureml://registries/azureml(-preview)?/components/(?P<name>(im|ex)port_data_(database|file_system))/versions/0\.0\.1"
)
"""Components by which the SDK reads and writes databases and other stores."""


class Node(Body):
    """One node. The OpenAPI specification doesn't define nodes; these are the fields that several types of nodes have."""

    model_config = Body.model_config | {"alias_generator": None, "extra": "allow"}

    name: str = ""
    type: str | None = None
    component_id: str = Field(default="", alias="componentId")
    compute_id: str | None = Field(default=None, alias="computeId")
    inputs: Filled[dict[str, dict[str, Any]]] = Field(default_factory=dict)
    outputs: Filled[dict[str, dict[str, Any] | str]] = Field(default_factory=dict)
    resources: dict[str, Any] | None = None
    distribution: dict[str, Any] | None = None
    environment_variables: Filled[dict[str, str]] = Field(default_factory=dict)
    display_name: str | None = None
    tags: Filled[Labels] = Field(default_factory=dict)
    properties: Filled[Labels] = Field(default_factory=dict)
    body: str | None = None
    true_block: str | list[str] | None = None
    false_block: str | list[str] | None = None
    condition: str | bool | None = None

    @property
    def parts(self) -> set[str]:
        """Names of the nodes whose running this node controls. Parts that don't name a node are ignored."""
        blocks = [[block] if isinstance(block, str) else block or [] for block in (self.body, self.true_block, self.false_block)]
        return {PART.sub(r"\g<node>", part) for block in blocks for part in block} if self.type in CONTROL else set()


@dataclass(frozen=True)
class Scope:
    """The scope to which the nodes of one level can be bound: the pipeline job itself, or a node that is a pipeline.

    Args:
        inputs: name → input; a literal without a value is a missing input.
        outputs: name → the URI where it must be, or None where the node that writes it decides.
        compute: id of the compute of nodes that name none, or None.
    """

    inputs: Mapping[str, Input]
    outputs: Mapping[str, str | None]
    compute: str | None

    @classmethod
    def of_job(cls, job: JobProperties) -> Scope:
        """Return the scope of a pipeline job."""
        settings = getattr(job, "settings", None)
        outputs = {name: output.uri for name, output in job.outputs.items()}
        return cls(job.inputs, outputs, (settings and settings.default_compute) or job.compute_id)

    def literal(self, text: str) -> str:
        """Return a text with the values of the pipeline's inputs in it."""

        def value(match: re.Match[str]) -> str:
            bound = self.inputs.get(match[1].removeprefix("parent.inputs."))
            return (bound.value if isinstance(bound, LiteralInput) else None) or ""

        return EXPRESSION.sub(value, text)


def invalid_pipeline(message: str, code: str) -> AzureFault:
    """Return the error for an invalid pipeline job, with the innermost ``code``."""
    codes = ("BadArgument", "ArgumentInvalid", "InvalidPipelineJob", code)
    return user_error(message, *dict.fromkeys(codes))


def invalid_binding(expression: str) -> AzureFault:
    """Return the error for an expression that refers to nothing."""
    text = "Only parent.inputs, parent.jobs.[source_job_name].outputs or parent.outputs can be used for binding."
    return invalid_pipeline(f"Invalid expression {expression}. {text}", "InvalidExpressionInJob")


def read_nodes(nodes: Mapping[str, Document]) -> dict[str, Node]:
    """Return the nodes of one level.

    Raises:
        AzureFault: 400, one is invalid; 501, it is of a type that is not known, or of a registry.
    """
    for name, sent in nodes.items():
        if sent.get("type") not in (*KINDS, *CONTROL, *STORED, None):
            raise not_implemented(f"the node {name} of type {sent['type']} in a pipeline")
        identifier = str(sent.get("componentId"))
        if identifier.startswith("azureml://registries/") and not BUILT_IN.fullmatch(identifier):
            raise not_implemented(f"the node {name} in a pipeline with a component of a registry: {sent['componentId']}")
    return {name: validate_body(node, Node, f"properties.jobs.{name}.") for name, node in nodes.items()}


def find_spec(azure: Azure, node: Node) -> tuple[str, str, Document]:
    """Return name, version and specification of a node's component, with its inputs and outputs.

    Raises:
        AzureFault: 404, it does not exist; 501, nodes of its type are not known.
    """
    if match := BUILT_IN.fullmatch(node.component_id):
        is_import = match["name"].startswith("import")
        ports: Document = {"inputs": {}, "outputs": {"sink": {}}} if is_import else {"inputs": {"source": {}}, "outputs": {}}
        return match["name"], "0.0.1", {"type": "data_transfer", "task": "import_data" if is_import else "export_data"} | ports
    name, version, spec = components.find(azure, node.component_id)
    if spec.get("type") not in (*KINDS, *STORED):
        raise not_implemented(f"the component of node {node.name} of type {spec.get('type')} in a pipeline")
    return name, version, spec


def check(azure: Azure, scope: Scope, nodes: Mapping[str, Document]) -> None:
    """Check that the nodes of a level can run, and those below.

    Raises:
        AzureFault: 400 or 404, they are invalid; 501, one is of another kind than those that are run.
    """
    parsed = read_nodes(nodes)
    for key, node in parsed.items():
        for expression in _expressions(node):
            _check_binding(azure, scope, parsed, expression)
        if node.type in CONTROL:
            _check_parts(key, node, parsed)
            continue
        _, _, spec = find_spec(azure, node)
        _check_names(key, node, spec, is_part=any(key in other.parts for other in parsed.values()))
        for name, item in node.inputs.items():
            value = _text(item)
            uris.refuse_job_output(value)
            _check_text(scope, key, name, value, spec)
        target = compute_id(scope, node)
        check_compute(azure, compute_name(scope, node), target)
        if spec["type"] == "pipeline":
            outputs: dict[str, str | None] = dict.fromkeys(spec["outputs"])
            values = _stand_ins(spec) | _literals(scope, node)
            check(azure, Scope(nested_inputs(spec, values), outputs, target), spec.get("jobs") or {})
    sort(parsed)


def literal_input(value: str | None) -> LiteralInput:
    """Return a literal; without a value it is a missing input."""
    return validate_body({"jobInputType": "literal", "value": value}, LiteralInput)


def nested_inputs(spec: Document, values: Mapping[str, Input]) -> dict[str, Input]:
    """Return the inputs of a pipeline component: these values, and its defaults for the others."""
    inputs: dict[str, Input] = {}
    for name, item in spec["inputs"].items():
        inputs[name] = values.get(name) or literal_input(item.get("default"))
    return inputs


def input_value(scope: Scope, item: Document | None, outputs: Mapping[str, Mapping[str, str]]) -> Input | None:
    """Return a node's input with its binding resolved, or None if it is missing.

    Args:
        scope: what the node is bound to.
        item: the input as it was sent.
        outputs: node → output → URI of the nodes that have run.
    """
    if item is None or (item.get("value") is None and item.get("uri") is None):
        return None
    value = _text(item)
    kind = item.get("job_input_type", "literal")
    match = EXPRESSION.fullmatch(value)
    if match is None:
        return literal_input(scope.literal(value)) if kind == "literal" else _asset_input(kind, value)
    if source := JOB_OUTPUT.fullmatch(match[1]):
        return _asset_input("uri_folder", outputs[source["node"]].get(source["output"], ""))
    bound = scope.inputs[match[1].removeprefix("parent.inputs.")]
    return None if isinstance(bound, LiteralInput) and bound.value is None else bound


def output_uri(scope: Scope, item: Document | str | None) -> str | None:
    """Return the URI where a node must write an output, or None if it is up to the node."""
    value = _text(item)
    if match := EXPRESSION.fullmatch(value):
        return scope.outputs[match[1].removeprefix("parent.outputs.")]
    return value or None


def output_bindings(node: Node) -> dict[str, str]:
    """Return output of the node → output of the pipeline that it is bound to."""
    matches = {name: EXPRESSION.fullmatch(_text(item)) for name, item in node.outputs.items()}
    return {name: match[1].removeprefix("parent.outputs.") for name, match in matches.items() if match}


def asset_names(node: Node) -> dict[str, tuple[str | None, str | None]]:
    """Return output of the node → name and version of the asset that it becomes."""
    return {key: (item.get("name"), item.get("version")) for key, item in node.outputs.items() if isinstance(item, dict)}


def needs(nodes: Mapping[str, Node], key: str) -> set[str]:
    """Return the nodes that a node needs: those whose outputs it reads, and the one that decides whether it runs."""
    read = {match["node"] for expression in _expressions(nodes[key]) if (match := JOB_OUTPUT.fullmatch(expression))}
    return read - nodes[key].parts | {name for name, other in nodes.items() if key in other.parts}


def sort(nodes: Mapping[str, Node]) -> list[str]:
    """Return the names of the nodes so that each comes after those whose outputs it reads.

    Raises:
        AzureFault: 400, the graph has a cycle.
    """
    ordered: list[str] = []
    while len(ordered) < len(nodes):
        ready = [name for name in nodes if name not in ordered and needs(nodes, name) <= set(ordered)]
        if not ready:
            rest = ", ".join(name for name in nodes if name not in ordered)
            raise invalid_pipeline(f"The jobs {rest} of the pipeline form a cycle.", "InvalidPipelineJob")
        ordered += ready
    return ordered


def compute_name(scope: Scope, node: Node) -> str:
    """Return the name of the compute that a node runs on. Clients also send it as ``…/computes/azureml:NAME``."""
    return compute_id(scope, node).rpartition("/")[2].removeprefix("azureml:")


def compute_id(scope: Scope, node: Node) -> str:
    """Return the id of the compute that a node runs on."""
    return scope.literal(node.compute_id or scope.compute or SERVERLESS)


def _asset_input(kind: str, uri: str) -> AssetInput:
    return validate_body({"jobInputType": kind, "uri": uri}, AssetInput)


def _text(item: Document | str | None) -> str:
    """Return the value or URI of a node's input or output; empty if it has neither."""
    return item if isinstance(item, str) else str((item or {}).get("value") or (item or {}).get("uri") or "")


def _stand_ins(spec: Document) -> dict[str, Input]:
    """Return an input for each path that a pipeline component takes; its value is only known when the node runs."""
    return {name: _asset_input(item["type"], name) for name, item in spec["inputs"].items() if item.get("type") in PATHS}


def _literals(scope: Scope, node: Node) -> dict[str, Input]:
    """Return the literal inputs of a node that are known before any node has run, such as the compute of the nodes below."""
    items = {name: item for name, item in node.inputs.items() if not _text(item).startswith("${{parent.jobs.")}
    values = {name: input_value(scope, item, {}) for name, item in items.items()}
    return {name: value for name, value in values.items() if isinstance(value, LiteralInput)}


def _check_parts(key: str, node: Node, nodes: Mapping[str, Node]) -> None:
    if not node.parts:
        raise invalid_pipeline(f"The node {key} of type {node.type} names no node to run.", "InvalidPipelineJob")
    if unknown := sorted(node.parts - nodes.keys()):
        raise invalid_binding(f"parent.jobs.{unknown[0]}")


def _check_names(key: str, node: Node, spec: Document, *, is_part: bool) -> None:
    for name in node.inputs:
        if name not in spec["inputs"]:
            raise _absent_input(key, name)
    for name in node.outputs:
        if name not in spec["outputs"]:
            raise invalid_pipeline(
                f"Invalid component job since output {name} for component job {key} does not exist.", "InvalidComponentJobOutput"
            )
    for name, item in spec["inputs"].items():
        # A node in a loop also gets inputs from the loop.
        if name not in node.inputs and not is_part and item.get("optional") != "True" and "default" not in item:
            raise invalid_pipeline(f"Required input {name} of component job {key} has no value.", "InvalidComponentJobInput")


def _absent_input(key: str, name: str) -> AzureFault:
    message = f"Invalid component job since input {name} for component job {key} does not exist."
    return invalid_pipeline(message, "InvalidComponentJobInput")


def _check_text(scope: Scope, key: str, name: str, value: str, spec: Document) -> None:
    """Refuse text around bindings unless the input is a literal: for a path, the service says that there is no such input."""
    expressions = EXPRESSION.findall(value)
    if not expressions or EXPRESSION.fullmatch(value):
        return
    if spec["inputs"][name].get("type") in PATHS:
        raise _absent_input(key, name)
    for expression in expressions:
        match = PARENT.fullmatch(expression)
        if match is None or match["kind"] != "inputs" or match["name"] not in scope.inputs:
            raise invalid_binding(expression)
        if isinstance(scope.inputs[match["name"]], AssetInput):
            raise not_implemented(f"a path in the middle of a text: {value}")


def _check_binding(azure: Azure, scope: Scope, nodes: Mapping[str, Node], expression: str) -> None:
    if match := PARENT.fullmatch(expression):
        is_known = match["name"] in (scope.inputs if match["kind"] == "inputs" else scope.outputs)
    else:
        match = JOB_OUTPUT.fullmatch(expression)
        source = nodes.get(match["node"]) if match else None
        if source and source.type in CONTROL:
            # A loop has the outputs of the node that it repeats.
            source = next((nodes[name] for name in source.parts if name in nodes), None)
        is_known = bool(source and match and match["output"] in find_spec(azure, source)[2]["outputs"])
    if not is_known:
        raise invalid_binding(expression)


def _expressions(node: Node) -> Iterator[str]:
    """Return the bindings of a node: of its inputs and outputs, and of its condition."""
    for item in (*node.inputs.values(), *node.outputs.values(), str(node.condition)):
        if match := EXPRESSION.fullmatch(_text(item)):
            yield match[1]
