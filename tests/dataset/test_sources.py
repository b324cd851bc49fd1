"""Sources: how a name is resolved, every file format, and the assignment to splits."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import datasets
import pytest

from mlops.core.errors import ConfigError, DataError
from mlops.core.settings import DataConfig
from mlops.dataset.conversation import SPLITS, Conversation, InvalidRow, Message, convert
from mlops.dataset.hashes import hash64
from mlops.dataset.rows import ListRows, Rows
from mlops.dataset.sources import ChitchatSource, FileSource, HubSource, Source, find_source
from mlops.dataset.splits import SPLIT_SHARES, assign_splits

COMMIT = "8049631c405ae6576f93f445c6b8166f76f5505a"


def sample_row(number: int, split: str = "") -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Ask, {split}\n{number} ü"}, {"role": "assistant", "content": f'"Tell" {number}'}]
    return {"prompt": f"Ask, {split}\n{number} ü", "messages": messages, "prompt_id": f"{split}-{number}"}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        datasets.Dataset.from_list([{**row, "extra": 1} for row in rows]).to_parquet(path)
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["prompt_id", "messages", "prompt", "extra"])
            writer.writerows([row["prompt_id"], json.dumps(row["messages"]), row["prompt"], 1] for row in rows)
    elif path.suffix == ".json":
        path.write_text(json.dumps(rows, indent=2))
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def take_all(rows: Rows) -> list[Conversation | InvalidRow]:
    return list(rows.take(range(len(rows))))


def source_of(path: Path, **data: Any) -> Source:
    return find_source(DataConfig(dataset=str(path), **data))


def where_invalid(rows: Rows) -> list[tuple[str, str]]:
    return [(rows.where(index), problem.rule) for index, problem in rows.invalid_rows().items()]


@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_a_folder_gives_the_same_rows_in_any_format(suffix: str, tmp_path: Path) -> None:
    for split in SPLITS:
        write(tmp_path / f"{split}{suffix}", [sample_row(number, split) for number in range(5)])
    source = source_of(tmp_path)
    assert isinstance(source, FileSource)
    assert source.revision == "local"
    assert source.files() == {f"{split}{suffix}": tmp_path / f"{split}{suffix}" for split in SPLITS}
    for split, rows in source.splits().items():
        assert take_all(rows) == [convert(sample_row(number, split)) for number in range(5)]
        assert list(rows.take([3, 1])) == [convert(sample_row(3, split)), convert(sample_row(1, split))]
        assert list(rows.ids()) == [hash64(f"{split}-{number}".encode()) for number in range(5)]
        assert not rows.invalid_rows()


@pytest.mark.parametrize("folder", ["", "data"])
def test_parquet_shards_are_found_where_the_hub_puts_them(folder: str, tmp_path: Path) -> None:
    for number in range(3):
        write(tmp_path / folder / f"test_sft-{number:05}-of-00003.parquet", [sample_row(number)])
    source = source_of(tmp_path)
    assert len(source.files()) == 3
    assert take_all(source.splits()["test_sft"]) == [convert(sample_row(number)) for number in range(3)]
    assert source.splits()["test_sft"].where(2).endswith("test_sft-00002-of-00003.parquet:1")


def test_a_split_in_two_files_is_rejected(tmp_path: Path) -> None:
    write(tmp_path / "test_sft.jsonl", [sample_row(1)])
    write(tmp_path / "test_sft.json", [sample_row(1)])
    with pytest.raises(ConfigError, match=r"test_sft more than once: .*test_sft\.jsonl"):
        source_of(tmp_path)


def test_the_location_of_a_row_is_its_line_in_every_text_format(tmp_path: Path) -> None:
    bad = {**sample_row(2), "messages": None}
    write(tmp_path / "a.jsonl", [sample_row(1), bad])
    write(tmp_path / "a.json", [sample_row(1), bad])
    (tmp_path / "a.csv").write_text('prompt,prompt_id,messages\n"two\nlines",1,[]\nx,2,"[{""role"":1}]"\n')
    splits = {suffix: all_problems(source_of(tmp_path / f"a.{suffix}")) for suffix in ("jsonl", "json", "csv")}
    assert splits["jsonl"] == [(f"{tmp_path}/a.jsonl:2", "schema.field")]
    line = (tmp_path / "a.json").read_text().splitlines().index("  {", 2) + 1
    assert splits["json"] == [(f"{tmp_path}/a.json:{line}", "schema.field")]
    assert splits["csv"] == [(f"{tmp_path}/a.csv:4", "schema.field")]


def all_problems(source: Source) -> list[tuple[str, str]]:
    return [problem for rows in source.splits().values() for problem in where_invalid(rows)]


def test_a_null_in_parquet_is_reported_at_its_row(tmp_path: Path) -> None:
    write(tmp_path / "test_sft.parquet", [sample_row(1), {**sample_row(2), "messages": None}])
    rows = source_of(tmp_path).splits()["test_sft"]
    fine, bad = take_all(rows)
    assert isinstance(fine, Conversation)
    assert isinstance(bad, InvalidRow)
    assert rows.where(1) == f"{tmp_path}/test_sft.parquet:2"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.json", b'{"prompt": 1}', r"rows of .*a\.json are not conversations: their fields are prompt"),
        ("a.json", b"[1,\n 2", r"a\.json:2: this is not a JSON array"),
        ("a.csv", b"prompt,text\nx,[]\n", r"a\.csv:1 are not conversations: their fields are prompt, text"),
        ("a.csv", b"", r"a\.csv is empty"),
        ("a.csv", b'prompt,prompt_id,messages\nx,1,[]\n"y,2,[]\n', r"a\.csv:\d: unexpected end of data"),
        ("a.csv", b"prompt,prompt_id,messages\n\xff,1,[]\n", r"a\.csv:2: .*invalid start byte"),
        ("a.parquet", b"PAR1", r"a\.parquet is not a readable Parquet file"),
    ],
)
def test_a_malformed_file_is_rejected(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        source_of(tmp_path / name).splits()


def test_a_parquet_file_without_a_required_column_is_rejected(tmp_path: Path) -> None:
    datasets.Dataset.from_list([{"prompt": "x", "text": "y"}]).to_parquet(tmp_path / "a.parquet")
    with pytest.raises(DataError, match="their fields are prompt, text"):
        source_of(tmp_path / "a.parquet").splits()


def test_a_name_is_resolved_to_its_source(tmp_path: Path) -> None:
    assert isinstance(find_source(DataConfig(dataset="chitchat")), ChitchatSource)
    assert isinstance(find_source(DataConfig(dataset="Somebody/some.data_set")), HubSource)
    for wrong in ("data/nowhere.jsonl", "nowhere", "./some/folder", "a/b/c"):
        with pytest.raises(ConfigError, match="no such file or folder"):
            find_source(DataConfig(dataset=wrong))
    (tmp_path / "rows.txt").touch()
    with pytest.raises(ConfigError, match="unsupported format"):
        find_source(DataConfig(dataset=str(tmp_path / "rows.txt")))


@pytest.mark.parametrize("revision", ["main", "v1", "8049631", COMMIT.upper()])
def test_a_hub_data_set_needs_a_commit(revision: str) -> None:
    with pytest.raises(ConfigError, match="not a commit"):
        HubSource("Somebody/some", DataConfig(revision=revision))
    assert HubSource("Somebody/some", DataConfig(revision=COMMIT)).revision == COMMIT


def make_rows(texts: list[str]) -> Rows:
    return ListRows(
        (text, Conversation(prompt=text, messages=[Message("user", text), Message("assistant", "Yes")], prompt_id="")) for text in texts
    )


def locations_of(splits: dict[str, Rows]) -> dict[str, list[str]]:
    return {split: [rows.where(index) for index in range(len(rows))] for split, rows in splits.items()}


def test_rows_are_assigned_in_the_configured_shares_and_none_is_lost() -> None:
    texts = [f"question {number}" for number in range(4000)]
    locations = locations_of(dict(assign_splits(make_rows(texts))))
    assert sorted(where for split in locations.values() for where in split) == sorted(texts)
    for split, share in SPLIT_SHARES.items():
        # Five standard deviations of a binomial count.
        assert abs(len(locations[split]) - 4000 * share) < 5 * (4000 * share * (1 - share)) ** 0.5
    assert sum(SPLIT_SHARES.values()) == pytest.approx(1)


def test_a_row_keeps_its_split_when_rows_are_added() -> None:
    few, many = (locations_of(dict(assign_splits(make_rows([f"question {n}" for n in range(count)])))) for count in (50, 200))
    assert all(set(few[split]) <= set(many[split]) for split in SPLITS)


def test_copies_are_assigned_to_the_same_split() -> None:
    for number in range(40):
        locations = locations_of(dict(assign_splits(make_rows([f"Question {number}", f"question  {number}?!"]))))
        assert sorted(len(split) for split in locations.values()) == [0, 0, 0, 2]


def test_chitchat_fills_the_splits() -> None:
    splits = ChitchatSource().splits()
    assert sum(len(rows) for rows in splits.values()) == 3855
    assert len(splits["test_sft"]) > 500
