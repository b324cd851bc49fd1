"""The evidence for a verdict, as plain data: per-row scores of the candidate and of the models that it is compared with."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from mlops.core.settings import Rule
from mlops.judging.metric_table import COLUMNS, Column, Floats

__all__ = ["Evidence", "FrozenSuite", "InvalidScores", "ModelEvidence", "Reference", "Rows"]

Reference = Literal["champion", "anchor", "base", "none"]
"""The model that a rule compares the candidate with."""


class InvalidScores(ValueError):
    """A row of scores.jsonl has a field that is missing, of the wrong type, or out of range."""


@dataclass(frozen=True)
class Rows:
    """One model's scores on one suite, as columns sorted by row id, so that the order in the file doesn't matter."""

    ids: tuple[str, ...]
    kinds: tuple[str, ...]
    inputs: tuple[str, ...]
    """Digest of the token ids that the model read and was scored on."""
    texts: tuple[str, ...]
    """Digest of the row's messages, as the scorer read them; empty if the scores don't say."""
    tokens: Floats
    """Number of assistant tokens that were scored."""
    columns: Mapping[str, Floats]
    """The columns of :data:`mlops.judging.metric_table.COLUMNS`, summed over those tokens; NaN if not measured."""
    measured: Mapping[str, npt.NDArray[np.bool_]]
    """Column → whether the row has a value."""

    @functools.cached_property
    def has_duplicates(self) -> bool:
        """Whether an id occurs twice. Cached because every rule checks it."""
        return len(set(self.ids)) != len(self.ids)

    @functools.cached_property
    def is_copy(self) -> npt.NDArray[np.bool_]:
        """Which rows have the same input as an earlier one: shape [rows]. A copy adds no evidence."""
        return _find_copies(self.inputs)

    def with_column(self, name: str, values: Floats) -> Rows:
        """Return the rows with other values in a column."""
        return replace(self, columns={**self.columns, name: values})

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Rows:
        """Build columns from the rows of scores.jsonl.

        Raises:
            InvalidScores: a row is not a valid score.
        """
        ordered = sorted(rows, key=lambda row: str(row.get("id")))
        try:
            return cls(
                ids=tuple(_text(row["id"]) for row in ordered),
                kinds=tuple(_text(row["kind"]) for row in ordered),
                inputs=tuple(_text(row["input"]) for row in ordered),
                texts=tuple(_text(row.get("text", "")) for row in ordered),
                tokens=np.array([_count(row["tokens"]) for row in ordered], dtype=np.float64),
                columns={name: np.array([_value(row, column) for row in ordered], dtype=np.float64) for name, column in COLUMNS.items()},
                measured={name: np.array([row.get(name) is not None for row in ordered], dtype=np.bool_) for name in COLUMNS},
            )
        except (KeyError, TypeError, OverflowError) as problem:
            raise InvalidScores(f"invalid row of scores: {problem!r}") from problem


@dataclass(frozen=True)
class FrozenSuite:
    """The rows of a suite as validation froze them, sorted by id, which every model must have been scored on."""

    ids: tuple[str, ...]
    kinds: tuple[str, ...]
    texts: tuple[str, ...]
    """Digest of each row's messages."""
    contents: tuple[str, ...]
    """Digest of each row's messages without case, white space and punctuation. Rows that share it are copies of one."""
    fewest_tokens: Floats
    """The smallest number of tokens that a row's answers can have; 0 where they may have been cut off."""
    most_tokens: Floats

    @functools.cached_property
    def is_copy(self) -> npt.NDArray[np.bool_]:
        """Which rows are copies of an earlier one: shape [rows]."""
        return _find_copies(self.contents)

    def without(self, ids: Collection[str]) -> FrozenSuite:
        """Return the suite without these rows."""
        kept = [index for index, row in enumerate(self.ids) if row not in ids]
        texts = {name: tuple(getattr(self, name)[index] for index in kept) for name in ("ids", "kinds", "texts", "contents")}
        return FrozenSuite(**texts, fewest_tokens=self.fewest_tokens[kept], most_tokens=self.most_tokens[kept])


@dataclass(frozen=True)
class ModelEvidence:
    """One model: its identity, its reported metrics, and its rows by suite."""

    model: str
    run: str
    """The scoring run that produced the rows."""
    weights_digest: str
    metrics: Mapping[str, float]
    suite_digests: Mapping[str, str]
    rows: Mapping[str, Rows]


@dataclass(frozen=True)
class Evidence:
    """Everything that the gate takes into account."""

    models: Mapping[str, ModelEvidence]
    """Role → model: candidate, base, champion unless this is a first run or it could not be evaluated, and anchor if it is another one."""
    suite_digests: Mapping[str, str]
    """Digests of the suites that validation froze."""
    overlapping: Mapping[str, str]
    """Suite → which of its rows are in the training data."""
    suites: Mapping[str, FrozenSuite] = field(default_factory=dict)
    """Suite → its frozen rows. Scores on any other suite can't be checked, so they prove nothing."""
    problems: tuple[str, ...] = ()
    """Reasons why the evaluation as a whole is invalid, e.g. that other code computed it."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Role → why it could not be evaluated. A missing champion exists: this isn't a first run, and no other model replaces it."""

    @property
    def is_first_run(self) -> bool:
        """Whether there is no champion yet. A champion that exists but could not be evaluated is not replaced."""
        return "champion" not in self.models and "champion" not in self.missing

    def reference(self, rule: Rule) -> Reference:
        """Return which model a rule compares the candidate with.

        Without an anchor of its own the champion is the best model so far. On a first run the base model replaces both.
        """
        has_anchor = "anchor" in self.models or "anchor" in self.missing
        baseline = "champion" if rule.baseline == "anchor" and not has_anchor else rule.baseline
        return "base" if baseline == "champion" and self.is_first_run else baseline


def _find_copies(values: Sequence[str]) -> npt.NDArray[np.bool_]:
    seen: set[str] = set()
    # set.add returns None, so a new value is not repeated.
    return np.array([value in seen or bool(seen.add(value)) for value in values], dtype=np.bool_)  # type: ignore[func-returns-value]


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r} is not a count")
    return value


def _value(row: Mapping[str, Any], column: Column) -> float:
    value = row.get(column.name) if column.sampled or column.of_input else row[column.name]
    if column.nullable and value is None:
        return float("nan")
    return _count(value) if column.counts_tokens else _number(value)
