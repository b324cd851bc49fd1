"""Selection of the frozen suites: which rows, how many, and of which kinds."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from mlops.core.settings import EvaluationConfig
from mlops.dataset.suites import count_tasks, freeze, stratified_lines, target_lines


def line(number: int, kind: str | None = None, prompt_id: str = "") -> bytes:
    messages = [{"role": "user", "content": f"Q{number}"}, {"role": "assistant", "content": "A"}]
    row = {"prompt": f"Q{number}", "messages": messages, "prompt_id": prompt_id or str(number)}
    return json.dumps(row | ({"kind": kind} if kind else {})).encode() + b"\n"


@pytest.fixture
def held_out(tmp_path: Path) -> Path:
    path = tmp_path / "test_sft.jsonl"
    path.write_bytes(line(1) + line(2) + line(3, prompt_id="1") + b"nonsense\n" + line(4).rstrip())
    return path


@pytest.fixture
def retention(tmp_path: Path) -> Path:
    path = tmp_path / "all.jsonl"
    kinds = ["fact"] * 5 + ["sum"] * 2 + ["refusal"] * 1
    path.write_bytes(b"".join(line(number, kind) for number, kind in enumerate(kinds)) + line(8, "sum", prompt_id="0"))
    return path


def test_the_target_suite_is_the_first_readable_rows_with_different_ids(held_out: Path) -> None:
    assert target_lines(held_out, 2) == ([line(1), line(2)], 0)
    assert target_lines(held_out, 9) == ([line(1), line(2), line(4)], 1)


@pytest.mark.parametrize(
    ("limit", "numbers"),
    [(3, [0, 5, 7]), (4, [0, 1, 5, 7]), (5, [0, 1, 5, 6, 7]), (6, [0, 1, 2, 5, 6, 7]), (None, [0, 1, 2, 3, 4, 5, 6, 7])],
)
def test_the_retention_suite_covers_every_kind(limit: int | None, numbers: list[int], retention: Path) -> None:
    selected, kinds = stratified_lines(retention, limit)
    assert [int(json.loads(text)["prompt"][1:]) for text in selected] == numbers
    assert kinds == 3


def test_freezing_writes_both_suites_and_reports_missing_rows(held_out: Path, retention: Path, tmp_path: Path) -> None:
    files, findings = freeze(held_out, retention, tmp_path / "suites", EvaluationConfig(target_rows=5, retention_rows=2))
    assert {name: rows for name, (_, rows) in files.items()} == {"target": 3, "retention": 2}
    assert {name: path.read_bytes().count(b"\n") for name, (path, _) in files.items()} == {"target": 3, "retention": 2}
    assert [(finding.rule, finding.severity) for finding in findings] == [
        ("suite.short", "warning"), ("suite.ids", "warning"), ("suite.kinds", "error"),
    ]  # fmt: skip


def test_freezing_enough_rows_has_no_findings(held_out: Path, retention: Path, tmp_path: Path) -> None:
    _, findings = freeze(held_out, retention, tmp_path / "suites", EvaluationConfig(target_rows=3, retention_rows=3))
    assert findings == []


@pytest.mark.parametrize(
    ("ids", "severity"), [("1111", "error"), ("1112", "warning"), ("1122", "warning"), ("1223", "warning"), ("1234", None)]
)
def test_equal_ids_are_named_as_the_reason_for_a_short_suite(ids: str, severity: str | None, tmp_path: Path, retention: Path) -> None:
    test = tmp_path / "test_sft.jsonl"
    test.write_bytes(b"".join(line(number, prompt_id=identity) for number, identity in enumerate(ids)))
    _, findings = freeze(test, retention, tmp_path, EvaluationConfig(target_rows=9))
    assert [finding.severity for finding in findings if finding.rule == "suite.ids"] == ([severity] if severity else [])


def test_tasks_are_counted_by_kind_as_far_as_answers_are_generated(tmp_path: Path) -> None:
    path = tmp_path / "suite.jsonl"
    rows = [json.loads(line(number, kind)) for number, kind in enumerate(["fact", "fact", "sum", "fact", "poem"])]
    checked = [row | {"checks": [{"type": "refusal"}]} if row["kind"] != "poem" else row for row in rows]
    path.write_bytes(b"".join(json.dumps(row).encode() + b"\n" for row in checked))
    assert count_tasks(path, 2) == Counter(fact=1, sum=1)
    assert count_tasks(path, 9) == Counter(fact=3, sum=1)
