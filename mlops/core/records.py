"""The results of the stages in ``run/``: one frozen, versioned record per finished stage.

A stage names its inputs by type (``run.read(Trained)``). ``inputs`` contains the digests of the records that a record was made from, so
that an outdated one is recognized (see :mod:`mlops.core.run`). Units are in the field names: ``_s`` seconds, ``_ms`` milliseconds,
``_hours``, ``_usd``; fractions lie in [0, 1]; traffic is in percent.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "RECORDS",
    "CanaryEvidence",
    "CanaryMeasure",
    "Deployed",
    "Evaluated",
    "FileDigest",
    "Finding",
    "Interval",
    "Judged",
    "Judgement",
    "ModelScores",
    "Outcome",
    "Override",
    "Parameter",
    "Prepared",
    "Probe",
    "Promoted",
    "Record",
    "Registered",
    "Sample",
    "Smoked",
    "SplitStatistics",
    "Suite",
    "TornDown",
    "Trained",
    "Validated",
    "Verdict",
]


class Frozen(BaseModel):
    """An immutable value without unknown fields. NaN and infinity survive a round trip through JSON."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings", protected_namespaces=())


class Record(Frozen):
    """The base of all records."""

    stage: ClassVar[str]
    """The command that writes it; its file is ``run/{stage}.json``."""
    volatile: ClassVar[frozenset[str]] = frozenset({"created_at", "reused"})
    """Fields that may differ between two equal results."""
    made_from: ClassVar[tuple[str, ...]] = ()
    """Stages that ``inputs`` must contain: without their digests a record can't be checked, so it is refused."""

    schema_version: int = Field(2, ge=2, le=2)
    """Increased, in a record's own class, when older records can't be read as newer ones. Any other version is refused."""
    created_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    inputs: dict[str, str] = Field(default_factory=dict, description="stage → digest of the record this one was made from")
    files: dict[str, FileDigest] = Field(default_factory=dict, description="name → file in the run directory")

    def digest(self) -> str:
        """Return the sha256 over everything but the volatile fields, at any depth: equal results have equal digests."""
        content = _without(self.model_dump(mode="json"), self.volatile)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _without(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(part, names) for key, part in value.items() if key not in names}
    return [_without(part, names) for part in value] if isinstance(value, list) else value


class FileDigest(Frozen):
    """A file under ``run/`` and the digest of its content."""

    path: str = Field(description="relative to run/")
    sha256: str
    rows: int | None = None


class Prepared(Record):
    """The data, as JSON Lines under ``run/data/``.

    ``files`` has an entry per split; ``origin.SPLIT``, the place of each of its rows in the source; and ``quarantine``, if rows were
    left out.
    """

    stage: ClassVar[str] = "prepare"
    volatile: ClassVar[frozenset[str]] = Record.volatile | {"source_stats"}
    dataset: str
    revision: str
    percent: float = Field(description="percentage of each split, in (0, 100]")
    seed: int
    fingerprint: str = Field(description="sha256 over the split digests")
    settings: str = Field("", description="sha256 over every setting that affects the result")
    source: dict[str, str] = Field(
        default_factory=dict, description="file → sha256; empty for the hub, where the revision identifies the content"
    )
    source_stats: dict[str, tuple[int, int]] = Field(default_factory=dict, description="file → size and mtime_ns when it was last read")
    dropped: dict[str, dict[str, int]] = Field(default_factory=dict, description="split → reason → number of dropped rows")
    formats: dict[str, str] = Field(default_factory=dict, description="split → layout of its rows in the source")
    notes: dict[str, int] = Field(default_factory=dict, description="what the layout ignored → number of rows")

    def frame(self, split: str, directory: Path = Path("run")) -> pd.DataFrame:
        """Return a split as a DataFrame with the columns prompt, messages and prompt_id, as the tutorial looks at it.

        Args:
            split: e.g. ``train_sft``.
            directory: the run directory.
        """
        import pandas as pd

        with (directory / self.files[split].path).open("rb") as file:
            return pd.DataFrame.from_records([json.loads(line) for line in file], columns=["prompt", "messages", "prompt_id"])


