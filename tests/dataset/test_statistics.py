"""What the report shows about a split, against numbers counted by hand."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlops.dataset.statistics import MAX_ROWS, summarize


def write(path: Path, conversations: list[list[str]]) -> Path:
    rows: list[dict[str, object]] = []
    for texts in conversations:
        messages = [{"role": ("user", "assistant")[turn % 2], "content": text} for turn, text in enumerate(texts)]
        rows.append({"prompt": texts[0], "prompt_id": str(len(rows)), "messages": messages})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_words_and_messages_are_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl", [["one", "one two three four"], ["one  two\nthree", "x", "", " "], ["word " * 1024, "a b c d e f g"]]
    )
    path.write_text(path.read_text() + "{}\n")
    found = summarize(path, 4)
    assert (found.rows, found.sampled) == (4, 3)
    assert found.prompt_words == {1: 1, 2: 1, 1024: 1}
    assert found.answer_words == {0: 1, 1: 1, 4: 2}
    assert found.messages == {2: 2, 4: 1}


@pytest.mark.parametrize(("rows", "sampled"), [(0, 0), (MAX_ROWS, MAX_ROWS), (MAX_ROWS + 1, MAX_ROWS // 2 + 1)])
def test_of_a_large_split_rows_in_equal_distances_are_looked_at(rows: int, sampled: int, tmp_path: Path) -> None:
    # The longer half comes last, so that the beginning alone would be another result.
    path = write(tmp_path / "a.jsonl", [["a", "b"]] * (rows // 2) + [["a", "b c"]] * (rows - rows // 2))
    found = summarize(path, rows)
    assert (found.rows, found.sampled) == (rows, sampled)
    assert abs(found.answer_words.get(1, 0) - found.answer_words.get(2, 0)) <= 1
