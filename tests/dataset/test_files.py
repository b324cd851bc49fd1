"""Files as users have them: formats, compressions, folders, patterns; and what is refused because it is something else."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import os
import sys
import tarfile
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pytest
from pyarrow import ipc, parquet

from mlops.core.errors import ConfigError, DataError
from mlops.core.settings import DataConfig
from mlops.dataset.conversation import SPLITS, Conversation, InvalidRow
from mlops.dataset.files import split_of
from mlops.dataset.rows import Rows, SelectedRows
from mlops.dataset.sources import find_source

Row = dict[str, Any]


def chat(number: int, name: str = "x") -> Row:
    return {"messages": [{"role": "user", "content": f"{name} asks {number} ü"}, {"role": "assistant", "content": f"Answer {number}"}]}


def chats(count: int, name: str = "x") -> list[Row]:
    return [chat(number, name) for number in range(count)]


def lines(rows: list[Row]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()


def put(path: Path, content: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def splits_of(path: Path | str, **data: Any) -> Mapping[str, Rows]:
    return find_source(DataConfig.model_validate({"dataset": str(path), **data})).splits()


def texts(splits: Mapping[str, Rows]) -> dict[str, list[str]]:
    result = {}
    for split, rows in splits.items():
        taken = list(rows.take(range(len(rows))))
        assert all(isinstance(row, Conversation) for row in taken), taken
        result[split] = [row.prompt for row in taken if isinstance(row, Conversation)]
    return result


def all_texts(path: Path | str, **data: Any) -> list[str]:
    return sorted(text for split in texts(splits_of(path, **data)).values() for text in split)


def table(rows: list[Row], delimiter: str) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, delimiter=delimiter)
    writer.writerow(["response", "prompt", "lang"])
    writer.writerows([row["messages"][1]["content"], row["messages"][0]["content"], "de"] for row in rows)
    return text.getvalue().encode()


def arrow_bytes(rows: list[Row], opener: Callable[..., Any]) -> bytes:
    content = pyarrow.BufferOutputStream()
    data = pyarrow.Table.from_pylist(rows)
    with opener(content, data.schema) as writer:
        writer.write_table(data)
    return bytes(content.getvalue())


def dictionaries(rows: list[Row]) -> bytes:
    """Return a stream of batches of which each has other words in its dictionaries."""
    word = pyarrow.dictionary(pyarrow.int32(), pyarrow.string())
    message = pyarrow.struct([("role", word), ("content", word)])
    content = pyarrow.BufferOutputStream()
    schema = pyarrow.schema([("messages", pyarrow.list_(message)), ("lang", word)])
    with ipc.new_stream(content, schema) as writer:
        for number, row in enumerate(rows):
            writer.write_batch(pyarrow.RecordBatch.from_pylist([{**row, "lang": f"l{number}"}], schema))
    return bytes(content.getvalue())


def views(rows: list[Row]) -> bytes:
    data = {"prompt": [row["messages"][0]["content"] for row in rows], "response": [row["messages"][1]["content"] for row in rows]}
    table = pyarrow.table({name: pyarrow.array(texts, pyarrow.string_view()) for name, texts in data.items()})
    content = pyarrow.BufferOutputStream()
    with ipc.new_file(content, table.schema) as writer:
        writer.write_table(table)
    return bytes(content.getvalue())


def parquet_bytes(rows: list[Row], **options: Any) -> bytes:
    content = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_pylist(rows), content, **options)
    return bytes(content.getvalue())


FORMATS: dict[str, Callable[[list[Row]], bytes]] = {
    "a.jsonl": lines,
    "A.JSONL": lines,
    "a.ndjson": lines,
    "a.json": lambda rows: json.dumps(rows).encode(),
    "bom.json": lambda rows: b"\xef\xbb\xbf" + json.dumps(rows).encode(),
    "lines.json": lines,
    "inside.json": lambda rows: json.dumps({"version": 1, "data": rows}, indent=1).encode(),
    "bom.jsonl": lambda rows: b"\xef\xbb\xbf" + lines(rows),
    "crlf.jsonl": lambda rows: lines(rows).replace(b"\n", b"\r\n"),
    "blank.jsonl": lambda rows: b"\n" + lines(rows[:2]) + b"  \n" + lines(rows[2:]) + b"\n\n",
    "unterminated.jsonl": lambda rows: lines(rows).rstrip(),
    "a.csv": lambda rows: table(rows, ","),
    "bom.csv": lambda rows: b"\xef\xbb\xbf" + table(rows, ","),
    "excel.csv": lambda rows: table(rows, ";"),
    "a.tsv": lambda rows: table(rows, "\t"),
    "A.TSV": lambda rows: table(rows, "\t"),
    "a.parquet": parquet_bytes,
    "groups.parquet": lambda rows: parquet_bytes(rows, row_group_size=2),
    "a.arrow": lambda rows: arrow_bytes(rows, ipc.new_file),
    "a.feather": lambda rows: arrow_bytes(rows, ipc.new_file),
    "views.arrow": views,
    "dictionaries.arrow": dictionaries,
    "separator.csv": lambda rows: b"\xef\xbb\xbfsep=;\r\n" + table(rows, ";"),
    "blank.csv": lambda rows: b"\n\n" + table(rows, ","),
    "stream.arrow": lambda rows: arrow_bytes(rows, ipc.new_stream),
    "a.jsonl.gz": lambda rows: gzip.compress(lines(rows[:3])) + gzip.compress(lines(rows[3:])),
    "A.JSONL.GZ": lambda rows: gzip.compress(lines(rows)),
    "a.jsonl.xz": lambda rows: lzma.compress(lines(rows)),
    "a.jsonl.bz2": lambda rows: bz2.compress(lines(rows)),
    "a.jsonl.zst": lambda rows: pyarrow.compress(lines(rows), "zstd", asbytes=True),
    "a.csv.gz": lambda rows: gzip.compress(table(rows, ",")),
    "a.json.zst": lambda rows: pyarrow.compress(json.dumps(rows).encode(), "zstd", asbytes=True),
    "a.parquet.gz": lambda rows: gzip.compress(parquet_bytes(rows)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_rows(name: str, tmp_path: Path) -> None:
    path = put(tmp_path / name, FORMATS[name](chats(12)))
    assert all_texts(path) == sorted(row["messages"][0]["content"] for row in chats(12))
    assert all_texts(tmp_path) == all_texts(path), "a folder with this file, too"


def test_the_line_of_a_compressed_file_is_that_of_its_text(tmp_path: Path) -> None:
    content = b"\n" + lines(chats(2)) + b'{"messages": 3}\n'
    rows = splits_of(put(tmp_path / "a.jsonl.gz", gzip.compress(content)))["train_sft"]
    assert [rows.where(index) for index in rows.invalid_rows()] == [f"{tmp_path}/a.jsonl.gz:4"]


@pytest.mark.parametrize(
    "files",
    [
        ["train.jsonl", "test.jsonl"],
        ["Train.JSONL", "Test.jsonl"],
        ["train.jsonl", "validation.jsonl"],
        ["chats/train-00000-of-00001.jsonl", "chats/test-00000-of-00001.jsonl"],
        ["train/part-00000.jsonl", "train/part-00001.jsonl", "eval/part-00000.jsonl"],
        ["data/train_01.jsonl", "data/train_02.jsonl", "data/dev.jsonl", "notes.csv"],
    ],
)
def test_train_and_test_are_divided_into_the_four_splits(files: list[str], tmp_path: Path) -> None:
    expected: dict[str, list[str]] = {"train": [], "test": []}
    for name in files:
        rows = chats(4, name)
        put(tmp_path / name, lines(rows))
        if name != "notes.csv":
            expected["train" if "train" in name.lower() else "test"] += [row["messages"][0]["content"] for row in rows]
    prompts = texts(splits_of(tmp_path))
    assert set(prompts) == set(SPLITS)
    assert all(prompts.values()), "no split is empty"
    for side, gathered in expected.items():
        assert sorted(prompts[f"{side}_sft"] + prompts[f"{side}_gen"]) == sorted(gathered)


def test_spark_output_is_read_without_its_markers(tmp_path: Path) -> None:
    for number in range(3):
        put(tmp_path / f"part-0000{number}-5e1f-c000.snappy.parquet", parquet_bytes(chats(4, str(number))))
    for marker in ("_SUCCESS", "_committed_1", ".part-00000.parquet.crc", "_metadata"):
        put(tmp_path / marker, b"")
    assert len(all_texts(tmp_path)) == 12
    (tmp_path / "_temporary").mkdir()
    with pytest.raises(DataError, match="not finished"):
        splits_of(tmp_path)


def test_patterns_select_files(tmp_path: Path) -> None:
    for name in ("a.jsonl", "b.jsonl", "c.csv", "sub/d.jsonl"):
        put(tmp_path / name, lines(chats(3, name)) if name.endswith("l") else table(chats(3, name), ","))
    assert len(all_texts(tmp_path / "*.jsonl")) == 6
    assert len(all_texts(tmp_path / "[ac].*")) == 6
    assert len(all_texts(tmp_path / "**" / "*.jsonl")) == 9
    with pytest.raises(ConfigError, match="nothing matches"):
        splits_of(tmp_path / "*.parquet")


def test_shards_may_have_columns_of_their_own(tmp_path: Path) -> None:
    for number, extra in enumerate(({}, {"lang": "en"}, {"prompt_id": "7"})):
        put(tmp_path / f"train_sft-{number:05}-of-00003.parquet", parquet_bytes([{**chat(number), **extra}]))
    for split in SPLITS[1:]:
        put(tmp_path / f"{split}.jsonl", lines(chats(1, split)))
    assert texts(splits_of(tmp_path))["train_sft"] == [chat(number)["messages"][0]["content"] for number in range(3)]


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "jsonl.gz", "csv"])
@pytest.mark.parametrize(
    ("numbers", "total", "missing"), [([0, 2], 3, "00001"), ([0], 2, "00001"), ([1, 2], 3, "00000"), ([2, 3], 3, "00001")]
)
def test_a_missing_shard_is_refused_by_name(numbers: list[int], total: int, missing: str, suffix: str, tmp_path: Path) -> None:
    for number in numbers:
        put(tmp_path / "data" / f"train-{number:05}-of-{total:05}.{suffix}", b"")
    with pytest.raises(DataError, match=f"lacks .*train-{missing}-of-{total:05}.{suffix}"):
        find_source(DataConfig(dataset=str(tmp_path)))


def test_two_sets_of_shards_are_refused(tmp_path: Path) -> None:
    for name in ("train-00000-of-00001.jsonl", "train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"):
        put(tmp_path / name, lines(chats(1)))
    with pytest.raises(DataError, match="two sets of shards of train, of 1 and 2 files"):
        find_source(DataConfig(dataset=str(tmp_path)))


@pytest.mark.parametrize("names", [SPLITS, ("train", "test")])
def test_folders_of_save_to_disk_are_read(names: tuple[str, ...], tmp_path: Path) -> None:
    saved = datasets.DatasetDict({name: datasets.Dataset.from_list(chats(9, name)) for name in names})
    saved.save_to_disk(tmp_path / "saved", num_shards=dict.fromkeys(names, 2))
    splits = splits_of(tmp_path / "saved")
    assert sum(map(len, splits.values())) == 9 * len(names)
    assert all(texts(splits).values())
    (tmp_path / "saved" / names[0] / "data-00001-of-00002.arrow").unlink()
    with pytest.raises(DataError, match=r"save_to_disk.*data-00001-of-00002\.arrow"):
        splits_of(tmp_path / "saved")
    for file in (tmp_path / "saved" / names[0]).iterdir():
        file.unlink()
    with pytest.raises(DataError, match=f"lacks {names[0]}"):
        splits_of(tmp_path / "saved")


def test_a_single_saved_data_set_is_divided_and_a_selection_is_respected(tmp_path: Path) -> None:
    datasets.Dataset.from_list(chats(60)).select(range(0, 60, 2)).save_to_disk(tmp_path / "saved")
    assert all_texts(tmp_path / "saved") == sorted(chat(n)["messages"][0]["content"] for n in range(0, 60, 2))


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.jsonl", "{}")
    return content.getvalue()


def tarred() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a.jsonl"))
    return content.getvalue()


def doubled_column() -> bytes:
    content = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.Table.from_arrays([pyarrow.array(["x"])] * 3, ["prompt", "response", "prompt"]), content)
    return bytes(content.getvalue())


JSONL = lines(chats(3))
DISGUISES: list[tuple[str, bytes, str]] = [
    ("a.jsonl", "\n".join(json.dumps(row, indent=1) for row in chats(3)).encode(), r"objects that span several lines.*\n.*jq -c"),
    ("a.json", "\n".join(json.dumps(row, indent=1) for row in chats(3)).encode(), r"objects that span several lines.*\n.*jq -c"),
    ("a.jsonl", JSONL.replace(b"\n", b"\r"), r"bare carriage return.*\n.*tr '"),
    ("a.csv", table(chats(3), ",").replace(b"\r\n", b"\r"), "bare carriage return"),
    ("a.jsonl.gz", gzip.compress(tarred(), mtime=0), "a tar archive"),
    ("a.parquet", doubled_column(), "column 'prompt' appears twice"),
    ("a.jsonl", gzip.compress(JSONL, mtime=0), r"compressed with gzip.*\n.*a\.jsonl\.gz"),
    ("a.csv", gzip.compress(JSONL, mtime=0), r"compressed with gzip"),
    ("a.parquet", gzip.compress(JSONL, mtime=0), r"compressed with gzip"),
    ("a.jsonl", pyarrow.compress(JSONL, "zstd", asbytes=True), "compressed with Zstandard"),
    ("a.jsonl", lzma.compress(JSONL), "compressed with xz"),
    ("a.jsonl", bz2.compress(JSONL), "compressed with bzip2"),
    ("a.jsonl", zipped(), "zip archive"),
    ("a.csv", zipped(), r"so are \.xlsx files"),
    ("a.jsonl", JSONL.decode().encode("utf-16"), "encoded in UTF-16.*\n.*iconv -f UTF-16"),
    ("a.jsonl", JSONL.decode().encode("utf-16-le"), "encoded in UTF-16"),
    ("a.jsonl", JSONL.decode().encode("utf-16-be"), "encoded in UTF-16"),
    ("a.csv", "prompt,response\nHi,Hello\n".encode("utf-16"), "encoded in UTF-16"),
    ("a.json", JSONL.decode().encode("utf-32"), "encoded in UTF-32"),
    ("a.jsonl", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", "Git LFS pointer.*\n.*git lfs pull"),
    ("a.parquet", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", "Git LFS pointer"),
    ("a.csv", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 12\n", "Git LFS pointer"),
    ("a.jsonl", b"<!DOCTYPE html><html><body>Sign in</body></html>", "an HTML page"),
    ("a.json", b"\n <html>\n404", "an HTML page"),
    ("a.parquet", b"<html>404</html>", "an HTML page"),
    ("a.jsonl", b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "an XML document"),
    ("a.jsonl", parquet_bytes(chats(3)), r"a Parquet file.*\n.*\.parquet"),
    ("a.jsonl", arrow_bytes(chats(3), ipc.new_file), "an Arrow file"),
    ("a.jsonl", b"SQLite format 3\x00" + bytes(80), "an SQLite database"),
    ("a.csv", b"%PDF-1.7\n", "a PDF document"),
    ("a.jsonl", b"\x80\x04\x95\x10", "a Python pickle"),
    ("a.jsonl", json.dumps(chats(3), indent=1).encode(), r"a JSON array.*\n.*a\.json"),
    ("a.jsonl", b"\xef\xbb\xbf" + json.dumps(chats(3)).encode(), "a JSON array"),
    ("a.jsonl", bytes(4096), "NUL bytes"),
    ("a.csv", b"prompt,response\nHi,Hel\x00lo\n", "NUL bytes"),
    ("a.parquet", JSONL, "not a readable Parquet file"),
    ("a.parquet", parquet_bytes(chats(3))[:-20], "not a readable Parquet file"),
    ("a.arrow", JSONL, "not a readable Arrow file"),
    ("a.jsonl.gz", JSONL, "can't be decompressed as gz"),
    ("a.jsonl.gz", gzip.compress(JSONL, mtime=0)[:-12], "can't be decompressed as gz"),
    ("a.jsonl.gz", gzip.compress(JSONL, mtime=0)[:30] + b"\x00" * 20, "can't be decompressed as gz"),
    ("a.jsonl.xz", JSONL, "can't be decompressed as xz"),
    ("a.jsonl.xz", lzma.compress(JSONL)[:-12], "can't be decompressed as xz"),
    ("a.jsonl.bz2", JSONL, "can't be decompressed as bz2"),
    ("a.jsonl.bz2", bz2.compress(JSONL)[:-12], "can't be decompressed as bz2"),
    ("a.jsonl.zst", JSONL, "can't be decompressed as zst"),
    ("a.jsonl.zst", pyarrow.compress(JSONL, "zstd", asbytes=True)[:-9], "can't be decompressed as zst"),
    ("a.jsonl.gz", gzip.compress(gzip.compress(JSONL, mtime=0), mtime=0), "compressed with gzip"),
    ("a.json", b'[{"messages": []},\n{"messages": [}]', r"a\.json:2: this is not a JSON array"),
    ("a.json", b"[" * 1_000_000, "nested too deeply"),
    ("a.json", json.dumps(chats(1)[0], indent=1).encode(), "a single JSON object with the fields messages"),
    ("a.json", b'{"a": [1], "b": [2]}', "a single JSON object with the fields a, b"),
    ("a.csv", b"", "is empty"),
    ("a.csv", b'prompt,response\nHi,"Hello\n', r"a\.csv:2: "),
    ("a.csv", b'prompt,response\nHi,Hello\nHi,"Hel"lo\n', r"a\.csv:3: "),
    ("a.csv", b"prompt,response\nHi,Hello\nGr\xfc\xdfe,Hello\n", r"a\.csv:3: not UTF-8.*\n.*WINDOWS-1252"),
    ("a.csv", b"prompt,prompt,response\nHi,x,Hello\n", r"a\.csv:1: column 'prompt' appears twice"),
    ("a.csv", b"a,b\n1,2\n", "their fields are a, b"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "message"), DISGUISES)
def test_a_file_that_is_not_what_its_name_says_is_refused(name: str, content: bytes, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=message) as caught:
        splits_of(put(tmp_path / name, content))
    assert str(tmp_path / name) in str(caught.value)
    assert caught.value.fix


BAD_RECORDS = [
    (b"Hi", "one cell"),
    (b"Hi,Hello,,extra", "2 more cells|1 more cells"),
]


@pytest.mark.parametrize(("record", "message"), BAD_RECORDS)
def test_a_record_of_another_length_is_refused_with_its_line(record: bytes, message: str, tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", b'prompt,response\n"two\nlines",x\n' + record + b"\n")
    rows = splits_of(path)["train_sft"]
    ((index, problem),) = rows.invalid_rows().items()
    assert rows.where(index) == f"{path}:4"
    assert isinstance(problem, InvalidRow)


def test_the_line_of_a_record_is_right_after_empty_lines(tmp_path: Path) -> None:
    path = put(tmp_path / "a.csv", b"sep=,\n\nprompt,response\nHi,x\n\n\nHi\n")
    rows = splits_of(path)["train_sft"]
    assert [rows.where(index) for index in rows.invalid_rows()] == [f"{path}:7"]


def test_rows_on_one_line_are_told_apart_by_their_number(tmp_path: Path) -> None:
    path = put(tmp_path / "a.json", json.dumps([*chats(3), 1, {"messages": 2}]).encode())
    rows = splits_of(path)["train_sft"]
    assert [rows.where(index) for index in rows.invalid_rows()] == [f"{path}:1 (row 4)", f"{path}:1 (row 5)"]


def call_deeper(frames: int, call: Callable[[], Any]) -> Any:
    return call() if not frames else call_deeper(frames - 1, call)


def test_a_row_that_is_nested_too_deeply_for_its_second_reader_is_an_error_of_the_row(tmp_path: Path) -> None:
    limit = sys.getrecursionlimit()
    rows = b"".join(b'{"prompt": "a", "response": "b", "x": %s}\n' % (b"[" * depth + b"]" * depth) for depth in range(limit - 300, limit))
    split = splits_of(put(tmp_path / "a.jsonl", rows))["train_sft"]
    known = len(split.invalid_rows())
    taken = call_deeper(100, lambda: list(split.take(range(len(split)))))
    assert known < sum(isinstance(row, InvalidRow) for row in taken) == len(split.invalid_rows())


def damaged(texts: list[bytes]) -> Any:
    """Texts as a writer stores them that does not check whether they are UTF-8."""
    return pyarrow.Array.from_buffers(pyarrow.string(), len(texts), pyarrow.array(texts, pyarrow.binary()).buffers())


@pytest.mark.parametrize("bad", [0, 7, 2999])
@pytest.mark.parametrize("field", ["prompt", "prompt_id", "content"])
def test_a_parquet_text_that_is_not_utf_8_is_reported_with_its_row(field: str, bad: int, tmp_path: Path) -> None:
    texts = damaged([b"\xff" if number == bad else b"q %d" % number for number in range(3000)])
    columns: dict[str, Any] = {"response": ["x"] * 3000, "prompt": [str(number) for number in range(3000)]}
    if field == "content":
        message = pyarrow.StructArray.from_arrays([pyarrow.array(["user"] * 3000), texts], ["role", "content"])
        columns = {"messages": pyarrow.ListArray.from_arrays(pyarrow.array(range(3001), pyarrow.int32()), message)}
    else:
        columns[field] = texts
    parquet.write_table(pyarrow.table(columns), tmp_path / "a.parquet")
    rows = splits_of(tmp_path / "a.parquet")["train_sft"]
    ((index, problem),) = rows.invalid_rows().items()
    assert rows.where(index) == f"{tmp_path}/a.parquet:{bad + 1}"
    assert problem.rule == "json.encoding"


def test_parquet_rows_that_are_not_conversations_are_detected_before_the_splits(tmp_path: Path) -> None:
    put(tmp_path / "a.parquet", parquet_bytes([{"prompt": b"Hi", "response": b"x"}] * 3))
    assert len(splits_of(tmp_path / "a.parquet")["train_sft"].invalid_rows()) == 3


@pytest.mark.parametrize("content", [b"[1]", b"{", b'"a"'])
@pytest.mark.parametrize("name", ["dataset_info.json", "state.json"])
def test_a_damaged_description_of_saved_data_is_an_error(name: str, content: bytes, tmp_path: Path) -> None:
    datasets.Dataset.from_list(chats(3)).save_to_disk(tmp_path / "saved")
    put(tmp_path / "saved" / name, content)
    with pytest.raises(DataError, match="saved can't be read"):
        splits_of(tmp_path / "saved")


@pytest.mark.parametrize("pattern", ["", "*", "**/*", "**"])
def test_every_file_of_a_folder_is_read_once(pattern: str, tmp_path: Path) -> None:
    put(tmp_path / "d" / "a.jsonl", lines(chats(3)))
    put(tmp_path / "d" / "sub" / "b.jsonl", lines(chats(3, "b")))
    put(tmp_path / "d" / "README.md", b"# Chats")
    (tmp_path / "d" / "sub" / "loop").symlink_to(tmp_path / "d")
    assert len(all_texts(tmp_path / "d" / pattern)) == 6


def test_a_link_to_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "a.jsonl", lines(chats(3)))
    (tmp_path / "b.jsonl").symlink_to(tmp_path / "annex" / "b")
    with pytest.raises(DataError, match=r"b\.jsonl is a link to a file that doesn't exist.*\n.*git annex"):
        splits_of(tmp_path)
    with pytest.raises(ConfigError, match="is a link to a file that doesn't exist"):
        splits_of(tmp_path / "b.jsonl")


@pytest.mark.parametrize(
    ("name", "message"),
    [("~nobody-here/a.jsonl", "home directory"), ("**.jsonl", r"Invalid pattern|no data files"), ("pipe.jsonl", "neither a file nor")],
)
def test_a_path_that_can_not_be_read_is_an_error_of_the_setting(
    name: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo(tmp_path / "pipe.jsonl")
    with pytest.raises(ConfigError, match=message):
        splits_of(name)


def test_one_of_several_shards_is_read_with_a_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert len(all_texts(put(tmp_path / "train-00000-of-00003.jsonl", lines(chats(3))))) == 3
    assert "is one of 3 shards; the others are not read" in "".join(capsys.readouterr())


def test_an_empty_file_of_a_split_is_named_by_its_split(tmp_path: Path) -> None:
    put(tmp_path / "train.jsonl", lines(chats(9)))
    put(tmp_path / "test.jsonl", b"")
    assert not isinstance(splits_of(tmp_path)["test_sft"], SelectedRows), "which stands for too few rows to divide"


def test_a_folder_without_data_says_what_it_contains(tmp_path: Path) -> None:
    put(tmp_path / "chats.xlsx", b"")
    with pytest.raises(ConfigError, match=r"it contains chats\.xlsx"):
        splits_of(tmp_path)
    with pytest.raises(ConfigError, match=r"no such file or folder \(did you mean 'chats\.xlsx'\?\)"):
        splits_of(tmp_path / "chats.xls")


def test_data_with_a_test_split_only_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "test.jsonl", lines(chats(3)))
    with pytest.raises(DataError, match="no training data; it has test"):
        splits_of(tmp_path)


@pytest.mark.parametrize(
    ("name", "split"),
    [
        ("train", "train"), ("TRAIN", "train"), ("train-00000-of-00002", "train"), ("train_sft", "train_sft"), ("train_sft-1", "train_sft"),
        ("test_gen_part3", "test_gen"), ("val", "val"), ("training", ""), ("tester", ""), ("my_train", ""), ("part-00000", ""), ("", ""),
    ],
)  # fmt: skip
def test_a_split_is_recognized_in_a_name(name: str, split: str) -> None:
    assert split_of(name) == split


def test_columns_of_any_type_beside_the_conversation_do_not_matter(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(chats(3))
    table = table.append_column("time", pyarrow.array([2**40] * 3, pyarrow.timestamp("s")))
    table = table.append_column("picture", pyarrow.array([b"\xff\xd8"] * 3))
    table = table.append_column("score", pyarrow.array([0.5, None, float("nan")]))
    parquet.write_table(table, tmp_path / "a.parquet")
    assert len(all_texts(tmp_path / "a.parquet")) == 3


def test_splits_that_are_not_used_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("train", "test", "validation"):
        put(tmp_path / f"{name}.jsonl", lines(chats(4, name)))
    splits_of(tmp_path)
    assert "not used: validation (4 rows)" in capsys.readouterr().out


def test_fields_that_arrow_adds_to_messages_as_nulls_are_absent(tmp_path: Path) -> None:
    rows = chats(4)
    for row in rows:
        for message in row["messages"]:
            message.update(name=None, tool_calls=None)
    schema = pyarrow.schema(
        [("messages", pyarrow.list_(pyarrow.struct([(key, pyarrow.string()) for key in ("role", "content", "name", "tool_calls")])))]
    )
    parquet.write_table(pyarrow.Table.from_pylist(rows, schema), tmp_path / "a.parquet")
    assert all_texts(tmp_path / "a.parquet") == sorted(row["messages"][0]["content"] for row in chats(4))


def test_a_parquet_file_without_rows_has_none(tmp_path: Path) -> None:
    table = pyarrow.Table.from_pylist(chats(1)).slice(0, 0)
    parquet.write_table(table, tmp_path / "train_sft.parquet")
    for split in SPLITS[1:]:
        put(tmp_path / f"{split}.jsonl", lines(chats(2, split)))
    assert {split: len(rows) for split, rows in splits_of(tmp_path).items()} == {"train_sft": 0, **dict.fromkeys(SPLITS[1:], 2)}
