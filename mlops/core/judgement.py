"""What the gate says: the verdict, each rule's answer with its numbers, the self-test's probes, and who overrode a HOLD."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Literal

from pydantic import Field, model_validator

from mlops.core.record import Frozen

__all__ = ["Interval", "Judgement", "Outcome", "Override", "Probe", "Verdict"]


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
