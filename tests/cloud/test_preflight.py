"""Checks of the configuration against the workspace: for each, a case that violates it and no other."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest

from mlops.cloud.assets import BaseModel, Component, ComponentInput
from mlops.cloud.compute import ComputeView
from mlops.cloud.network import NetworkView
from mlops.cloud.preflight import (
    check_budget,
    check_cluster,
    check_endpoint_size,
    check_model,
    check_network,
    check_parameters,
    check_size,
    check_storage_access,
    estimate_cost,
)
from mlops.cloud.vm_sizes import VmSize
from mlops.core.records import Finding
from mlops.core.settings import Config

NODES = "/subscriptions/s/resourceGroups/rg/providers/Microsoft.ManagedIdentity/userAssignedIdentities/nodes"
TODAY = date(2026, 6, 15)
A100, H100 = "Standard_NC24ads_A100_v4", "Standard_NC40ads_H100_v5"
SIZES = {
    name.lower(): VmSize(name=name, gpus=gpus, cores=6, family="standardFamily")
    for name, gpus in ((A100, 1), (H100, 1), ("Standard_NC6", 1), ("Standard_DS3_v2", 0))
}


def declare(name: str, kind: str, default: str | None = None, *enum: str, **limits: Any) -> ComponentInput:
    return ComponentInput(name=name, type=kind, optional=limits.pop("optional", True), default=default, enum=enum, **limits)


INPUTS = (
    declare("task_name", "string", "ChatCompletion", "ChatCompletion", optional=False),
    declare("mlflow_model_path", "mlflow_model"),
    declare("train_file_path", "uri_file", optional=False),
    declare("evaluation_config", "uri_file"),
    declare("evaluation_config_params", "string"),
    declare("instance_type_finetune", "string", "Standard_nc24rs_v3"),
    declare("compute_finetune", "string", "serverless"),
    declare("num_train_epochs", "integer", "1", min=1),
    declare("num_nodes_finetune", "integer", "1", min=1),
    declare("number_of_gpu_to_use_finetuning", "integer", "1", min=1),
    declare("lora_dropout", "number", "0.0", min=0, max=1),
    declare("learning_rate", "number", "0.00002"),
    declare("lr_scheduler_type", "string", "linear", "linear", "cosine"),
    declare("deepspeed_stage", "string", "2", "2", "3"),
    declare("evaluation_strategy", "string", "epoch", "epoch", "steps", "disable"),
    *(declare(name, "string", "false", "true", "false") for name in ("apply_lora", "apply_deepspeed", "apply_ort", "auto_find_batch_size")),
    declare("apply_early_stopping", "string", "false", "true", "false"),
    declare("verbose", "boolean", "false"),
)


def component(*more: ComponentInput) -> Component:
    inputs = {each.name: each for each in (*INPUTS, *more)}
    return Component(id="azureml://c", name="chat_completion_pipeline", version="0.0.82", inputs=inputs, outputs={}, sdk=None)


def model(**changes: Any) -> BaseModel:
    fields: dict[str, Any] = {
        "id": "azureml://registries/azureml/models/Phi-4/versions/8",
        "name": "Phi-4",
        "version": "8",
        "tags": {},
        "archived": False,
        "retired_on": None,
        "finetune_skus": (A100,),
        "inference_skus": (A100,),
        "defaults": {},
    }
    return BaseModel(**{**fields, **changes})


def cluster(**changes: Any) -> ComputeView:
    fields: dict[str, Any] = {"name": "gpu", "size": A100, "state": "Succeeded", "tier": "dedicated", "gpus_per_node": 1, "created": False}
    return ComputeView(**{**fields, **changes})


def config(**tables: Any) -> Config:
    return Config.model_validate({"target": "local", "compute": {"name": "gpu", "size": A100}, **tables})


def check(parameters: dict[str, Any], defaults: dict[str, Any] | None = None, *more: ComponentInput) -> list[Finding]:
    training = config(training={"parameters": parameters}).training
    return check_parameters(component(*more), training, defaults or {}, lambda key: f"pipeline.toml: {key}")


@pytest.mark.parametrize(
    ("has_keys", "identity", "existing", "expected"),
    [
        (True, "", None, []),
        (True, "", (), []),
        (False, "", None, ["has no keys"]),
        (False, "", (), ["has no keys"]),
        (False, NODES, None, []),
        (False, NODES, (NODES.upper(),), []),
        (False, NODES, (), ["does not have the identity"]),
        (True, NODES, ("another",), ["does not have the identity"]),
        (False, "", (NODES,), []),
    ],
)
def test_without_storage_keys_the_cluster_needs_an_identity(
    has_keys: bool, identity: str, existing: tuple[str, ...] | None, expected: list[str]
) -> None:
    view = None if existing is None else cluster(identities=existing)
    settings = config(compute={"name": "gpu", "identity": identity}).compute
    findings = check_storage_access(has_keys, view, settings, lambda key: f"pipeline.toml: {key}")
    assert [finding.rule for finding in findings] == ["compute.identity"] * len(expected)
    assert all(text in finding.message for text, finding in zip(expected, findings, strict=True))


@pytest.mark.parametrize(
    ("network", "obstacle", "access", "expected"),
    [
        ("public", "", "enabled", []),
        ("private managed", "", "disabled", []),
        ("private managed", "", "enabled", [("endpoint.public", "warning")]),
        ("private managed", "Azure refused", "disabled", [("network.unreachable", "error")]),
        ("private", "", "disabled", [("network.unmanaged", "error")]),
        ("public", "", "disabled", [("endpoint.unreachable", "error")]),
        ("public linked", "", "disabled", [("endpoint.private", "warning")]),
    ],
)
def test_the_networks_of_workspace_machine_and_endpoint_fit(
    network: str, obstacle: str, access: str, expected: list[tuple[str, str]]
) -> None:
    is_private = network.startswith("private")
    view = NetworkView(
        is_private=is_private, has_managed_network="managed" in network, has_private_endpoint=is_private or "linked" in network
    )
    settings = config(endpoint={"public_network_access": access}).endpoint
    findings = check_network(view, obstacle, settings, lambda key: f"pipeline.toml: {key}")
    assert [(finding.rule, finding.severity) for finding in findings] == expected
    assert all(obstacle in finding.message for finding in findings)


def one(findings: list[Finding]) -> tuple[str, str, str]:
    (finding,) = findings
    return finding.rule, finding.where, finding.message


@pytest.mark.parametrize(
    "value",
    [
        {"num_train_epochs": 3, "learning_rate": 5e-6, "lr_scheduler_type": "cosine"},
        {"num_train_epochs": "3", "learning_rate": "5e-6", "deepspeed_stage": 3, "apply_deepspeed": True},
        {"num_train_epochs": 3.0, "lora_dropout": 1, "verbose": True, "apply_lora": "true"},
        {"apply_early_stopping": True, "evaluation_strategy": "steps"},
        {"number_of_gpu_to_use_finetuning": 1},
        {},
    ],
)
def test_valid_parameters_have_no_findings(value: dict[str, Any]) -> None:
    assert check(value) == []


@pytest.mark.parametrize(
    ("name", "value", "rule", "message"),
    [
        ("num_train_epoch", 1, "parameter.unknown", "did you mean 'num_train_epochs'"),
        ("num_train_epochs", "three", "parameter.type", "not of type integer"),
        ("num_train_epochs", 1.5, "parameter.type", "not of type integer"),
        ("num_train_epochs", True, "parameter.type", "not of type integer"),
        ("learning_rate", "fast", "parameter.type", "not of type number"),
        ("learning_rate", "nan", "parameter.type", "not of type number"),
        ("learning_rate", float("inf"), "parameter.type", "not of type number"),
        ("verbose", "yes", "parameter.type", "not of type boolean"),
        ("evaluation_config", "file.json", "parameter.type", "is a uri_file"),
        ("num_train_epochs", 0, "parameter.range", "is 0, less than 1"),
        ("lora_dropout", 1.1, "parameter.range", "is 1.1, more than 1"),
        ("lr_scheduler_type", "cosin", "parameter.enum", "did you mean 'cosine'"),
        ("apply_lora", 1, "parameter.enum", "not one of true, false"),
        ("deepspeed_stage", 5, "parameter.enum", "not one of 2, 3"),
        ("task_name", "TextGeneration", "parameter.enum", "not one of ChatCompletion"),
        ("compute_finetune", "other", "parameter.reserved", "set by the pipeline"),
        ("train_file_path", "x.jsonl", "parameter.reserved", "set by the pipeline"),
        ("evaluation_config_params", "{}", "parameter.ignored", "no longer evaluates"),
        ("instance_type_finetune", A100, "parameter.ignored", "serverless"),
        ("learning_rate", 0, "parameter.combination", "greater than 0"),
    ],
)
def test_a_wrong_parameter_is_one_finding(name: str, value: Any, rule: str, message: str) -> None:
    findings = check({name: value, "apply_lora" if name != "apply_lora" else "apply_ort": "true"})
    assert one(findings)[:2] == (rule, f"pipeline.toml: training.parameters.{name}")
    assert message in findings[0].message
    assert findings[0].severity == ("warning" if rule == "parameter.ignored" else "error")


@pytest.mark.parametrize(
    ("values", "first"),
    [
        ({"apply_early_stopping": "true", "evaluation_strategy": "disable"}, "apply_early_stopping"),
        ({"apply_deepspeed": "true", "auto_find_batch_size": "true"}, "auto_find_batch_size"),
        ({"apply_deepspeed": "true", "deepspeed_stage": "3", "apply_ort": "true"}, "apply_ort"),
    ],
)
def test_conflicting_parameters_are_a_finding(values: dict[str, str], first: str) -> None:
    assert one(check(values))[:2] == ("parameter.combination", f"pipeline.toml: training.parameters.{first}")
    for left_out in values:
        assert check({name: value for name, value in values.items() if name != left_out}) == []
    # The result is the same if all of them, or one, come from the model's defaults.
    assert one(check({}, dict(values)))[:2] == ("parameter.combination", f"model_specific_defaults.{first}")
    last = list(values)[-1]
    mixed = check({last: values[last]}, {name: value for name, value in values.items() if name != last})
    assert one(mixed)[1] == f"pipeline.toml: training.parameters.{last}"
    assert check({last: component().inputs[last].default}, dict(values)) == [], "pipeline.toml wins"


def test_model_defaults_are_checked_unless_overridden() -> None:
    assert check({}, {"learning_rate_min": 5e-7, "learning_rate": "5e-6", "precision": 16}) == [], "unknown inputs are dropped"
    assert one(check({}, {"lr_scheduler_type": "bogus"}))[:2] == ("parameter.enum", "model_specific_defaults.lr_scheduler_type")
    assert check({"lr_scheduler_type": "linear"}, {"lr_scheduler_type": "bogus"}) == [], "pipeline.toml overrides it"


def test_a_required_input_without_a_value_is_a_finding() -> None:
    required = declare("prompt_style", "string", optional=False)
    assert one(check({}, None, required))[0] == "parameter.missing"
    assert check({"prompt_style": "x"}, None, required) == []


def test_every_wrong_parameter_is_a_finding() -> None:
    findings = check({"num_train_epochs": 0, "lr_scheduler_type": "x", "nonsense": 1, "learning_rate": -1})
    assert [finding.rule for finding in findings] == ["parameter.range", "parameter.enum", "parameter.unknown", "parameter.combination"]


def test_an_archived_model_names_its_successors() -> None:
    findings = check_model(model(archived=True), ["azureml://x/Phi-4"], False, TODAY, "pipeline.toml:7")
    assert one(findings)[:2] == ("model.archived", "pipeline.toml:7")
    assert "azureml://x/Phi-4" in findings[0].message
    assert findings[0].severity == "error"
    assert check_model(model(archived=True), [], True, TODAY, "")[0].severity == "warning"
    assert "none that the registry lists" in check_model(model(archived=True), [], False, TODAY, "")[0].message


@pytest.mark.parametrize(
    ("day", "rules"), [("2026-06-14", ["model.retired"]), ("2026-06-15", []), ("2026-06-14T00:00:00Z", ["model.retired"]), (None, [])]
)
def test_a_model_past_its_retirement_date_is_a_finding(day: str | None, rules: list[str]) -> None:
    assert [finding.rule for finding in check_model(model(retired_on=day), [], False, TODAY, "")] == rules


@pytest.mark.parametrize(
    ("size", "allowed", "rules"),
    [
        (A100, (A100,), []),
        (A100.upper(), (A100.lower(),), []),
        (H100, (A100,), ["compute.size.not-allowed"]),
        ("Standard_NC6", (A100,), ["compute.size.not-allowed"]),
        (H100, None, []),
        ("STANDARD_NC6", None, ["compute.size.unsupported"]),
        (A100, (), ["compute.size.not-allowed"]),
        ("Standard_NC24ads_A100", None, ["compute.size.unknown"]),
    ],
)
def test_the_training_size_must_be_offered_and_allowed(size: str, allowed: tuple[str, ...] | None, rules: list[str]) -> None:
    assert [finding.rule for finding in check_size(size, model(finetune_skus=allowed), SIZES, "")] == rules


def test_an_unknown_size_suggests_the_nearest_one() -> None:
    (finding,) = check_size("standard_nc24ads_a100", model(finetune_skus=None), SIZES, "pipeline.toml:3")
    assert A100 in finding.message
    assert finding.where == "pipeline.toml:3"


@pytest.mark.parametrize(
    ("size", "allowed", "rules"),
    [
        (A100.lower(), (A100,), []),
        (H100, (A100,), ["endpoint.size.not-allowed"]),
        (H100, None, []),
        ("Standard_X", None, ["endpoint.size.unknown"]),
    ],
)
def test_the_serving_size_must_be_offered_and_allowed(size: str, allowed: tuple[str, ...] | None, rules: list[str]) -> None:
    endpoint = config(endpoint={"instance_type": size}).endpoint
    assert [finding.rule for finding in check_endpoint_size(endpoint, model(inference_skus=allowed), SIZES, "")] == rules


@pytest.mark.parametrize(
    ("changes", "parameters", "rules"),
    [
        ({}, {}, []),
        ({"state": "succeeded", "size": A100.upper()}, {}, []),
        ({"state": "Failed"}, {}, ["compute.state"]),
        ({"state": "Deleting"}, {}, ["compute.state"]),
        ({"size": H100}, {}, ["compute.size.differs"]),
        ({}, {"num_nodes_finetune": 2}, []),
        ({}, {"num_nodes_finetune": 3}, ["compute.too-small"]),
        ({}, {"number_of_gpu_to_use_finetuning": 2}, ["compute.too-small"]),
        ({"gpus_per_node": 4}, {"number_of_gpu_to_use_finetuning": "4"}, []),
        ({"gpus_per_node": 0}, {"number_of_gpu_to_use_finetuning": 1}, []),
    ],
)
def test_the_cluster_must_be_usable(changes: dict[str, Any], parameters: dict[str, Any], rules: list[str]) -> None:
    findings = check_cluster(cluster(**changes), config().compute, parameters, lambda key: key)
    assert [finding.rule for finding in findings] == rules


def test_cost_is_price_times_nodes_times_hours() -> None:
    priced = config(
        compute={"size": A100, "price_per_hour_usd": 3.5},
        training={"expected_hours": 2.0, "parameters": {"num_nodes_finetune": 2}},
        endpoint={"price_per_hour_usd": 3.0, "instance_count": 2},
    )
    cost, note = estimate_cost(priced.compute, priced.training, priced.endpoint)
    assert cost == pytest.approx(14.0)
    assert "3.5 USD an hour × 2 node(s)" in note
    assert "6.00 USD for every hour that it exists, 4,380 USD a month, and the standby at 0 % as much again, 4,380 USD a month" in note
    assert note.endswith("for 24 h after a promotion (144.00 USD)")


@pytest.mark.parametrize("change", [{"ephemeral": True}, {"keep_previous": False}])
def test_no_standby_costs_nothing(change: dict[str, Any]) -> None:
    priced = config(endpoint={"price_per_hour_usd": 3.0, **change})
    assert "standby" not in estimate_cost(priced.compute, priced.training, priced.endpoint)[1]


@pytest.mark.parametrize(
    ("budget", "training_usd", "findings"),
    [
        ({}, None, []),
        ({"training_usd": 14.0, "endpoint_usd_per_hour": 6.0}, 14.0, []),
        ({"training_usd": 13.9}, 14.0, ["budget.training_usd: The training is estimated to cost 14.00 USD"]),
        ({"training_usd": 100.0}, None, ["budget.training_usd: The training has no estimate: set compute.price_per_hour_usd"]),
        ({"endpoint_usd_per_hour": 5.9}, None, ["budget.endpoint_usd_per_hour: An hour of the deployment is estimated to cost 6.00 USD"]),
    ],
)
def test_costs_above_the_budget_or_without_an_estimate_are_errors(
    budget: dict[str, float], training_usd: float | None, findings: list[str]
) -> None:
    priced = config(budget=budget, endpoint={"price_per_hour_usd": 3.0, "instance_count": 2})
    actual = list(check_budget(priced.budget, training_usd, priced.endpoint, str))
    assert all(finding.severity == "error" for finding in actual)
    for finding, start in zip(actual, findings, strict=True):
        assert f"{finding.where}: {finding.message}".startswith(start)


@pytest.mark.parametrize(
    ("compute", "training", "missing"),
    [
        ({}, {"expected_hours": 1.0}, "compute.price_per_hour_usd not set"),
        ({"price_per_hour_usd": 1.0}, {}, "training.expected_hours not set"),
        ({}, {}, "compute.price_per_hour_usd and training.expected_hours not set"),
    ],
)
def test_a_missing_setting_gives_a_reason_instead_of_an_estimate(compute: dict[str, Any], training: dict[str, Any], missing: str) -> None:
    priced = config(compute=compute, training=training)
    cost, note = estimate_cost(priced.compute, priced.training, priced.endpoint)
    assert cost is None
    assert missing in note
