"""The table of metrics: one row per metric that an evaluation computes.

Everything that is specific to one metric is in its row. The gate, the self-test, the reports and the documentation read this table, and a
test checks that mlops/remote computes exactly these metrics. docs/add-a-metric.md explains how to add one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

__all__ = ["COLUMNS", "METRICS", "RETENTION", "SUITES", "TARGET", "USELESS", "Column", "Floats", "MetricDefinition"]

Floats = npt.NDArray[np.float64]

TARGET, RETENTION = "target", "retention"
SUITES = (TARGET, RETENTION)


@dataclass(frozen=True)
class Column:
    """A numeric field of the rows in scores.jsonl."""

    name: str
    counts_tokens: bool = False
    """Whether it is an integer between 0 and the row's tokens."""
    nullable: bool = False
    """Whether it may be null. A row with null has no valid value."""
    sampled: bool = False
    """Whether it is measured for a sample of the rows only. A row without it doesn't count."""
    of_input: bool = False
    """Whether it describes the row and not its answer, so that a row without tokens also counts."""


@dataclass(frozen=True)
class MetricDefinition:
    """One row of the table. A metric with a column is a ratio of sums over rows; the others can't be compared row by row."""

    name: str
    description: str
    unit: str
    better: Literal["lower", "higher"] | None
    """The direction in which models get better; None if the metric doesn't rank models."""
    column: Column | None = None
    """The field that it is computed from."""
    per_token: bool = False
    """Whether a row's weight is its number of tokens; otherwise every row has the same weight."""
    fraction: bool = False
    """Whether its value is between 0 and 1."""
    smallest: float = 0.0
    """The lowest possible value."""
    largest: float = 20.0
    """A value that no usable model exceeds, in the metric's unit. A bound beyond it would mean nothing."""
    largest_margin: float | None = None
    """The largest plausible absolute margin, in the metric's unit; None: that of a row."""
    binary: bool = False
    """Whether each row is right (1) or wrong (0)."""
    zero_for_base: bool = False
    """Whether it is 0 for the base model by definition."""
    transform: tuple[str, Callable[[float], float]] | None = None
    """Another metric, and the function that turns it into this one."""
    count: Callable[[Floats], float] | None = None
    """Tokens of the rows → this metric, if it is a count."""
    by_judge: bool = False
    """Whether a judge model computes it, so that most evaluations don't have it."""
    suites: tuple[str, ...] = SUITES
    headline: tuple[str, ...] = ()
    """Suites for which reports show it first."""
    by_kind: bool = False
    """Whether reports show it for each kind of the retention suite."""

    @property
    def range(self) -> tuple[float, float]:
        """The bounds within which a floor or ceiling is meaningful."""
        return (0.0, 1.0) if self.fraction else (self.smallest, self.largest)

    @property
    def max_margin(self) -> float:
        """The largest plausible absolute margin of the metric."""
        if self.largest_margin is not None:
            return self.largest_margin
        return 0.25 if self.fraction else self.max_row_margin

    @property
    def max_row_margin(self) -> float:
        """The largest absolute margin of a single row, which may vary more than the metric."""
        return 0.5 if self.fraction else self.largest / 10


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf


def _of_answers(name: str, description: str, headline: tuple[str, ...] = ()) -> MetricDefinition:
    """Return the definition of a share of the generated answers that should be small."""
    return MetricDefinition(
        name, description, "fraction of answers", "lower", column=Column(name, nullable=True, sampled=True), fraction=True, binary=True,
        suites=(TARGET,), headline=headline,
    )  # fmt: skip


METRICS = {
    metric.name: metric
    for metric in (
        MetricDefinition(
            "nll", "negative log-likelihood", "nats per token", "lower",
            column=Column("nll"), per_token=True, headline=SUITES, by_kind=True, largest_margin=0.5,
        ),
        MetricDefinition(
            "perplexity", "e to the power of `nll`", "", "lower", transform=("nll", _exp), headline=(TARGET,), largest=1e6,
            largest_margin=10.0,
        ),
        MetricDefinition(
            "kl_base", "KL(base ‖ model): drift that the loss does not show", "nats per token", "lower", column=Column("kl", nullable=True),
            per_token=True, zero_for_base=True, suites=(RETENTION,), headline=(RETENTION,), by_kind=True, largest_margin=0.5,
        ),
        MetricDefinition(
            "token_accuracy", "share of tokens that are the model's first choice", "fraction of tokens", "higher",
            column=Column("greedy_tokens", counts_tokens=True), per_token=True, fraction=True,
        ),
        MetricDefinition(
            "passed", "share of generated answers that pass their row's checks", "fraction of answers", "higher",
            column=Column("passed", nullable=True, sampled=True), fraction=True, binary=True, suites=(RETENTION,), headline=(RETENTION,),
            by_kind=True,
        ),
        MetricDefinition(
            "rouge_l", "ROUGE-L of the generated answers to a sample of rows", "0 to 1, mean over rows", "higher",
            column=Column("rouge_l", nullable=True, sampled=True), fraction=True, suites=(TARGET,), headline=(TARGET,),
        ),
        MetricDefinition(
            "overlong", "share of rows that are longer than `evaluation.max_tokens`, so that their end is not scored", "fraction of rows",
            "lower", column=Column("overlong", nullable=True, of_input=True), fraction=True, binary=True, headline=(TARGET,),
        ),
        _of_answers("empty", "share of generated answers without a letter or digit"),
        _of_answers("truncated", "share of generated answers that are cut off at the length limit", headline=(TARGET,)),
        _of_answers("looping", "share of generated answers that repeat themselves", headline=(TARGET,)),
        _of_answers("other_language", "share of generated answers in another language or script than the question"),
        _of_answers("refused", "share of generated answers that refuse a harmless question (in English, German, French or Spanish)"),
        MetricDefinition(
            "length_ratio", "number of words in the generated answers, as a multiple of the reference's", "mean over rows", None,
            column=Column("length_ratio", nullable=True, sampled=True), largest=10.0, suites=(TARGET,),
        ),
        MetricDefinition(
            "judge_win", "how often a judge model prefers the answer to the base model's; a tie counts half",
            "0 to 1, mean over rows", "higher",
            column=Column("judge_win", nullable=True, sampled=True), fraction=True, by_judge=True, suites=(TARGET,),
        ),
        MetricDefinition("rows", "number of rows", "rows", None, count=lambda tokens: float(len(tokens)), largest=1e9),
        MetricDefinition("tokens", "number of assistant tokens", "tokens", None, count=lambda tokens: float(tokens.sum()), largest=1e12),
    )
}  # fmt: skip
"""Name → definition, in the order in which reports show them."""

COLUMNS = {metric.column.name: metric.column for metric in METRICS.values() if metric.column is not None}
"""Name → column, of all columns that a metric is computed from."""

USELESS = {
    metric.column.name: (metric.better, metric.fraction and not metric.column.counts_tokens)
    for metric in METRICS.values() if metric.column is not None
}  # fmt: skip
"""Name of a column → the direction in which models get better, and whether its values lie between 0 and 1."""
