"""Tango's score interval compared with published values, the rule of three, and true differences."""

from __future__ import annotations

import numpy as np
import pytest

from mlops.judging.statistics.estimate import Estimate
from mlops.judging.statistics.tango import tango


def estimate(only_candidate: int, only_reference: int, rows: int, both: int = 0, confidence: float = 0.95) -> Estimate:
    candidate, reference = np.zeros(rows, dtype=np.bool_), np.zeros(rows, dtype=np.bool_)
    candidate[: only_candidate + both] = True
    reference[only_candidate : only_candidate + both + only_reference] = True
    return tango(candidate, reference, confidence=confidence)


# Tango 1998, table IV (crossover trial of soft contact lenses: 44 patients, 43 concordant), and Newcombe 1998, table II.
@pytest.mark.parametrize(
    ("gained", "lost", "rows", "low", "high"), [(1, 0, 44, -0.06, 0.1181), (12, 2, 50, 0.0569, 0.3404), (0, 0, 50, -0.0713, 0.0713)]
)
def test_the_interval_agrees_with_published_ones(gained: int, lost: int, rows: int, low: float, high: float) -> None:
    result = estimate(gained, lost, rows)
    assert (result.low, result.high) == pytest.approx((low, high), abs=6e-3)


@pytest.mark.parametrize("rows", [50, 100, 500])
def test_without_a_differing_row_the_rule_of_three_applies(rows: int) -> None:
    z = 1.959964
    result = estimate(0, 0, rows)
    assert result.value == 0
    assert result.high == pytest.approx(z * z / (rows + z * z), rel=1e-6)
    assert estimate(0, 0, rows, both=rows // 2).high == result.high


@pytest.mark.parametrize(("gained", "lost", "rows"), [(60, 40, 1000), (300, 100, 5000)])
def test_the_standard_error_of_many_rows_is_that_of_a_difference_of_paired_proportions(gained: int, lost: int, rows: int) -> None:
    expected = ((gained + lost) / rows - ((gained - lost) / rows) ** 2) ** 0.5 / rows**0.5
    assert estimate(gained, lost, rows).standard_error == pytest.approx(expected, rel=0.02)


@pytest.mark.parametrize(("gained", "lost", "rows"), [(0, 0, 40), (3, 1, 40), (7, 7, 100), (0, 9, 30), (40, 0, 40)])
def test_swapped_models_give_exactly_the_negated_interval(gained: int, lost: int, rows: int) -> None:
    there, back = estimate(gained, lost, rows), estimate(lost, gained, rows)
    assert (there.low, there.value, there.high) == (-back.high, -back.value, -back.low)
    for threshold in (-0.2, 0.0, 0.05):
        assert there.p_above(threshold) == back.p_below(-threshold)


@pytest.mark.parametrize(("gained", "lost"), [(0, 0), (3, 1), (12, 2), (1, 20)])
def test_p_values_agree_with_the_interval(gained: int, lost: int) -> None:
    result = estimate(gained, lost, 60)
    for end, p, outwards in ((result.low, result.p_above, -1), (result.high, result.p_below, 1)):
        assert p(end + outwards * 1e-6) <= 0.025 < p(end - outwards * 1e-6)


@pytest.mark.parametrize(("rows", "gained", "lost"), [(100, 0.02, 0.02), (100, 0.1, 0.05), (300, 0.01, 0.01), (60, 0.2, 0.05)])
def test_a_candidate_that_is_worse_by_the_margin_is_seldom_shown(rows: int, gained: float, lost: float) -> None:
    generator = np.random.default_rng(1)
    draws = generator.multinomial(rows, [gained, lost, 1 - gained - lost], size=2_000)
    shown = [estimate(int(up), int(down), rows).high < gained - lost for up, down, _ in draws]
    assert np.mean(shown) <= 0.035


def test_other_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="same rows"):
        tango(np.zeros(3, dtype=np.bool_), np.zeros(4, dtype=np.bool_), confidence=0.95)
    with pytest.raises(ValueError, match="booleans"):
        tango(np.zeros(3), np.zeros(3), confidence=0.95)  # type: ignore[arg-type]
