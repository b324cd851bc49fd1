"""Compare a candidate's metric value with a baseline's: as two numbers, or row by row with one of four tests.

Every paired test yields an interval of the difference, which is reported, and an interval of the distance from the margin, which decides. A
relative margin is a multiple of the baseline's own uncertain value, so its distance is also measured row by row.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from mlops.core.judgement import Interval, Outcome
from mlops.core.settings import Rule
from mlops.judging.evidence import Rows
from mlops.judging.metric_table import Floats
from mlops.judging.metrics import Metric
from mlops.judging.statistics.bootstrap import SEED, paired_bootstrap
from mlops.judging.statistics.estimate import Estimate, minimum_detectable_effect, rows_needed
from mlops.judging.statistics.mcnemar import mcnemar
from mlops.judging.statistics.tail import tail
from mlops.judging.statistics.tango import tango
from mlops.judging.statistics.wilcoxon import signed_rank
from mlops.judging.wording import number, percent

__all__ = ["Comparison", "MetricValues", "compare_rows", "compare_values", "distance", "gain"]

_NO_SPREAD = 1e-12
"""A standard error below this fraction of the metric values is a rounding error."""
_NEGLIGIBLE = 1e-3
"""A distance below this fraction of the minimum detectable effect would require unrealistically many rows."""


@dataclass(frozen=True)
class MetricValues:
    """The two reported values of a metric."""

    candidate: float
    reference: float


@dataclass(frozen=True)
class Comparison:
    """The result of a comparison. ``why`` completes a sentence that ends in a colon; the other fields are those of a Judgement."""

    outcome: Outcome
    why: str
    typical_difference: float | None = None
    interval: Interval | None = None
    distance: float | None = None
    """Distance in the unit of ``distance_interval``; None for the reported values' distance from the margin."""
    distance_interval: Interval | None = None
    p_value: float | None = None
    mde: float | None = None
    rows_needed: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class _Pairs:
    """The rows that count, with both models' sums. The weights are the same for both. Each array has shape [rows]."""

    candidate: Floats
    reference: Floats
    weight: Floats
    values: MetricValues


@dataclass(frozen=True)
class Criterion:
    """A change, the threshold that it is compared with, and the good side of the threshold: 1 above, -1 below."""

    change: Estimate
    threshold: float
    good: int
    unit: float = 1.0
    """One unit of the change in the metric's unit."""

    @property
    def distance(self) -> float:
        """The estimate's distance from the threshold, > 0 on the good side."""
        return self.good * (self.change.value - self.threshold)

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the distance's interval."""
        low, high = sorted((self.good * (self.change.low - self.threshold), self.good * (self.change.high - self.threshold)))
        return low, high

    @property
    def side(self) -> int:
        """1 if the whole interval is on the good side, -1 if it is on the bad side, else 0. An end on the threshold is on neither side."""
        low, high = self.interval
        return int(min(low, self.distance) > 0) - int(max(high, self.distance) < 0)

    @property
    def p_good(self) -> float:
        """One-sided p-value of "the change is on the good side"."""
        return self.change.p_below(self.threshold) if self.good > 0 else self.change.p_above(self.threshold)

    @property
    def mde(self) -> float:
        """Minimum detectable effect in the unit of the change."""
        return minimum_detectable_effect(self.change)


@dataclass(frozen=True)
class TestResult:
    """The difference to report, and the criteria that must all agree. The last criterion's distance is reported."""

    difference: Estimate
    criteria: tuple[Criterion, ...]


def gain(rule: Rule, values: MetricValues) -> float:
    """Return how much better the candidate is, in the unit of the margin."""
    return _good(rule) * (values.candidate - values.reference) / _unit(rule, values)


def distance(rule: Rule, values: MetricValues) -> float:
    """Return how far the candidate is on the good side of the margin, in the unit of the margin."""
    return _distance(rule, values) / _unit(rule, values)


def compare_values(rule: Rule, values: MetricValues) -> Comparison:
    """Compare two numbers. Margins are inclusive; a relative margin is a fraction of \\|reference\\|, which must not be 0."""
    return Comparison(
        Outcome.SHOWN if _distance(rule, values) >= 0 else Outcome.FAILED,
        f"{number(values.candidate)} vs. {number(values.reference)}, compared without an interval",
    )


