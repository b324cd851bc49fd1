"""The settings of pipeline.toml as frozen models.

Order of precedence, later wins: the models' own defaults, ``[defaults]``, ``[targets.NAME]`` (differences only), workspace coordinates
from the environment (:data:`COORDINATES`), the lines of ``MLOPS_SET``, ``--set path.to.key=value`` on the command line. Tables merge,
lists are replaced. An unknown key is an error that suggests the nearest known one. Field names follow Azure ML, MLflow and the Hugging
Face hub.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator

from mlops.core import config_source
from mlops.core.console import did_you_mean
from mlops.core.errors import ConfigError
from mlops.core.names import (
    ComputeName,
    DeploymentPrefix,
    EndpointName,
    ExperimentName,
    ManagedIdentity,
    ModelName,
    NonEmpty,
    OptionalEndpointName,
    Tags,
)

__all__ = [
    "COORDINATES",
    "Config",
    "GateConfig",
    "Rule",
    "Tables",
    "environment_overrides",
    "ephemeral_targets",
    "json_schema",
    "load",
    "parse_override",
    "targets",
]

COORDINATES = {
    "subscription_id": "AZURE_SUBSCRIPTION_ID",
    "resource_group": "AZUREML_RESOURCE_GROUP",
    "name": "AZUREML_WORKSPACE",
}
"""Workspace coordinate → environment variable."""

Scalar = str | int | Annotated[float, Field(allow_inf_nan=True)] | bool
"""Of a component's input; `mlops validate` checks the value against the component's specification."""


class Table(BaseModel):
    """A table of pipeline.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())


class WorkspaceConfig(Table):
    """Which workspace. Empty coordinates are read from config.json, as the SDK does."""

    subscription_id: str = ""
    resource_group: str = ""
    name: str = ""
    trusted_creators: tuple[str, ...] = Field(
        (),
        description="object ids of other identities whose jobs, model versions and deployments may be reused; a target that is not "
        "ephemeral otherwise reuses only what its own identity has created",
    )


class DataConfig(Table):
    """Which conversations."""

    dataset: NonEmpty = Field(
        "HuggingFaceH4/ultrachat_200k",
        description="hub id, `chitchat`, or a file, folder or pattern such as `chats/*.jsonl`; [formats](../data/README.md#your-own-data)",
    )
    revision: str = Field("8049631c405ae6576f93f445c6b8166f76f5505a", description="commit of the hub repository; ignored for files")
    percent: float = Field(5.0, gt=0, le=100, description="of each split to keep")
    max_rows: dict[Literal["train_sft", "test_sft", "train_gen", "test_gen"], Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="split → maximum number of rows, applied after `percent`"
    )
    max_messages: int | None = Field(None, ge=2, description="cut conversations to this many messages")
    max_characters: int | None = Field(None, ge=1, description="drop conversations longer than this")
    deduplicate: bool = Field(
        True, description="drop repeated conversations, and training rows with the conversation or an answer of an evaluation row"
    )
    seed: int = Field(42, ge=-(2**63), lt=2**63)
    format: Literal["auto", "messages", "sharegpt", "pairs"] = Field(
        "auto", description="layout of the rows; `auto`: recognized by their fields"
    )
    columns: dict[Literal["messages", "prompt", "response", "input", "system", "prompt_id", "tools"], str] = Field(
        default_factory=dict, description="what is needed → the field that contains it, where the usual names are not used"
    )
    on_bad_row: Literal["stop", "drop"] = Field(
        "stop", description="`drop`: leave rows with errors out, count them and list them in `run/data/quarantine.jsonl`"
    )


class ModelConfig(Table):
    """Which base model."""

    registry: str = "azureml"
    name: str = "Phi-4"
    version: str = Field("8", description="a version, or `latest`")
    allow_archived: bool = False
    tokenizer: str = Field(
        "",
        description="the base model's `tokenizer.json`, its folder, or `hub:OWNER/NAME@COMMIT`: `validate` then counts the tokens of long "
        "prompts; empty: it estimates them",
    )


