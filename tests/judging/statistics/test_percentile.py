"""Percentiles by nearest rank."""

from __future__ import annotations

from mlops.judging.statistics.percentile import percentile


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(100, 0, -1)]
    assert [percentile(values, percent) for percent in (0, 50, 50.5, 95, 100)] == [1.0, 50.0, 51.0, 95.0, 100.0]
    assert (percentile([3.0], 95), percentile([1.0, 9.0], 95)) == (3.0, 9.0)