def compare_rows(rule: Rule, metric: Metric, candidate: Rows, reference: Rows, values: MetricValues) -> Comparison:
    """Compare row by row. A rule is shown or failed only if whole intervals and the reported values lie on one side of the margin."""
    (x, weight), (y, _) = metric.sums(candidate), metric.sums(reference)
    seed = SEED if rule.test == "paired_bootstrap" else None
    if len(weight) < 2:
        return Comparison(Outcome.UNPROVEN, "a single row has no interval", seed=seed)
    if rule.test == "tail":
        return _compare_tail(rule, _Pairs(x, y, weight, values))
    result = _TESTS[rule.test](rule, _Pairs(x, y, weight, values))
    if not _has_interval(rule, result, values):
        why = "there is no interval because the rows are too few or differ too little"
        return Comparison(Outcome.UNPROVEN, why, seed=seed)
    outcome = _outcome(rule, result, values)
    needed = _rows_needed(rule, result, values, len(weight)) if outcome is Outcome.UNPROVEN else None
    last = result.criteria[-1]
    low, high = (end * last.unit / _unit(rule, values) for end in last.interval)
    return Comparison(
        outcome,
        _describe(rule, metric, result, values, outcome) + _describe_rows_needed(rule, values, needed, len(weight)),
        typical_difference=result.difference.value if rule.test == "wilcoxon" else None,
        interval=Interval(low=result.difference.low, high=result.difference.high, confidence=rule.confidence),
        distance_interval=Interval(low=low, high=high, confidence=rule.confidence),
        # A rule fails only if all criteria fail, so the least convincing one counts.
        p_value=max(criterion.p_good for criterion in result.criteria),
        mde=max(criterion.mde * criterion.unit for criterion in result.criteria),
        rows_needed=needed,
        seed=seed,
    )


def _compare_tail(rule: Rule, pairs: _Pairs) -> Comparison:
    """Compare the share of rows that are worse by more than the margin with the largest tolerated share."""
    assert rule.max_share is not None  # check_rule has checked this
    changes = (pairs.candidate - pairs.reference) / pairs.weight
    measured = tail(-_good(rule) * changes > rule.margin, rule.max_share, confidence=rule.confidence)
    low, high = rule.max_share - measured.high, rule.max_share - measured.low
    return Comparison(
        Outcome.SHOWN if low > 0 else Outcome.FAILED if high < 0 else Outcome.UNPROVEN,
        f"{percent(measured.share)} of the rows are worse by more than {number(rule.margin)}, "
        f"with {percent(rule.confidence)} interval [{percent(measured.low)}, {percent(measured.high)}]",
        distance=rule.max_share - measured.share,
        distance_interval=Interval(low=low, high=high, confidence=rule.confidence),
        p_value=measured.p_within,
    )


def _bootstrap(rule: Rule, pairs: _Pairs) -> TestResult:
    """Test the metric itself, a ratio of sums. A relative change is also a ratio of sums, and the plain difference must agree with it."""
    good, reference = _good(rule), abs(pairs.values.reference)
    change, threshold = pairs.candidate - pairs.reference, -good * rule.margin
    difference = paired_bootstrap(change, pairs.weight, confidence=rule.confidence)
    if rule.margin_kind == "absolute":
        return TestResult(difference, (Criterion(difference, threshold, good),))
    relative = paired_bootstrap(change, np.abs(pairs.reference), confidence=rule.confidence)
    criteria = Criterion(difference, threshold * reference, good), Criterion(relative, threshold, good, unit=reference)
    return TestResult(difference, criteria)


def _wilcoxon(rule: Rule, pairs: _Pairs) -> TestResult:
    """Test the rows' own values, e.g. nll per token, with equal weights. A relative margin is subtracted row by row."""
    good, x, y = _good(rule), pairs.candidate / pairs.weight, pairs.reference / pairs.weight
    difference = signed_rank(x - y, confidence=rule.confidence)
    if rule.margin_kind == "absolute":
        return TestResult(difference, (Criterion(difference, -good * rule.margin, good),))
    shifted = signed_rank(x - (1 - good * np.sign(y) * rule.margin) * y, confidence=rule.confidence)
    return TestResult(difference, (Criterion(shifted, 0.0, good),))


