"""Checks of the configuration against the workspace before a GPU is paid for: pure functions of what was read from the workspace.

The SDK checks none of this for a registry component: it submits a wrong enum value, ``num_train_epochs=0`` or a cluster that doesn't exist
as they are, and the job fails once the nodes are up. Combinations follow the checks inside the component's fine-tuning step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date
from typing import Literal

from mlops.cloud.assets import BaseModel, Component, ComponentInput
from mlops.cloud.compute import ComputeView
from mlops.cloud.network import NetworkView
from mlops.cloud.parameters import RESERVED
from mlops.cloud.quota import CoreDemand, Usage, find_shortages
from mlops.cloud.vm_sizes import VmSize
from mlops.core.console import did_you_mean
from mlops.core.records import Finding
from mlops.core.settings import BudgetConfig, ComputeConfig, EndpointConfig, Scalar, TrainingConfig

__all__ = [
    "UNSUPPORTED_SIZES",
    "check_budget",
    "check_cluster",
    "check_endpoint_size",
    "check_model",
    "check_network",
    "check_parameters",
    "check_quota",
    "check_size",
    "check_storage_access",
    "count_nodes",
    "estimate_cost",
    "find_context_limit",
    "make_finding",
    "report_unchecked",
]

UNSUPPORTED_SIZES = ("standard_nc6", "standard_nc12", "standard_nc24", "standard_nc24r")
"""VM sizes that can't fine-tune any model, for models without an allow-list."""

DATA_TYPES = ("uri_file", "uri_folder", "mltable", "mlflow_model", "custom_model")

IGNORED = {
    "evaluation_config": "the component no longer evaluates; the evaluate stage does",
    "evaluation_config_params": "the component no longer evaluates; the evaluate stage does",
    "instance_type_finetune": "it applies to serverless compute only; set [compute] instead",
    "instance_type_model_evaluation": "it applies to serverless compute only; set [compute] instead",
    "instance_type_model_import": "it applies to serverless compute only; set [compute] instead",
    "instance_type_preprocess": "it applies to serverless compute only; set [compute] instead",
}
"""Inputs that the component accepts but ignores in this pipeline."""

HOURS_PER_MONTH = 730

Severity = Literal["error", "warning"]
Locate = Callable[[str], str]
"""Dotted key of pipeline.toml → where it is set."""


def check_parameters(component: Component, training: TrainingConfig, model_defaults: Mapping[str, object], locate: Locate) -> list[Finding]:
    """Check ``training.parameters`` and the base model's defaults against the component's inputs: name, type, enum, range, combinations.

    Model defaults that the component doesn't accept are not findings: the train stage drops them and says so.
    """
    findings: list[Finding] = []
    effective = {name: declared.default for name, declared in component.inputs.items() if declared.default is not None}
    for name, value in model_defaults.items():
        if name in component.inputs:
            effective[name] = to_wire_text(value)
            if name not in training.parameters:
                findings += _check_value(component.inputs[name], value, f"model_specific_defaults.{name}")
    for name, value in training.parameters.items():
        where = locate(f"training.parameters.{name}")
        problems = list(_check_name(component, name, where)) or list(_check_value(component.inputs[name], value, where))
        findings += problems
        if not problems:
            effective[name] = to_wire_text(value)
    for names, message in _combinations(effective):
        configured = next((name for name in names if name in training.parameters), None)
        where = locate(f"training.parameters.{configured}") if configured else f"model_specific_defaults.{names[0]}"
        findings.append(make_finding("parameter.combination", where, message))
    for name, declared in component.inputs.items():
        if not (declared.optional or name in effective or name in RESERVED):
            findings.append(make_finding("parameter.missing", locate("training.parameters"), f"{name} is required and has no default"))
    return findings


