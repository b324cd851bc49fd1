"""The metrics that a rule can name, and how each is computed from rows.

``{suite}.{metric}`` covers a suite and ``{suite}.{kind}.{metric}`` one kind of its rows. Suites are ``target`` and ``retention``. A rule
may say ``{suite}.*.{metric}`` to judge every kind of the suite separately. The metrics are those of :mod:`mlops.judging.metric_table`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from mlops.judging.evidence import Rows
from mlops.judging.metric_table import METRICS, RETENTION, SUITES, Column, Floats, MetricDefinition

__all__ = ["EVERY_KIND", "HEADLINE", "Metric", "kind_metrics", "parse"]

EVERY_KIND = "*"
HEADLINE = tuple(f"{suite}.{metric.name}" for suite in SUITES for metric in METRICS.values() if suite in metric.headline)
"""The metrics that reports show first."""


@dataclass(frozen=True)
class Metric:
    """A metric of one suite, or of one kind of its rows."""

    name: str
    suite: str
    kind: str | None
    definition: MetricDefinition

    @property
    def paired(self) -> bool:
        """Whether it is a ratio of sums over rows, so that models can be compared row by row."""
        return self.definition.column is not None

    @property
    def column(self) -> Column | None:
        """The field of scores.jsonl that it is computed from, directly or through another metric; None for a count."""
        return self.of_rows.definition.column

    @property
    def is_sampled(self) -> bool:
        """Whether it is measured for a sample of the rows only."""
        return self.column is not None and self.column.sampled

    @property
    def of_rows(self) -> Metric:
        """The metric of the rows that it is a function of: nll for perplexity, otherwise itself."""
        transform = self.definition.transform
        return self if transform is None else replace(self, definition=METRICS[transform[0]])

    def selects(self, rows: Rows) -> npt.NDArray[np.bool_]:
        """Return which rows count: those of its kind with tokens; for a sampled column, with a value; for a column about the input, all."""
        column = self.column
        if column is not None and column.of_input:
            return self._has_kind(rows)
        is_scored = rows.measured[column.name] if column is not None and column.sampled else rows.tokens > 0
        return self._has_kind(rows) & is_scored

    def sums(self, rows: Rows) -> tuple[Floats, Floats]:
        """Return numerator and weight of each row that counts. Only paired metrics have them."""
        column = self.definition.column
        assert column is not None
        selected = self.selects(rows)
        tokens = rows.tokens[selected]
        numerator = rows.columns[column.name][selected]
        return numerator, tokens if self.definition.per_token else np.ones(len(numerator))

    def value(self, rows: Rows) -> float | None:
        """Compute the metric from rows; None if there are none."""
        if self.definition.count is not None:
            return self.definition.count(rows.tokens[self._has_kind(rows)]) or None
        numerator, weight = self.of_rows.sums(rows)
        if not weight.sum() > 0:
            return None
        value = float(numerator.sum() / weight.sum())
        return value if self.definition.transform is None else self.definition.transform[1](value)

    def _has_kind(self, rows: Rows) -> npt.NDArray[np.bool_]:
        if self.kind is None:
            return np.ones(len(rows.kinds), dtype=np.bool_)
        return np.array([kind == self.kind for kind in rows.kinds], dtype=np.bool_)


def parse(name: str) -> Metric | None:
    """Parse a metric's name; None if no evaluation computes a metric of this name."""
    suite, _, rest = name.partition(".")
    kind, _, measure = rest.rpartition(".")
    definition = METRICS.get(measure)
    if definition is None or suite not in definition.suites or (not kind and "." in rest):
        return None
    return Metric(name, suite, kind or None, definition)


def kind_metrics(names: set[str]) -> list[str]:
    """Select the metrics of single kinds of the retention suite that reports show."""
    parsed = {name: parse(name) for name in sorted(names)}
    return [name for name, metric in parsed.items() if metric and metric.kind and metric.suite == RETENTION and metric.definition.by_kind]
