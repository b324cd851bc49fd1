from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mlops.__main__ import main
from mlops.cli.run import STAGES
from mlops.core.records import RECORDS, TornDown
from mlops.core.run import Run

ROOT = Path(__file__).parents[1]
HEAVY = ("azure.ai.ml", "azure.identity", "datasets", "mlflow", "pandas", "torch", "transformers")


def test_every_stage_has_a_record_in_the_same_order() -> None:
    assert tuple(record.stage for record in RECORDS) == STAGES


@pytest.mark.parametrize(
    "arguments", [["--help"], *([name, "--help"] for name in STAGES), ["run", "--help"], ["schema"], ["show", "--run", "nowhere"]]
)
def test_help_and_showing_import_nothing_heavy(arguments: list[str]) -> None:
    code = (
        "import sys\n"
        "from mlops.__main__ import main\n"
        "try:\n"
        f"    main({arguments!r})\n"
        "except SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        f"heavy = [name for name in {HEAVY!r} if name in sys.modules]\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, stdout=subprocess.DEVNULL)


def test_an_unknown_command_suggests_the_nearest(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["trian"]) == 2
    assert "(did you mean 'train'?)" in capsys.readouterr().err


def test_no_command_prints_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "mlops evaluate-gate" in capsys.readouterr().out


def test_a_chain_that_ends_before_it_starts_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "--from", "deploy", "--until", "train"]) == 2
    assert "--from deploy comes after --until train" in capsys.readouterr().err


def test_the_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["title"] == "pipeline.toml"


def test_show_prints_the_records(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run(tmp_path).write(TornDown(deleted=("endpoint e",), refused={"deployment blue of e": "is kept for rollback"}, remaining=()))
    assert main(["show", "--run", str(tmp_path)]) == 0
    output = capsys.readouterr().out
    assert "▸ teardown" in output
    assert "is kept for rollback" in output


def test_show_prints_the_records_as_json(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Run(tmp_path).write(TornDown(deleted=("endpoint e\x1b[31m",), refused={}, remaining=()))
    assert main(["show", "--run", str(tmp_path), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["teardown"]["deleted"] == ["endpoint e\x1b[31m"]


@pytest.mark.parametrize("command", [["show"], ["schema"], ["--help"], ["register"]])
def test_a_closed_pipe_ends_every_command_quietly(tmp_path: Path, command: list[str]) -> None:
    (tmp_path / "pipeline.toml").write_text("[targets.local]\n")
    reader, writer = os.pipe()
    os.close(reader)
    try:
        process = subprocess.run(
            [sys.executable, "-m", "mlops", *command], stdout=writer, stderr=subprocess.PIPE, text=True, check=False, cwd=tmp_path
        )
    finally:
        os.close(writer)
    assert (process.returncode, process.stderr) == (141, "")


def test_show_without_records_says_how_to_start(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["show", "--run", str(tmp_path)]) == 0
    assert "`mlops prepare`" in capsys.readouterr().out
