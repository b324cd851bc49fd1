"""Intervals: against scipy, against the truth, and their symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlops.judging import statistics
from mlops.judging.statistics import minimum_detectable_effect, paired_bootstrap, rows_needed


def sample(rows: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    weights = generator.integers(1, 50, rows).astype(float)
    return weights * generator.normal(0.1, 0.5, rows), weights


def test_value_is_the_ratio_of_sums_and_not_a_mean_of_ratios() -> None:
    estimate = paired_bootstrap(np.array([1.0, 10.0, 3.0]), np.array([1.0, 100.0, 9.0]), confidence=0.9)
    assert estimate.value == 14 / 110


def test_standard_error_is_that_of_a_mean_where_weights_are_equal() -> None:
    values = np.random.default_rng(0).normal(size=50)
    estimate = paired_bootstrap(values, np.ones(50), confidence=0.95)
    assert estimate.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(50))


def test_interval_is_the_textbook_one_for_normal_means() -> None:
    # For a mean of normal values the studentised pivot has Student's t distribution: 2.009 at 49 degrees of freedom and 95 %.
    values = np.random.default_rng(3).normal(size=50)
    estimate = paired_bootstrap(values, np.ones(50), confidence=0.95)
    half = 2.0096 * values.std(ddof=1) / math.sqrt(50)
    assert estimate.low == pytest.approx(estimate.value - half, abs=0.2 * half)
    assert estimate.high == pytest.approx(estimate.value + half, abs=0.2 * half)


@pytest.mark.parametrize("rows", [40, 3000])
def test_negated_differences_give_the_negated_interval_to_the_last_bit(rows: int) -> None:
    numerator, weights = sample(rows)
    there, back = (paired_bootstrap(values, weights, confidence=0.95) for values in (numerator, -numerator))
    assert (there.low, there.value, there.high) == (-back.high, -back.value, -back.low)
    assert there.standard_error == back.standard_error


def test_again_gives_the_same_and_another_seed_nearly_the_same() -> None:
    numerator, weights = sample(200)
    first, again, other = (paired_bootstrap(numerator, weights, confidence=0.95, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    assert other.low == pytest.approx(first.low, abs=0.1 * first.standard_error)


@pytest.mark.parametrize("rows", [60, 2500], ids=["by row", "pooled"])
def test_covers_the_truth_as_often_as_it_says(rows: int) -> None:
    generator = np.random.default_rng(11)
    low = high = 0
    trials = 400
    for _ in range(trials):
        weights = generator.integers(1, 50, rows).astype(float)
        estimate = paired_bootstrap(weights * generator.normal(0.2, 1.0, rows), weights, confidence=0.9, resamples=999)
        low += estimate.low > 0.2
        high += estimate.high < 0.2
    # 5 % on each side; the bounds are three standard errors of 400 trials away.
    assert 0.017 < low / trials < 0.083
    assert 0.017 < high / trials < 0.083


def test_neighbouring_rows_are_not_pooled_together() -> None:
    # Rows sorted by id can be sorted by difficulty, too. Sums of four rows at random have variance 1, of four neighbours 4.
    values = np.repeat([0.0, 1.0], 2048)
    sums, weights = statistics._pooled(values, np.ones(4096), seed=1)
    assert (sums.sum(), weights.sum(), len(sums)) == (2048, 4096, 1024)
    assert sums.var() == pytest.approx(1, abs=0.2)


def test_wider_confidence_gives_a_wider_interval() -> None:
    numerator, weights = sample(80)
    narrow, wide = (paired_bootstrap(numerator, weights, confidence=confidence) for confidence in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


def test_not_a_number_makes_no_interval() -> None:
    numerator, weights = sample(30)
    numerator[3] = math.nan
    estimate = paired_bootstrap(numerator, weights, confidence=0.95)
    assert not estimate.low > -math.inf
    assert not estimate.high < math.inf


@pytest.mark.parametrize(
    ("numerator", "weights"),
    [([1.0], [1.0]), ([1.0, 2.0], [0.0, 0.0]), ([1.0, 2.0], [2.0, -1.0]), ([1.0, 2.0], [1.0])],
    ids=["one row", "no weight", "negative weight", "unequal length"],
)
def test_refuses_what_has_no_interval(numerator: list[float], weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"rows|weights"):
        paired_bootstrap(np.array(numerator), np.array(weights), confidence=0.95)


def test_minimum_detectable_effect_is_detected_at_its_power() -> None:
    rows, trials = 100, 400
    weights, generator, shown = np.ones(rows), np.random.default_rng(5), 0
    effect = minimum_detectable_effect(1 / math.sqrt(rows), confidence=0.95)
    for _ in range(trials):
        shown += paired_bootstrap(generator.normal(effect, 1, rows), weights, confidence=0.95, resamples=999).low > 0
    assert 0.73 < shown / trials < 0.87


def test_rows_needed_follow_the_inverse_square() -> None:
    assert minimum_detectable_effect(1.0, 0.95) == pytest.approx(1.95996 + 0.84162, abs=1e-4)
    assert rows_needed(100, distance=2.80158, standard_error=1.0, confidence=0.95) == pytest.approx(100, abs=1)
    assert rows_needed(100, distance=1.40079, standard_error=1.0, confidence=0.95) == pytest.approx(400, abs=1)
