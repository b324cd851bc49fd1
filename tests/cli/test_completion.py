"""The script for bash, run by bash; zsh and fish are not there, so only what their scripts contain is checked."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlops.__main__ import main
from mlops.cli.commands import COMMANDS

ROOT = Path(__file__).parents[2]


def script(shell: str, capsys: pytest.CaptureFixture[str]) -> str:
    assert main(["completion", shell]) == 0
    return capsys.readouterr().out


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_targets_and_options(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    command = f'#!/bin/sh\ncd {ROOT} && exec {sys.executable} -m mlops "$@"\n'
    (tmp_path / "mlops").write_text(command)
    (tmp_path / "mlops").chmod(0o700)
    (tmp_path / "pipeline.toml").write_text("[targets.prod]\n[targets.pr]\n[targets.pr.training]\n[targets.local]\n")
    lines = [["mlops", "pro"], ["mlops", "train", "--target", "p"], ["mlops", "show", "--j"], ["mlops", "show", "--run", "fi"]]
    calls = "".join(f'COMP_WORDS=({" ".join(words)}); COMP_CWORD={len(words) - 1}; _mlops; echo "${{COMPREPLY[*]}}"\n' for words in lines)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-c", script("bash", capsys) + calls], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert done.stdout.splitlines() == ["promote", "prod pr", "--json", ""]


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_every_command_is_in_the_scripts_of_other_shells(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = script(shell, capsys)
    assert " ".join(COMMANDS) in text
    assert "@" not in text.replace("$@", "")
    if program := shutil.which(shell):
        subprocess.run([program, "-n", "-c", text], check=True)


def test_another_shell_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["completion", "tcsh"])
    assert "invalid choice: 'tcsh'" in capsys.readouterr().err
