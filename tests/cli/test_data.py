"""The command that shows the prepared data, and the view of it for notebooks."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mlops.__main__ import main
from mlops.core.records import Prepared
from mlops.core.run import Run


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pipeline.toml").write_text("[targets.local.data]\ndataset = 'chats'\npercent = 100\non_bad_row = 'drop'\n")
    (tmp_path / "chats").mkdir()
    for name in ("train", "test"):
        rows: list[dict[str, Any]] = [
            {"prompt": f"{name} asks\n{number}", "response": f"{name} {number} " + "word " * (number + 1)} for number in range(20)
        ]
        rows[7]["response"] = " "
        (tmp_path / "chats" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert main(["prepare"]) == 0
    capsys.readouterr()
    return tmp_path


def test_statistics_and_conversations_are_shown(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", "--rows", "2", "--split", "test_sft"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"rows +\d+ +\d+ +\d+ +\d+\n", shown)
    assert len(re.findall(r"^▸ chats/test\.jsonl:\d+$", shown, re.MULTILINE)) == 2
    assert re.search(r"^  user +test asks\n +\d+\n  assistant +test", shown, re.MULTILINE)
    assert "1 with errors" in shown


def test_the_same_is_there_as_json(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", "--json", "--rows", "1"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert sum(split["rows"] + sum(split["left_out"].values()) for split in shown["splits"].values()) == 40
    train = shown["splits"]["train_sft"]
    assert (train["messages_median"], train["messages_max"]) == (2, 2)
    assert train["format"] == "prompt and response (fields prompt, response)"
    assert [role for role, _ in shown["conversations"][0]["messages"]] == ["user", "assistant"]


def test_a_split_is_a_data_frame(project: Path) -> None:
    run = Run(Path("run"))
    record = run.read(Prepared)
    frame = record.frame("train_sft")
    assert list(frame.columns) == ["prompt", "messages", "prompt_id"]
    assert len(frame) == record.files["train_sft"].rows
    assert frame["messages"].iloc[0][0]["role"] == "user"


def test_without_data_the_command_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["data", "show", "--run", str(tmp_path / "run")]) == 3
    assert "mlops prepare" in capsys.readouterr().err


def test_the_version_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert re.fullmatch(r"mlops \d+\.\d+\.\d+\n", capsys.readouterr().out)
