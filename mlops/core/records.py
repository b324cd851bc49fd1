"""What each stage leaves behind in ``run/``: one frozen, versioned record per finished stage.

A stage names its inputs by type (``run.read(Trained)``); what a record was made from is kept by fingerprint in ``inputs``, so a
record that no longer fits its inputs is noticed (see :mod:`mlops.core.run`). Units are in the field names: ``_s`` seconds,
``_ms`` milliseconds, ``_hours``, ``_usd``; fractions lie in [0, 1]; traffic is in percent.
"""

from __future__ import annotations

import hashlib
import json
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "RECORDS",
    "Deployed",
    "Evaluated",
    "FileDigest",
    "Finding",
    "Interval",
    "Judged",
    "Judgement",
    "ModelScores",
    "Outcome",
    "Parameter",
    "Prepared",
    "Promoted",
    "Record",
    "Registered",
    "Sample",
    "Smoked",
    "Suite",
    "TornDown",
    "Trained",
    "Validated",
    "Verdict",
]


class Frozen(BaseModel):
    """A value: immutable, and nothing in it that it doesn't know. NaN and infinity survive the trip to JSON and back."""

    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings", protected_namespaces=())


class Record(Frozen):
    """What every record has."""

    stage: ClassVar[str]
    """The command that makes it; its file is ``run/{stage}.json``."""
    volatile: ClassVar[frozenset[str]] = frozenset({"made_at", "reused"})
    """Fields that may differ between two equal results."""

    schema_version: Literal[1] = 1
    made_at: datetime = Field(default_factory=lambda: datetime.now(UTC))
    inputs: dict[str, str] = Field(default_factory=dict, description="stage → digest of the record this one was made from")
    files: dict[str, FileDigest] = Field(default_factory=dict, description="name → file beside the record")

    def digest(self) -> str:
        """sha256 over everything but the volatile fields, at any depth: equal results have equal digests."""
        content = _without(self.model_dump(mode="json"), self.volatile)
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _without(value: Any, names: frozenset[str]) -> Any:
    if isinstance(value, dict):
        return {key: _without(part, names) for key, part in value.items() if key not in names}
    return [_without(part, names) for part in value] if isinstance(value, list) else value


class FileDigest(Frozen):
    """A file under ``run/`` and what was in it."""

    path: str = Field(description="relative to run/")
    sha256: str
    rows: int | None = None


class Prepared(Record):
    """The data, as JSON Lines under ``run/data/``. ``files`` has one entry per split."""

    stage: ClassVar[str] = "prepare"
    volatile: ClassVar[frozenset[str]] = Record.volatile | {"source_seen"}
    dataset: str
    revision: str
    percent: float = Field(description="of each split that was kept, in (0, 100]")
    seed: int
    fingerprint: str = Field(description="sha256 over the split digests")
    settings: str = Field("", description="sha256 over every setting that decides what is kept")
    source: dict[str, str] = Field(default_factory=dict, description="file → sha256; empty for the hub, whose revision says it")
    source_seen: dict[str, tuple[int, int]] = Field(default_factory=dict, description="file → size and mtime_ns when it was last read")
    dropped: dict[str, dict[str, int]] = Field(default_factory=dict, description="split → reason → rows that were left out")


class Finding(Frozen):
    """One thing that validation found."""

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


class Validated(Record):
    """Data, configuration and workspace hold what training needs."""

    stage: ClassVar[str] = "validate"
    data_fingerprint: str
    rows_checked: dict[str, int]
    findings: tuple[Finding, ...] = ()
    suites: dict[str, Suite] = Field(description="'target' and 'retention'")
    base_model: str = Field(description="azureml://registries/…/models/…/versions/…")
    component: str = Field(description="azureml://registries/…/components/…/versions/…")
    compute: str
    compute_size: str
    gpus_per_node: int
    endpoint_sku: str
    cost_estimate_usd: float | None = Field(description="None where no price is configured for the SKU")
    cost_note: str


class Parameter(Frozen):
    """A component input and where its value came from."""

    name: str
    value: str
    source: Literal["default", "model_specific_defaults", "pipeline.toml", "command line", "pipeline"]


class Trained(Record):
    """A completed fine-tuning job."""

    stage: ClassVar[str] = "train"
    volatile: ClassVar[frozenset[str]] = Record.volatile | {"train_s"}
    run_key: str = Field(description="sha256 over everything that decides the result; a tag of the job")
    job: str
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
    dropped_defaults: tuple[str, ...] = Field((), description="model_specific_defaults that the component doesn't take")
    reused: bool = False
    train_s: float | None = None
    gpus: int
    gpu_hours: float | None = None
    metrics: dict[str, float] = Field(default_factory=dict, description="last value of each metric on the job's root run")


class Sample(Frozen):
    """A question and one model's answer."""

    prompt: str
    answer: str
    reference: str = ""