class ComputeConfig(Table):
    """Where training runs."""

    name: ComputeName = "gpu-cluster-big"
    size: str = "Standard_NC24ads_A100_v4"
    min_instances: int = Field(0, ge=0)
    max_instances: int = Field(2, ge=1)
    allow_low_priority: bool = Field(
        False, description="without quota for dedicated nodes, use low-priority ones, which Azure may take away at any time"
    )
    identity: ManagedIdentity = Field(
        "",
        description="id of a user-assigned identity of the nodes; "
        "needed if [the storage has no keys](azure.md#if-your-workspace-has-no-storage-keys)",
    )
    idle_seconds: int = Field(900, ge=0, description="before an idle node is released; with less than 900, each step may wait for a node")
    price_per_hour_usd: float | None = Field(None, ge=0, description="of one node, for the cost estimate; see the Azure price list")


class TrainingConfig(Table):
    """How it is fine-tuned."""

    component: str = "chat_completion_pipeline"
    component_version: str = Field(
        "0.0.81", description="pinned, since `latest` can change, and [serving images](serving.md) load some only"
    )
    experiment: ExperimentName = "chat-completion-ultrachat"
    parameters: dict[str, Scalar] = Field(default_factory=dict, description="component inputs")
    expected_hours: float | None = Field(None, ge=0, description="for the cost estimate")
    detach_after_minutes: float | None = Field(
        None, ge=0, description="stop waiting for a longer training and continue the pipeline later; unset: wait for it"
    )
    timeout_hours: float = Field(24.0, gt=0, description="after which the job is canceled")


class JudgeConfig(Table):
    """A chat model that compares each model's answers with the base model's. Off by default: it reads them, and costs money."""

    url: str = Field(
        "",
        pattern=r"^(https://.+|http://(localhost|127\.0\.0\.1)[:/].*)?$",
        description="of an API like OpenAI's, e.g. `https://NAME.openai.azure.com/openai/v1`; empty: no judge. "
        "`MLOPS_JUDGE_KEY` has the key, which Azure OpenAI does not need",
    )
    model: str = Field("", description="of the judge, as the API names it")
    rows: int = Field(200, ge=1, description="rows whose generated answers are compared, each twice")
    labeled_pairs: str = Field(
        "data/judge_pairs.jsonl", description="pairs of answers with the better one, with which the judge is calibrated"
    )
    min_agreement: float = Field(
        0.8, gt=0.5, lt=1, description="the judge must be shown to agree with that share of the labels, or there is no `target.judge_win`"
    )


class EvaluationConfig(Table):
    """How models are scored."""

    target_rows: int = Field(500, ge=1, description="rows of test_sft in the target suite")
    retention_suite: str = "data/retention.jsonl"
    retention_rows: int | None = Field(None, ge=1, description="of the retention suite; unset: all")
    generate_rows: int = Field(20, ge=0, description="rows of the target suite for which an answer is generated")
    task_rows: int = Field(20, ge=0, description="rows of the retention suite with checks for which an answer is generated")
    max_tokens: int = Field(4096, ge=8, description="per row; longer rows are cut at the end, which the metric overlong counts")
    max_new_tokens: int = Field(128, ge=1)
    batch_tokens: int = Field(8192, ge=1, description="per batch, padding included")
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    trust_remote_code: bool = Field(False, description="run Python code that comes with a model, if transformers can't load it without")
    judge: JudgeConfig = JudgeConfig()
    champion_endpoint: OptionalEndpointName = Field("", description="its live model is the champion; empty: the endpoint that we deploy to")
    environment: str = Field(
        "azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/105", description="curated environment of the command job"
    )


