"""Ordinary faults of the machine are errors with a fix and a documented exit code, and leave no temporary files."""

from __future__ import annotations

import gzip
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pytest
from filelock import FileLock
from pyarrow import parquet

from mlops.__main__ import main
from mlops.core import console
from mlops.core.errors import OUTPUT_CLOSED, ConfigError, RecordError, RunInUse, StorageFailed
from mlops.core.records import Prepared
from mlops.core.run import Run

ROOT = Path(__file__).parents[2]
LINUX = pytest.mark.skipif(sys.platform != "linux", reason="uses /dev/full and /sys")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a pipeline.toml and 200 conversations."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipeline.toml").write_text(
        "[targets.local.data]\ndataset = 'chats.jsonl'\npercent = 100\n[targets.local.endpoint]\nephemeral = true\n"
    )
    rows = ({"prompt": f"Question {number} – →", "response": f"Answer {number} " + "word " * 40} for number in range(200))
    (tmp_path / "chats.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return tmp_path


def run_shell(project: Path, command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command line in which ``mlops`` is this package's."""
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("LC_", "LANG", "GITHUB_"))}
    return subprocess.run(
        ["bash", "-c", f'mlops() {{ "{sys.executable}" -m mlops "$@"; }}; {command}'],
        cwd=project,
        env={**variables, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def leftovers(folder: Path) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.name.endswith(".new") or (path.name.startswith(".") and path.name != ".lock")]


@LINUX
def test_an_output_to_a_full_disk_is_an_error(project: Path) -> None:
    done = run_shell(project, "mlops prepare > /dev/full")
    assert done.returncode == StorageFailed.exit_code, done.stderr
    assert "No space left on device" in done.stderr
    assert "Traceback" not in done.stderr
    assert not leftovers(project)


def test_a_reader_that_goes_away_ends_the_command_quietly(project: Path) -> None:
    done = run_shell(project, "mlops prepare | true; exit ${PIPESTATUS[0]}")
    assert (done.returncode, done.stderr) in ((OUTPUT_CLOSED, ""), (0, ""))


@pytest.mark.parametrize("variables", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "latin-1"}, {"LC_ALL": "C", "PYTHONUTF8": "0"}])
def test_a_terminal_without_utf_8_shows_everything_that_it_can(variables: dict[str, str], project: Path) -> None:
    (project / "chats.jsonl").rename(project / "chats→ü.jsonl")
    done = run_shell(project, "mlops prepare --set 'data.dataset=chats→ü.jsonl' && mlops prepare --set data.dataset=no→where", **variables)
    assert done.returncode == ConfigError.exit_code, done.stderr
    assert "kept train_sft" in done.stdout
    assert "where': there is no such file" in done.stderr


def test_output_that_is_closed_is_not_missed(project: Path) -> None:
    done = run_shell(project, "mlops prepare >&-")
    assert done.returncode == 0, done.stderr


@pytest.fixture
def small_files() -> Any:
    """Let files grow to 20 KB only, as on a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fills_up_leaves_no_part_of_a_split(project: Path, small_files: None, capsys: pytest.CaptureFixture[str]) -> None:
    # Its output is kept in memory: the limit holds for the file that pytest writes to as well.
    assert main(["prepare"]) == StorageFailed.exit_code
    assert not leftovers(project)
    assert not (project / "run" / "data" / "train_sft.jsonl").exists()
    assert not Run(project / "run").has(Prepared)


@pytest.mark.parametrize("suffix", [".jsonl.gz", ".parquet"])
def test_a_disk_without_room_for_temporary_files_is_not_blamed_on_the_data(
    suffix: str, project: Path, small_files: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (project / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(project / "temporary"))
    source, text = project / f"big{suffix}", "word " * 1000
    if suffix == ".parquet":
        parquet.write_table(pyarrow.table({"prompt": [text] * 30, "response": [text] * 30}), source)
    else:
        source.write_bytes(gzip.compress(json.dumps({"prompt": text, "response": text}).encode() * 9))
    assert main(["prepare", "--set", f"data.dataset={source.name}"]) == StorageFailed.exit_code
    assert "free some space" in capsys.readouterr().err
    assert not list((project / "temporary").iterdir())


@pytest.mark.parametrize("folder", ["chats.jsonl", "chats.jsonl/run", pytest.param("/sys/run", marks=LINUX), "x" * 300])
def test_a_run_directory_that_can_not_be_written_is_an_error(folder: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--run", folder]) == StorageFailed.exit_code
    message = capsys.readouterr().err
    assert Path(folder).name[:20] in message
    assert "Fix: " in message
    assert "Traceback" not in message


def test_an_output_of_the_job_that_can_not_be_written_is_an_error(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GITHUB_OUTPUT", str(project / "nowhere" / "output"))
    with pytest.raises(StorageFailed, match=r"GITHUB_OUTPUT .*can't be written: No such file"):
        console.output("verdict", "HOLD")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(project / "nowhere" / "summary"))
    console.summary("text")
    assert "GITHUB_STEP_SUMMARY" in capsys.readouterr().err, "a page is not worth a failure"


@pytest.mark.parametrize(
    "content",
    [
        b"[targets.local]\n# gr\xfc\xdfe\n",
        b"[targets.local.data]\nseed = " + b"9" * 5000 + b"\n",
        b"[targets.local.data]\nseed = 99999999999999999999\n",
        b"[targets.local.data]\nmax_rows = " + b"[" * 5000 + b"\n",
        b"\xff\xfe[\x00t\x00",
        b"[targets.local\n",
    ],
)
def test_a_damaged_configuration_is_an_error(content: bytes, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "pipeline.toml").write_bytes(content)
    assert main(["prepare"]) == ConfigError.exit_code
    assert "pipeline.toml" in capsys.readouterr().err


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000])
def test_an_option_that_can_not_be_read_is_an_error(value: str, project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["prepare", "--set", f"data.seed={value}"]) == ConfigError.exit_code
    assert "--set data.seed" in capsys.readouterr().err


def test_two_commands_can_not_write_to_one_run_directory(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (project / "run").mkdir()
    for command in (["prepare"], ["run", "--until", "prepare"]):
        with FileLock(project / "run" / ".lock"):
            assert main(command) == RunInUse.exit_code
        assert "Another mlops command is writing to run" in capsys.readouterr().err
        assert not (project / "run" / "prepare.json").exists()
    assert main(["prepare"]) == 0, "the lock goes with its owner"


DAMAGED: list[tuple[str, Callable[[Run], object]]] = [
    ("failure.json", lambda run: run.failure()),
    ("prepare.json", lambda run: list(run.records())),
]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b'{"stage": 1}', b"[" * 100_000, b'{"stage": ' + b"9" * 5000 + b"}"])
@pytest.mark.parametrize(("name", "read"), DAMAGED, ids=[name for name, _ in DAMAGED])
def test_a_damaged_file_of_the_run_directory_is_named(name: str, read: Callable[[Run], object], content: bytes, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(RecordError, match=name) as caught:
        read(Run(tmp_path))
    assert caught.value.fix
