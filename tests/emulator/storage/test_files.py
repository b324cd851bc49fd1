"""The files of blobs: no name leads out of its container, and parts of files are copied whole."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops.emulator.server import Emulator
from mlops.emulator.storage import blobs, files

CONTAINER = "tests"


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(name=st.text(st.sampled_from("ab./\\\0 ~ü"), min_size=1, max_size=12))
def test_no_name_leads_out(emulator: Emulator, name: str) -> None:
    root = blobs.path(emulator.azure, CONTAINER)
    try:
        file = blobs.path(emulator.azure, CONTAINER, name)
    except files.BlobError:
        return
    assert file.resolve().is_relative_to(root)
    assert file.resolve() != root


@pytest.mark.parametrize("name", ["", "A", "ab", "a--b", "-abc", "a/b", "..", "x" * 64])
def test_invalid_container_names_are_refused(emulator: Emulator, name: str) -> None:
    with pytest.raises(files.BlobError):
        blobs.path(emulator.azure, name)


def refuse(*_: object) -> int:
    raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def stop_halfway() -> Callable[..., int]:
    """Return a system call that copies two bytes at most, and fails the second time, as where a file system changes."""
    calls = 0

    def some(source: int, target: int, count: int, offset: int) -> int:
        nonlocal calls
        calls += 1
        return os.write(target, os.pread(source, min(count, 2), offset)) if calls % 2 else refuse()

    return some


@pytest.mark.parametrize("system", ["the kernel", "refuses", "stops", "is not Linux"])
def test_parts_of_files_are_appended_in_their_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    if system == "is not Linux":
        monkeypatch.delattr(os, "copy_file_range", raising=False)
    elif system != "the kernel":
        monkeypatch.setattr(os, "copy_file_range", refuse if system == "refuses" else stop_halfway(), raising=False)
    source = tmp_path / "source"
    source.write_bytes(b"0123456789")
    with (tmp_path / "whole").open("wb") as output:
        for begin, end in ((6, 10), (0, 5), (3, 3), (5, 6)):
            files.append((source, begin, end), output)
    assert (tmp_path / "whole").read_bytes() == b"6789012345"


def test_a_part_beyond_the_end_of_its_file_is_an_error(tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(b"0123")
    with (tmp_path / "whole").open("wb") as output, pytest.raises(EOFError, match="source ends 3 bytes before"):
        files.append((source, 2, 7), output)
