"""McNemar's test compared with the enumerated binomial distribution."""

from __future__ import annotations

import math

import numpy as np
import pytest

from mlops.judging.statistics.estimate import significance_level
from mlops.judging.statistics.mcnemar import mcnemar


def flags(wins: int, losses: int, both: int = 3, neither: int = 2) -> tuple[np.ndarray, np.ndarray]:
    """Make the rows of candidate and reference, right or wrong."""
    candidate = [True] * wins + [False] * losses + [True] * both + [False] * neither
    reference = [False] * wins + [True] * losses + [True] * both + [False] * neither
    return np.array(candidate), np.array(reference)


def test_the_value_is_the_difference_of_shares() -> None:
    candidate, reference = flags(9, 2, both=20, neither=9)
    estimate = mcnemar(candidate, reference, confidence=0.95)
    assert estimate.value == pytest.approx(candidate.mean() - reference.mean()) == pytest.approx(7 / 40)


def test_the_p_value_is_that_of_a_fair_coin() -> None:
    # 9 or more heads of 11: (55 + 11 + 1) / 2048.
    estimate = mcnemar(*flags(9, 2), confidence=0.95)
    assert estimate.p_above(0) == pytest.approx(67 / 2048)
    assert estimate.p_below(0) == pytest.approx(1 - 12 / 2048)
    assert estimate.low < 0


def test_interval_is_clopper_and_pearsons() -> None:
    # The 95 % interval of 9 in 10 is [0.5550, 0.9975]; twice that minus one, for 10 of 15 rows.
    estimate = mcnemar(*flags(9, 1), confidence=0.95)
    assert estimate.low == pytest.approx((2 * 0.55498 - 1) * 10 / 15, abs=1e-4)
    assert estimate.high == pytest.approx((2 * 0.99747 - 1) * 10 / 15, abs=1e-4)


def test_p_values_agree_with_the_interval() -> None:
    estimate = mcnemar(*flags(9, 3, both=20), confidence=0.95)
    assert estimate.p_above(estimate.low - 1e-6) <= 0.025 < estimate.p_above(estimate.low + 1e-6) == pytest.approx(0.025, abs=1e-4)
    assert estimate.p_below(estimate.high + 1e-6) <= 0.025 < estimate.p_below(estimate.high - 1e-6) == pytest.approx(0.025, abs=1e-4)
    assert (estimate.p_above(-1), estimate.p_above(1)) == (0, 1)


def test_rows_that_both_get_right_or_wrong_do_not_matter() -> None:
    few, many = (mcnemar(*flags(12, 2, both=rows, neither=rows), confidence=0.95) for rows in (0, 500))
    assert few.p_above(0) == many.p_above(0)
    assert (few.low > 0) == (many.low > 0) == True  # noqa: E712


@pytest.mark.parametrize("confidence", [0.8, 0.9, 0.95, 0.99])
def test_a_difference_is_shown_exactly_if_the_test_rejects(confidence: float) -> None:
    for discordant in (*range(1, 21), 40):
        for wins in range(discordant + 1):
            estimate = mcnemar(*flags(wins, discordant - wins), confidence=confidence)
            tail = sum(math.comb(discordant, k) for k in range(wins, discordant + 1)) / 2**discordant
            limit = significance_level(confidence)
            assert (estimate.low > 0) == (estimate.p_above(0) <= limit) == (tail <= limit), (wins, discordant)


def test_the_false_positive_rate_is_at_most_the_nominal_one() -> None:
    for discordant in (1, 5, 6, 13, 30, 59):
        shown = sum(
            math.comb(discordant, wins)
            for wins in range(discordant + 1)
            if mcnemar(*flags(wins, discordant - wins), confidence=0.95).low > 0
        )
        assert shown / 2**discordant <= 0.025


def test_swapped_models_give_exactly_the_negated_result() -> None:
    generator = np.random.default_rng(2)
    for rows in (5, 40, 900):
        candidate, reference = generator.random(rows) < 0.6, generator.random(rows) < 0.5
        there, back = mcnemar(candidate, reference, confidence=0.95), mcnemar(reference, candidate, confidence=0.95)
        assert (there.low, there.value, there.high, there.standard_error) == (-back.high, -back.value, -back.low, back.standard_error)
        assert there.p_above(0) == back.p_below(0)


def test_without_discordant_rows_nothing_is_shown() -> None:
    estimate = mcnemar(*flags(0, 0), confidence=0.95)
    assert (estimate.value, estimate.low, estimate.high) == (0, -math.inf, math.inf)
    assert (estimate.p_above(0), estimate.p_below(0)) == (1.0, 1.0)


def test_a_candidate_that_wins_everywhere_is_shown() -> None:
    estimate = mcnemar(*flags(12, 0, both=0, neither=0), confidence=0.95)
    assert 0 < estimate.low < estimate.value == estimate.high == 1
    assert estimate.standard_error > 0
    assert estimate.p_above(math.nan) == 1.0


@pytest.mark.parametrize(
    ("candidate", "reference"),
    [([], []), ([True], [True, False]), ([1, 0], [0, 1])],
    ids=["no rows", "unequal length", "no booleans"],
)
def test_invalid_input_is_refused(candidate: list[bool], reference: list[bool]) -> None:
    with pytest.raises(ValueError, match="rows"):
        mcnemar(np.array(candidate), np.array(reference), confidence=0.95)
