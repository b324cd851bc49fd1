"""Intervals and p-values compared with true values, textbooks and scipy, and their symmetries."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy.stats
from scipy.special import stdtrit as t_quantile

from mlops.judging.statistics import bootstrap
from mlops.judging.statistics.bootstrap import paired_bootstrap
from mlops.judging.statistics.estimate import minimum_detectable_effect, rows_needed, significance_level


def sample(rows: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    weights = generator.integers(1, 50, rows).astype(float)
    return weights * generator.normal(0.1, 0.5, rows), weights


def test_value_is_the_ratio_of_sums_and_not_a_mean_of_ratios() -> None:
    estimate = paired_bootstrap(np.array([1.0, 10.0, 3.0]), np.array([1.0, 100.0, 9.0]), confidence=0.9)
    assert estimate.value == 14 / 110


def test_standard_error_is_that_of_a_mean_if_weights_are_equal() -> None:
    values = np.random.default_rng(0).normal(size=50)
    estimate = paired_bootstrap(values, np.ones(50), confidence=0.95)
    assert estimate.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(50))


def test_interval_is_the_textbook_one_for_normal_means() -> None:
    # For a mean of normal values the studentized pivot has Student's t distribution: 2.009 at 49 degrees of freedom and 95 %.
    values = np.random.default_rng(3).normal(size=50)
    estimate = paired_bootstrap(values, np.ones(50), confidence=0.95)
    half = 2.0096 * values.std(ddof=1) / math.sqrt(50)
    assert estimate.low == pytest.approx(estimate.value - half, abs=0.2 * half)
    assert estimate.high == pytest.approx(estimate.value + half, abs=0.2 * half)


@pytest.mark.parametrize("rows", [40, 3000])
def test_negated_differences_give_exactly_the_negated_interval(rows: int) -> None:
    numerator, weights = sample(rows)
    there, back = (paired_bootstrap(values, weights, confidence=0.95) for values in (numerator, -numerator))
    assert (there.low, there.value, there.high) == (-back.high, -back.value, -back.low)
    assert there.standard_error == back.standard_error


def test_few_negated_differences_give_exactly_the_negated_interval() -> None:
    """On the side of the long tail every bit of the skewness counts; NumPy's powers are not odd functions on every processor."""
    generator, weights = np.random.default_rng(3), np.ones(30)
    for _ in range(300):
        numerator = generator.exponential(size=30)
        there, back = (paired_bootstrap(values, weights, confidence=0.8, resamples=99) for values in (numerator, -numerator))
        assert (there.low, there.high) == (-back.high, -back.low)


