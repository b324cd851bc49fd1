"""The exact interval of a share of rows."""

from __future__ import annotations

import numpy as np
import pytest

from mlops.judging.statistics.tail import tail


def flags(count: int, rows: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.arange(rows) < count


# Clopper and Pearson's interval in closed form: no row gives 1 − (α/2)^(1/n); 2 of 10 is in every table.
@pytest.mark.parametrize(
    ("count", "rows", "low", "high"),
    [(0, 100, 0.0, 1 - 0.025 ** (1 / 100)), (2, 10, 0.02521, 0.55610), (100, 100, 0.025 ** (1 / 100), 1.0)],
)
def test_the_interval_is_the_exact_one(count: int, rows: int, low: float, high: float) -> None:
    result = tail(flags(count, rows), 0.05, confidence=0.95)
    assert (result.share, result.low, result.high) == pytest.approx((count / rows, low, high), abs=1e-4)


@pytest.mark.parametrize("share", [0.01, 0.02, 0.1])
def test_a_share_at_the_limit_is_seldom_called_within_it_or_beyond_it(share: float) -> None:
    counts = np.random.default_rng(1).binomial(500, share, size=2_000)
    results = {int(count): tail(flags(int(count), 500), share, confidence=0.95) for count in set(counts)}
    assert np.mean([results[int(count)].high < share for count in counts]) <= 0.025 + 0.007
    assert np.mean([results[int(count)].low > share for count in counts]) <= 0.025 + 0.007


def test_the_p_value_is_small_if_the_share_is_too_large() -> None:
    assert tail(flags(0, 100), 0.05, confidence=0.95).p_within == 1.0
    assert tail(flags(20, 100), 0.05, confidence=0.95).p_within < 1e-6


def test_a_share_of_no_rows_is_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        tail(flags(0, 0), 0.05, confidence=0.95)
