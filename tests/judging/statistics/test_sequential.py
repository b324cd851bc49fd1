"""The comparison that may be stopped after any pair."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterable

import pytest

from mlops.judging.statistics.sequential import Finding, SequentialComparison, pairs_needed

MARGIN, ALPHA = 0.05, 0.025


def compare(differences: Iterable[float]) -> SequentialComparison:
    """Take pairs into account until something is shown."""
    comparison = SequentialComparison(MARGIN, ALPHA)
    for difference in differences:
        comparison.add(difference)
        if comparison.finding is not Finding.OPEN:
            break
    return comparison


def repeat(draw: Callable[[random.Random], float], pairs: int, trials: int = 100) -> list[Finding]:
    """Draw the differences of several rollouts."""
    generator = random.Random(5)
    return [compare(draw(generator) for _ in range(pairs)).finding for _ in range(trials)]


def graded(mean: float) -> Callable[[random.Random], float]:
    return lambda generator: max(-1.0, min(1.0, generator.gauss(mean, 0.15)))


def faulty(old: float, new: float) -> Callable[[random.Random], float]:
    """Differences of answers that are right (1) or not (0), with these rates of faults."""
    return lambda generator: float((generator.random() >= new) - (generator.random() >= old))


@pytest.mark.parametrize("draw", [graded(-0.05), graded(-0.2), faulty(0.01, 0.06), faulty(0.0, 0.05), faulty(0.0, 0.5)])
def test_a_model_that_is_worse_by_the_margin_is_not_let_through(draw: Callable[[random.Random], float]) -> None:
    assert repeat(draw, 480).count(Finding.NOT_WORSE) <= 5


@pytest.mark.parametrize("draw", [graded(0.0), graded(0.05), faulty(0.01, 0.01), faulty(0.05, 0.0)])
def test_a_model_that_is_not_worse_passes(draw: Callable[[random.Random], float]) -> None:
    assert repeat(draw, 480).count(Finding.NOT_WORSE) >= 95


def test_a_model_whose_answers_all_fail_is_shown_to_be_worse_after_a_few_pairs() -> None:
    comparison = compare(-1.0 for _ in range(100))
    assert comparison.finding is Finding.WORSE
    assert comparison.pairs == 9


def test_pairs_without_a_difference_show_the_margin_only_if_there_are_many() -> None:
    needed = pairs_needed(MARGIN, ALPHA)
    assert needed >= math.log(ALPHA) / math.log(1 - MARGIN), "with fewer, a share of 5 % would be missed more often than allowed"
    assert needed == 111
    assert compare(0.0 for _ in range(needed - 1)).finding is Finding.OPEN
    assert compare(0.0 for _ in range(needed)).finding is Finding.NOT_WORSE


def test_later_pairs_can_show_that_it_is_worse_after_all_and_nothing_revises_that() -> None:
    comparison = SequentialComparison(MARGIN, ALPHA)
    findings = []
    for difference in (*[0.0] * 120, *[-1.0] * 60, *[1.0] * 1000):
        comparison.add(difference)
        findings.append(comparison.finding)
    assert list(dict.fromkeys(findings)) == [Finding.OPEN, Finding.NOT_WORSE, Finding.WORSE]
    assert comparison.mean == pytest.approx((1000 - 60) / 1180)


@pytest.mark.parametrize("difference", [1.01, -2.0, math.nan, math.inf])
def test_a_difference_out_of_bounds_is_refused(difference: float) -> None:
    with pytest.raises(ValueError, match="outside"):
        SequentialComparison(MARGIN, ALPHA).add(difference)


def test_the_wealth_is_a_martingale_under_its_hypothesis() -> None:
    # For a difference of ±1 with mean 0, the average of both outcomes is what was there before.
    up, down = SequentialComparison(MARGIN, ALPHA), SequentialComparison(MARGIN, ALPHA)
    for difference in (1.0, -1.0, 0.5):
        up.add(difference)
        down.add(difference)
    before = math.exp(up._worse.log_wealth)
    up.add(1.0)
    down.add(-1.0)
    assert (math.exp(up._worse.log_wealth) + math.exp(down._worse.log_wealth)) / 2 == pytest.approx(before)