def test_the_same_seed_gives_the_same_interval_and_another_seed_a_similar_one() -> None:
    numerator, weights = sample(200)
    first, again, other = (paired_bootstrap(numerator, weights, confidence=0.95, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other
    # A quantile of 9,999 resamples is known to 0.03 standard errors.
    assert other.low == pytest.approx(first.low, abs=0.15 * first.standard_error)


def noise(kind: str, generator: np.random.Generator, rows: int) -> np.ndarray:
    """Draw noise with mean 0."""
    if kind == "light":
        return generator.normal(0, 1, rows)
    if kind == "heavy":
        return generator.standard_t(3, rows)
    return generator.lognormal(0, 0.5, rows) - math.exp(0.125)


def misses(kind: str, rows: int, trials: int, confidence: float, truth: float = 0.2) -> tuple[float, float]:
    """Measure how often an interval is above and below the true value, for rows of log-normal length with shared difficulty and noise."""
    generator, above, below = np.random.default_rng(11), 0, 0
    for _ in range(trials):
        weights = np.round(40 * generator.lognormal(0, 0.6, rows)) + 1
        candidate, baseline = (difficulty := generator.lognormal(0, 0.5, rows)) + truth + noise(kind, generator, rows), difficulty
        estimate = paired_bootstrap(weights * candidate - weights * baseline, weights, confidence=confidence, resamples=999)
        above += estimate.low > truth
        below += estimate.high < truth
    return above / trials, below / trials


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rows"), [("light", 60), ("light", 2500), ("heavy", 60), ("skewed", 60)], ids=["by row", "pooled", "heavy", "skewed"]
)
def test_the_interval_misses_the_true_value_no_more_often_than_its_confidence_allows(kind: str, rows: int) -> None:
    above, below = misses(kind, rows, trials=400, confidence=0.9)
    # 5 % on each side, plus four standard errors of 400 trials.
    assert above < 0.095
    assert below < 0.095
    if kind == "light":
        assert min(above, below) > 0.012


@pytest.mark.parametrize("rows", [50, 400])
@pytest.mark.parametrize("sign", [1, -1])
def test_ends_are_those_of_the_stretched_bootstrap_and_at_least_students(rows: int, sign: int) -> None:
    # Skewed rows: toward the long tail the bootstrap's quantile is more extreme, toward the short tail Student's t is.
    generator = np.random.default_rng(8)
    weights = generator.integers(20, 60, rows).astype(float)
    values = sign * weights * generator.lognormal(0, 0.8, rows)
    ratio, residuals = values.sum() / weights.sum(), values - values.sum() / weights.sum() * weights
    left_out = (values.sum() - values) / (weights.sum() - weights)
    error = math.sqrt((rows - 1) / rows * ((left_out - left_out.mean()) ** 2).sum())
    pivots = []
    for _ in range(9_999):
        drawn = generator.integers(0, rows, rows)
        again = values[drawn].sum() / weights[drawn].sum()
        spread = math.sqrt(((values[drawn] - again * weights[drawn]) ** 2).sum() * rows / (rows - 1)) / weights[drawn].sum()
        pivots.append((again - ratio) / spread)
    stretch = 1 + ((residuals**4).mean() / (residuals**2).mean() ** 2 - 1) / rows
    upper, lower = (float(np.quantile(pivots, tail)) * stretch for tail in (0.975, 0.025))
    # Samples also understate the skewness on the side of the long tail.
    skewed = 1 + 0.2 * abs((residuals**3).mean()) / (residuals**2).mean() ** 1.5 / math.sqrt(rows)
    assert skewed > 1.02
    upper, lower = (upper, lower * skewed) if sign > 0 else (upper * skewed, lower)
    students = float(t_quantile(rows - 1, 0.975))
    assert (upper < students < -lower) if sign > 0 else (-lower < students < upper)
    assert stretch > 1.02
    estimate = paired_bootstrap(values, weights, confidence=0.95)
    assert estimate.low == pytest.approx(ratio - error * max(upper, students), abs=0.15 * error)
    assert estimate.high == pytest.approx(ratio - error * min(lower, -students), abs=0.15 * error)
    short_end = estimate.low if sign > 0 else estimate.high
    assert abs(short_end - ratio) == pytest.approx(error * students)


@pytest.mark.parametrize("sign", [1, -1])
def test_the_interval_is_stretched_by_the_skewness_toward_the_long_tail(sign: int, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = np.random.default_rng(8)
    weights, values = np.full(80, 7.0), sign * 7.0 * generator.lognormal(0, 1.0, 80)
    residuals = values / 7 - values.mean() / 7
    factor = 1 + 0.2 * abs((residuals**3).mean()) / (residuals**2).mean() ** 1.5 / math.sqrt(80)
    estimate = paired_bootstrap(values, weights, confidence=0.95)
    monkeypatch.setattr(bootstrap, "_SKEWNESS_CORRECTION", 0.0)
    plain = paired_bootstrap(values, weights, confidence=0.95)
    (far, near), (plain_far, plain_near) = [(each.high, each.low) if sign > 0 else (each.low, each.high) for each in (estimate, plain)]
    assert (far - estimate.value) / (plain_far - plain.value) == pytest.approx(factor)
    assert factor > 1.05
    assert near == plain_near


@pytest.mark.parametrize("rows", [2, 3])
def test_two_or_three_rows_have_no_interval(rows: int) -> None:
    for seed in range(8):
        estimate = paired_bootstrap(*sample(rows, seed), confidence=0.95)
        assert (estimate.low, estimate.high) == (-math.inf, math.inf)


def test_rows_are_compared_in_pairs() -> None:
    # The spread of the difficulty is ten times the noise between the models, so unpaired scores would not show the difference.
    generator = np.random.default_rng(7)
    difficulty = generator.normal(5, 1, 200)
    candidate, baseline = difficulty - 0.05 + generator.normal(0, 0.1, 200), difficulty
    paired = paired_bootstrap(candidate - baseline, np.ones(200), confidence=0.95)
    alone = paired_bootstrap(candidate, np.ones(200), confidence=0.95)
    assert paired.high < 0
    assert alone.high - alone.low > 5 * (paired.high - paired.low)


@pytest.mark.parametrize("rows", [60, 900])
def test_units_do_not_matter(rows: int) -> None:
    numerator, weights = sample(rows)
    plain, scaled = (paired_bootstrap(numerator * top, weights * bottom, confidence=0.95) for top, bottom in ((1, 1), (1e30, 1e25)))
    assert scaled.low == pytest.approx(plain.low * 1e5, rel=1e-4)
    assert scaled.high == pytest.approx(plain.high * 1e5, rel=1e-4)


def test_neighboring_rows_are_not_pooled_together() -> None:
    # Rows sorted by id may also be sorted by difficulty. Sums of eight rows at random have variance 2, of eight neighbors 16.
    values = np.repeat([0.0, 1.0], 2048)
    sums, weights = bootstrap._pool_groups(values, np.ones(4096), seed=1)
    assert (sums.sum(), weights.sum(), len(sums)) == (2048, 4096, 512)
    assert sums.var() == pytest.approx(2, abs=0.4)


def test_wider_confidence_gives_a_wider_interval() -> None:
    numerator, weights = sample(80)
    narrow, wide = (paired_bootstrap(numerator, weights, confidence=confidence) for confidence in (0.8, 0.99))
    assert wide.low < narrow.low < narrow.value < narrow.high < wide.high


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e200])
def test_values_that_are_not_finite_have_no_interval(value: float) -> None:
    numerator, weights = sample(30)
    numerator[3] = value
    estimate = paired_bootstrap(numerator, weights, confidence=0.95)
    assert (estimate.low, estimate.high) == (-math.inf, math.inf)
    assert (estimate.p_above(-9.9), estimate.p_below(9.9)) == (1.0, 1.0)


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95, 0.99, 0.995])
@pytest.mark.parametrize("rows", [12, 80, 700])
def test_p_values_agree_with_the_interval(rows: int, confidence: float) -> None:
    estimate = paired_bootstrap(*sample(rows), confidence=confidence)
    limit = significance_level(confidence)
    for end, p, outwards in ((estimate.low, estimate.p_above, -1), (estimate.high, estimate.p_below, 1)):
        step = outwards * 1e-9 * estimate.standard_error
        assert p(end + step) <= limit
        assert p(end) > limit  # an end on the threshold shows nothing
        assert p(end - step) > limit
    thresholds = np.linspace(estimate.value - 5 * estimate.standard_error, estimate.value + 5 * estimate.standard_error, 41)
    rising = [estimate.p_above(threshold) for threshold in thresholds]
    assert rising == sorted(rising)
    assert estimate.p_above(estimate.value) == pytest.approx(0.5, abs=0.1)
    assert estimate.p_above(-math.inf) == 1 / 10_000  # the smallest p-value that the resamples can give
    assert estimate.p_above(math.inf) == estimate.p_above(math.nan) == estimate.p_below(math.nan) == 1.0