class Finding(Frozen):
    """A problem that validation found."""

    rule: str
    severity: Literal["error", "warning"]
    where: str = Field(description="file:line, or the setting or resource")
    message: str


class Suite(Frozen):
    """A frozen evaluation suite."""

    name: str
    path: str = Field(description="relative to run/")
    digest: str = Field(description="sha256 of the file")
    rows: int


class SplitStatistics(Frozen):
    """Statistics of a split."""

    rows: int
    sampled: int = Field(description="number of rows that were examined")
    prompt_words: dict[int, int] = Field(description="lower end of a bin, in words → number of prompts; bins double in size")
    answer_words: dict[int, int] = Field(description="lower end of a bin, in words → number of answers")
    messages: dict[int, int] = Field(description="number of messages → number of conversations")


class Validated(Record):
    """Data, configuration and workspace are fit for training."""

    stage: ClassVar[str] = "validate"
    made_from: ClassVar[tuple[str, ...]] = ("prepare",)
    volatile: ClassVar[frozenset[str]] = Record.volatile | {"quota_note"}
    data_fingerprint: str
    rows_checked: dict[str, int]
    statistics: dict[str, SplitStatistics] = Field(default_factory=dict, description="split → its statistics")
    findings: tuple[Finding, ...] = ()
    suites: dict[str, Suite] = Field(description="'target' and 'retention'")
    base_model: str = Field(description="azureml://registries/…/models/…/versions/…")
    component: str = Field(description="azureml://registries/…/components/…/versions/…")
    compute: str
    compute_size: str
    gpus_per_node: int = Field(description="0 if the VM size is unknown")
    endpoint_sku: str
    cost_estimate_usd: float | None = Field(description="None if no price is configured for the VM size")
    cost_note: str
    quota_note: str = Field("", description="cores that the run needs at its peak, per quota")


class Parameter(Frozen):
    """A component input and where its value comes from."""

    name: str
    value: str
    source: Literal["default", "model_specific_defaults", "pipeline.toml", "command line", "pipeline"]


class Trained(Record):
    """A completed fine-tuning job."""

    stage: ClassVar[str] = "train"
    made_from: ClassVar[tuple[str, ...]] = ("prepare", "validate")
    volatile: ClassVar[frozenset[str]] = Record.volatile | {"train_s", "commit"}
    run_key: str = Field(description="sha256 over everything that affects the result; also a tag of the job")
    job: str
    identity: str = Field("", description="when Azure created the job, which distinguishes it from others of the same name")
    display_name: str
    experiment: str
    status: Literal["Completed"]
    studio_url: str
    mlflow_run_id: str
    model_output: str = Field(description="azureml://jobs/{job}/outputs/trained_model")
    base_model: str
    component: str
    data_fingerprint: str
    parameters: tuple[Parameter, ...]
    dropped_defaults: tuple[str, ...] = Field((), description="model_specific_defaults that the component doesn't have as inputs")
    commit: str = Field("", description="commit of the pipeline that started or reused this training")
    reused: bool = False
    train_s: float | None = None
    gpus: int
    gpu_hours: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict, description="last value of each metric of the job's root run")


class Sample(Frozen):
    """A question and one model's answer."""

    prompt: str
    answer: str
    reference: str = ""


class ModelScores(Frozen):
    """The scores of one model on the suites. Per-row scores are in the file named ``scores``."""

    role: Literal["candidate", "champion", "anchor", "base"]
    model: str = Field(description="full id of what was scored")
    identity: str = Field("", description="distinguishes the model from another one with the same id; empty for a registry's models")
    weights_digest: str
    job: str
    mlflow_run_id: str
    metrics: dict[str, float] = Field(description="{suite}.{metric} or {suite}.{kind}.{metric} → value; docs/gate.md lists the metrics")
    rows: dict[str, int] = Field(description="per suite")
    suite_digests: dict[str, str]
    scores: str = Field(description="name in files: JSON Lines of per-row scores")
    samples: tuple[Sample, ...] = ()
    reused: bool = False


