from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlops.__main__ import main
from mlops.cli import plan
from mlops.cli.plan import JOBS, select_jobs
from mlops.cli.run import STAGES
from mlops.core.errors import UsageError
from mlops.core.judgement import Verdict
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
def test_jobs_from_one_to_another_are_selected(first: str, last: str, jobs: list[str]) -> None:
    assert select_jobs(first, last) == jobs


@pytest.mark.parametrize(("first", "last", "message"), [("trian", "teardown", "no job 'trian'"), ("deploy", "train", "comes after")])
def test_unknown_and_reversed_jobs_are_refused(first: str, last: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        select_jobs(first, last)


def test_the_plan_is_an_output_and_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipeline.toml").write_text("[targets.pr.endpoint]\nephemeral = true\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_OUTPUT", str(tmp_path / "output"))
    monkeypatch.setenv("MLOPS_TARGET", "pr")
    monkeypatch.setenv("MLOPS_SET", "endpoint.name=chat-pr-12\n\n")
    monkeypatch.setenv("GITHUB_REPOSITORY", "octo/chat")
    monkeypatch.setenv("GITHUB_RUN_ID", "5")
    assert main(["plan", "--from", "promote"]) == 0
    assert '["promote", "teardown"]' in (tmp_path / "output").read_text()
    document = json.loads((tmp_path / "run/plan.json").read_text())
    assert document == {
        "target": "pr",
        "jobs": ["promote", "teardown"],
        "settings": ["endpoint.name=chat-pr-12"],
        "commit": "unknown",
        "workflow_run": "https://github.com/octo/chat/actions/runs/5",
        "continued_runs": [],
    }


def test_the_plan_says_what_the_run_and_the_standby_cost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prices = "compute.price_per_hour_usd = 3.67\ntraining.expected_hours = 14\nendpoint.price_per_hour_usd = 3.67\n"
    (tmp_path / "pipeline.toml").write_text(f"[targets.prod]\n{prices}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(tmp_path / "summary.md"))
    assert main(["plan", "--target", "prod", "--run", "other"]) == 0
    for text in (capsys.readouterr().out, (tmp_path / "summary.md").read_text()):
        assert "estimated cost of target prod: 51.38 USD (3.67 USD an hour × 1 node(s)" in text
        assert "the standby at 0 % as much again, 2,679 USD a month, for 24 h after a promotion (88.08 USD)" in text


@pytest.mark.parametrize(
    ("client", "settings", "code"), [("A", "", 2), ("a", "endpoint.ephemeral=false", 2), ("b", "endpoint.ephemeral=false", 2), ("b", "", 0)]
)
def test_an_ephemeral_target_does_not_sign_in_as_permanent_ones(
    client: str, settings: str, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "pipeline.toml").write_text("[targets.prod]\n[targets.pr.endpoint]\nephemeral = true\n")
    monkeypatch.chdir(tmp_path)
    for name, value in {"AZURE_CLIENT_ID": client, "MLOPS_PERMANENT_CLIENT_ID": "a", "MLOPS_SET": settings}.items():
        monkeypatch.setenv(name, value)
    assert main(["plan", "--target", "pr"]) == code
    printed = capsys.readouterr().err
    assert (not code) == (not printed)
    assert not settings or "MLOPS_SET endpoint.ephemeral=false is refused for target pr" in printed
    monkeypatch.delenv("MLOPS_SET")
    assert main(["plan", "--target", "prod", "--run", "other"]) == 0
    monkeypatch.setenv("MLOPS_PERMANENT_CLIENT_ID", "")
    assert main(["plan", "--target", "pr"]) == 0, "not in a workflow"


def test_an_unknown_setting_is_refused_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipeline.toml").write_text("[targets.pr]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_SET", "endpoint.nme=x")
    assert main(["plan", "--target", "pr"]) == 2


@pytest.fixture
def earlier_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The run directory of an earlier run of target pr."""
    (tmp_path / "pipeline.toml").write_text("[targets.pr]\n[targets.prod]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_TARGET", "pr")
    assert main(["plan"]) == 0
    return tmp_path / "run"


def test_records_of_another_target_are_refused(
    earlier_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--from", "register"]) == 0
    monkeypatch.setenv("MLOPS_TARGET", "prod")
    assert main(["plan", "--from", "register"]) == 2
    assert "are of target pr, and target prod can't continue" in capsys.readouterr().err
    assert plan.read(Run(earlier_run))["target"] == "pr"


def test_records_of_other_settings_or_another_commit_cause_a_warning(
    earlier_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", "--from", "register"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["plan", "--from", "register", "--set", "endpoint.name=chat-x"]) == 0
    assert (
        "commit unknown, settings none. The following stages run at commit unknown, settings endpoint.name=chat-x."
        in capsys.readouterr().err
    )
    monkeypatch.setenv("GITHUB_SHA", "a" * 40)
    assert main(["plan", "--from", "register", "--set", "endpoint.name=chat-x"]) == 0
    assert f"The following stages run at commit {'a' * 40}, settings endpoint.name=chat-x." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("verdict", "first", "code", "message"),
    [
        ("HOLD", "evaluate-gate", 0, ""),
        ("HOLD", "validate", 2, "starts from evaluate-gate, not from validate"),
        ("HOLD", "register", 2, "starts from evaluate-gate, not from register"),
        ("REJECT", "evaluate-gate", 2, "REJECT has no override"),
        ("PROMOTE", "evaluate-gate", 2, "nothing to override"),
        (None, "evaluate-gate", 3, "gate.json is missing"),
    ],
)
def test_an_override_needs_a_recorded_hold(
    verdict: str | None,
    first: str,
    code: int,
    message: str,
    earlier_run: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    if verdict:
        behind_the_gate(earlier_run, "mlops-train-1", Verdict(verdict))
    monkeypatch.setenv("MLOPS_OVERRIDE", "the suite is too small, people have read fifty answers")
    assert main(["plan", "--from", first]) == code
    assert message in capsys.readouterr().err
    monkeypatch.setenv("MLOPS_OVERRIDE", " ")
    assert main(["plan", "--from", first]) == 0