def check_model(model: BaseModel, successors: Iterable[str], allow_archived: bool, today: date, where: str) -> list[Finding]:
    """Check that the base model is neither archived nor past the date on which its fine-tuning ends.

    Args:
        model: the registry's model.
        successors: ids of models that can replace it.
        allow_archived: report a warning instead of an error.
        today: the current date.
        where: where ``model.name`` is set.
    """
    findings = []
    severity: Severity = "warning" if allow_archived else "error"
    instead = ", ".join(successors) or "none that the registry lists"
    advice = f"Successors: {instead}. Set model.name to one of them, or model.allow_archived = true to use it anyway."
    if model.archived:
        findings.append(make_finding("model.archived", where, f"{model.id} is archived and may disappear. {advice}", severity))
    if model.retired_on and model.retired_on[:10] < today.isoformat():
        message = f"Fine-tuning of {model.id} ended on {model.retired_on[:10]}. {advice}"
        findings.append(make_finding("model.retired", where, message, severity))
    return findings


def find_context_limit(model: BaseModel, training: TrainingConfig) -> tuple[int, str] | None:
    """Return the number of tokens at which the component cuts conversations, and its source; None if it is unknown."""
    limits = [(model.context, f"the context of {model.name}")] if model.context else []
    value = training.parameters.get("max_seq_length", model.defaults.get("max_seq_length"))
    requested = _number(value)
    if requested is not None and requested > 0:
        limits.append((int(requested), "max_seq_length"))
    return min(limits, default=None)


def check_size(size: str, model: BaseModel, sizes: Mapping[str, VmSize], where: str) -> list[Finding]:
    """Check that the region offers the training cluster's VM size and that it can fine-tune this model, ignoring case.

    Args:
        size: a VM size.
        model: the model; without an allow-list, :data:`UNSUPPORTED_SIZES` decides.
        sizes: the sizes that the workspace's region offers, by lower-case name; empty if that is not known.
        where: where the size is set.
    """
    findings = []
    if sizes and size.lower() not in sizes:
        near = did_you_mean(size, [offered.name for offered in sizes.values()])
        findings.append(make_finding("compute.size.unknown", where, f"{size} is not offered in the workspace's region{near}"))
    if model.finetune_skus is None:
        if size.lower() in UNSUPPORTED_SIZES:
            message = f"{size} can't fine-tune: it is one of {', '.join(UNSUPPORTED_SIZES)}"
            findings.append(make_finding("compute.size.unsupported", where, message))
    elif not _contains(model.finetune_skus, size):
        message = f"{size} is not in the list of sizes that {model.name} may be fine-tuned on: {', '.join(model.finetune_skus)}"
        findings.append(make_finding("compute.size.not-allowed", where, message))
    return findings


def check_cluster(cluster: ComputeView, config: ComputeConfig, parameters: Mapping[str, Scalar], locate: Locate) -> list[Finding]:
    """Check that the cluster is usable, has the configured size, and is large enough for the training."""
    findings = []
    if cluster.state.lower() != "succeeded":
        message = f"cluster {cluster.name} is {cluster.state}; look at it in the studio; if it has failed, delete it and run this again"
        findings.append(make_finding("compute.state", locate("compute.name"), message))
    if cluster.size.lower() != config.size.lower():
        message = f"cluster {cluster.name} has size {cluster.size}, but pipeline.toml says {config.size}; set compute.size or compute.name"
        findings.append(make_finding("compute.size.differs", locate("compute.size"), message))
    if cluster.tier == "low_priority":
        message = f"the nodes of cluster {cluster.name} are low priority: Azure may take them away, and the training then starts over"
        allowed = "" if config.allow_low_priority else "; set compute.allow_low_priority = true to accept that, or use another compute.name"
        severity: Severity = "warning" if config.allow_low_priority else "error"
        findings.append(make_finding("compute.low-priority", locate("compute.name"), message + allowed, severity))
    for name, limit, what in (
        ("num_nodes_finetune", config.max_instances, "nodes (compute.max_instances)"),
        ("number_of_gpu_to_use_finetuning", None if cluster.gpus_per_node is None else max(1, cluster.gpus_per_node), "GPUs on a node"),
    ):
        value = _number(parameters.get(name, 1))
        if value is not None and limit is not None and value > limit:
            message = f"{name} is {value:g}, but {cluster.name} has {limit} {what}: the job would wait forever"
            findings.append(make_finding("compute.too-small", locate(f"training.parameters.{name}"), message))
    return findings