class Evaluated(Record):
    """The scores of candidate, champion, anchor and base on the same rows, computed the same way."""

    stage: ClassVar[str] = "evaluate"
    made_from: ClassVar[tuple[str, ...]] = ("validate", "train")
    evaluation_version: str = Field(description="sha256 over the code in mlops/remote and its settings")
    models: dict[str, ModelScores] = Field(
        description="role → scores; 'champion' and 'anchor' are absent where there is none, or where it is missing"
    )
    missing: dict[str, str] = Field(default_factory=dict, description="role → why it could not be evaluated, and what to do")
    champion: str = Field("", description="full id of the model that the endpoint served, scored or missing; empty if it served nothing")
    anchor: str = Field("", description="full id of the best model so far; empty if no rule compares with it, or if it is the champion")
    judge: str = Field("", description="sha256 over the judge's settings and prompts; empty without a judge")
    tries: int = Field(
        1,
        ge=1,
        description="number of candidates of this target, including this one, that were judged on this target suite against this champion",
    )
    champion_note: str = Field("", description="why there is no champion, if there is none")
    notes: tuple[str, ...] = Field((), description="notes for readers of the comparison")


class Verdict(StrEnum):
    """The gate's verdict, with its exit code."""

    PROMOTE = "PROMOTE"
    HOLD = "HOLD"
    REJECT = "REJECT"

    @property
    def exit_code(self) -> int:
        """0, 10 or 20."""
        return {"PROMOTE": 0, "HOLD": 10, "REJECT": 20}[self.value]


class Outcome(StrEnum):
    """The outcome of one rule."""

    SHOWN = "shown"
    """It holds."""
    FAILED = "failed"
    """The rule is shown not to hold."""
    UNPROVEN = "unproven"
    """The evidence is not sufficient."""
    INVALID = "invalid"
    """There is no valid evidence: missing, NaN, infinite, or from different rows."""


class Interval(Frozen):
    """A confidence interval."""

    low: float
    high: float
    confidence: float


class Judgement(Frozen):
    """The outcome of one rule, with the numbers that it follows from."""

    rule: str = Field(description="in words")
    name: str = Field("", description="name of the rule in pipeline.toml; a rule for every kind has one judgement per kind")
    metric: str
    direction: Literal["lower", "higher"] = Field(description="whether lower or higher values are better")
    test: str = Field(description="the statistical test; 'none' compares two numbers")
    seed: int | None = Field(None, description="seed of the test's resampling")
    confidence: float | None = Field(None, description="confidence of the two-sided intervals; each side is tested at (1 − confidence) / 2")
    min_rows: int | None = Field(None, description="minimum number of rows to show anything")
    baseline: Literal["champion", "anchor", "base", "none"]
    compared_with: Literal["champion", "anchor", "base", "none"]
    critical: bool
    candidate: float | None
    reference: float | None
    difference: float | None = Field(description="candidate − baseline, in the metric's unit")
    typical_difference: float | None = Field(
        None, description="for wilcoxon: the typical row's difference (pseudo-median); nll and kl per token"
    )
    interval: Interval | None = Field(None, description="interval of the difference; for wilcoxon, of the typical difference")
    margin: float | None = Field(description="tolerated loss (> 0) or required gain (< 0), in the metric's unit")
    margin_kind: Literal["relative", "absolute"] | None = Field(None, description="None without a baseline")
    distance: float | None = Field(
        None,
        description="distance from the margin, > 0 on the good side; a fraction of the baseline's value if the margin is relative, "
        "otherwise in the metric's unit; for tail, the distance from max_share",
    )
    distance_interval: Interval | None = Field(
        None,
        description="interval of the distance, with the baseline's uncertainty: entirely above 0 shows the rule, entirely below 0 fails it",
    )
    p_value: float | None = Field(None, description="one-sided p-value of 'the rule holds': small if the rule is shown to fail")
    p_holm: float | None = Field(None, description="p-value after Holm's correction over all critical rules that have one")
    floor: float | None = Field(None, description="inclusive lower bound of the candidate's value")
    ceiling: float | None = Field(None, description="inclusive upper bound of the candidate's value")
    max_gain: float | None = Field(None, description="gains above this are suspicious, in the unit of the distance")
    max_share: float | None = Field(None, description="for tail: the largest share of rows that may be worse by more than the margin")
    n: int | None = Field(description="number of rows that were compared")
    mde: float | None = Field(None, description="minimum detectable effect at 80 % power, in the metric's unit")
    rows_needed: int | None = Field(
        None, description="for an unproven rule: number of rows that would settle it at 80 % power if the distance stays the same"
    )
    outcome: Outcome
    reason: str

    @property
    def title(self) -> str:
        """The rule's name and what it requires."""
        return f"{self.name}: {self.rule}" if self.name else self.rule