def test_p_values_of_normal_means_are_students() -> None:
    from scipy.stats import ttest_1samp

    values = np.random.default_rng(3).normal(0.2, 1, 60)
    estimate = paired_bootstrap(values, np.ones(60), confidence=0.95)
    for threshold in (-0.2, 0.0, 0.3):
        expected = ttest_1samp(values, threshold, alternative="greater").pvalue
        assert expected <= estimate.p_above(threshold) + 1e-12
        assert estimate.p_above(threshold) == pytest.approx(expected, rel=0.3, abs=3e-3)


def test_p_values_of_negated_differences_change_sides() -> None:
    numerator, weights = sample(90)
    there, back = (paired_bootstrap(values, weights, confidence=0.95) for values in (numerator, -numerator))
    for threshold in (-0.1, 0.0, 0.07):
        assert there.p_above(threshold) == back.p_below(-threshold)


def test_estimates_with_equal_numbers_are_equal() -> None:
    numerator, weights = sample(30)
    one, other = (paired_bootstrap(numerator, weights, confidence=0.95) for _ in range(2))
    assert one == other
    assert "tails" not in repr(one)


def test_the_pivot_of_a_resample_of_equal_weights_is_students_t() -> None:
    values = np.random.default_rng(4).normal(size=12)
    residuals = values - values.mean()
    pivots = bootstrap._pivots(residuals, np.ones(12), 200, bootstrap.SEED)
    drawn = bootstrap._counts(12, 200, bootstrap.SEED).astype(int)
    expected = [float(np.asarray(scipy.stats.ttest_1samp(np.repeat(residuals, counts), 0.0).statistic)) for counts in drawn.T]
    assert pivots == pytest.approx(np.array(sorted(expected)), rel=1e-4, abs=1e-4)


