"""The confidence that further tries need."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.judging.statistics.spending import spend


def test_the_first_try_needs_no_correction() -> None:
    assert spend(0.95, 1) == 0.95
    assert spend(0.95, 2) == pytest.approx(1 - 0.05 / 3)
    assert spend(0.95, 20) == pytest.approx(1 - 0.05 / 210)


@given(confidence=st.floats(0.51, 0.999), tries=st.integers(1, 2_000))
def test_all_tries_together_have_less_than_twice_the_error_of_the_first(confidence: float, tries: int) -> None:
    errors = [1 - spend(confidence, number) for number in range(1, tries + 1)]
    assert sum(errors) < 2 * (1 - confidence)
    assert errors == sorted(errors, reverse=True)


def test_there_is_no_try_before_the_first() -> None:
    with pytest.raises(ValueError, match="0 is not a valid number of a try"):
        spend(0.95, 0)
