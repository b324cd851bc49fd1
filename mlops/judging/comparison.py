"""Hold a candidate's figure against a baseline's: as two numbers, or row by row with one of three tests.

Every paired test gives the same things: an interval of the difference, which is told, and an interval of the distance from the margin,
which decides. A relative margin is one of the baseline's own, uncertain figure, so its distance is measured row by row, too.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from mlops.core.records import Interval, Outcome
from mlops.judging.evidence import Rows
from mlops.judging.metrics import Metric
from mlops.judging.statistics.bootstrap import SEED, Estimate, minimum_detectable_effect, paired_bootstrap, rows_needed
from mlops.judging.statistics.mcnemar import mcnemar
from mlops.judging.statistics.wilcoxon import signed_rank
from mlops.judging.wording import number, percent

if TYPE_CHECKING:
    from mlops.core.config import Rule

__all__ = ["Comparison", "Figures", "distance", "gain", "paired", "pointwise"]

Floats = npt.NDArray[np.float64]

_NO_SPREAD = 1e-12
"""A standard error below this fraction of the figures is rounding."""
_FAR = 1e-3
"""A distance below this fraction of the minimum detectable effect asks for more rows than anybody has."""


@dataclass(frozen=True)
class Figures:
    """The two reported numbers."""

    candidate: float
    reference: float


@dataclass(frozen=True)
class Comparison:
    """What a comparison says; ``why`` completes a sentence that ends in a colon. Fields are those of a Judgement."""

    outcome: Outcome
    why: str
    typical_difference: float | None = None
    interval: Interval | None = None
    distance_interval: Interval | None = None
    p_value: float | None = None
    mde: float | None = None
    rows_needed: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class _Pairs:
    """The rows that count, each with both models' sums; the weights are the same for both. Shape [rows] each."""

    candidate: Floats
    reference: Floats
    weight: Floats
    figures: Figures


@dataclass(frozen=True)
class _Leg:
    """A change, the threshold that it is held against, and the side of it that is good: 1 above, -1 below."""

    change: Estimate
    threshold: float
    good: int
    unit: float = 1.0
    """What one unit of the change is in the metric's unit."""

    @property
    def value(self) -> float:
        """Distance of the estimate from the threshold; > 0 is the good side."""
        return self.good * (self.change.value - self.threshold)

    @property
    def ends(self) -> tuple[float, float]:
        """Lower and upper end of the distance's interval."""
        low, high = sorted((self.good * (self.change.low - self.threshold), self.good * (self.change.high - self.threshold)))
        return low, high

    @property
    def side(self) -> int:
        """1 where the whole interval is on the good side, -1 where it is on the bad side, else 0. On the threshold is not beyond it."""
        low, high = self.ends
        return int(min(low, self.value) > 0) - int(max(high, self.value) < 0)

    @property
    def p_good(self) -> float:
        """One-sided p-value of "the change is on the good side"."""
        return self.change.p_below(self.threshold) if self.good > 0 else self.change.p_above(self.threshold)

    @property
    def mde(self) -> float:
        """Minimum detectable effect in the unit of the change."""
        return minimum_detectable_effect(self.change)


@dataclass(frozen=True)
class _Found:
    """What a test finds: the difference that is told, and the legs that must all agree. The last of them is the distance that is told."""

    difference: Estimate
    legs: tuple[_Leg, ...]


def gain(rule: Rule, figures: Figures) -> float:
    """How much better the candidate is, in the unit of the margin."""
    return _good(rule) * (figures.candidate - figures.reference) / _unit(rule, figures)


def distance(rule: Rule, figures: Figures) -> float:
    """How far the candidate is on the good side of the margin, in the unit of the margin."""
    return _room(rule, figures) / _unit(rule, figures)


def pointwise(rule: Rule, figures: Figures) -> Comparison:
    """Two numbers. Margins are inclusive; a relative margin is one of \\|reference\\|, which must not be 0."""
    return Comparison(
        Outcome.SHOWN if _room(rule, figures) >= 0 else Outcome.FAILED,
        f"{number(figures.candidate)} against {number(figures.reference)}, two numbers without an interval",
    )


def paired(rule: Rule, metric: Metric, candidate: Rows, reference: Rows, figures: Figures) -> Comparison:
    """Row by row: shown or failed only if whole intervals, and the reported figures too, lie on one side of the margin."""
    (x, weight), (y, _) = metric.sums(candidate), metric.sums(reference)
    seed = SEED if rule.test == "paired_bootstrap" else None
    if len(weight) < 2:
        return Comparison(Outcome.UNPROVEN, "a single row has no interval", seed=seed)
    found = _TESTS[rule.test](rule, _Pairs(x, y, weight, figures))
    if _no_interval(rule, found, figures):
        why = "no interval can be made: the rows are too few or differ too little among themselves"
        return Comparison(Outcome.UNPROVEN, why, seed=seed)
    outcome = _outcome(rule, found, figures)
    needed = _rows_needed(rule, found, figures, len(weight)) if outcome is Outcome.UNPROVEN else None
    low, high = (end * found.legs[-1].unit / _unit(rule, figures) for end in found.legs[-1].ends)
    return Comparison(
        outcome,
        _sentence(rule, metric, found, figures, outcome) + _what_would_do(rule, figures, needed, len(weight)),
        typical_difference=found.difference.value if rule.test == "wilcoxon" else None,
        interval=Interval(low=found.difference.low, high=found.difference.high, confidence=rule.confidence),
        distance_interval=Interval(low=low, high=high, confidence=rule.confidence),
        # Failing asks that all legs fail, so the least convincing of them counts.
        p_value=max(leg.p_good for leg in found.legs),
        mde=max(leg.mde * leg.unit for leg in found.legs),
        rows_needed=needed,
        seed=seed,
    )


