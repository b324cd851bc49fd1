"""A file is divided at ends of lines, and processes give the same results as this one, in the same order."""

from __future__ import annotations

import multiprocessing
import os
import platform
import resource
import signal
from pathlib import Path
from typing import Any

import pytest

from mlops.core.errors import DataError
from mlops.dataset import checks, chunks, processes
from mlops.dataset.checks import check
from mlops.dataset.chunks import Chunk, map_chunks, split_file
from mlops.dataset.conversation import lines
from mlops.dataset.near_duplicates import check_near_duplicates
from mlops.dataset.privacy import check_privacy
from mlops.dataset.processes import keep_processes, map_items
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


def process_of(item: int, fault: int) -> int:
    """What the processes do: name themselves, or fail."""
    if item == fault:
        raise DataError("This item is a fault.", "choose another")
    return os.getpid()


@pytest.mark.slow
def test_processes_are_kept_for_the_next_call_unless_one_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_count_processors", lambda: 2)

    def used(fault: int = -1) -> set[int]:
        return set(map_items(range(4), process_of, fault, parallel=True))

    with keep_processes():
        first = used()
        with keep_processes():
            assert used() == first
        assert used() == first
        with pytest.raises(DataError, match="This item is a fault"):
            used(fault=1)
        others = used()
        assert len(first) == len(others) == 2
        assert not first & others
    assert not [process for process in multiprocessing.active_children() if process.pid in first | others]
    assert not used() & others


def page_faults(size: int) -> int:
    """What the processes do: use new memory again and again."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        bytes(size).translate(None)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_processes_use_freed_memory_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "_count_processors", lambda: 2)
    size = 1 << 22
    faults = list(map_items([size] * 4, page_faults, parallel=True))
    assert max(faults[2:]) < size // resource.getpagesize()


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
    monkeypatch.setattr(checks, "PARALLEL_BYTES", 0)
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 800)
    assert findings() == expected
    monkeypatch.setattr(chunks, "PARALLEL_BYTES", 2000)
    monkeypatch.setattr(processes, "_count_processors", lambda: 2)
    assert findings() == expected
    rules = {"json.malformed", "messages.empty", "id.empty", "duplicate.exact", "overlap.exact", "overlap.answer", "duplicate.near"}
    assert rules | {"privacy.personal"} <= {finding.rule for finding in expected}  # type: ignore[attr-defined]


def test_rows_without_messages_are_not_duplicates_of_each_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 1)
    path = write(tmp_path, "train_sft", [row(number, messages=[]) for number in range(4)])
    assert [finding.rule for finding in check({"train_sft": path}).findings] == ["messages.empty"] * 4
