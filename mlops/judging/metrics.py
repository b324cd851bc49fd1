"""The metrics that a rule can name, and what each is computed from.

``{suite}.{metric}`` over a suite, ``{suite}.{kind}.{metric}`` over one kind of its rows. Suites are ``target`` and ``retention``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlops.judging.evidence import Rows

__all__ = ["Metric", "parse"]

Floats = npt.NDArray[np.float64]

_PER_SUITE = {
    "target": ("nll", "perplexity", "rouge_l", "rows", "tokens"),
    "retention": ("nll", "perplexity", "kl_base", "rows", "tokens"),
}
PAIRED = ("nll", "kl_base", "rouge_l")
"""Those that are a ratio of sums over rows, so that a paired test can be made."""


@dataclass(frozen=True)
class Metric:
    """A metric's name, taken apart."""

    name: str
    suite: str
    kind: str | None
    measure: str

    @property
    def paired(self) -> bool:
        """Whether it is a ratio of sums over rows."""
        return self.measure in PAIRED

    def selects(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Which rows count: of its kind, and with scored tokens (or an answer)."""
        return self._of_kind(rows) & (rows.answered if self.measure == "rouge_l" else rows.tokens > 0)

    def sums(self, rows: Rows) -> tuple[Floats, Floats]:
        """Numerator and weight of each row that counts; only of a paired metric."""
        selected = self.selects(rows)
        if self.measure == "rouge_l":
            return rows.rouge_l[selected], np.ones(int(selected.sum()))
        return (rows.kl if self.measure == "kl_base" else rows.nll)[selected], rows.tokens[selected]

    def value(self, rows: Rows) -> float | None:
        """The metric from its rows; None where there are none."""
        of_kind = self._of_kind(rows)
        if self.measure == "rows":
            return float(of_kind.sum()) or None
        if self.measure == "tokens":
            return float(rows.tokens[of_kind].sum()) or None
        base = Metric(self.name, self.suite, self.kind, "nll") if self.measure == "perplexity" else self
        numerator, weight = base.sums(rows)
        if not weight.sum() > 0:
            return None
        value = float(numerator.sum() / weight.sum())
        return _exp(value) if self.measure == "perplexity" else value

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
