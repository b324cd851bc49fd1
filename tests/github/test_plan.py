from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlops.__main__ import STAGES, main
from mlops.core.errors import UsageError
from mlops.github.plan import JOBS, planned


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
        "workflow_run": "https://github.com/octo/chat/actions/runs/5",
    }


def test_a_setting_that_does_not_exist_is_found_before_anything_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pipeline.toml").write_text("[targets.pr]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_SET", "endpoint.nme=x")
    assert main(["plan", "--target", "pr"]) == 2