class Rule(Table):
    """A gate rule. Names follow MLflow's MetricThreshold and TFMA's MetricThreshold where those have one."""

    # Strict: `critical = "no"` is an error. Read leniently, it would switch the rule off.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), strict=True)

    enabled: bool = Field(True, description="`false` drops the rule, e.g. for one target")
    metric: str = Field(
        description="`SUITE.METRIC`, `SUITE.KIND.METRIC` for one kind of its rows, or `SUITE.*.METRIC` for each kind on its own; "
        "[gate.md](gate.md#what-is-measured) lists the metrics"
    )
    direction: Literal["lower", "higher"] = Field(description="which is better")
    baseline: Literal["champion", "anchor", "base", "none"] = Field(
        "none",
        description="`champion`: what the endpoint serves; `anchor`: the best model that it has served, so that small losses can't add up; "
        "on a first run the base model replaces both",
    )
    margin: float = Field(0.0, allow_inf_nan=False, description="> 0 tolerates that much worse, < 0 demands that much better")
    margin_kind: Literal["relative", "absolute"] = Field("relative", description="to the baseline's value, or in the metric's unit")
    test: Literal["paired_bootstrap", "wilcoxon", "mcnemar", "tango", "tail", "none"] = Field(
        "none",
        description="`paired_bootstrap` tests the metric itself; `wilcoxon` the typical row, where the value over all rows must agree; "
        "`mcnemar` rows that are right or wrong, with margin 0; `tango` shares of such rows, with an absolute margin, also if hardly a row "
        "differs; `tail` the share of rows that are worse by more than an absolute margin; `none` compares two numbers",
    )
    max_share: float | None = Field(
        None,
        gt=0,
        lt=1,
        allow_inf_nan=False,
        description='of `test = "tail"`: the largest share of rows that may be worse by more than the margin',
    )
    confidence: float = Field(0.95, gt=0.5, lt=1, description="of the two-sided interval")
    min_rows: int = Field(1, ge=1, description="with fewer rows (of each kind, for `*`) nothing is shown: HOLD")
    critical: bool = Field(True, description="whether the rule decides; otherwise it is only reported")
    max_gain: float | None = Field(None, gt=0, allow_inf_nan=False, description="better than this is suspicious: HOLD; `inf`: no limit")
    floor: float | None = Field(None, allow_inf_nan=False, description="inclusive lower bound; `-inf`: none")
    ceiling: float | None = Field(None, allow_inf_nan=False, description="inclusive upper bound; `inf`: none")

    @field_validator("max_gain", "ceiling", mode="before")
    @classmethod
    def _infinity_is_no_upper_limit(cls, value: Any) -> Any:
        # TOML has no null: a target removes the limit of [defaults] with `inf`.
        return None if value == math.inf else value

    @field_validator("floor", mode="before")
    @classmethod
    def _minus_infinity_is_no_lower_limit(cls, value: Any) -> Any:
        return None if value == -math.inf else value


RuleName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]+$")]


class GateConfig(Table):
    """When a candidate may be promoted."""

    rules: dict[RuleName, Rule] = Field(default_factory=dict, description="name → rule")
    correct_retries: bool = Field(
        True,
        description="require more confidence at each further try on the same target suite against the same champion, so that any number of "
        "tries has at most twice the error of one; `false` where a verdict leads to nothing that lasts",
    )
    override_environment: str = Field(
        "gate-override", min_length=1, description="GitHub environment with required reviewers in which a HOLD may be overridden"
    )

    @property
    def enabled_rules(self) -> dict[str, Rule]:
        """The rules that apply, by name, in the order of the file."""
        return {name: rule for name, rule in self.rules.items() if rule.enabled}


class RegistrationConfig(Table):
    """The name under which the model is registered."""

    name: ModelName = "ultrachat-chat"


