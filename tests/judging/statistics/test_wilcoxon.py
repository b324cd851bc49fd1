"""The signed-rank test compared with enumeration, textbook intervals and true values."""

from __future__ import annotations

import itertools
import math
from statistics import NormalDist

import numpy as np
import pytest
import scipy.stats

from mlops.judging.statistics import wilcoxon
from mlops.judging.statistics.wilcoxon import _critical_rank_sum, _p, signed_rank


def walsh(values: np.ndarray) -> np.ndarray:
    """Return the sorted averages of all pairs of values, including each value with itself."""
    first, second = np.triu_indices(len(values))
    return np.sort((values[first] + values[second]) / 2)


def sample(rows: int, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).standard_t(3, rows) + 0.3


@pytest.mark.parametrize("rows", [6, 9, 20, 51, 300])
def test_the_value_is_the_median_of_all_pairwise_averages(rows: int) -> None:
    values = sample(rows)
    assert signed_rank(values, confidence=0.95).value == pytest.approx(np.median(walsh(values)), abs=1e-6)


@pytest.mark.parametrize("rows", [2, 7, 40])
def test_the_average_of_many_rows_is_searched_and_is_the_same_as_if_all_are_listed(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    values = np.sort(np.random.default_rng(rows).exponential(size=rows) - 0.2)
    averages = walsh(values)
    monkeypatch.setattr(wilcoxon, "_ENUMERATED_ROWS", 1)
    for index in {0, 1, len(averages) // 3, len(averages) // 2, len(averages) - 1}:
        assert wilcoxon._walsh_average(values, index) == pytest.approx(averages[index], abs=1e-9)


def test_p_value_of_many_rows_is_the_normal_approximation_with_continuity_correction() -> None:
    values = sample(60)
    ranks = np.argsort(np.argsort(np.abs(values))) + 1
    distance = ranks[values > 0].sum() - 60 * 61 / 4
    expected = 1 - NormalDist().cdf((distance - 0.5) / math.sqrt(60 * 61 * 121 / 24))
    assert signed_rank(values, confidence=0.95).p_above(0) == pytest.approx(expected, rel=1e-9)


# The k-th smallest and largest average, k from tables of the test's exact distribution at 2.5 % (Hollander, Wolfe & Chicken, table A.4):
# 6 rows 1, 8 rows 4, 10 rows 9, 15 rows 26, 20 rows 53.
@pytest.mark.parametrize(("rows", "place"), [(6, 1), (8, 4), (10, 9), (15, 26), (20, 53)])
def test_the_interval_ends_on_the_average_from_the_tables(rows: int, place: int) -> None:
    values = sample(rows)
    estimate, averages = signed_rank(values, confidence=0.95), walsh(values)
    assert estimate.low == pytest.approx(averages[place - 1], abs=1e-6)
    assert estimate.high == pytest.approx(averages[-place], abs=1e-6)


def test_large_samples_follow_the_normal_approximation() -> None:
    values = sample(400)
    mean, deviation = 400 * 401 / 4, math.sqrt(400 * 401 * 801 / 24)
    place = math.floor(mean - 1.95996 * deviation)
    estimate = signed_rank(values, confidence=0.95)
    assert estimate.low == pytest.approx(walsh(values)[place - 1], abs=1e-3)
    assert estimate.standard_error == pytest.approx((estimate.high - estimate.low) / 2 / 1.95996, rel=1e-4)


@pytest.mark.parametrize(
    "ranks", [[1, 2, 3, 4, 5, 6, 7], [1, 1, 1, 1, 1, 1, 1, 1], [1, 1, 2, 2, 3, 3, 4, 4, 4], [0, 0, 1, 2, 3, 3, 4, 5, 6]]
)
def test_the_false_positive_rate_is_at_most_the_nominal_one(ranks: list[int]) -> None:
    # Without a difference all signs are equally likely, also with ties and zeros.
    p_values = np.array([_p(np.array(ranks) * np.array(signs)) for signs in itertools.product((-1.0, 1.0), repeat=len(ranks))])
    for limit in (0.005, 0.01, 0.025, 0.05, 0.1):
        assert (p_values <= limit).mean() <= limit


@pytest.mark.parametrize("rows", [6, 13, 50, 51, 700])
@pytest.mark.parametrize("tied", [False, True])
def test_p_values_agree_with_the_interval(rows: int, tied: bool) -> None:
    values = np.round(sample(rows)) if tied else sample(rows)
    estimate = signed_rank(values, confidence=0.9)
    step = 1e-6 * float(np.ptp(values))
    for end, p, outwards in ((estimate.low, estimate.p_above, -1), (estimate.high, estimate.p_below, 1)):
        assert p(end) > 0.05  # an end on the threshold shows nothing
        assert p(end + outwards * step) <= 0.05 < p(end - outwards * step)
    thresholds = np.linspace(float(values.min()) - 1, float(values.max()) + 1, 30)
    rising = [estimate.p_above(threshold) for threshold in thresholds]
    assert rising == sorted(rising)
    assert estimate.p_above(math.nan) == 1.0


@pytest.mark.parametrize("rows", [5, 12, 60, 3000])
@pytest.mark.parametrize("tied", [False, True])
def test_negated_differences_give_exactly_the_negated_result(rows: int, tied: bool) -> None:
    values = np.round(sample(rows)) if tied else sample(rows)
    there, back = signed_rank(values, confidence=0.95), signed_rank(-values, confidence=0.95)
    assert (there.low, there.value, there.high, there.standard_error) == (-back.high, -back.value, -back.low, back.standard_error)
    assert there.p_above(0.1) == back.p_below(-0.1)


def test_the_order_of_rows_does_not_matter() -> None:
    values = sample(200)
    assert signed_rank(values, confidence=0.95) == signed_rank(values[::-1], confidence=0.95)


def test_a_p_value_equal_to_the_limit_rejects() -> None:
    values = sample(5)  # whose smallest possible p-value is 1 / 32
    assert signed_rank(values, confidence=1 - 2 / 32).low == pytest.approx(values.min(), abs=1e-6)
    assert signed_rank(values, confidence=1 - 2 / 33).low == -math.inf


def test_one_extreme_row_has_little_influence() -> None:
    calm, wild = sample(40), sample(40)
    wild[np.argmax(wild)] = 1e6
    assert signed_rank(wild, confidence=0.95).low == pytest.approx(signed_rank(calm, confidence=0.95).low, abs=0.01)


def test_rows_on_the_threshold_count_half_for_each_side() -> None:
    # Ranks 1.5, 1.5, 3, 4, 5, 6: the positive sum is 18 plus half of 3. Of 64 sign combinations 3 give 19 or more.
    assert signed_rank(np.array([0.0, 0.0, 3.0, 4.0, 5.0, 6.0]), confidence=0.95).p_above(0) == pytest.approx(3 / 64)


def test_rows_with_the_same_difference_have_a_value() -> None:
    assert signed_rank(np.full(30, 0.1), confidence=0.95).value == 0.1


def test_nothing_is_shown_if_most_rows_are_equal() -> None:
    values = np.concatenate([np.zeros(75), np.ones(25)])
    estimate = signed_rank(values, confidence=0.95)
    assert estimate.low <= 0 <= estimate.high
    assert estimate.value == pytest.approx(0, abs=1e-6)
    assert estimate.p_above(0) > 0.025


@pytest.mark.parametrize(
    "values",
    [[1.0, 2.0, 3.0, 4.0, 5.0], [1.0], [0.0] * 30, [0.1] * 30, [1.0, math.nan, 2.0] * 9, [1.0, math.inf, 2.0] * 9, [math.inf] * 9],
    ids=["five rows", "one row", "all equal", "all the same", "not a number", "infinite", "all infinite"],
)
def test_rows_without_information_have_no_interval(values: list[float]) -> None:
    estimate = signed_rank(np.array(values), confidence=0.95)
    assert (estimate.low, estimate.high) == (-math.inf, math.inf)
    assert estimate.p_above(-99.0) > 0.025
    assert estimate.p_below(99.0) > 0.025


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="rows"):
        signed_rank(np.array([]), confidence=0.95)


@pytest.mark.parametrize("rows", [200, 1001])
@pytest.mark.parametrize("limit", [0.025, 0.001])
def test_the_critical_rank_sum_of_many_rows_is_that_of_scipy(rows: int, limit: float) -> None:
    def p_value(rank_sum: int) -> float:
        ranks, left = np.arange(1.0, rows + 1), rank_sum
        for index in range(rows)[::-1]:
            if ranks[index] <= left:
                left -= int(ranks[index])
            else:
                ranks[index] *= -1
        assert ranks[ranks > 0].sum() == rank_sum
        return float(scipy.stats.wilcoxon(ranks, alternative="greater", correction=True).pvalue)

    critical = _critical_rank_sum(np.arange(1.0, rows + 1), limit)
    assert p_value(critical) <= limit < p_value(critical - 1)