def _mcnemar(rule: Rule, pairs: _Pairs) -> TestResult:
    """Test the rows that only one of the models gets right. A row is 0 or 1, and the margin is 0."""
    difference = mcnemar(pairs.candidate > 0, pairs.reference > 0, confidence=rule.confidence)
    return TestResult(difference, (Criterion(difference, 0.0, _good(rule)),))


def _tango(rule: Rule, pairs: _Pairs) -> TestResult:
    """Test the difference of two shares, even if hardly any row differs. The margin is absolute."""
    good = _good(rule)
    difference = tango(pairs.candidate > 0, pairs.reference > 0, confidence=rule.confidence)
    return TestResult(difference, (Criterion(difference, -good * rule.margin, good),))


_TESTS = {"paired_bootstrap": _bootstrap, "wilcoxon": _wilcoxon, "mcnemar": _mcnemar, "tango": _tango}


def _has_interval(rule: Rule, result: TestResult, values: MetricValues) -> bool:
    # The spread that a bootstrap sees may be a rounding error.
    if rule.test == "paired_bootstrap" and result.difference.standard_error <= _NO_SPREAD * max(
        abs(values.candidate), abs(values.reference)
    ):
        return False
    changes = (result.difference, *(criterion.change for criterion in result.criteria))
    return all(math.isfinite(change.low + change.high) for change in changes)


def _outcome(rule: Rule, result: TestResult, values: MetricValues) -> Outcome:
    # The reported values must agree too: a wilcoxon test is about the typical row, which may be on the other side.
    sides = {_sign(_distance(rule, values)), *(criterion.side for criterion in result.criteria)}
    return {1: Outcome.SHOWN, -1: Outcome.FAILED}.get(sides.pop() if len(sides) == 1 else 0, Outcome.UNPROVEN)


def _rows_needed(rule: Rule, result: TestResult, values: MetricValues, rows: int) -> int | None:
    """Return how many rows would settle it if the distance stays the same; None if criteria disagree or the number is unrealistic."""
    side, needed = _sign(_distance(rule, values)), [rows + 1]
    for criterion in result.criteria:
        if side * criterion.distance <= 0 or abs(criterion.distance) < _NEGLIGIBLE * criterion.mde:
            return None
        needed.append(rows_needed(rows, abs(criterion.distance), criterion.change))
    return max(needed)


def _describe(rule: Rule, metric: Metric, result: TestResult, values: MetricValues, outcome: Outcome) -> str:
    text, change = f"{number(values.candidate)} vs. {number(values.reference)}", result.difference
    interval = f"with {percent(rule.confidence)} interval [{number(change.low)}, {number(change.high)}]"
    if rule.test != "wilcoxon":
        return f"{text}, difference {number(values.candidate - values.reference)} {interval}"
    over, per = ("tokens", " per token") if metric.definition.per_token else ("rows", "")
    text += f" over all {over}; the typical row differs by {number(change.value)}{per} {interval}"
    if outcome is Outcome.UNPROVEN and any(criterion.side for criterion in result.criteria):
        text += f", which is entirely on one side of the margin, but the values over all {over} are not"
    return text


def _describe_rows_needed(rule: Rule, values: MetricValues, needed: int | None, rows: int) -> str:
    if needed is None:
        return ""
    result = "show it" if _distance(rule, values) > 0 else "show that it fails"
    return f"; if the difference stays the same, about {needed:,} rows would {result}, but there are only {rows:,}"


def _distance(rule: Rule, values: MetricValues) -> float:
    """Return how far the candidate is on the good side of the margin, in the metric's unit."""
    return _good(rule) * (values.candidate - values.reference) + rule.margin * _unit(rule, values)


def _unit(rule: Rule, values: MetricValues) -> float:
    """Return a margin of 1 in the metric's unit."""
    return abs(values.reference) if rule.margin_kind == "relative" else 1.0


def _good(rule: Rule) -> int:
    """Return the sign of a change for the better."""
    return 1 if rule.direction == "higher" else -1


def _sign(value: float) -> int:
    return int(value > 0) - int(value < 0)
