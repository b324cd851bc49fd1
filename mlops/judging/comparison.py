"""Hold a candidate's figure against a baseline's, as two numbers or row by row."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlops.core.records import Interval, Outcome
from mlops.judging.evidence import Rows
from mlops.judging.metrics import Metric
from mlops.judging.statistics import SEED, Estimate, minimum_detectable_effect, paired_bootstrap, rows_needed
from mlops.judging.wording import number, percent

if TYPE_CHECKING:
    from mlops.core.config import Rule

__all__ = ["Comparison", "paired", "pointwise"]


@dataclass(frozen=True)
class Comparison:
    """What a comparison says; ``why`` completes a sentence that ends in a colon."""

    outcome: Outcome
    why: str
    interval: Interval | None = None
    mde: float | None = None
    seed: int | None = None


def pointwise(rule: Rule, candidate: float, reference: float) -> Comparison:
    """Two numbers. Margins are inclusive; a relative margin is one of \\|reference\\|, which must not be 0."""
    margin = _absolute_margin(rule, reference)
    shown = _sign(rule) * (candidate - reference) >= -margin
    return Comparison(
        Outcome.SHOWN if shown else Outcome.FAILED,
        f"{number(candidate)} against {number(reference)}, two numbers without an interval",
    )


def paired(rule: Rule, metric: Metric, candidate: Rows, reference: Rows) -> Comparison:
    """Row by row with a bootstrap interval: shown or failed only if the whole interval lies on one side of the margin.

    A relative margin is one of the baseline's own, uncertain figure, so it is judged on the interval of the relative change. The interval
    of the plain difference, which is what is printed, must agree.
    """
    (x, weight), (y, _) = metric.sums(candidate), metric.sums(reference)
    figures = float(x.sum() / weight.sum()), float(y.sum() / weight.sum())
    if len(x) < 2:
        return Comparison(Outcome.UNPROVEN, "a single row has no interval")
    difference = paired_bootstrap(x - y, weight, confidence=rule.confidence)
    sides = [_side(rule, difference, _absolute_margin(rule, figures[1]))]
    if rule.margin_kind == "relative":
        sides.append(_side(rule, paired_bootstrap(x - y, y, confidence=rule.confidence), rule.margin))
    interval = Interval(low=difference.low, high=difference.high, confidence=rule.confidence)
    if not (math.isfinite(difference.low) and math.isfinite(difference.high) and difference.standard_error > 0):
        return Comparison(Outcome.UNPROVEN, "no interval can be made: the rows differ too little among themselves", seed=SEED)
    outcome = sides[0] if all(side == sides[0] for side in sides) else Outcome.UNPROVEN
    return Comparison(
        outcome,
        _sentence(rule, outcome, difference, figures, len(x)),
        interval,
        minimum_detectable_effect(difference.standard_error, rule.confidence),
        SEED,
    )


def _side(rule: Rule, change: Estimate, margin: float) -> Outcome:
    """On which side of the margin an interval lies. On the margin is not beyond it; NaN is on neither side."""
    sign = _sign(rule)
    low, high = sorted((sign * change.low, sign * change.high))
    gain = sign * change.value
    if low > -margin and gain > -margin:
        return Outcome.SHOWN
    if high < -margin and gain < -margin:
        return Outcome.FAILED
    return Outcome.UNPROVEN


def _sentence(rule: Rule, outcome: Outcome, difference: Estimate, figures: tuple[float, float], rows: int) -> str:
    text = (
        f"{number(figures[0])} against {number(figures[1])}, difference {number(difference.value)} with "
        f"{percent(rule.confidence)} interval [{number(difference.low)}, {number(difference.high)}]"
    )
    distance = _sign(rule) * difference.value + _absolute_margin(rule, figures[1])
    if outcome is Outcome.UNPROVEN and distance > 0:
        needed = rows_needed(rows, distance, difference.standard_error, rule.confidence)
        text += f"; if the difference stays, about {max(needed, rows + 1):,} rows would show it, and there are {rows:,}"
    return text


def _absolute_margin(rule: Rule, reference: float) -> float:
    return rule.margin * abs(reference) if rule.margin_kind == "relative" else rule.margin


def _sign(rule: Rule) -> int:
    return 1 if rule.direction == "higher" else -1