def check_storage_access(has_keys: bool, cluster: ComputeView | None, config: ComputeConfig, locate: Locate) -> list[Finding]:
    """Check that the nodes can read the data: without storage keys, they need a managed identity.

    Args:
        has_keys: whether the workspace's default datastore hands out keys.
        cluster: the cluster, if it exists.
        config: its settings.
        locate: where a setting is set.
    """
    where = locate("compute.identity")
    if cluster is not None and config.identity and config.identity.lower() not in map(str.lower, cluster.identities):
        message = f"cluster {cluster.name} does not have the identity {config.identity}: assign it, or set another compute.name"
        return [make_finding("compute.identity", where, message)]
    if has_keys or config.identity or (cluster is not None and cluster.identities):
        return []
    return [
        make_finding(
            "compute.identity",
            where,
            "the workspace's storage has no keys, so the nodes of the cluster need an identity to read the data: set compute.identity "
            "to the id of a user-assigned identity with the role Storage Blob Data Contributor on the storage account (docs/azure.md)",
        )
    ]


def check_network(network: NetworkView, obstacle: str, endpoint: EndpointConfig, locate: Locate) -> list[Finding]:
    """Check that this machine reaches the workspace, and that the endpoint's network access fits the workspace's.

    Args:
        network: the workspace's settings.
        obstacle: what keeps this machine from a private workspace; empty if nothing does.
        endpoint: the endpoint's settings.
        locate: where a setting is set.
    """
    where, is_open = locate("endpoint.public_network_access"), endpoint.public_network_access == "enabled"
    findings = []
    if obstacle:
        message = (
            "the workspace has no public network access, and this machine can't reach it: run the stages in its virtual network, on "
            f"GitHub on a self-hosted runner in that network (docs/azure.md). {obstacle}"
        )
        findings.append(make_finding("network.unreachable", "Azure", message))
    if network.is_private and not network.has_managed_network:
        message = (
            "the workspace has no public network access and no managed network, so that deployments can't reach it to load the model: "
            "`az ml workspace update --managed-network allow_internet_outbound`, then `az ml workspace provision-network`"
        )
        findings.append(make_finding("network.unmanaged", "Azure", message))
    if not is_open and not network.has_private_endpoint:
        message = (
            "with endpoint.public_network_access = disabled, the endpoint can only be reached through a private endpoint of the workspace, "
            "which has none, so nobody could call it: create one (docs/azure.md), or set enabled"
        )
        findings.append(make_finding("endpoint.unreachable", where, message))
    elif not is_open and not network.is_private:
        message = "smoke-test and promote call the endpoint, so this machine must be in the network of the workspace's private endpoint"
        findings.append(make_finding("endpoint.private", where, message, "warning"))
    if network.is_private and is_open:
        message = (
            "the workspace has no public network access, but everybody with the endpoint's key can call it from the internet: set "
            "endpoint.public_network_access = disabled if that is not intended"
        )
        findings.append(make_finding("endpoint.public", where, message, "warning"))
    return findings


def check_endpoint_size(endpoint: EndpointConfig, model: BaseModel, sizes: Mapping[str, VmSize], where: str) -> list[Finding]:
    """Check that the model may be served on the endpoint's VM size, ignoring case. A model without an allow-list may be served on any."""
    size = endpoint.instance_type
    findings = []
    if sizes and size.lower() not in sizes:
        near = did_you_mean(size, [offered.name for offered in sizes.values()])
        findings.append(make_finding("endpoint.size.unknown", where, f"{size} is not offered in the workspace's region{near}"))
    if model.inference_skus is not None and not _contains(model.inference_skus, size):
        message = f"{size} is not in the list of sizes that {model.name} may be served on: {', '.join(model.inference_skus)}"
        findings.append(make_finding("endpoint.size.not-allowed", where, message))
    return findings


