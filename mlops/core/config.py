"""pipeline.toml: what the pipeline is told, as frozen models.

Order of precedence, later wins: the models' own defaults, ``[defaults]``, ``[targets.NAME]`` (differences only), the environment
(workspace coordinates only, see :data:`COORDINATES`), ``--set path.to.key=value`` on the command line. Tables merge, lists are
replaced. An unknown key is an error that names the nearest known one. Field names follow Azure ML, MLflow and the Hugging Face hub.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mlops.core.errors import ConfigError

__all__ = ["COORDINATES", "Config", "json_schema", "load", "locate", "parse_override"]

COORDINATES = {
    "subscription_id": "AZURE_SUBSCRIPTION_ID",
    "resource_group": "AZUREML_RESOURCE_GROUP",
    "name": "AZUREML_WORKSPACE",
}
"""Workspace coordinate → environment variable. Nothing else is read from the environment."""

Scalar = str | int | float | bool


class Table(BaseModel):
    """A table of pipeline.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class WorkspaceConfig(Table):
    """Which workspace. Empty coordinates are looked for in config.json, as the SDK does."""

    subscription_id: str = ""
    resource_group: str = ""
    name: str = ""


class DataConfig(Table):
    """Which conversations."""

    dataset: str = Field("HuggingFaceH4/ultrachat_200k", description="hub id, `chitchat`, or a folder or file (parquet, jsonl, json, csv)")
    revision: str = Field("8049631c405ae6576f93f445c6b8166f76f5505a", description="commit of the hub repository; ignored for files")
    percent: float = Field(5.0, gt=0, le=100, description="of each split to keep")
    max_rows: dict[str, int] = Field(default_factory=dict, description="split → at most so many rows, after `percent`")
    max_messages: int | None = Field(None, ge=2, description="cut conversations to so many messages")
    max_characters: int | None = Field(None, ge=1, description="drop conversations longer than this")
    deduplicate: bool = Field(True, description="drop repeated conversations, and training rows that a test split has too")
    seed: int = 42


class ModelConfig(Table):
    """Which base model."""

    registry: str = "azureml"
    name: str = "Phi-3-mini-4k-instruct"
    version: str = Field("15", description="a version, or `latest`")
    allow_archived: bool = False


class ComputeConfig(Table):
    """Where training runs."""

    name: str = "gpu-cluster-big"
    size: str = "Standard_NC24ads_A100_v4"
    min_instances: int = Field(0, ge=0)
    max_instances: int = Field(2, ge=1)
    idle_seconds: int = Field(120, ge=0, description="before an idle node is given back")
    price_per_hour_usd: float | None = Field(None, ge=0, description="of one node, for the cost estimate; see the Azure price list")


class TrainingConfig(Table):
    """How it is fine-tuned."""

    component: str = "chat_completion_pipeline"
    component_version: str = Field("0.0.82", description="pinned: `latest` moves under your feet")
    experiment: str = "chat-completion-ultrachat"
    parameters: dict[str, Scalar] = Field(default_factory=dict, description="component inputs")
    expected_hours: float | None = Field(None, ge=0, description="for the cost estimate")
    detach_after_minutes: float | None = Field(
        None, ge=0, description="leave a training to itself that takes longer, and carry the pipeline on later; None waits for it"
    )
    timeout_hours: float = Field(24.0, gt=0, description="after which we stop waiting (the job is cancelled)")


class EvaluationConfig(Table):
    """How models are scored."""

    target_rows: int = Field(500, ge=1, description="rows of test_sft in the target suite")
    retention_suite: str = "data/retention.jsonl"
    retention_rows: int | None = Field(None, ge=1, description="of the retention suite; None for all")
    generate_rows: int = Field(20, ge=0, description="rows for which an answer is generated")
    max_tokens: int = Field(1024, ge=8, description="a row's tokens; longer rows are cut at the end")
    max_new_tokens: int = Field(128, ge=1)
    batch_tokens: int = Field(8192, ge=1, description="tokens in a batch, padding included")
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    champion_endpoint: str = Field("", description="whose live model is the champion; empty: the endpoint that we deploy to")
    environment: str = Field(
        "azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112", description="curated environment of the command job"
    )