class EndpointConfig(Table):
    """Where it is served. Probe and request settings are the tutorial's."""

    name: EndpointName = "ultrachat-completion"
    workspace_suffix: bool = Field(
        False, description="append 6 digits that depend on the workspace, because names are unique in a region, across all of Azure's users"
    )
    ephemeral: bool = Field(False, description="created for one run: teardown deletes the whole endpoint")
    expires_after_hours: float | None = Field(None, gt=0, description="after which `mlops reap --delete` may delete it")
    deployment_prefix: DeploymentPrefix = "d"
    environment: str = Field(
        "", description="of the serving image, a registry's id; empty: [Azure's default for MLflow models](serving.md)"
    )
    allow_unknown_image: bool = Field(False, description="deploy although it is not known whether the serving image can load the model")
    public_network_access: Literal["enabled", "disabled"] = Field(
        "enabled", description="disabled: only [the workspace's private endpoint](azure.md) leads to it; an existing endpoint must agree"
    )
    instance_type: str = "Standard_NC24ads_A100_v4"
    instance_count: int = Field(1, ge=1)
    price_per_hour_usd: float | None = Field(None, ge=0)
    probe_initial_delay_s: int = Field(600, ge=0)
    request_timeout_ms: int = Field(90_000, ge=1, le=180_000)
    deploy_timeout_minutes: float = Field(60.0, gt=0)
    collect_requests: bool = Field(
        False,
        description="let Azure write each request to a new deployment to the workspace's storage, for `promotion.live_requests`. They are"
        " personal data: you are responsible for their deletion",
    )
    keep_previous: bool = Field(True, description="keep the old deployment at 0 %, ready for rollback; it costs as much as a live one")
    keep_previous_hours: float = Field(24.0, gt=0, description="after which `mlops reap --delete` may delete the old deployment")


class BudgetConfig(Table):
    """What a run may cost at most, by the prices in this file. Checked before anything is paid for."""

    training_usd: float | None = Field(None, ge=0, allow_inf_nan=False, description="of one training; unset: no limit")
    endpoint_usd_per_hour: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="of all instances of one deployment; unset: no limit"
    )


class SmokeConfig(Table):
    """The test that the new deployment must pass before it takes traffic."""

    requests: int = Field(10, ge=1)
    max_failures: int = Field(0, ge=0)
    max_latency_ms: float = Field(60_000, gt=0, description="95th percentile")
    max_new_tokens: int = Field(64, ge=1)


class PromotionConfig(Table):
    """What must hold before the new deployment takes traffic, besides the gate's verdict and the smoke test."""

    require_review: bool = Field(
        False, description="stop unless the job runs in a GitHub environment with required reviewers, as GitHub reports them"
    )
    steps: tuple[Annotated[int, Field(ge=1, le=100)], ...] = Field(
        (5, 25, 100),
        description="percent of the traffic, after the new deployment was compared with the old one; `[100]`: without a comparison, as on "
        "a first deployment and on ephemeral endpoints",
    )
    mirror: int = Field(
        0,
        ge=0,
        le=50,
        description="percent of the live requests of which the new deployment gets a copy while it is compared before it has traffic, so"
        " that it is compared under load; nobody gets the answers to the copies",
    )
    live_requests: int = Field(
        0,
        ge=0,
        le=1000,
        description="how many of the newest requests that the old deployment has collected (`endpoint.collect_requests`) both deployments"
        " answer again before the new one has traffic; they can stop a promotion only. 0: none",
    )
    margin: float = Field(
        0.05, gt=0, lt=1, description="the comparison must show that the new deployment is not worse by this much, as a fraction"
    )

    @field_validator("steps")
    @classmethod
    def _steps_rise_to_100(cls, value: tuple[int, ...]) -> tuple[int, ...]:
        if not value or value[-1] != 100 or list(value) != sorted(set(value)):
            raise ValueError("the steps must rise and end with 100, e.g. [5, 25, 100]")
        return value


class Tables(Table):
    """The tables that the file may have for one target."""

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
    promotion: PromotionConfig = PromotionConfig()
    budget: BudgetConfig = BudgetConfig()
    tags: Tags = Field(default_factory=dict, description="put on everything that the pipeline creates")


