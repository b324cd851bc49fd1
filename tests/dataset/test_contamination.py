"""Passages of evaluation rows in the training data are found, even if the rows differ as a whole."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlops.core.records import Finding
from mlops.dataset.contamination import LENGTH, check_contamination

PASSAGE = [f"word{number}" for number in range(LENGTH)]


def write(path: Path, answers: list[str]) -> Path:
    rows = [
        {
            "prompt": "p",
            "messages": [{"role": "user", "content": f"Question {n}"}, {"role": "assistant", "content": text}],
            "prompt_id": str(n),
        }
        for n, text in enumerate(answers)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check(tmp_path: Path, evaluated: list[str], trained: list[str]) -> list[Finding]:
    suite, training = write(tmp_path / "suite.jsonl", evaluated), write(tmp_path / "train.jsonl", trained)
    return check_contamination({"target": suite}, training, lambda line: f"source:{line}")


@pytest.mark.parametrize("text", [" ".join(PASSAGE), "Before, " + ", ".join(PASSAGE).upper() + "! After."])
def test_a_shared_passage_is_found_in_spite_of_case_and_punctuation(text: str, tmp_path: Path) -> None:
    (finding,) = check(tmp_path, ["Something else", f"It begins {' '.join(PASSAGE)} and ends"], ["Nothing", "Nothing again", text])
    assert (finding.rule, finding.severity, finding.where) == ("overlap.passage", "warning", f"{tmp_path}/suite.jsonl:2")
    assert "1 of 2 rows of the target suite" in finding.message
    assert "source:3" in finding.message


@pytest.mark.parametrize("text", [" ".join(PASSAGE[1:]), " ".join(PASSAGE[::-1]), " ".join(PASSAGE[:6]) + " x " + " ".join(PASSAGE[6:])])
def test_shorter_or_other_passages_are_not(text: str, tmp_path: Path) -> None:
    assert check(tmp_path, [" ".join(PASSAGE)], [text]) == []


def test_a_passage_does_not_span_two_messages_or_rows(tmp_path: Path) -> None:
    assert check(tmp_path, [" ".join(PASSAGE)], [" ".join(PASSAGE[:7]), " ".join(PASSAGE[7:])]) == []


def test_every_row_that_is_affected_counts(tmp_path: Path) -> None:
    both = " ".join(PASSAGE)
    (finding,) = check(tmp_path, [both, "no", f"{both} too"], [both, both])
    assert "2 of 3 rows" in finding.message


def test_empty_suites_have_no_findings(tmp_path: Path) -> None:
    assert check(tmp_path, [], [" ".join(PASSAGE)]) == []
    assert check(tmp_path, ["short"], [" ".join(PASSAGE)]) == []
