"""Holm's correction."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from mlops.judging.statistics.holm import holm


def test_steps_of_the_correction() -> None:
    # 0.005 × 4, 0.01 × 3, 0.03 × 2, and 0.04 × 1, which must not be below the previous one.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_agrees_with_r() -> None:
    # R 4.3: p.adjust(c(0.01, 0.02, 0.03, 0.04, 0.05), "holm")
    assert holm([0.01, 0.02, 0.03, 0.04, 0.05]) == pytest.approx([0.05, 0.08, 0.09, 0.09, 0.09])


def test_zero_or_one_p_values_are_unchanged() -> None:
    assert holm([]) == []
    assert holm([0.2]) == [0.2]


def test_no_p_value_exceeds_1() -> None:
    assert holm([0.9, 0.6, 0.01]) == pytest.approx([1.0, 1.0, 0.03])


def test_the_order_does_not_matter() -> None:
    values = [0.2, 0.01, 0.01, 1.0, 0.04]
    expected = dict(zip(values, holm(values), strict=True))
    for order in itertools.permutations(values):
        assert holm(order) == [expected[value] for value in order]


def test_nan_counts_as_1() -> None:
    assert holm([math.nan, 0.01]) == [1.0, 0.02]


@pytest.mark.parametrize("value", [-0.1, 1.1])
def test_a_value_outside_0_to_1_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="p-value"):
        holm([0.5, value])


def test_the_rate_of_any_false_rejection_is_the_nominal_one() -> None:
    draws = np.random.default_rng(1).uniform(size=(4000, 10))
    wrong = sum(min(holm(row.tolist())) <= 0.05 for row in draws) / len(draws)
    assert wrong == pytest.approx(1 - (1 - 0.005) ** 10, abs=0.012)
