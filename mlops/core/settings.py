"""The settings of pipeline.toml as frozen models. Each table of the file is a class; docstrings and descriptions become the reference page.

Field names follow Azure ML, MLflow and the Hugging Face hub. :mod:`mlops.core.config` turns the file into these models.
"""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationInfo, field_validator

from mlops.core import config_source
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
    "BudgetConfig",
    "ComputeConfig",
    "Config",
    "DataConfig",
    "EndpointConfig",
    "EvaluationConfig",
    "GateConfig",
    "JudgeConfig",
    "ModelConfig",
    "PromotionConfig",
    "RegistrationConfig",
    "Rule",
    "RuleName",
    "Scalar",
    "SmokeConfig",
    "Table",
    "Tables",
    "TrainingConfig",
    "WorkspaceConfig",
]

COORDINATES = {
    "subscription_id": "AZURE_SUBSCRIPTION_ID",
    "resource_group": "AZUREML_RESOURCE_GROUP",
    "name": "AZUREML_WORKSPACE",
}
"""Workspace coordinate → environment variable."""

Scalar = str | int | Annotated[float, Field(allow_inf_nan=True)] | bool
"""The value of a component's input; `mlops validate` checks it against the component's specification."""


class Table(BaseModel):
    """A table of pipeline.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_truth_as_number(cls, value: object, info: ValidationInfo) -> object:
        annotation = cls.model_fields[str(info.field_name)].annotation
        kinds = {annotation, *get_args(annotation)}
        if isinstance(value, bool) and kinds & {int, float} and bool not in kinds:
            raise ValueError("it must be a number, not true or false")
        return value


class WorkspaceConfig(Table):
    """The workspace. Empty coordinates are read from config.json, as the SDK does."""

    subscription_id: str = ""
    resource_group: str = ""
    name: str = ""
    trusted_creators: tuple[str, ...] = Field(
        (),
        description="object ids of other identities whose jobs, model versions and deployments may be reused; otherwise, a target that is "
        "not ephemeral only reuses what its own identity created",
    )


class DataConfig(Table):
    """The conversations."""

    dataset: NonEmpty = Field(
        "HuggingFaceH4/ultrachat_200k",
        description="hub id, `chitchat`, or a file, folder or pattern such as `chats/*.jsonl`; [formats](../data/README.md#your-own-data)",
    )
    revision: str = Field("8049631c405ae6576f93f445c6b8166f76f5505a", description="commit of the hub repository; ignored for files")
    percent: float = Field(5.0, gt=0, le=100, description="percentage of each split to keep")
    max_rows: dict[Literal["train_sft", "test_sft", "train_gen", "test_gen"], Annotated[int, Field(ge=1)]] = Field(
        default_factory=dict, description="split → maximum number of rows, applied after `percent`"
    )
    max_messages: int | None = Field(None, ge=2, description="cut conversations to this many messages")
    max_characters: int | None = Field(None, ge=1, description="drop conversations longer than this")
    deduplicate: bool = Field(
        True, description="drop repeated conversations, and training rows that contain the conversation or an answer of an evaluation row"
    )
    seed: int = Field(42, ge=-(2**63), lt=2**63, description="selects which rows `percent` keeps")
    format: Literal["auto", "messages", "sharegpt", "pairs"] = Field(
        "auto", description="layout of the rows; `auto` recognizes it by the field names"
    )
    columns: dict[Literal["messages", "prompt", "response", "input", "system", "prompt_id", "tools"], str] = Field(
        default_factory=dict, description="standard name → the name of that field in your data"
    )
    on_bad_row: Literal["stop", "drop"] = Field(
        "stop", description="`drop`: drop rows with errors, count them and list them in `run/data/quarantine.jsonl`"
    )


class ModelConfig(Table):
    """The base model."""

    registry: str = Field("azureml", description="the registry that has the model and the training component")
    name: str = "Phi-4"
    version: str = Field("8", description="a version, or `latest`")
    allow_archived: bool = Field(False, description="accept a base model that the registry marks as archived")
    tokenizer: str = Field(
        "",
        description="the base model's `tokenizer.json`, its folder, or `hub:OWNER/NAME@COMMIT`, with which `validate` counts the tokens of "
        "long prompts; empty: it estimates them",
    )


class ComputeConfig(Table):
    """The cluster that trains and scores models."""

    name: ComputeName = "gpu-cluster-big"
    size: str = Field("Standard_NC24ads_A100_v4", description="VM size of the nodes")
    min_instances: int = Field(0, ge=0, description="nodes that are kept, and paid for, even without a job")
    max_instances: int = Field(2, ge=1)
    allow_low_priority: bool = Field(
        False, description="without quota for dedicated nodes, use low-priority ones, which Azure may take away at any time"
    )
    identity: ManagedIdentity = Field(
        "",
        description="id of a user-assigned identity for the nodes; "
        "needed if [the storage has no keys](azure.md#if-your-workspace-has-no-storage-keys)",
    )
    trusted: bool = Field(
        False,
        description="use an existing cluster whoever created it, although the creator can sign in to its nodes; otherwise, a target that "
        "is not ephemeral only uses clusters of its own identity or of `workspace.trusted_creators`",
    )
    idle_seconds: int = Field(
        900, ge=0, description="time until an idle node is released; with less than 900, each step may have to wait for a node"
    )
    price_per_hour_usd: float | None = Field(None, ge=0, description="price of one node, for cost estimates; see the Azure price list")


class TrainingConfig(Table):
    """The fine-tuning."""

    component: str = Field("chat_completion_pipeline", description="the registry's training component")
    component_version: str = Field(
        "0.0.81", description="pinned, since `latest` can change, and not every [serving image](serving.md) loads every version's models"
    )
    experiment: ExperimentName = "chat-completion-ultrachat"
    parameters: dict[str, Scalar] = Field(default_factory=dict, description="inputs of the component")
    expected_hours: float | None = Field(None, ge=0, description="expected duration, for the cost estimate")
    detach_after_minutes: float | None = Field(
        None, ge=0, description="stop waiting for the training after this time, and continue the pipeline later; unset: wait until it ends"
    )
    timeout_hours: float = Field(24.0, gt=0, description="cancel the job after this time")


class JudgeConfig(Table):
    """A chat model that compares each model's answers with the base model's. Off by default, because it sees them and costs money."""

    url: str = Field(
        "",
        pattern=r"^(https://.+|http://(localhost|127\.0\.0\.1)[:/].*)?$",
        description="base URL of an API like OpenAI's, e.g. `https://NAME.openai.azure.com/openai/v1`; empty: no judge. "
        "The key is read from `MLOPS_JUDGE_KEY`; Azure OpenAI needs none",
    )
    model: str = Field("", description="name of the judge model in that API")
    rows: int = Field(200, ge=1, description="number of rows whose generated answers are compared, each twice")
    labeled_pairs: str = Field(
        "data/judge_pairs.jsonl", description="pairs of answers of which the better one is labeled, to calibrate the judge"
    )
    min_agreement: float = Field(
        0.8,
        gt=0.5,
        lt=1,
        description="share of the labels that the judge must be shown to agree with; otherwise there is no `target.judge_win`",
    )


class EvaluationConfig(Table):
    """The scoring of models."""

    target_rows: int = Field(500, ge=1, description="number of rows of test_sft in the target suite")
    retention_suite: str = Field("data/retention.jsonl", description="file with the retention suite")
    retention_rows: int | None = Field(None, ge=1, description="number of rows of the retention suite; unset: all")
    generate_rows: int = Field(20, ge=0, description="number of rows of the target suite for which an answer is generated")
    task_rows: int = Field(
        20, ge=0, description="number of rows of the retention suite, among those with checks, for which an answer is generated"
    )
    max_tokens: int = Field(4096, ge=8, description="tokens per row; the end of a longer row is cut off, which the metric overlong counts")
    max_new_tokens: int = Field(128, ge=1, description="tokens per generated answer")
    batch_tokens: int = Field(8192, ge=1, description="tokens per batch, including padding")
    precision: Literal["float32", "bfloat16", "float16"] = "bfloat16"
    trust_remote_code: bool = Field(False, description="run Python code that comes with a model, if transformers can't load it otherwise")
    judge: JudgeConfig = JudgeConfig()
    champion_endpoint: OptionalEndpointName = Field(
        "", description="the endpoint whose live model is the champion; empty: the endpoint that is deployed to"
    )
    environment: str = Field(
        "azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/105", description="curated environment of the scoring jobs"
    )


class Rule(Table):
    """A gate rule. Field names follow the MetricThreshold classes of MLflow and TFMA where they have an equivalent."""

    # Strict, so that `critical = "no"` is an error. Lenient parsing would turn the rule off.
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), strict=True)

    enabled: bool = Field(True, description="`false` drops the rule, e.g. for one target")
    metric: str = Field(
        description="`SUITE.METRIC`, `SUITE.KIND.METRIC` for one kind of its rows, or `SUITE.*.METRIC` for each kind separately; "
        "[gate.md](gate.md#what-is-measured) lists the metrics"
    )
    direction: Literal["lower", "higher"] = Field(description="whether lower or higher values are better")
    baseline: Literal["champion", "anchor", "base", "none"] = Field(
        "none",
        description="what the candidate is compared with. `champion`: the model that the endpoint serves; `anchor`: the best model that it "
        "has served, so that small losses can't accumulate; on a first run, the base model replaces both",
    )
    margin: float = Field(0.0, allow_inf_nan=False, description="> 0 tolerates being that much worse, < 0 requires being that much better")
    margin_kind: Literal["relative", "absolute"] = Field(
        "relative", description="whether the margin is relative to the baseline's value, or in the metric's unit"
    )
    test: Literal["paired_bootstrap", "wilcoxon", "mcnemar", "tango", "tail", "none"] = Field(
        "none",
        description="`paired_bootstrap` tests the metric itself; `wilcoxon` the typical row (the value over all rows must agree); "
        "`mcnemar` rows that are right or wrong, with margin 0; `tango` shares of such rows, with an absolute margin, even if hardly any "
        "row differs; `tail` the share of rows that are worse by more than an absolute margin; `none` compares two numbers",
    )
    max_share: float | None = Field(
        None,
        gt=0,
        le=0.2,
        allow_inf_nan=False,
        description='for `test = "tail"`: the largest share of rows that may be worse by more than the margin',
    )
    confidence: float = Field(0.95, ge=0.8, lt=1, description="confidence of the two-sided interval")
    min_rows: int = Field(1, ge=1, description="HOLD with fewer rows than this (of each kind, for `*`)")
    critical: bool = Field(True, description="whether the rule affects the verdict; otherwise it is only reported")
    max_gain: float | None = Field(
        None,
        gt=0,
        allow_inf_nan=False,
        description="HOLD if the candidate is better by more than this, which is suspicious; `inf`: no limit",
    )
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
    """Conditions for promoting a candidate."""

    rules: dict[RuleName, Rule] = Field(default_factory=dict, description="name → rule")
    correct_retries: bool = Field(
        True,
        description="require more confidence for each further candidate on the same target suite against the same champion, so that any "
        "number of tries has at most twice the error rate of one; `false` if a verdict has no lasting effect",
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
    """The endpoint that serves the model. Probe and request settings are the tutorial's."""

    name: EndpointName = "ultrachat-completion"
    workspace_suffix: bool = Field(
        False, description="append six digits derived from the workspace, because names are unique in a region across all of Azure's users"
    )
    ephemeral: bool = Field(False, description="the endpoint belongs to one run: teardown deletes it with all of its deployments")
    expires_after_hours: float | None = Field(None, gt=0, description="`mlops reap --delete` may delete the endpoint after this time")
    deployment_prefix: DeploymentPrefix = Field("d", description="beginning of the deployments' names")
    environment: str = Field(
        "", description="id of the serving image in a registry; empty: [Azure's default for MLflow models](serving.md)"
    )
    allow_unknown_image: bool = Field(False, description="deploy even if it is unknown whether the serving image can load the model")
    public_network_access: Literal["enabled", "disabled"] = Field(
        "enabled",
        description="`disabled`: only [the workspace's private endpoint](azure.md#if-your-workspace-is-private) can reach it; an existing "
        "endpoint must have the same setting",
    )
    instance_type: str = Field("Standard_NC24ads_A100_v4", description="VM size of the instances")
    instance_count: int = Field(1, ge=1, description="instances of a deployment")
    price_per_hour_usd: float | None = Field(None, ge=0, description="price of one instance, for cost estimates")
    probe_initial_delay_s: int = Field(600, ge=0, description="time until Azure first checks the health of a new deployment")
    request_timeout_ms: int = Field(90_000, ge=1, le=180_000)
    deploy_timeout_minutes: float = Field(60.0, gt=0)
    collect_requests: bool = Field(
        False,
        description="let Azure write each request to a new deployment to the workspace's storage, for `promotion.live_requests`. The "
        "requests are personal data, and you are responsible for deleting them",
    )
    keep_previous: bool = Field(True, description="keep the old deployment at 0 %, ready for rollback; it costs as much as a live one")
    keep_previous_hours: float = Field(24.0, gt=0, description="`mlops reap --delete` may delete the old deployment after this time")

    def client_timeout_s(self, at_least_ms: float = 0) -> float:
        """Return how long a client waits for an answer, in seconds: longer than the endpoint does, and than ``at_least_ms``."""
        return max(at_least_ms, self.request_timeout_ms) / 1000 + 10