class Config(Tables):
    """The settings of one target, and where they come from."""

    target: str
    file: str = Field("pipeline.toml", description="the file that was read", exclude=True)
    overrides: dict[str, str] = Field(
        default_factory=dict, description="dotted key → the option or environment variable that sets it", exclude=True
    )

    @property
    def champion_endpoint(self) -> str:
        """The endpoint whose live model is the champion."""
        return self.evaluation.champion_endpoint or self.endpoint.name

    @property
    def command_line_parameters(self) -> tuple[str, ...]:
        """The names of training.parameters that are set with --set."""
        prefix = "training.parameters."
        return tuple(key.removeprefix(prefix) for key in self.overrides if key.startswith(prefix))

    def locate(self, key: str) -> str:
        """Return where a setting comes from: ``file:line``, an option, an environment variable, or the file alone for a default.

        Args:
            key: dotted, e.g. ``"training.parameters.max_steps"``.
        """
        return config_source.locate(self.file, _sections(self.target), self.overrides, key)


_NEXT_SETTING = re.compile(rf"(?:\s*[,;]\s*|\s+)(?=(?:{'|'.join(Tables.model_fields)})\.[\w.\"'-]+\s*=)")
"""The separator of two settings on one line."""

DECIDING = ("gate.", "evaluation.", "data.", "budget.", "endpoint.ephemeral", "workspace.trusted_creators", "promotion.")
"""Settings that decide the gate's verdict and whom it binds: its rules, the scores, and the rows that both suites and overlaps come from.
For a target that is not ephemeral only the file may set them."""
NOT_DECIDING = ("data.max_rows.train_sft", "data.max_rows.train_gen", "data.max_rows.test_gen")
"""Exceptions: these splits are in no suite."""
DISPATCHABLE = (
    "training.", "compute.", "endpoint.instance_type", "endpoint.instance_count", "endpoint.probe_initial_delay_s",
    "endpoint.request_timeout_ms", "endpoint.deploy_timeout_minutes",
)  # fmt: skip
"""What MLOPS_SET may change for a target that is not ephemeral. Whoever may dispatch a workflow can set it, and nobody reviews it: so not
what the model is trained or tested on, what the smoke test demands, which endpoint is used or when it expires."""


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
        environment: has the workspace coordinates and MLOPS_SET, if any; ``overrides`` win over the latter.

    Raises:
        ConfigError: with the place of each mistake.
    """
    document = _read(path)
    if target not in document.targets:
        raise ConfigError(
            f"{path} has no [targets.{target}]{did_you_mean(target, document.targets)}.", f"targets are: {', '.join(document.targets)}"
        )
    return _resolve(path, target, document, overrides, environment)


def targets(path: Path) -> tuple[str, ...]:
    """Return the names of a file's targets.

    Raises:
        ConfigError: the file can't be read, or is not of this form.
    """
    return tuple(_read(path).targets)


def _read(path: Path) -> _Document:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as problem:
        raise ConfigError(f"{path} can't be read: {problem}", "run in the folder of pipeline.toml, or add --config FILE") from problem
    except UnicodeDecodeError as problem:
        raise ConfigError(f"{path} is not UTF-8: {problem.reason} at byte {problem.start}.", "save the file in UTF-8") from problem
    try:
        return _Document.model_validate(tomllib.loads(text))
    except ValidationError as problem:
        raise ConfigError(
            config_source.explain(problem, _Document, str(path), ("",), {}), "use only [defaults] and [targets.NAME] at the top level"
        ) from problem
    except (ValueError, RecursionError) as problem:  # tomllib's own error, or a number that is too long
        raise ConfigError(f"{path}: {problem}", "fix the TOML syntax") from problem


def ephemeral_targets(path: Path) -> frozenset[str]:
    """Return the targets of a file whose endpoints are ephemeral. Raises what :func:`load` raises."""
    return frozenset(target for target in _read(path).targets if load(path, target).endpoint.ephemeral)


def environment_overrides(environment: Mapping[str, str] = os.environ) -> list[str]:
    """Return the overrides of MLOPS_SET: one per line, or several on a line, as GitHub's form for a manual run has only one."""
    return [part for line in environment.get("MLOPS_SET", "").splitlines() for part in split_overrides(line)]


