"""The metrics that a rule can name, and what each is computed from.

``{suite}.{metric}`` over a suite, ``{suite}.{kind}.{metric}`` over one kind of its rows. Suites are ``target`` and ``retention``. A rule
may say ``{suite}.*.{metric}`` for every kind of the suite on its own.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlops.judging.evidence import Rows

__all__ = ["EVERY_KIND", "Metric", "parse"]

Floats = npt.NDArray[np.float64]

EVERY_KIND = "*"
_COMMON = ("nll", "perplexity", "token_accuracy", "exact_match", "rows", "tokens")
_PER_SUITE = {"target": (*_COMMON, "rouge_l"), "retention": (*_COMMON, "kl_base")}
_PAIRED = ("nll", "kl_base", "token_accuracy", "exact_match", "rouge_l")
_PER_ROW = ("exact_match", "rouge_l")
_FRACTIONS = ("token_accuracy", "exact_match", "rouge_l")
_COUNTS = ("rows", "tokens")


@dataclass(frozen=True)
class Metric:
    """A metric's name, taken apart."""

    name: str
    suite: str
    kind: str | None
    measure: str

    @property
    def paired(self) -> bool:
        """Whether it is a ratio of sums over rows, so that a paired test can be made."""
        return self.measure in _PAIRED

    @property
    def per_token(self) -> bool:
        """Whether rows weigh as many as they have tokens; else every row weighs the same."""
        return self.measure not in _PER_ROW

    @property
    def binary(self) -> bool:
        """Whether a row is right or wrong and nothing between."""
        return self.measure == "exact_match"

    @property
    def fraction(self) -> bool:
        """Whether it lies in [0, 1]."""
        return self.measure in _FRACTIONS

    @property
    def better(self) -> str | None:
        """The direction in which models get better, as a rule names it; None where there is none."""
        return None if self.measure in _COUNTS else "higher" if self.fraction else "lower"

    @property
    def of_rows(self) -> Metric:
        """The metric of the rows that it follows from: nll for a perplexity, else itself."""
        return replace(self, measure="nll") if self.measure == "perplexity" else self

    def selects(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which rows count: of its kind, and with scored tokens (or an answer)."""
        return self._of_kind(rows) & (rows.answered if self.measure == "rouge_l" else rows.tokens > 0)

    def sums(self, rows: Rows) -> tuple[Floats, Floats]:
        """Numerator and weight of each row that counts; only of a paired metric."""
        selected = self.selects(rows)
        numerator = self._numerator(rows)[selected]
        return numerator, rows.tokens[selected] if self.per_token else np.ones(len(numerator))

    def value(self, rows: Rows) -> float | None:
        """The metric from its rows; None where there are none."""
        of_kind = self._of_kind(rows)
        if self.measure == "rows":
            return float(of_kind.sum()) or None
        if self.measure == "tokens":
            return float(rows.tokens[of_kind].sum()) or None
        numerator, weight = self.of_rows.sums(rows)
        if not weight.sum() > 0:
            return None
        value = float(numerator.sum() / weight.sum())
        return _exp(value) if self.measure == "perplexity" else value

    def _numerator(self, rows: Rows) -> Floats:
        if self.measure == "exact_match":
            return np.where(rows.greedy_tokens == rows.tokens, 1.0, 0.0)
        columns: dict[str, Floats] = {"nll": rows.nll, "kl_base": rows.kl, "token_accuracy": rows.greedy_tokens, "rouge_l": rows.rouge_l}
        return columns[self.measure]

    def _of_kind(self, rows: Rows) -> npt.NDArray[np.bool_]:
        if self.kind is None:
            return np.ones(len(rows.kinds), dtype=np.bool_)
        return np.array([kind == self.kind for kind in rows.kinds], dtype=np.bool_)


def parse(name: str) -> Metric | None:
    """Take a metric's name apart; None for a name that no evaluation makes."""
    suite, _, rest = name.partition(".")
    kind, _, measure = rest.rpartition(".")
    if measure not in _PER_SUITE.get(suite, ()) or (not kind and "." in rest):
        return None
    return Metric(name, suite, kind or None, measure)


def _exp(value: float) -> float:
    try:
        return math.exp(value)
    except OverflowError:
        return math.inf
