from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops.__main__ import main
from mlops.cli import stage
from mlops.core import console
from mlops.core.errors import INTERRUPTED, Detached, JobFailed, TrafficError
from mlops.core.judgement import Verdict
from mlops.core.records import Judged, TornDown
from mlops.core.run import Run
from mlops.core.settings import COORDINATES, Config


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "pipeline.toml").write_text("[targets.local]\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def judged(verdict: Verdict) -> Judged:
    return Judged(target="local", verdict=verdict, reasons=(), judgements=(), candidate_job="j", candidate_model="m", first_run=True)


def failing(problem: BaseException) -> Callable[[], None]:
    def fail() -> None:
        raise problem

    return fail


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(("verdict", "code"), [(Verdict.PROMOTE, 0), (Verdict.HOLD, 10), (Verdict.REJECT, 20)])
def test_the_verdict_decides_the_exit_code(verdict: Verdict, code: int) -> None:
    def gate() -> Judged:
        return judged(verdict)

    assert stage.command(gate)([]) == code


@pytest.mark.usefixtures("project")
@pytest.mark.parametrize(
    ("problem", "code"),
    [(JobFailed("it broke", "look"), 7), (TrafficError("lost"), 15), (KeyboardInterrupt(), 130), (ZeroDivisionError("bug"), 1)],
)
def test_each_failure_has_its_exit_code(problem: BaseException, code: int, capsys: pytest.CaptureFixture[str]) -> None:
    assert stage.command(failing(problem))([]) == code
    assert "error:" in capsys.readouterr().err


@pytest.mark.usefixtures("project")
def test_with_json_the_result_alone_is_on_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    def count() -> TornDown:
        console.info("counting")
        return TornDown(deleted=("a",), refused={}, remaining=())

    command = stage.command(count)
    assert command(["--json"]) == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["deleted"] == ["a"]
    assert "counting" in captured.err
    assert command([]) == 0
    assert "counting" in capsys.readouterr().out


@pytest.mark.parametrize("options", [[], ["--json"]])
def test_arguments_that_can_not_be_parsed_give_no_commands_to_github(options: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["gate", *options, "--x\n::stop-commands::\x1b[2Jp##[group]q"])
    lines = "".join(capsys.readouterr()).splitlines()
    assert any("stop-commands" in line for line in lines)
    assert not any(line.strip().startswith("::") or "##[" in line or "\x1b" in line for line in lines)


@pytest.mark.usefixtures("project")
def test_a_stage_receives_what_it_names() -> None:
    received: list[object] = []

    def look(config: Config, run: Run) -> None:
        received.extend((config.target, run.directory))

    assert stage.command(look)(["--run", "elsewhere"]) == 0
    assert received == ["local", Path("elsewhere")]


@pytest.mark.usefixtures("project")
def test_sigterm_is_an_interrupt() -> None:
    before = signal.getsignal(signal.SIGTERM)

    def terminate() -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    assert stage.command(terminate)([]) == 130
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.usefixtures("project")
def test_a_stage_receives_an_option_that_it_names() -> None:
    received: list[bool] = []

    def clean(delete: bool) -> None:
        received.append(delete)

    command = stage.command(clean, add_options=lambda parser: parser.add_argument("--delete", action="store_true"))
    assert command([]) == command(["--delete"]) == 0
    assert received == [False, True]


@pytest.mark.usefixtures("project")
def test_missing_records_are_named_before_the_workspace_is_opened(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for variable in COORDINATES.values():
        monkeypatch.delenv(variable, raising=False)
    assert main(["register"]) == 3
    assert "run/train.json, run/evaluate.json, run/gate.json are missing" in (message := capsys.readouterr().err)
    assert "Fix: run `mlops train`, `mlops evaluate`, `mlops gate`" in message


def test_detached_training_is_not_a_failure(capsys: pytest.CaptureFixture[str]) -> None:
    def detach() -> int:
        raise Detached("The job goes on.")

    assert stage.run_and_report(detach) == 0
    stderr = capsys.readouterr().err
    assert "The job goes on." in stderr
    assert "error" not in stderr


INTERRUPTIBLE = """
import sys, time
from mlops.cli.stage import run_and_report

def wait():
    try:
        print("waiting", flush=True)
        time.sleep(600)
    finally:
        print("cleaning up", flush=True)
        sys.stdin.readline()
        print("cleaned up", flush=True)

sys.exit(run_and_report(wait))
"""


@pytest.mark.parametrize("first", [signal.SIGINT, signal.SIGTERM])
def test_further_signals_do_not_interrupt_the_clean_up(first: signal.Signals) -> None:
    """GitHub sends SIGINT to a canceled step, and SIGTERM before it kills."""
    with subprocess.Popen([sys.executable, "-c", INTERRUPTIBLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "waiting\n"
            process.send_signal(first)
            assert process.stdout.readline() == "cleaning up\n"
            for further in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
                process.send_signal(further)
            time.sleep(0.2)  # they are delivered before the clean-up goes on
            process.stdin.write("\n")
            process.stdin.flush()
            assert "cleaned up\n" in process.stdout.read()
            assert process.wait(30) == INTERRUPTED
        finally:
            process.kill()
