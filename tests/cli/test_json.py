"""``--json``: every command has it, and on stdout there is nothing but one JSON value, also if the command fails."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops.__main__ import COMMANDS, main
from mlops.cli import stage
from mlops.core import console
from mlops.core.errors import Detached, JobFailed
from mlops.core.records import TornDown
from mlops.core.run import Run
from mlops.core.settings import COORDINATES

FAILURES: dict[str, tuple[str, str, int]] = {
    **dict.fromkeys(COMMANDS, ("", "ConfigError", 2)),
    "data": ("show", "RecordError", 3),
    "comment": ("--summary-only", "RecordError", 3),
    "completion": ("tcsh", "UsageError", 2),
    "init": ("", "UsageError", 2),
    "roles": ("", "UsageError", 2),
    "schema": ("--unknown", "UsageError", 2),
    "show": ("", "RecordError", 3),
}
"""Command → options with which it fails in a folder with a damaged record and nothing else, class of the failure, exit code."""


def run_json(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, Any]:
    """Return the exit code of a command and what it prints on stdout."""
    capsys.readouterr()
    try:
        code = main(arguments)
    except SystemExit as end:
        code = int(end.code or 0)
    return code, json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_failure_of_every_command_is_json(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for variable in (*COORDINATES.values(), "AZURE_CLIENT_ID"):
        monkeypatch.delenv(variable, raising=False)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "prepare.json").write_text("{")
    options, kind, code = FAILURES[command]
    actual, content = run_json([command, *options.split(), "--json"], capsys)
    assert (actual, content["error"]["class"], content["error"]["exit_code"]) == (code, kind, code)
    assert content["error"]["message"]
    assert content["error"]["fix"]


def test_an_unknown_command_is_reported_like_other_failures(capsys: pytest.CaptureFixture[str]) -> None:
    code, content = run_json(["trian", "--json"], capsys)
    assert (code, content["error"]["class"]) == (2, "UsageError")
    assert "did you mean 'train'" in content["error"]["message"]


def fails_with(problem: BaseException) -> Callable[[], object]:
    def fail() -> object:
        console.info("before")
        raise problem

    return fail


@pytest.mark.parametrize(
    ("problem", "kind", "code"),
    [
        (JobFailed("it broke", "look"), "JobFailed", 7),
        (KeyboardInterrupt(), "Interrupted", 130),
        (OSError(28, "No space left on device", "run/x"), "StorageFailed", 22),
        (ZeroDivisionError("bug"), "MlopsError", 1),
    ],
)
def test_every_kind_of_failure_has_its_class_and_code(
    problem: BaseException, kind: str, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert stage.finish(fails_with(problem), as_json=True) == code
    captured = capsys.readouterr()
    error = json.loads(captured.out)["error"]
    assert (error["class"], error["exit_code"]) == (kind, code)
    assert error["message"] in captured.err
    assert "before" in captured.err


def test_a_detached_training_is_not_an_error(capsys: pytest.CaptureFixture[str]) -> None:
    assert stage.finish(fails_with(Detached("The job goes on.")), as_json=True) == 0
    assert json.loads(capsys.readouterr().out)["notice"]["message"] == "The job goes on."


def test_an_answer_is_shown_once(capsys: pytest.CaptureFixture[str]) -> None:
    answer = stage.Answer({"not a number": float("nan"), "at": Path("x")}, "as text", exit_code=10)
    assert stage.finish(lambda: answer, as_json=True) == 10
    captured = capsys.readouterr()
    assert (json.loads(captured.out), captured.err) == ({"not a number": None, "at": "x"}, "")
    assert stage.finish(lambda: answer, as_json=False) == 10
    assert capsys.readouterr().out == "as text\n"
    reported = stage.Answer({}, exit_code=7, failure=JobFailed("it broke"))
    assert stage.finish(lambda: reported, as_json=True) == 7
    assert json.loads(capsys.readouterr().out)["error"]["class"] == "JobFailed"


@pytest.mark.parametrize("text", ["##[error]no", "\n::error::no", "\x1b[31m", "\u2028::x", "ü → 漢", "[red]x[/red]"])
def test_foreign_text_is_exact_and_no_command(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run(tmp_path).write(TornDown(deleted=(text,), refused={}, remaining=()))
    assert main(["show", "--run", str(tmp_path), "--json"]) == 0
    out = capsys.readouterr().out
    assert json.loads(out)["teardown"]["deleted"] == [text]
    assert "##[" not in out
    assert not any(line.strip().startswith("::") for line in out.splitlines())
    assert out.isascii(), "it is the same in every encoding of a terminal"
