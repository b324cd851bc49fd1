from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlops.__main__ import main
from mlops.cli import plan
from mlops.cli.plan import JOBS, planned
from mlops.cli.run import STAGES
from mlops.core.errors import UsageError
from mlops.core.records import Verdict
from mlops.core.run import Run
from tests.support.deployments import behind_the_gate


def test_the_jobs_hold_every_stage_once_and_in_order() -> None:
    assert [stage for stages in JOBS.values() for stage in stages] == list(STAGES)


@pytest.mark.parametrize(
    ("first", "last", "jobs"),
    [
        ("validate", "teardown", list(JOBS)),
        ("train", "evaluate-gate", ["train", "evaluate-gate"]),
        ("teardown", "teardown", ["teardown"]),
    ],
)
def test_a_part_is_planned(first: str, last: str, jobs: list[str]) -> None:
    assert planned(first, last) == jobs


@pytest.mark.parametrize(("first", "last", "told"), [("trian", "teardown", "no job 'trian'"), ("deploy", "train", "comes after")])
def test_what_makes_no_plan(first: str, last: str, told: str) -> None:
    with pytest.raises(UsageError, match=told):
        planned(first, last)


def test_the_plan_is_an_output_and_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipeline.toml").write_text("[targets.pr]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("MLOPS_TARGET", "pr")
    monkeypatch.setenv("MLOPS_SET", "endpoint.name=chat-pr-12\n\n")
    monkeypatch.setenv("GITHUB_REPOSITORY", "octo/chat")
    monkeypatch.setenv("GITHUB_RUN_ID", "5")
    assert main(["plan", "--from", "promote"]) == 0
    assert '["promote", "teardown"]' in (tmp_path / "output").read_text()
    kept = json.loads((tmp_path / "run/plan.json").read_text())
    assert kept == {
        "target": "pr",
        "jobs": ["promote", "teardown"],
        "settings": ["endpoint.name=chat-pr-12"],
        "commit": "unknown",
        "workflow_run": "https://github.com/octo/chat/actions/runs/5",
    }


def test_a_setting_that_does_not_exist_is_found_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipeline.toml").write_text("[targets.pr]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_SET", "endpoint.nme=x")
    assert main(["plan", "--target", "pr"]) == 2


@pytest.fixture
def carried(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The records of a run of target pr that were taken over."""
    (tmp_path / "pipeline.toml").write_text("[targets.pr]\n[targets.prod]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_TARGET", "pr")
    assert main(["plan"]) == 0
    return tmp_path / "run"


def test_records_of_another_target_are_refused(carried: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "--from", "register"]) == 0
    monkeypatch.setenv("MLOPS_TARGET", "prod")
    assert main(["plan", "--from", "register"]) == 2
    assert "are of target pr, and target prod" in capsys.readouterr().err
    assert plan.read(Run(carried))["target"] == "pr"


def test_records_made_under_other_settings_or_at_another_commit_are_told(
    carried: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--from", "register"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["plan", "--from", "register", "--set", "endpoint.name=chat-x"]) == 0
    assert "commit unknown, settings none. What follows is of commit unknown, settings endpoint.name=chat-x." in capsys.readouterr().err
    monkeypatch.setenv("GITHUB_SHA", "a" * 40)
    assert main(["plan", "--from", "register", "--set", "endpoint.name=chat-x"]) == 0
    assert f"What follows is of commit {'a' * 40}, settings endpoint.name=chat-x." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verdict", "first", "code", "told"),
    [
        ("HOLD", "evaluate-gate", 0, ""),
        ("HOLD", "validate", 2, "begins from evaluate-gate, not from validate"),
        ("HOLD", "register", 2, "begins from evaluate-gate, not from register"),
        ("REJECT", "evaluate-gate", 2, "REJECT has no override"),
        ("PROMOTE", "evaluate-gate", 2, "nothing to override"),
        (None, "evaluate-gate", 3, "gate.json is missing"),
    ],
)
def test_an_override_answers_a_hold_that_is_there(
    verdict: str | None,
    first: str,
    code: int,
    told: str,
    carried: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if verdict:
        behind_the_gate(carried, "mlops-train-1", Verdict(verdict))
    monkeypatch.setenv("MLOPS_OVERRIDE", "the suite is too small, people have read fifty answers")
    assert main(["plan", "--from", first]) == code
    assert told in capsys.readouterr().err
    monkeypatch.setenv("MLOPS_OVERRIDE", " ")
    assert main(["plan", "--from", first]) == 0