class Probe(Frozen):
    """One mutation of the evidence in the self-test, and whether the gate detected it."""

    name: str
    mutation: str = Field(description="how the evidence was changed")
    expected: str
    actual: str
    result: Literal["detected", "missed", "not applicable"]


class Override(Frozen):
    """An override of a HOLD: who, when and why. A REJECT can't be overridden."""

    reason: str = Field(min_length=10)
    actor: str = Field(min_length=1, description="who requested the override")
    approvers: tuple[str, ...] = Field((), description="who approved the job for the environment; empty outside GitHub")
    environment: str = Field(
        "", description="the GitHub environment; empty outside GitHub, where only a HOLD of an ephemeral target can be overridden"
    )
    workflow_run: str = Field("", description="URL")
    overridden_at: datetime = Field(default_factory=lambda: datetime.now(UTC))

    @model_validator(mode="after")
    def _approved(self) -> Override:
        if bool(self.environment) != bool(self.approvers):
            raise ValueError("an override in an environment has approvers, and one outside has none")
        return self


class Judged(Record):
    """The gate's decision."""

    stage: ClassVar[str] = "gate"
    made_from: ClassVar[tuple[str, ...]] = ("evaluate", "validate", "train")
    volatile: ClassVar[frozenset[str]] = Record.volatile | {"overridden_at"}
    schema_version: int = Field(4, ge=4, le=4)
    target: str = Field(description="the target whose rules decided; the verdict isn't valid for any other target")
    verdict: Verdict
    reasons: tuple[str, ...]
    judgements: tuple[Judgement, ...]
    rules_digest: str = Field("", description="sha256 over the rules")
    settings_digest: str = Field("", description="sha256 over all settings that affect the verdict: [gate], [evaluation], [data]")
    suite_digests: dict[str, str] = Field(default_factory=dict, description="suite → sha256 of the frozen file")
    evaluation_version: str = Field("", description="version of the scores: sha256 over the code in mlops/remote and its settings")
    candidate_job: str
    candidate_model: str
    first_run: bool
    notes: tuple[str, ...] = Field((), description="notes about the models, e.g. that the champion could not be evaluated")
    self_test: tuple[Probe, ...] = ()
    override: Override | None = None
    override_refused: str = Field("", description="why a requested override was refused")

    @model_validator(mode="after")
    def _only_a_hold_is_overridden(self) -> Judged:
        if self.override is not None and self.verdict is not Verdict.HOLD:
            raise ValueError(f"{self.verdict} has no override")
        return self

    @property
    def is_admitted(self) -> bool:
        """Whether the candidate may be registered and deployed: PROMOTE, or an overridden HOLD."""
        return self.verdict is Verdict.PROMOTE or (self.verdict is Verdict.HOLD and self.override is not None)

    @property
    def exit_code(self) -> int:
        """0 if the candidate is admitted, otherwise the verdict's."""
        return 0 if self.is_admitted else self.verdict.exit_code


