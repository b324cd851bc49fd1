"""The command that writes the pull request's comment."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops.__main__ import main
from mlops.emulator import github_api
from mlops.emulator.base.azure import Options
from mlops.emulator.server import Emulator
from mlops.report.comment import MARKER, text
from tests.support.project import enter
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


@pytest.fixture(scope="module")
def github(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("github"), Options(github="octo/chat")) as running:
        yield running


@pytest.fixture
def octo(github: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """An emulated GitHub, with this process as a job of a pull request."""
    enter(github, monkeypatch)
    monkeypatch.setenv("GITHUB_BASE_REF", "main")
    monkeypatch.setenv("GITHUB_REPOSITORY", "octo/chat")
    return github


RULES = """[targets.pr.gate.rules.target]
metric = "target.nll"
direction = "lower"
baseline = "base"
margin = {margin}
"""


@pytest.mark.parametrize(("margin", "says"), [(0.3, "**weakens the rules that judge it** (1 of 1 changes against `main`)"), (0.01, None)])
def test_a_pull_request_that_weakens_the_rules_says_so_at_the_top(
    margin: float, says: str | None, octo: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    github_api.add_file(octo.azure, "pipeline.toml", RULES.format(margin=0.01))
    github_api.open_pull_request(octo.azure, 12)
    token = github_api.issue_token(octo.azure, {"contents": "read", "pull-requests": "write"})
    monkeypatch.setenv("GITHUB_TOKEN", token)
    (tmp_path / "pipeline.toml").write_text(RULES.format(margin=margin))
    options = ["--run", str(make_run(tmp_path / "run").directory), "--config", str(tmp_path / "pipeline.toml")]
    assert main(["comment", "--pull-request", "12", *options]) == 0
    body = github_api.comments(octo.azure, 12)[-1]["body"]
    top = body.split("## ")[0]
    if says is None:
        assert top.strip() == MARKER
    else:
        assert says in top
        assert "| pr | `gate.rules.target.margin` | 0.01 | 0.3 | ⚠️ weaker |" in top


def test_settings_that_can_not_be_compared_are_reported(octo: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_TOKEN", github_api.issue_token(octo.azure, {"pull-requests": "write"}))
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    (tmp_path / "pipeline.toml").write_text("[targets.pr]\n")
    options = ["--run", str(make_run(tmp_path / "run").directory), "--config", str(tmp_path / "pipeline.toml")]
    assert main(["comment", "--summary-only", *options]) == 0
    assert "can't be compared with those of `main`: GitHub answered 403" in (tmp_path / "summary.md").read_text()