class ModelScores(Frozen):
    """How one model did on the suites. Per-row scores are in the file named ``scores``."""

    role: Literal["candidate", "champion", "base"]
    model: str = Field(description="full id of what was scored")
    weights_digest: str
    job: str
    mlflow_run_id: str
    metrics: dict[str, float] = Field(description="target.nll, target.perplexity, retention.nll, retention.kl_base, …")
    rows: dict[str, int] = Field(description="per suite")
    suite_digests: dict[str, str]
    scores: str = Field(description="name in files: JSON Lines of per-row scores")
    samples: tuple[Sample, ...] = ()
    reused: bool = False


class Evaluated(Record):
    """Candidate, champion and base, scored alike on the same rows."""

    stage: ClassVar[str] = "evaluate"
    evaluation_version: str = Field(description="sha256 over the code in mlops/remote and its settings")
    models: dict[str, ModelScores] = Field(description="role → scores; 'champion' is absent on a first run")
    champion_note: str = Field("", description="why there is no champion, where there is none")


class Verdict(StrEnum):
    """What the gate says, with its exit code."""

    PROMOTE = "PROMOTE"
    HOLD = "HOLD"
    REJECT = "REJECT"

    @property
    def exit_code(self) -> int:
        """0, 10 or 20."""
        return {"PROMOTE": 0, "HOLD": 10, "REJECT": 20}[self.value]


class Outcome(StrEnum):
    """What one rule says."""

    SHOWN = "shown"
    """It holds."""
    FAILED = "failed"
    """It is shown not to hold."""
    UNPROVEN = "unproven"
    """The evidence does not reach."""
    INVALID = "invalid"
    """There is no valid evidence: missing, NaN, infinite, or from different rows."""


class Interval(Frozen):
    """A confidence interval."""

    low: float
    high: float
    confidence: float


class Judgement(Frozen):
    """One rule's answer, with the numbers it follows from."""

    rule: str
    metric: str
    direction: Literal["lower", "higher"] = Field(description="which is better")
    test: str = Field(description="how it was answered; 'none' compares two numbers")
    seed: int | None = Field(None, description="of the test's resampling")
    baseline: Literal["champion", "base", "none"]
    answered_against: Literal["champion", "base", "none"]
    critical: bool
    candidate: float | None
    reference: float | None
    difference: float | None = Field(description="candidate − baseline, in the metric's unit")
    interval: Interval | None = None
    margin: float | None = Field(description="tolerated (> 0) or demanded (< 0), in the metric's unit")
    n: int | None = Field(description="rows that it was answered on")
    mde: float | None = Field(None, description="minimum detectable effect at 80 % power")
    outcome: Outcome
    reason: str


class Judged(Record):
    """The gate's decision."""

    stage: ClassVar[str] = "gate"
    verdict: Verdict
    reasons: tuple[str, ...]
    judgements: tuple[Judgement, ...]
    candidate_job: str
    candidate_model: str
    first_run: bool


class Registered(Record):
    """A model in the workspace's registry."""

    stage: ClassVar[str] = "register"
    name: str
    version: str
    model: str = Field(description="full ARM id")
    tags: dict[str, str]
    reused: bool = False


class Deployed(Record):
    """A healthy deployment that takes no traffic yet."""

    stage: ClassVar[str] = "deploy"
    endpoint: str
    endpoint_created: bool
    scoring_uri: str
    deployment: str
    model: str
    sku: str
    instances: int
    traffic_before: dict[str, int]
    traffic_now: dict[str, int]
    reused: bool = False


class Smoked(Record):
    """The new deployment answers."""

    stage: ClassVar[str] = "smoke-test"
    volatile: ClassVar[frozenset[str]] = Record.volatile | {"latency_p50_ms", "latency_p95_ms"}
    endpoint: str
    deployment: str
    requests: int
    failures: int
    latency_p50_ms: float
    latency_p95_ms: float
    samples: tuple[Sample, ...]


class Promoted(Record):
    """Traffic is on the new deployment."""

    stage: ClassVar[str] = "promote"
    endpoint: str
    deployment: str
    model: str
    steps: tuple[dict[str, int], ...] = Field(description="traffic after each step")
    traffic_now: dict[str, int]
    previous: str | None
    previous_kept: bool


class TornDown(Record):
    """What is gone, and what is not ours to delete."""

    stage: ClassVar[str] = "teardown"
    deleted: tuple[str, ...]
    refused: dict[str, str] = Field(description="resource → why it was left alone")
    remaining: tuple[str, ...]


RECORDS: tuple[type[Record], ...] = (
    Prepared, Validated, Trained, Evaluated, Judged, Registered, Deployed, Smoked, Promoted, TornDown,
)  # fmt: skip
"""In the order they appear."""


def describe(record: Record) -> dict[str, Any]:
    """The record as plain data, for showing."""
    return record.model_dump(mode="json")
