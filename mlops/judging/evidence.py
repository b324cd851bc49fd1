"""What a verdict is made from: per-row scores of candidate, champion and base, and what is known about them. Plain data."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

__all__ = ["Evidence", "ModelEvidence", "Rows", "Scoreless"]

Floats = npt.NDArray[np.float64]


class Scoreless(ValueError):
    """Per-row scores that are no scores: a field is missing, of the wrong type, or negative where it can't be."""


@dataclass(frozen=True)
class Rows:
    """One model's scores on one suite, as columns sorted by row id: the order in a file decides nothing."""

    ids: tuple[str, ...]
    kinds: tuple[str, ...]
    inputs: tuple[str, ...]
    """Digest of the token ids that the model read and was scored on."""
    tokens: Floats
    """Assistant tokens that were scored."""
    nll: Floats
    """Summed over those tokens, in nats."""
    kl: Floats
    """KL(base ‖ model) summed over those tokens, in nats; NaN where it was not measured."""
    greedy_tokens: Floats
    """How many of those tokens are the model's first choice."""
    rouge_l: Floats
    """In [0, 1]; NaN where no answer was generated."""
    answered: npt.NDArray[np.bool_]
    """Whether an answer was generated."""

    @functools.cached_property
    def repeats(self) -> bool:
        """Whether a row is there twice. Kept, since every rule asks."""
        return len(set(self.ids)) != len(self.ids)

    @classmethod
    def of(cls, rows: Iterable[Mapping[str, Any]]) -> Rows:
        """From the rows of scores.jsonl.

        Raises:
            Scoreless: a row is not a score.
        """
        ordered = sorted(rows, key=lambda row: str(row.get("id")))
        try:
            return cls(
                ids=tuple(_text(row["id"]) for row in ordered),
                kinds=tuple(_text(row["kind"]) for row in ordered),
                inputs=tuple(_text(row["input"]) for row in ordered),
                tokens=np.array([_count(row["tokens"]) for row in ordered], dtype=np.float64),
                nll=np.array([_number(row["nll"]) for row in ordered], dtype=np.float64),
                kl=np.array([_optional(row["kl"]) for row in ordered], dtype=np.float64),
                greedy_tokens=np.array([_count(row["greedy_tokens"]) for row in ordered], dtype=np.float64),
                rouge_l=np.array([_optional(row.get("rouge_l")) for row in ordered], dtype=np.float64),
                answered=np.array([row.get("rouge_l") is not None for row in ordered], dtype=np.bool_),
            )
        except (KeyError, TypeError, OverflowError) as problem:
            raise Scoreless(f"a row of the scores is not a score: {problem!r}") from problem


@dataclass(frozen=True)
class ModelEvidence:
    """One model: who it is, what was reported about it, and its rows by suite."""

    model: str
    run: str
    """The scoring run that the rows come from."""
    weights_digest: str
    metrics: Mapping[str, float]
    suite_digests: Mapping[str, str]
    rows: Mapping[str, Rows]


@dataclass(frozen=True)
class Evidence:
    """All that the gate looks at."""

    models: Mapping[str, ModelEvidence]
    """By role: candidate, base, and champion unless this is a first run or it could not be evaluated."""
    suite_digests: Mapping[str, str]
    """Of the suites that validation froze."""
    overlapping: Mapping[str, str]
    """Suite → what of it is in the training data."""
    missing: Mapping[str, str] = field(default_factory=dict)
    """Role → why it could not be evaluated. A champion that is here exists: this is no first run, and no other model answers for it."""


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a text")
    return value


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError(f"{value!r} is not a number")
    return float(value)


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError(f"{value!r} is not a count")
    return value


def _optional(value: Any) -> float:
    return float("nan") if value is None else _number(value)
