"""Conversations that are nearly the same are found; equal and different ones are not reported here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlops.core.records import Finding
from mlops.dataset.near_duplicates import check_near_duplicates

WORDS = [f"word{number}" for number in range(120)]


def write(path: Path, texts: list[str]) -> Path:
    rows = [{"prompt": "p", "messages": [{"role": "assistant", "content": text}], "prompt_id": str(n)} for n, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def check(tmp_path: Path, **splits: list[str]) -> list[Finding]:
    files = {split: write(tmp_path / f"{split}.jsonl", texts) for split, texts in splits.items()}
    return check_near_duplicates(files, "train_sft", lambda split, line: f"{split}:{line}")


def variant(changed: int) -> str:
    """The text with the first words changed; each one changes up to three of 118 shingles."""
    return " ".join([*(f"other{number}" for number in range(changed)), *WORDS[changed:]])


TEXT = " ".join(WORDS)
DIFFERENT = " ".join(WORDS[::-1])


def test_a_similar_row_of_the_same_split_is_reported(tmp_path: Path) -> None:
    (finding,) = check(tmp_path, train_sft=[DIFFERENT, TEXT, variant(4)])
    assert (finding.rule, finding.severity, finding.where) == ("duplicate.near", "warning", "train_sft:3")
    assert "1 row(s) of train_sft are at least 80% similar to an earlier row; the first one to train_sft:2" in finding.message


def test_a_similar_row_of_another_split_is_reported(tmp_path: Path) -> None:
    findings = check(tmp_path, test_sft=[DIFFERENT, variant(3)], test_gen=[variant(2), variant(3)], train_sft=[TEXT])
    assert [(finding.rule, finding.where) for finding in findings] == [("overlap.near", "test_sft:2"), ("overlap.near", "test_gen:1")]
    assert "2 row(s) of test_gen" in findings[1].message


@pytest.mark.parametrize("other", [TEXT, TEXT.upper() + "!", variant(60), DIFFERENT, "word1 word2 word3"])
def test_equal_and_different_rows_are_not_reported(other: str, tmp_path: Path) -> None:
    assert check(tmp_path, train_sft=[TEXT, other], test_sft=[other]) == []