class BudgetConfig(Table):
    """The most that a run may cost, by the prices in this file. Checked before anything is paid for."""

    training_usd: float | None = Field(None, ge=0, allow_inf_nan=False, description="limit for one training; unset: no limit")
    endpoint_usd_per_hour: float | None = Field(
        None, ge=0, allow_inf_nan=False, description="limit for all instances of one deployment; unset: no limit"
    )


class SmokeConfig(Table):
    """The test that the new deployment must pass before it takes traffic."""

    requests: int = Field(10, ge=1, description="number of requests")
    max_failures: int = Field(0, ge=0, description="number of requests that may fail")
    max_latency_ms: float = Field(60_000, gt=0, description="limit for the 95th percentile")
    max_new_tokens: int = Field(64, ge=1, description="tokens per answer")


class PromotionConfig(Table):
    """Conditions for the new deployment to take traffic, besides the gate's verdict and the smoke test."""

    require_review: bool = Field(
        False, description="stop unless the job runs in a GitHub environment with required reviewers, as GitHub reports them"
    )
    steps: tuple[Annotated[int, Field(ge=1, le=100)], ...] = Field(
        (5, 25, 100),
        description="percentages of the traffic that the new deployment takes in turn, after it was compared with the old one; `[100]` "
        "skips the comparison, as do first deployments and ephemeral endpoints",
    )
    mirror: int = Field(
        0,
        ge=0,
        le=50,
        description="percentage of live requests that Azure also copies to the new deployment while it is compared at 0 % traffic, so that "
        "it is compared under load; the answers to the copies are discarded",
    )
    live_requests: int = Field(
        0,
        ge=0,
        le=1000,
        description="number of the newest requests collected from the old deployment (`endpoint.collect_requests`) that both deployments"
        " answer again before the new one takes traffic; they can stop a promotion, but not make it pass. 0: none",
    )
    margin: float = Field(
        0.05, gt=0, lt=1, description="the comparison must show that the new deployment is not worse by this much, as a fraction"
    )
    latency_factor: float = Field(
        2.0,
        ge=1,
        description="an answer is in time up to this multiple of the 95th percentile of the old deployment's earlier answers (and up to"
        " `smoke.max_latency_ms`)",
    )
    latency_floor_ms: float = Field(
        2_000, ge=0, description="an answer within this time is always in time, however fast the old deployment is"
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
    tags: Tags = Field(default_factory=dict, description="Tags for everything that the pipeline creates.")


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
        return config_source.locate(self.file, config_source.sections(self.target), self.overrides, key)