def split_overrides(text: str) -> list[str]:
    """Split ``a.b=1, c.d=2`` into its settings. Commas, semicolons or spaces separate them, if the next word is a setting.

    A value that is valid TOML, such as a quoted string, is never split.
    """
    text = text.strip()
    value = text.partition("=")[2]
    try:
        tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):
        return [part for part in _NEXT_SETTING.split(text) if part]
    return [text] if text else []


def _resolve(path: Path, target: str, document: _Document, overrides: Sequence[str], environment: Mapping[str, str]) -> Config:
    """Merge everything that sets something for a target."""
    for section, settings in (("defaults", document.defaults), (f"targets.{target}", document.targets[target])):
        _refuse_rule_list(settings, section, config_source.locate(str(path), (section,), {}, "gate.rules"))
    settings = _merge(document.defaults, document.targets[target])
    endpoint = settings.get("endpoint")
    ephemeral = isinstance(endpoint, dict) and endpoint.get("ephemeral") is True
    origins: dict[str, str] = {}
    for key, variable in COORDINATES.items():
        if value := environment.get(variable):
            _refuse_contradiction(settings, key, value, variable, path, target)
            settings = _merge(settings, {"workspace": {key: value}})
            origins[f"workspace.{key}"] = variable
    given = [("MLOPS_SET", line) for line in environment_overrides(environment)]
    given += [("--set", part) for text in overrides for part in split_overrides(text)]
    for option, override in given:
        keys, value = parse_override(override, option)
        if not ephemeral:
            _refuse_deciding(".".join(keys), option, path, target)
        nested: Any = value
        for key in reversed(keys):
            nested = {key: nested}
        _refuse_rule_list(nested, f"targets.{target}", f"{option} {override}")
        settings = _merge(settings, nested)
        for key in _leaves(".".join(keys), value):
            origins[key] = f"{option} {override}"
    try:
        Tables.model_validate(settings)  # so that the file can't set what is added below
        config = Config.model_validate({**settings, "target": target, "file": str(path), "overrides": origins})
        return Config.model_validate({**settings, **_complete_names(config), "target": target, "file": str(path), "overrides": origins})
    except ValidationError as problem:
        explanation = config_source.explain(problem, Tables, str(path), _sections(target), origins)
        raise ConfigError(explanation, f"correct {path}, the --set option or MLOPS_SET") from problem


def _refuse_contradiction(settings: Mapping[str, Any], key: str, value: str, variable: str, path: Path, target: str) -> None:
    """Refuse a workspace in the file that differs from the environment's: which one is meant must not be a guess."""
    workspace = settings.get("workspace")
    own = workspace.get(key) if isinstance(workspace, dict) else None
    if own and str(own).lower() != value.lower():
        where = config_source.locate(str(path), _sections(target), {}, f"workspace.{key}")
        raise ConfigError(
            f"{where}: workspace.{key} is {own!r}, but the environment variable {variable} is {value!r}. Nothing was read or changed.",
            f"unset {variable}, or remove workspace.{key} from {path}",
        )


