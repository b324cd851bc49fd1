"""Rows of scores.jsonl: columns by row id, or no evidence at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from mlops.judging.evidence import Rows, Scoreless
from tests.support.evidence import rows


def test_rows_are_columns_in_the_order_of_their_ids() -> None:
    made = [row for row in rows("champion", n=25) if row["suite"] == "target"]
    found = Rows.of(reversed(made))
    assert found.ids == tuple(row["id"] for row in made)
    for column in ("tokens", "nll", "greedy_tokens"):
        assert getattr(found, column).tolist() == [row[column] for row in made]
    assert np.isnan(found.kl).all()
    assert found.answered.tolist() == [row["rouge_l"] is not None for row in made]
    assert not found.repeats
    assert Rows.of([*made, made[3]]).repeats


@pytest.mark.parametrize(
    "spoil",
    [
        *(lambda row, name=name: row.pop(name) for name in ("id", "kind", "input", "tokens", "nll", "kl", "greedy_tokens")),
        lambda row: row.update(id=7),
        lambda row: row.update(nll="2.0"),
        lambda row: row.update(nll=None),
        lambda row: row.update(nll=True),
        lambda row: row.update(nll=10**400),
        lambda row: row.update(tokens=-1),
        lambda row: row.update(tokens=2.0),
        lambda row: row.update(tokens=10**400),
        lambda row: row.update(greedy_tokens=1.5),
        lambda row: row.update(greedy_tokens=-1),
        lambda row: row.update(rouge_l="0.5"),
    ],
)
def test_what_is_no_score_is_refused(spoil: Callable[[dict[str, Any]], Any]) -> None:
    made = [row for row in rows("champion", n=5) if row["suite"] == "target"]
    spoil(made[2])
    with pytest.raises(Scoreless, match="a row of the scores is not a score"):
        Rows.of(made)