class Rule(Table):
    """One gate rule. Names follow MLflow's MetricThreshold and TFMA's MetricThreshold where those have one."""

    metric: str = Field(
        description="`SUITE.METRIC`, `SUITE.KIND.METRIC` for one kind of its rows, or `SUITE.*.METRIC` for each kind on its own; metrics "
        "are `nll`, `perplexity`, `token_accuracy`, `exact_match`, `rouge_l` (target), `kl_base` (retention)"
    )
    direction: Literal["lower", "higher"] = Field(description="which is better")
    baseline: Literal["champion", "base", "none"] = Field("none", description="on a first run the base model answers for the champion")
    margin: float = Field(0.0, allow_inf_nan=False, description="> 0 tolerates that much worse, < 0 demands that much better")
    margin_kind: Literal["relative", "absolute"] = Field("relative", description="to the baseline's figure, or in the metric's unit")
    test: Literal["paired_bootstrap", "wilcoxon", "mcnemar", "none"] = Field(
        "none",
        description="`paired_bootstrap` judges the metric itself; `wilcoxon` its typical row, where the figure over all rows must agree; "
        "`mcnemar` wins and losses of `exact_match`, with margin 0; `none` compares two numbers",
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the two-sided interval")
    min_rows: int = Field(1, ge=1, description="with fewer rows (of each kind, for `*`) nothing is shown: HOLD")
    critical: bool = Field(True, description="whether it decides; else it is only told")
    max_gain: float | None = Field(None, gt=0, allow_inf_nan=False, description="better than this is suspicious: HOLD")
    floor: float | None = Field(None, allow_inf_nan=False, description="inclusive lower bound")
    ceiling: float | None = Field(None, allow_inf_nan=False, description="inclusive upper bound")


class GateConfig(Table):
    """When a candidate may go on."""

    rules: tuple[Rule, ...] = ()
    override_environment: str = Field(
        "gate-override", min_length=1, description="GitHub environment with required reviewers in which a HOLD may be overridden"
    )


class RegistrationConfig(Table):
    """Under which name."""

    name: str = "ultrachat-phi-3-mini"


class EndpointConfig(Table):
    """Where it is served. Probe and request settings are the tutorial's."""

    name: str = Field("ultrachat-completion", pattern=r"^[a-zA-Z]([-a-zA-Z0-9]{1,30}[a-zA-Z0-9])$")
    ephemeral: bool = Field(False, description="made for one run: teardown deletes the endpoint, not only what it added")
    expires_after_hours: float | None = Field(None, gt=0, description="when the reaper may take it")
    deployment_prefix: str = "d"
    instance_type: str = "Standard_NC24ads_A100_v4"
    instance_count: int = Field(1, ge=1)
    price_per_hour_usd: float | None = Field(None, ge=0)
    probe_initial_delay_s: int = Field(600, ge=0)
    request_timeout_ms: int = Field(90_000, ge=1, le=180_000)
    deploy_timeout_minutes: float = Field(60.0, gt=0)
    keep_previous: bool = Field(True, description="keep the old deployment at 0 %, ready for rollback")


class SmokeConfig(Table):
    """What the new deployment must show before it takes traffic."""

    requests: int = Field(10, ge=1)
    max_failures: int = Field(0, ge=0)
    max_latency_ms: float = Field(60_000, gt=0, description="95th percentile")
    max_new_tokens: int = Field(64, ge=1)


class Tables(Table):
    """What may stand in the file, for one target."""

    workspace: WorkspaceConfig = WorkspaceConfig()
    data: DataConfig = DataConfig()
    model: ModelConfig = ModelConfig()
    compute: ComputeConfig = ComputeConfig()
    training: TrainingConfig = TrainingConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    gate: GateConfig = GateConfig()
    registration: RegistrationConfig = RegistrationConfig()
    endpoint: EndpointConfig = EndpointConfig()
    smoke: SmokeConfig = SmokeConfig()
    tags: dict[str, str] = Field(default_factory=dict, description="put on everything that we create")


class Config(Tables):
    """The settings of one target, and where they came from."""

    target: str
    command_line_parameters: tuple[str, ...] = Field((), description="names of training.parameters given with --set", exclude=True)
    file: str = Field("pipeline.toml", description="where it was read from", exclude=True)
    overridden: tuple[str, ...] = Field((), description="dotted keys given with --set", exclude=True)

    @property
    def champion_endpoint(self) -> str:
        """The endpoint whose live model is the champion."""
        return self.evaluation.champion_endpoint or self.endpoint.name


DECIDING = ("gate.", "evaluation.", "endpoint.ephemeral")
"""Settings that decide the gate's verdict and whom it binds; only the file says them for a target that is not ephemeral."""


class _Document(Table):
    """The file: defaults, and targets that differ from them."""

    defaults: dict[str, Any] = Field(default_factory=dict)
    targets: dict[str, dict[str, Any]] = Field(default_factory=dict)


def load(path: Path, target: str, overrides: Sequence[str] = (), environment: Mapping[str, str] = os.environ) -> Config:
    """Read pipeline.toml for one target.

    Args:
        path: the file.
        target: a name under ``[targets]``.
        overrides: ``path.to.key=value``, values as in TOML (a bare word is a string).
        environment: where the workspace coordinates may come from.

    Raises:
        ConfigError: with the file, the line where it is known, and the rule.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise ConfigError(f"{path} can't be read: {problem}", "run in the folder with pipeline.toml, or say --config FILE") from problem
    try:
        document = _Document.model_validate(tomllib.loads(text))
    except tomllib.TOMLDecodeError as problem:
        raise ConfigError(f"{path}: {problem}", "mend the TOML") from problem
    except ValidationError as problem:
        raise ConfigError(_explain(path, text, problem, _Document, ()), "only [defaults] and [targets.NAME] stand at the top") from problem
    if target not in document.targets:
        near = _nearest(target, document.targets)
        raise ConfigError(f"{path} has no [targets.{target}]{near}.", f"targets are: {', '.join(document.targets)}")

    settings = _merge(document.defaults, document.targets[target])
    endpoint = settings.get("endpoint")
    _refuse(overrides, path, target, ephemeral=isinstance(endpoint, dict) and endpoint.get("ephemeral") is True)
    coordinates = {key: environment[name] for key, name in COORDINATES.items() if environment.get(name)}
    settings = _merge(settings, {"workspace": coordinates})
    given: list[str] = []
    overridden: list[str] = []
    for override in overrides:
        keys, value = parse_override(override)
        overridden.append(".".join(keys))
        for key in reversed(keys):
            value = {key: value}
        settings = _merge(settings, value)
        if keys[:2] == ["training", "parameters"] and len(keys) == 3:
            given.append(keys[2])
    told = {"target": target, "command_line_parameters": tuple(given), "overridden": tuple(overridden), "file": str(path)}
    try:
        Tables.model_validate(settings)  # so that what we add below can't be said in the file
        return Config.model_validate({**settings, **told})
    except ValidationError as problem:
        raise ConfigError(
            _explain(path, text, problem, Tables, ("defaults", f"targets.{target}")), f"mend {path} or the --set option"
        ) from problem


def _refuse(overrides: Sequence[str], path: Path, target: str, *, ephemeral: bool) -> None:
    """What decides about something that stays is for the file, which is reviewed. What goes away again may be tried with anything."""
    for override in overrides:
        key = ".".join(parse_override(override)[0])
        if not ephemeral and (key == "endpoint" or key.startswith(DECIDING) or f"{key}." in DECIDING):
            raise ConfigError(
                f"--set {key} is refused for target {target}: the gate's rules, what they judge, and whether the endpoint stays are "
                f"for {path} alone to say.",
                f"change {path}, where others review it; `mlops gate --what-if --rule …` tries rules out",
            )


def locate(config: Config, key: str) -> str:
    """Where a setting was given: ``file:line`` of it or of the table that holds it, the ``--set`` option, or the file alone (a default).

    Args:
        config: as loaded.
        key: dotted, e.g. ``"training.parameters.max_steps"``.
    """
    if key in config.overridden:
        return f"--set {key}"
    try:
        text = Path(config.file).read_text(encoding="utf-8")
    except OSError:
        return config.file
    parts = key.split(".")
    for length in range(len(parts), 0, -1):
        if line := _line_of(text, parts[:length], ("defaults", f"targets.{config.target}"), missing=0):
            return f"{config.file}:{line}"
    return config.file


def json_schema() -> dict[str, Any]:
    """JSON Schema of pipeline.toml, for editors (kept fresh in ``docs/pipeline.schema.json`` by a test)."""
    table = Tables.model_json_schema()
    definitions = table.pop("$defs")
    definitions["Target"] = {**table, "title": "Target"}
    for definition in definitions.values():
        # A target holds differences only, so nothing is required in it but what makes a rule a rule.
        if definition.get("title") != "Rule":
            definition.pop("required", None)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "pipeline.toml",
        "type": "object",
        "additionalProperties": False,
        "properties": {
            "defaults": {"$ref": "#/$defs/Target"},
            "targets": {"type": "object", "additionalProperties": {"$ref": "#/$defs/Target"}},
        },
        "$defs": definitions,
    }


def _merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, dict) and isinstance(value, dict) else value
    return merged


def parse_override(text: str, option: str = "--set") -> tuple[list[str], Any]:
    """``path.to.key=value`` → its keys, and its value as in TOML (a bare word is a string).

    Args:
        text: as given.
        option: with which it was given, for the message.

    Raises:
        ConfigError: it is not of this form.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        example = "training.parameters.max_steps=5" if option == "--set" else "margin=0.02"
        raise ConfigError(f"{option}: {text!r} is not of the form path.to.key=value.", f"for example {example}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    return path.strip().split("."), parsed


def _explain(path: Path, text: str, problem: ValidationError, model: type[BaseModel], sections: Sequence[str]) -> str:
    lines = []
    for error in problem.errors():
        location = [str(part) for part in error["loc"]]
        what = error["msg"]
        if error["type"] == "extra_forbidden":
            what = f"unknown key{_nearest(location[-1], _keys_at(model, location[:-1]))}"
        lines.append(f"{path}:{_line_of(text, location, sections)}: {'.'.join(location)}: {what}")
    return "\n".join(lines)


def _keys_at(model: type[BaseModel], location: Sequence[str]) -> list[str]:
    """The field names of the table at a location."""
    current: Any = model
    for part in location:
        if part.isdigit():
            continue
        field = current.model_fields.get(part) if isinstance(current, type) and issubclass(current, BaseModel) else None
        if field is None:
            return []
        inner = [a for a in (field.annotation, *get_args(field.annotation)) if isinstance(a, type) and issubclass(a, BaseModel)]
        current = inner[0] if inner else None
    return list(current.model_fields) if isinstance(current, type) and issubclass(current, BaseModel) else []


def _nearest(word: str, known: Any) -> str:
    near = difflib.get_close_matches(word, list(known), n=1)
    return f" (did you mean {near[0]!r}?)" if near else ""


def _line_of(text: str, location: Sequence[str], sections: Sequence[str], missing: int = 1) -> int:
    """Best guess at the line of a key: the last place where its table stands in one of the sections, else ``missing``."""
    keys = [part for part in location if not part.isdigit()]
    table, found = "", missing
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith("["):
            table = stripped.strip("[]").split("]")[0].strip()
            here = table.split(".")
            for section in sections or ("",):
                if [*filter(None, section.split(".")), *keys] == here:
                    found = number
        elif "=" in stripped and not stripped.startswith("#"):
            here = [*table.split("."), *[part.strip() for part in stripped.split("=")[0].split(".")]]
            for section in sections or ("",):
                if [*filter(None, section.split(".")), *keys] == [part for part in here if part]:
                    found = number
    return found