def _complete_names(config: Config) -> dict[str, Any]:
    """Return the tables whose endpoint names get the workspace's suffix. None do while the workspace is unknown."""
    workspace, endpoint, evaluation = config.workspace, config.endpoint, config.evaluation
    identity = f"{workspace.subscription_id}/{workspace.resource_group}/{workspace.name}".lower()
    if not endpoint.workspace_suffix or not all((workspace.subscription_id, workspace.resource_group, workspace.name)):
        return {}
    suffix = hashlib.sha256(identity.encode()).hexdigest()[:6]
    champion = evaluation.champion_endpoint and f"{evaluation.champion_endpoint}-{suffix}"
    return {
        "endpoint": {**endpoint.model_dump(), "name": f"{endpoint.name}-{suffix}"},
        "evaluation": {**evaluation.model_dump(), "champion_endpoint": champion},
    }


def _sections(target: str) -> tuple[str, str]:
    return f"targets.{target}", "defaults"


def _leaves(key: str, value: Any) -> Iterator[str]:
    """The dotted keys of all settings that a value holds."""
    if isinstance(value, dict):
        for name, part in value.items():
            yield from _leaves(f"{key}.{name}", part)
    else:
        yield key


def _refuse_deciding(key: str, option: str, path: Path, target: str) -> None:
    """Refuse to override what decides about something permanent: only the file may, since changes to it are reviewed."""
    if key not in NOT_DECIDING and (key == "endpoint" or key.startswith(DECIDING) or f"{key}." in DECIDING):
        raise ConfigError(
            f"{option} {key} is refused for target {target}: only {path} may set the gate's rules, the data and scores that they judge, "
            "and whether the endpoint is permanent.",
            f"change {path}, so that the change is reviewed; try rules out with `mlops gate --what-if --rule …`",
        )
    if option == "MLOPS_SET" and not f"{key}.".startswith(tuple(f"{name.rstrip('.')}." for name in DISPATCHABLE)):
        raise ConfigError(
            f"MLOPS_SET {key} is refused for target {target}: a workflow may only change what nobody has to review there: "
            f"{', '.join(DISPATCHABLE)}.",
            f"change {path}, so that the change is reviewed",
        )


def _refuse_rule_list(settings: Any, section: str, where: str) -> None:
    """Explain the new form of the gate's rules to whoever has them as a list, as they were before they had names."""
    gate = settings.get("gate") if isinstance(settings, dict) else None
    rules = gate.get("rules") if isinstance(gate, dict) else None
    if not isinstance(rules, list):
        return
    headings = []
    for number, rule in enumerate(rules, start=1):
        parts = [str(rule.get(key, "")) for key in ("metric", "baseline")] if isinstance(rule, dict) else []
        words = [word for part in parts for word in part.replace("*", "each").split(".") if word]
        headings.append(f"[{section}.gate.rules.{'-'.join((*words, str(number)))}]")
    raise ConfigError(
        f"{where}: gate.rules is a list, but each rule is now a table with a name.",
        f"replace the headings [[{section}.gate.rules]], in order, by {', '.join(headings)}, with names of your choice. A target states "
        "only what differs from the rule of the same name in [defaults]; `enabled = false` drops a rule",
    )


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of pipeline.toml, for editors (kept fresh in ``docs/pipeline.schema.json`` by a test)."""
    table = Tables.model_json_schema()
    definitions = table.pop("$defs")
    definitions["Target"] = {**table, "title": "Target"}
    for definition in definitions.values():
        # Defaults and target each have a part of the settings, so nothing is required in either.
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
    """Split ``path.to.key=value`` into its keys and its value as in TOML (a bare word is a string).

    Args:
        text: the argument.
        option: the option that it belongs to, for the message.

    Raises:
        ConfigError: it is not of this form.
    """
    path, equals, value = text.partition("=")
    if not equals or not path.strip():
        example = "margin=0.02" if option.startswith("--rule") else "training.parameters.max_steps=5"
        raise ConfigError(f"{option}: {text!r} is not of the form path.to.key=value.", f"for example {example}")
    try:
        parsed = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value
    except (ValueError, RecursionError) as problem:
        raise ConfigError(f"{option} {path.strip()}: {problem}.", "use a shorter value") from problem
    return path.strip().split("."), parsed
