"""Preprocessing: reading, splitting and cutting conversations, and its errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlops.emulator.component import preprocess
from mlops.emulator.component.chat import IGNORED
from mlops.emulator.component.conversations import read
from mlops.emulator.component.failures import UserError
from mlops.emulator.component.folders import copy_folder
from mlops.emulator.component.step import Step

Run = Callable[..., dict[str, Any]]


def write(path: Path, rows: Sequence[Any]) -> Path:
    """Write the rows in the format of the suffix."""
    match path.suffix:
        case ".jsonl":
            path.write_text("".join(json.dumps({"messages": row, "prompt_id": "x"}) + "\n" for row in rows), encoding="utf-8")
        case ".json":
            path.write_text(json.dumps([{"messages": row} for row in rows]), encoding="utf-8")
        case ".parquet":
            import pyarrow
            from pyarrow import parquet

            parquet.write_table(pyarrow.table({"messages": rows}), path)
        case suffix:
            with path.open("w", newline="", encoding="utf-8") as file:
                writer = csv.writer(file, delimiter="\t" if suffix == ".tsv" else ",")
                writer.writerows([["prompt", "messages"], *(["x", json.dumps(row)] for row in rows)])
    return path


@pytest.fixture
def run(tmp_path: Path, model: Callable[[str], Path]) -> Run:
    """Preprocess for tiny-llama and return the counts of each split."""
    copy_folder(model("tiny-llama") / "artifacts" / "model", tmp_path / "imported" / "model")

    def run_preprocess(**values: Any) -> dict[str, Any]:
        inputs = {name: str(value) for name, value in values.items()} | {"model_selector_output": str(tmp_path / "imported")}
        preprocess.run(Step(inputs, {"output_dir": tmp_path / "out"}))
        counts: dict[str, Any] = json.loads((tmp_path / "out" / "preprocess_args.json").read_text())
        return counts

    return run_preprocess


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_every_format_gives_the_same_rows(suffix: str, tmp_path: Path, conversations: Sequence[Any]) -> None:
    located = list(read(write(tmp_path / f"rows{suffix}", conversations), "messages"))
    assert [row for _, row in located] == conversations
    first = 2 if suffix in (".csv", ".tsv") else 1
    assert [place for place, _ in located] == [f"rows{suffix}:{first + number}" for number in range(len(conversations))]


def test_a_json_file_with_a_row_per_line(tmp_path: Path, conversations: Sequence[Any]) -> None:
    write(tmp_path / "rows.jsonl", conversations).rename(tmp_path / "rows.json")
    assert [row for _, row in read(tmp_path / "rows.json", "messages")] == conversations


def test_an_mltable_wins_over_the_file(tmp_path: Path, run: Run, conversations: Sequence[Any]) -> None:
    table = tmp_path / "table"
    table.mkdir()
    write(table / "a.jsonl", conversations[:7])
    write(table / "b.jsonl", conversations[7:10])
    (table / "MLTable").write_text("type: mltable\npaths:\n  - pattern: ./*.jsonl\n")
    other = write(tmp_path / "other.jsonl", conversations[:2])
    assert run(train_mltable_path=table, train_file_path=other)["splits"]["train"]["rows"] == 8


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("rows.txt", "", "rows.txt: the format is not supported"),
        ("rows.jsonl", '{"messages": []}\n{"text": 1}\n', "The row has no column 'messages'. (rows.jsonl:2)"),
        ("rows.jsonl", '{"messages": []}\n\n{oh\n', "(rows.jsonl:3)"),
        ("rows.json", "[1]", "The row has no column 'messages'. (rows.json:1)"),
        ("rows.csv", "messages\nhello\n", "The row is not JSON"),
        ("rows.parquet", "hello", "rows.parquet is not parquet"),
        ("MLTable", "paths: [{file: ./gone.jsonl}]", "names files that do not exist"),
        ("MLTable", "nothing", "does not name files under `paths`"),
    ],
)
def test_an_unreadable_file_is_refused(name: str, text: str, problem: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(UserError) as failure:
        list(read(tmp_path if name == "MLTable" else tmp_path / name, "messages"))
    assert problem in failure.value.message


def rows_of(path: Path) -> list[dict[str, list[int]]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.mark.parametrize(
    ("provided", "expected"),
    [
        ({}, {"train": 16, "validation": 2, "test": 2}),
        ({"validation": 3}, {"train": 16, "validation": 3, "test": 4}),
        ({"test": 3}, {"train": 16, "validation": 4, "test": 3}),
        ({"validation": 3, "test": 1}, {"train": 20, "validation": 3, "test": 1}),
    ],
)
def test_splits_follow_the_components_rule(
    provided: dict[str, int], expected: dict[str, int], tmp_path: Path, run: Run, conversations: Sequence[Any]
) -> None:
    files = {"train_file_path": write(tmp_path / "train.jsonl", conversations[:20])}
    for name, count in provided.items():
        files[f"{name}_file_path"] = write(tmp_path / f"{name}.jsonl", conversations[20 : 20 + count])
    counts = run(**files)["splits"]
    assert {name: count["rows"] for name, count in counts.items()} == expected
    all_ids = [row["input_ids"] for name in expected for row in rows_of(tmp_path / "out" / f"{name}.jsonl")]
    assert len(all_ids) == sum(expected.values())
    assert all(first != second for index, first in enumerate(all_ids) for second in all_ids[:index]) or provided


def test_rows_are_cut_and_those_without_assistant_tokens_dropped(tmp_path: Path, run: Run, conversations: Sequence[Any]) -> None:
    long = [[{"role": "user", "content": "why? " * 200}, {"role": "assistant", "content": "because"}]]
    train = write(tmp_path / "train.jsonl", [*conversations[:9], *long])
    validation = write(tmp_path / "validation.jsonl", conversations[9:11])
    whole = run(train_file_path=train, validation_file_path=validation, test_file_path=validation)
    assert whole["max_seq_length"] == 1024
    assert (whole["splits"]["train"]["rows"], whole["splits"]["train"]["cut"]) == (10, 0)
    cut = run(train_file_path=train, validation_file_path=validation, test_file_path=validation, max_seq_length=60)
    assert cut["max_seq_length"] == 60
    assert (cut["splits"]["train"]["rows"], cut["splits"]["train"]["dropped"]) == (9, 1)
    rows = rows_of(tmp_path / "out" / "train.jsonl")
    assert max(len(row["input_ids"]) for row in rows) == 60
    assert all(any(label != IGNORED for label in row["labels"][1:]) for row in rows)


def test_the_limit_is_at_most_the_models(tmp_path: Path, run: Run, conversations: Sequence[Any]) -> None:
    assert run(train_file_path=write(tmp_path / "train.jsonl", conversations), max_seq_length=100_000)["max_seq_length"] == 1024


SYSTEM, USER, ASSISTANT = ({"role": role, "content": "x"} for role in ("system", "user", "assistant"))


@pytest.mark.parametrize(
    ("rows", "values", "problem"),
    [
        ([[USER, SYSTEM]] * 10, {}, "Only one system role should be present and should be at the beginning of messages (train.jsonl:1)"),
        ([[USER, ASSISTANT]] * 9 + [[SYSTEM]], {}, "messages should contain user role to process system message (train.jsonl:10)"),
        ([[USER]] * 10, {}, "Unable to continue finetuning. No assistant tokens found after preprocessing."),
        ([[USER, ASSISTANT]] * 4, {}, "Unable to continue finetuning. No assistant tokens found after preprocessing."),
        ([[USER, ASSISTANT]] * 10, {"max_seq_length": "0"}, "max_seq_length should be -1 or a positive number, not 0."),
    ],
)
def test_bad_rows_fail_the_step(rows: Any, values: dict[str, str], problem: str, tmp_path: Path, run: Run) -> None:
    with pytest.raises(UserError) as failure:
        run(train_file_path=write(tmp_path / "train.jsonl", rows), **values)
    assert failure.value.message.startswith(problem)


def test_training_data_is_required(run: Run) -> None:
    with pytest.raises(UserError, match="Either train_file_path or train_mltable_path needs to be passed"):
        run()


@pytest.mark.parametrize("name", ["EOS", "BOS"])
def test_a_tokenizer_needs_its_special_tokens(name: str, tmp_path: Path, run: Run, conversations: Sequence[Any]) -> None:
    path = tmp_path / "imported" / "model" / "tokenizer_config.json"
    configuration = json.loads(path.read_text())
    del configuration[f"{name.lower()}_token"]
    path.write_text(json.dumps(configuration))
    with pytest.raises(UserError, match=f"Invalid Model artifacts. Data preprocessing requires {name} token and cannot be None"):
        run(train_file_path=write(tmp_path / "train.jsonl", conversations))
