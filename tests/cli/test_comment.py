"""The command that writes the pull request's comment."""

from __future__ import annotations

from pathlib import Path

import pytest

from mlops.__main__ import main
from mlops.report.comment import text
from tests.support.run_directories import make_run


def test_the_command_writes_the_page_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "run")
    run.path("plan.json").write_text(
        '{"target": "pr", "jobs": [], "settings": [], "workflow_run": "https://github.com/octo/chat/actions/runs/5"}'
    )
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert main(["comment", "--summary-only", "--run", str(run.directory)]) == 0
    expected = text(run, planned=True, workflow_run="https://github.com/octo/chat/actions/runs/5")
    assert (tmp_path / "summary.md").read_text().strip() == expected.strip()


def test_the_command_requires_a_destination(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["comment"])
    assert "--pull-request" in capsys.readouterr().err