def check_quota(demands: Sequence[CoreDemand], usages: Iterable[Usage], where: str) -> list[Finding]:
    """Check that the cores that the run needs are free, before anything is paid for."""
    advice = (
        "Request quota in the Azure portal (Quotas, Machine learning), choose another compute.size or endpoint.instance_type, or delete "
        "deployments that nobody needs"
    )
    return [make_finding("quota.exceeded", where, f"{shortage}. {advice}") for shortage in find_shortages(demands, usages)]


def report_unchecked(not_permitted: Mapping[str, str], where: str) -> list[Finding]:
    """Return a warning for each check that was skipped for lack of a permission.

    Args:
        not_permitted: what → the permission that is missing.
        where: the setting that it is about.
    """
    return [
        make_finding("not-checked", where, f"{what} not checked: needs {permission}", "warning")
        for what, permission in not_permitted.items()
    ]


def count_nodes(training: TrainingConfig) -> int:
    """Return the number of nodes of the training."""
    return int(_number(training.parameters.get("num_nodes_finetune", 1)) or 1)


def estimate_cost(compute: ComputeConfig, training: TrainingConfig, endpoint: EndpointConfig) -> tuple[float | None, str]:
    """Return the cost of one training in US dollars, or None if a setting is missing, and a sentence that explains it.

    The cost is price per node-hour × nodes × hours, all from pipeline.toml, because Azure's control plane has no prices.
    """
    missing = [
        key
        for key, value in (("compute.price_per_hour_usd", compute.price_per_hour_usd), ("training.expected_hours", training.expected_hours))
        if value is None
    ]
    serving = ""
    if endpoint.price_per_hour_usd is not None:
        serving = _describe_serving(endpoint, endpoint.price_per_hour_usd * endpoint.instance_count)
    if compute.price_per_hour_usd is None or training.expected_hours is None:
        return None, f"no estimate: {' and '.join(missing)} not set in pipeline.toml{serving}"
    nodes = count_nodes(training)
    price, hours = compute.price_per_hour_usd, training.expected_hours
    return price * nodes * hours, f"{price:g} USD an hour × {nodes} node(s) of {compute.size} × {hours:g} h of training{serving}"


def _describe_serving(endpoint: EndpointConfig, per_hour: float) -> str:
    text = f"; the endpoint adds {per_hour:,.2f} USD for every hour that it exists"
    if endpoint.ephemeral:
        return text
    month = f"{per_hour * HOURS_PER_MONTH:,.0f} USD a month"
    text += f", {month}"
    if endpoint.keep_previous:
        hours = endpoint.keep_previous_hours
        text += f", and the standby at 0 % as much again, {month}, for {hours:g} h after a promotion ({per_hour * hours:,.2f} USD)"
    return text


def check_budget(
    budget: BudgetConfig, training_usd: float | None, endpoint: EndpointConfig, locate: Callable[[str], str]
) -> Iterator[Finding]:
    """Find costs above the budget. A limit without an estimate is an error too."""
    hourly = None if endpoint.price_per_hour_usd is None else endpoint.price_per_hour_usd * endpoint.instance_count
    for key, limit, cost, what, settings in (
        ("training_usd", budget.training_usd, training_usd, "The training", "compute.price_per_hour_usd and training.expected_hours"),
        ("endpoint_usd_per_hour", budget.endpoint_usd_per_hour, hourly, "An hour of the deployment", "endpoint.price_per_hour_usd"),
    ):
        if limit is None or (cost is not None and cost <= limit):
            continue
        excess = f"has no estimate: set {settings}" if cost is None else f"is estimated to cost {cost:,.2f} USD"
        yield make_finding("budget.exceeded", locate(f"budget.{key}"), f"{what} {excess}; budget.{key} is {limit:,.2f} USD")


