"""The results of the stages in ``run/``: one frozen, versioned record per finished stage.

A stage names its inputs by type (``run.read(Trained)``). ``inputs`` contains the digests of the records that a record was made from, so
that an outdated one is recognized (see :mod:`mlops.core.run`). Units are in the field names: ``_s`` seconds, ``_ms`` milliseconds,
``_hours``, ``_usd``; fractions lie in [0, 1]; traffic is in percent.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from mlops.core.errors import RecordError
from mlops.core.judgement import Judgement, Override, Probe, Verdict
from mlops.core.record import Frozen, Record

if TYPE_CHECKING:
    import pandas as pd

__all__ = [
    "RECORDS",
    "CanaryEvidence",
    "CanaryMeasure",
    "Deployed",
    "Evaluated",
    "Finding",
    "Judged",
    "ModelScores",
    "Parameter",
    "Prepared",
    "Promoted",
    "Registered",
    "Sample",
    "Smoked",
    "SplitStatistics",
    "Suite",
    "TornDown",
    "Trained",
    "Validated",
]


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

    def path(self, split: str, directory: Path) -> Path:
        """Return the file of a split in the run directory.

        Raises:
            RecordError: there is none.
        """
        if split not in self.files:
            raise RecordError(f"The prepared data has no split {split}.", "run `mlops prepare` with a data set that has one")
        return directory / self.files[split].path

    def frame(self, split: str, directory: Path = Path("run")) -> pd.DataFrame:
        """Return a split as a DataFrame with the columns prompt, messages and prompt_id, as the tutorial looks at it.

        Args:
            split: e.g. ``train_sft``.
            directory: the run directory.
        """
        import pandas as pd

        with self.path(split, directory).open("rb") as file:
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