class Registered(Record):
    """A model in the workspace's registry."""

    stage: ClassVar[str] = "register"
    made_from: ClassVar[tuple[str, ...]] = ("train", "gate")
    name: str
    version: str
    model: str = Field(description="full ARM id")
    identity: str = Field("", description="when this version was created, which distinguishes it from others of the same name and version")
    tags: dict[str, str]
    lineage: str = Field(
        "", description="azureml:// URI of a JSON file with what the model was made from, its metrics, and the gate's judgements"
    )
    reused: bool = False


class Deployed(Record):
    """A healthy deployment that has no traffic yet."""

    stage: ClassVar[str] = "deploy"
    made_from: ClassVar[tuple[str, ...]] = ("gate", "register")
    endpoint: str
    endpoint_identity: str = Field("", description="distinguishes the endpoint from others of the same name")
    endpoint_created: bool
    scoring_uri: str
    deployment: str
    identity: str = Field("", description="distinguishes the deployment from others of the same name")
    creator: str = Field("", description="who created the deployment, according to Azure")
    model: str
    sku: str
    instances: int
    traffic_before: dict[str, int]
    traffic_now: dict[str, int]
    reused: bool = False


class Smoked(Record):
    """The result of a smoke test that the new deployment has passed."""

    stage: ClassVar[str] = "smoke-test"
    made_from: ClassVar[tuple[str, ...]] = ("prepare", "deploy")
    volatile: ClassVar[frozenset[str]] = Record.volatile | {"latency_p50_ms", "latency_p95_ms"}
    settings: str = Field("", description="sha256 over every setting that affects whether the test passes")
    endpoint: str
    deployment: str
    requests: int
    failures: int
    answer_shapes: tuple[str, ...] = Field((), description="shapes of the answers, which depend on the serving image; see cloud/answers.py")
    latency_p50_ms: float
    latency_p95_ms: float
    samples: tuple[Sample, ...]


class CanaryMeasure(Frozen):
    """One measure of both deployments' answers, compared."""

    name: str
    pairs: int
    difference: float = Field(description="mean over the pairs, new − old; fractions")
    finding: Literal["worse", "not worse", "open"]


class CanaryEvidence(Frozen):
    """The comparison of the new deployment with the old one, by their answers to the same requests."""

    margin: float = Field(description="the difference that had to be ruled out, as a fraction")
    pairs: int
    measures: tuple[CanaryMeasure, ...]
    latency_p95_old_ms: float
    latency_p95_new_ms: float
    latency_limit_ms: float = Field(0.0, description="final limit within which an answer was in time")
    live_requested: int = Field(0, description="number of users' requests that both deployments should answer (promotion.live_requests)")
    live: int = Field(0, description="number of users' requests that they answered")
    live_digest: str = Field("", description="sha256 of these requests, which aren't stored anywhere; empty without any")
    mirrored: int = Field(0, description="percentage of the live requests that were copied to the new deployment before it had traffic")


class Promoted(Record):
    """A promotion: the new deployment has the traffic."""

    stage: ClassVar[str] = "promote"
    made_from: ClassVar[tuple[str, ...]] = ("gate", "deploy", "smoke-test")
    volatile: ClassVar[frozenset[str]] = Record.volatile | {"canary"}
    endpoint: str
    deployment: str
    model: str
    steps: tuple[dict[str, int], ...] = Field(description="traffic after each step")
    canary: CanaryEvidence | None = Field(None, description="None if there was no old deployment to compare with, or no steps")
    traffic_now: dict[str, int]
    previous: str | None
    previous_kept: bool


class TornDown(Record):
    """A teardown: what was deleted, and what was left alone."""

    stage: ClassVar[str] = "teardown"
    deleted: tuple[str, ...]
    refused: dict[str, str] = Field(description="resource → why it was left alone")
    remaining: tuple[str, ...]


RECORDS: tuple[type[Record], ...] = (
    Prepared, Validated, Trained, Evaluated, Judged, Registered, Deployed, Smoked, Promoted, TornDown,
)  # fmt: skip
"""The record classes, in the order of the stages."""


def describe(record: Record) -> dict[str, Any]:
    """Return the record as plain data for display."""
    return record.model_dump(mode="json")