def _bootstrap(rule: Rule, pairs: _Pairs) -> _Found:
    """Of the metric itself, a ratio of sums. A relative change is one of sums, too; the plain difference must agree with it."""
    good, reference = _good(rule), abs(pairs.figures.reference)
    change, threshold = pairs.candidate - pairs.reference, -good * rule.margin
    difference = paired_bootstrap(change, pairs.weight, confidence=rule.confidence)
    if rule.margin_kind == "absolute":
        return _Found(difference, (_Leg(difference, threshold, good),))
    relative = paired_bootstrap(change, pairs.reference, confidence=rule.confidence)
    return _Found(difference, (_Leg(difference, threshold * reference, good), _Leg(relative, threshold, good, unit=reference)))


def _ranks(rule: Rule, pairs: _Pairs) -> _Found:
    """Of the rows' own figures (nll and kl per token), where every row counts the same. A relative margin is taken off row by row."""
    good, x, y = _good(rule), pairs.candidate / pairs.weight, pairs.reference / pairs.weight
    difference = signed_rank(x - y, confidence=rule.confidence)
    if rule.margin_kind == "absolute":
        return _Found(difference, (_Leg(difference, -good * rule.margin, good),))
    shifted = signed_rank(x - (1 - good * rule.margin) * y, confidence=rule.confidence)
    return _Found(difference, (_Leg(shifted, 0.0, good),))


def _wins(rule: Rule, pairs: _Pairs) -> _Found:
    """Of the rows that only one of them gets right; a row is 0 or 1, and the margin is 0."""
    difference = mcnemar(pairs.candidate > 0, pairs.reference > 0, confidence=rule.confidence)
    return _Found(difference, (_Leg(difference, 0.0, _good(rule)),))


_TESTS = {"paired_bootstrap": _bootstrap, "wilcoxon": _ranks, "mcnemar": _wins}


def _no_interval(rule: Rule, found: _Found, figures: Figures) -> bool:
    # What a bootstrap finds as spread may be rounding.
    if rule.test == "paired_bootstrap" and found.difference.standard_error <= _NO_SPREAD * max(figures.candidate, figures.reference):
        return True
    return not all(math.isfinite(change.low + change.high) for change in (found.difference, *(leg.change for leg in found.legs)))


def _outcome(rule: Rule, found: _Found, figures: Figures) -> Outcome:
    # The reported figures have a say beside the tests: a wilcoxon test is about the typical row, which may lie on another side.
    sides = {_side(_room(rule, figures)), *(leg.side for leg in found.legs)}
    return {1: Outcome.SHOWN, -1: Outcome.FAILED}.get(sides.pop() if len(sides) == 1 else 0, Outcome.UNPROVEN)


def _rows_needed(rule: Rule, found: _Found, figures: Figures, rows: int) -> int | None:
    """Rows that would settle it if the distance stays as it is; None where the legs disagree about the side, or nobody has so many."""
    side, needed = _side(_room(rule, figures)), [rows + 1]
    for leg in found.legs:
        if side * leg.value <= 0 or abs(leg.value) < _FAR * leg.mde:
            return None
        needed.append(rows_needed(rows, abs(leg.value), leg.change))
    return max(needed)


def _sentence(rule: Rule, metric: Metric, found: _Found, figures: Figures, outcome: Outcome) -> str:
    told, change = f"{number(figures.candidate)} against {number(figures.reference)}", found.difference
    around = f"with {percent(rule.confidence)} interval [{number(change.low)}, {number(change.high)}]"
    if rule.test != "wilcoxon":
        return f"{told}, difference {number(figures.candidate - figures.reference)} {around}"
    over, per = ("tokens", " per token") if metric.per_token else ("rows", "")
    told += f" over all {over}; the typical row differs by {number(change.value)}{per} {around}"
    if outcome is Outcome.UNPROVEN and any(leg.side for leg in found.legs):
        told += f", which is beyond the margin on one side, and the figures over all {over} are not"
    return told


def _what_would_do(rule: Rule, figures: Figures, needed: int | None, rows: int) -> str:
    if needed is None:
        return ""
    shown = "show it" if _room(rule, figures) > 0 else "show that it fails"
    return f"; if the difference stays, about {needed:,} rows would {shown}, and there are {rows:,}"


def _room(rule: Rule, figures: Figures) -> float:
    """How far the candidate is on the good side of the margin, in the metric's unit."""
    return _good(rule) * (figures.candidate - figures.reference) + rule.margin * _unit(rule, figures)


def _unit(rule: Rule, figures: Figures) -> float:
    """What a margin of 1 is in the metric's unit."""
    return abs(figures.reference) if rule.margin_kind == "relative" else 1.0


def _good(rule: Rule) -> int:
    """In which direction better is."""
    return 1 if rule.direction == "higher" else -1


def _side(value: float) -> int:
    return int(value > 0) - int(value < 0)
