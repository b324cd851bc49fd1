"""A file is divided at ends of lines, and processes give the same results as this one, in the same order."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import pytest

from mlops.core.errors import DataError
from mlops.dataset import chunks, processes
from mlops.dataset.checks import check
from mlops.dataset.chunks import Chunk, map_chunks, split_file
from mlops.dataset.conversation import lines
from mlops.dataset.near_duplicates import check_near_duplicates
from mlops.dataset.privacy import check_privacy
from tests.dataset.test_checks import row, write


@pytest.mark.parametrize(
    "content",
    [b"", b"a\n", b"a", b"\n\n\n", b"a\nbc\n", b"a\r\nbc\r\n", b"x" * 50 + b"\ny\n", b"y\n" + b"x" * 50, b"a\n" * 100],
    ids=range(9),
)
def test_chunks_have_all_lines_once(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 7)
    path = tmp_path / "file"
    path.write_bytes(content)
    parts = split_file(path)
    assert [line for part in parts for _, _, line in lines(path, part.start, part.end)] == content.splitlines(keepends=True)
    assert [part.start for part in parts] == [0, *(part.end for part in parts[:-1])][: len(parts)]
    assert len(parts) > 5 or len(content) < 100


def first_byte(chunk: Chunk, suffix: str) -> str:
    """What the processes do: the name of the chunk, or a fault if its text says so."""
    text = chunk.path.read_bytes()[chunk.start : chunk.end].decode()
    if "fault" in text:
        raise DataError(f"The text is {text.strip()}.", "choose another")
    if "end" in text:
        os.kill(os.getpid(), signal.SIGKILL)
    return text[0] + suffix


@pytest.mark.slow
def test_results_of_processes_are_in_order_and_faults_are_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 4)
    monkeypatch.setattr(chunks, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(processes, "_count_processors", lambda: 2)
    path = tmp_path / "file"
    path.write_text("a----\nb----\nc----\nd----\ne----\nf----\nfault\ng----\n")
    results = map_chunks(path, first_byte, "!")
    assert [next(results) for _ in range(6)] == ["a!", "b!", "c!", "d!", "e!", "f!"]
    with pytest.raises(DataError, match="The text is fault"):
        next(results)
    path.write_text("a----\nb----\n--end\n")
    with pytest.raises(DataError, match="A process that was reading the data has been killed"):
        list(map_chunks(path, first_byte, "!"))


@pytest.mark.slow
def test_findings_do_not_depend_on_the_number_of_processes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    long = " ".join(f"word{number}" for number in range(60))
    training: list[Any] = [row(number) for number in range(40)]
    training[7] = row(7, prompt_id="")
    training[11] = row(3)
    training[13] = row(13, ("user", "My address?"), ("assistant", "jane.doe@mail.uni-bern.ch"))
    training[20:20] = [b"nonsense", row(90, messages=[]), row(91, ("user", "Hi?"), ("assistant", long))]
    training[35:35] = [row(92, messages=[]), row(93, ("user", "Hi!"), ("assistant", f"{long} and more"))]
    suite = [row(100), row(101, ("user", "A question"), ("assistant", long)), row(5)]
    files = {"train_sft": write(tmp_path, "train_sft", training), "test_sft": write(tmp_path, "test_sft", suite)}

    def findings() -> list[object]:
        near = check_near_duplicates(files, "train_sft", lambda split, line: f"{split}:{line}")
        return [*check(files).findings, *near, *check_privacy(files, lambda split, line: f"{split}:{line}")]

    expected = findings()
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 800)
    assert findings() == expected
    monkeypatch.setattr(chunks, "PARALLEL_BYTES", 2000)
    monkeypatch.setattr(processes, "_count_processors", lambda: 2)
    assert findings() == expected
    rules = {"json.malformed", "messages.empty", "id.empty", "duplicate.exact", "overlap.exact", "overlap.answer", "duplicate.near"}
    assert rules | {"privacy.personal"} <= {finding.rule for finding in expected}  # type: ignore[attr-defined]


def test_rows_without_messages_are_no_duplicates_of_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    path = write(tmp_path, "train_sft", [row(number, messages=[]) for number in range(4)])
    assert [finding.rule for finding in check({"train_sft": path}).findings] == ["messages.empty"] * 4