def make_finding(rule: str, where: str, message: str, severity: Severity = "error") -> Finding:
    """Return a finding; an error unless ``severity`` says otherwise."""
    return Finding(rule=rule, severity=severity, where=where, message=message)


def to_wire_text(value: object) -> str:
    """Return a literal as the text that is submitted."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _check_name(component: Component, name: str, where: str) -> Iterator[Finding]:
    if name not in component.inputs:
        message = f"{name} is not an input of {component.name} {component.version}{did_you_mean(name, component.inputs)}"
        yield make_finding("parameter.unknown", where, message)
    elif name in RESERVED:
        message = f"{name} is set by the pipeline itself; use [compute], [model] and [data] of pipeline.toml"
        yield make_finding("parameter.reserved", where, message)
    elif component.inputs[name].type in DATA_TYPES:
        message = f"{name} is a {component.inputs[name].type}; training.parameters can only hold plain values"
        yield make_finding("parameter.type", where, message)
    elif name in IGNORED:
        yield make_finding("parameter.ignored", where, f"{name} has no effect: {IGNORED[name]}", "warning")


def _check_value(declared: ComponentInput, value: object, where: str) -> Iterator[Finding]:
    text = to_wire_text(value)
    if declared.type in ("integer", "number"):
        number = _number(text)
        whole = isinstance(value, int) or (number is not None and number.is_integer())
        if number is None or isinstance(value, bool) or (declared.type == "integer" and not whole):
            yield make_finding("parameter.type", where, f"{declared.name} is {text!r}, which is not of type {declared.type}")
        elif declared.min is not None and number < declared.min:
            yield make_finding("parameter.range", where, f"{declared.name} is {text}, less than {declared.min:g}")
        elif declared.max is not None and number > declared.max:
            yield make_finding("parameter.range", where, f"{declared.name} is {text}, more than {declared.max:g}")
    elif declared.type == "boolean" and text.lower() not in ("true", "false"):
        yield make_finding("parameter.type", where, f"{declared.name} is {text!r}, which is not of type boolean")
    elif declared.enum and text not in declared.enum:
        message = f"{declared.name} is {text!r}, not one of {', '.join(declared.enum)}{did_you_mean(text, declared.enum)}"
        yield make_finding("parameter.enum", where, message)


def _combinations(values: Mapping[str, str]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield combinations of valid settings that make the fine-tuning step fail: the names, the one to change first, and the reason."""

    def on(name: str) -> bool:
        return values.get(name, "false").lower() == "true"

    rate = _number(values.get("learning_rate"))
    if rate is not None and rate <= 0:
        yield ("learning_rate",), f"learning_rate is {rate:g}; it must be greater than 0"
    if on("apply_early_stopping") and values.get("evaluation_strategy", "epoch") not in ("epoch", "steps"):
        yield ("apply_early_stopping", "evaluation_strategy"), "apply_early_stopping needs evaluation_strategy steps or epoch"
    if on("apply_deepspeed") and on("auto_find_batch_size"):
        yield ("auto_find_batch_size", "apply_deepspeed"), "auto_find_batch_size does not work with apply_deepspeed"
    if on("apply_deepspeed") and values.get("deepspeed_stage") == "3" and on("apply_ort"):
        yield ("apply_ort", "deepspeed_stage", "apply_deepspeed"), "DeepSpeed stage 3 does not work with apply_ort"


def _contains(sizes: Iterable[str], size: str) -> bool:
    return size.lower() in {each.lower() for each in sizes}


def _number(value: object) -> float | None:
    try:
        number = float(str(value))
    except ValueError:
        return None
    return number if math.isfinite(number) else None