def test_a_resample_as_extreme_as_the_sample_counts_on_both_sides() -> None:
    estimate = paired_bootstrap(np.array([1.0, -1.0] * 10), np.ones(20), confidence=0.95)
    # A resample has as many rows of one kind as of the other in 17.6 % of the cases.
    assert estimate.p_above(0.0) == pytest.approx(0.588, abs=0.02)
    assert estimate.p_below(0.0) == pytest.approx(0.588, abs=0.02)


def test_weights_of_less_than_one_in_all_are_weights() -> None:
    numerator, weights = sample(30)
    small, large = (paired_bootstrap(numerator * factor, weights * factor, confidence=0.95) for factor in (2.0**-20, 1.0))
    assert (small.low, small.value, small.high) == pytest.approx((large.low, large.value, large.high))


def test_significance_levels_are_round_numbers() -> None:
    assert [significance_level(confidence) for confidence in (0.9, 0.95, 0.99, 0.98)] == [0.05, 0.025, 0.005, 0.01]


def test_too_few_resamples_for_the_confidence_give_no_interval() -> None:
    numerator, weights = sample(30)
    assert math.isfinite(paired_bootstrap(numerator, weights, confidence=0.99, resamples=199).low)
    assert paired_bootstrap(numerator, weights, confidence=0.99, resamples=198).low == -math.inf


def test_agrees_with_scipys_bootstrap_for_many_rows() -> None:
    from scipy.stats import bootstrap

    numerator, weights = sample(3000)
    ours = paired_bootstrap(numerator, weights, confidence=0.95)
    result = bootstrap(
        (numerator, weights),
        lambda top, bottom, axis: top.sum(axis=axis) / bottom.sum(axis=axis),
        paired=True,
        n_resamples=1999,
        batch=100,
        rng=np.random.default_rng(1),
    )
    # A quantile of 1,999 resamples is known to 0.06 standard errors.
    assert ours.low == pytest.approx(result.confidence_interval.low, abs=0.2 * ours.standard_error)
    assert ours.high == pytest.approx(result.confidence_interval.high, abs=0.2 * ours.standard_error)


@pytest.mark.parametrize(
    ("numerator", "weights"),
    [([1.0], [1.0]), ([1.0, 2.0], [0.0, 0.0]), ([1.0, 2.0], [2.0, -1.0]), ([1.0, 2.0], [1.0])],
    ids=["one row", "no weight", "negative weight", "unequal length"],
)
def test_invalid_input_is_refused(numerator: list[float], weights: list[float]) -> None:
    with pytest.raises(ValueError, match=r"rows|weights"):
        paired_bootstrap(np.array(numerator), np.array(weights), confidence=0.95)


def test_the_minimum_detectable_effect_is_detected_with_its_power() -> None:
    rows, trials = 100, 400
    weights, generator, shown = np.ones(rows), np.random.default_rng(5), 0
    effect = minimum_detectable_effect(paired_bootstrap(generator.normal(0, 1, rows), weights, confidence=0.95))
    assert effect == pytest.approx((1.984 + 0.842) / math.sqrt(rows), rel=0.1)
    for _ in range(trials):
        shown += paired_bootstrap(generator.normal(effect, 1, rows), weights, confidence=0.95, resamples=999).low > 0
    assert 0.73 < shown / trials < 0.87


@pytest.mark.slow
def test_the_number_of_rows_needed_shows_the_distance_with_its_power() -> None:
    generator, distance = np.random.default_rng(6), 0.25
    seen = generator.normal(distance, 1, 60)
    rows = rows_needed(60, distance, paired_bootstrap(seen, np.ones(60), confidence=0.95))
    assert 90 < rows < 180
    trials, shown = 400, 0
    for _ in range(trials):
        shown += paired_bootstrap(generator.normal(distance, seen.std(ddof=1), rows), np.ones(rows), confidence=0.95, resamples=999).low > 0
    assert 0.73 < shown / trials < 0.9


def test_rows_needed_grow_with_the_inverse_square_of_the_distance() -> None:
    estimate = paired_bootstrap(*sample(100), confidence=0.95)
    effect = minimum_detectable_effect(estimate)
    assert effect == pytest.approx((estimate.high - estimate.low) / 2 + 0.84162 * estimate.standard_error, rel=1e-5)
    assert minimum_detectable_effect(estimate, power=0.5) == (estimate.high - estimate.low) / 2
    assert rows_needed(100, effect, estimate) == 100
    assert rows_needed(100, effect / 2, estimate) == 400
    assert rows_needed(100, effect * 2, estimate) == 25
