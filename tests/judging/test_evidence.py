"""Rows of scores.jsonl become columns sorted by row id, or are refused."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mlops.judging.evidence import InvalidScores, Rows
from tests.support.evidence import make_evidence, make_rows, make_rule


def test_rows_are_columns_in_the_order_of_their_ids() -> None:
    scores = [row for row in make_rows("champion", n=25) if row["suite"] == "target"]
    rows = Rows.of(reversed(scores))
    assert rows.ids == tuple(row["id"] for row in scores)
    assert rows.tokens.tolist() == [row["tokens"] for row in scores]
    for column in ("nll", "greedy_tokens"):
        assert rows.columns[column].tolist() == [row[column] for row in scores]
    assert np.isnan(rows.columns["kl"]).all()
    assert rows.measured["rouge_l"].tolist() == [row["rouge_l"] is not None for row in scores]
    assert not rows.has_duplicates
    assert Rows.of([*scores, scores[3]]).has_duplicates


def test_a_suite_without_rows_has_columns_of_the_same_types() -> None:
    empty, rows = Rows.of([]), Rows.of(row for row in make_rows("base", n=3) if row["suite"] == "target")
    assert (empty.ids, empty.has_duplicates) == ((), False)
    assert [array.dtype for array in (empty.is_copy, empty.tokens)] == [array.dtype for array in (rows.is_copy, rows.tokens)]
    for name in rows.columns:
        assert (empty.columns[name].dtype, empty.measured[name].dtype) == (rows.columns[name].dtype, rows.measured[name].dtype)


@pytest.mark.parametrize(
    "change",
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
def test_an_invalid_row_is_refused(change: Callable[[dict[str, Any]], Any]) -> None:
    scores = [row for row in make_rows("champion", n=5) if row["suite"] == "target"]
    change(scores[2])
    with pytest.raises(InvalidScores, match="invalid row of scores"):
        Rows.of(scores)


def test_the_baseline_of_a_rule_is_the_model_that_exists() -> None:
    evidence = make_evidence()
    anchored = replace(evidence, models={**evidence.models, "anchor": evidence.models["champion"]})
    alone = replace(evidence, models={role: model for role, model in evidence.models.items() if role != "champion"})
    anchor, champion, base = (make_rule(baseline=role) for role in ("anchor", "champion", "base"))
    ceiling = make_rule(ceiling=3.0)
    assert [anchored.reference(rule) for rule in (anchor, champion, base, ceiling)] == ["anchor", "champion", "base", "none"]
    assert [evidence.reference(rule) for rule in (anchor, champion, base)] == ["champion", "champion", "base"]
    assert [alone.reference(rule) for rule in (anchor, champion, base)] == ["base", "base", "base"]
    assert [each.is_first_run for each in (anchored, evidence, alone)] == [False, False, True]


@pytest.mark.parametrize("role", ["champion", "anchor"])
def test_a_model_that_exists_but_was_not_evaluated_is_not_replaced(role: str) -> None:
    evidence = make_evidence()
    others = {name: model for name, model in evidence.models.items() if name != role}
    missing = replace(evidence, models=others, missing={role: "its files are gone"})
    assert missing.reference(make_rule(baseline=role)) == role
    assert not missing.is_first_run
