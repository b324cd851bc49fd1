"""Only records that this repository's own workflows made are continued."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlops.__main__ import main
from mlops.core.errors import RecordError
from mlops.emulator import github_api
from mlops.emulator.base.azure import Options
from mlops.emulator.server import Emulator
from mlops.github.provenance import check_runs
from tests.support.project import enter

OLD, NEW, FOREIGN, UNRELATED, HEAD = (letter * 40 for letter in "1234a")
PASSED = {"pipeline / validate": "success", "pipeline / evaluate-gate": "success"}
Record = Callable[..., None]


@pytest.fixture(scope="module")
def octo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("emulator"), Options(github="octo/chat")) as running:
        for history in ((OLD,), (NEW, OLD), (FOREIGN, OLD), (HEAD, NEW), (UNRELATED,)):
            github_api.add_commit(running.azure, *history)
        yield running


@pytest.fixture
def record(octo: Emulator, monkeypatch: pytest.MonkeyPatch) -> Record:
    """Become a job of the repository on main, and record workflow runs: ``record("7", event=...)``."""
    enter(octo, monkeypatch)
    token = github_api.issue_token(octo.azure, {"actions": "read", "contents": "read"})
    job = {"REPOSITORY": "octo/chat", "REF_NAME": "main", "REF_TYPE": "branch", "SHA": HEAD, "TOKEN": token}
    for name, value in job.items():
        monkeypatch.setenv(f"GITHUB_{name}", value)

    def create(run: str = "7", **origin: Any) -> None:
        github_api.add_workflow_run(octo.azure, run, "completed", "success", **{"jobs": PASSED, "sha": NEW, **origin})

    return create


@pytest.mark.parametrize("origin", [{}, {"file": "dispatch.yml", "event": "workflow_dispatch"}, {"sha": OLD}, {"sha": HEAD}])
def test_a_run_of_train_or_dispatch_on_this_branch_is_continued(record: Record, origin: dict[str, str]) -> None:
    record(**origin)
    check_runs(["7"], needs_gate=True)


@pytest.mark.parametrize(
    ("origin", "reason"),
    [
        ({"branch": "attack"}, "its branch is 'attack', not 'main'"),
        ({"repository": "evil/chat"}, "its repository is 'evil/chat'"),
        ({"file": "pr.yml", "event": "pull_request"}, "its event is 'pull_request'"),
        ({"file": "forged.yml"}, "its event is 'push', not 'that of"),
        ({"event": "pull_request"}, "its event is 'pull_request', not 'push'"),
        ({"file": "dispatch.yml", "event": "push"}, "its event is 'push', not 'workflow_dispatch'"),
    ],
)
def test_records_of_any_other_origin_are_refused(record: Record, origin: dict[str, str], reason: str) -> None:
    record(**origin)
    with pytest.raises(RecordError, match="can't be used") as caught:
        check_runs(["7"], needs_gate=False)
    assert reason in caught.value.what


@pytest.mark.parametrize("sha", [FOREIGN, UNRELATED, "f" * 40])
def test_a_tag_with_the_branchs_name_is_not_the_branch(record: Record, sha: str) -> None:
    """GitHub says that ``head_branch`` is main. Whoever may push tags may change train.yml in their commit."""
    record(sha=sha)
    with pytest.raises(RecordError, match=f"its commit {sha} is not on branch main"):
        check_runs(["7"], needs_gate=False)


@pytest.mark.parametrize(("variable", "value"), [("GITHUB_REF_TYPE", "tag"), ("GITHUB_REF_TYPE", ""), ("GITHUB_SHA", "")])
def test_a_job_that_is_not_on_a_branch_continues_nothing(
    record: Record, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    record()
    monkeypatch.setenv(variable, value)
    with pytest.raises(RecordError, match="doesn't run on a branch"):
        check_runs(["7"], needs_gate=False)


@pytest.mark.parametrize("end", ["failure", "skipped", ""])
def test_stages_after_the_gate_need_a_run_in_which_it_passed(record: Record, end: str) -> None:
    record(jobs={"pipeline / validate": "success", "pipeline / evaluate-gate": end, "forged / evaluate": "success"})
    with pytest.raises(RecordError, match="evaluate-gate has not succeeded"):
        check_runs(["7"], needs_gate=True)
    check_runs(["7"], needs_gate=False)
    # The run continued one in which it did.
    record("6")
    check_runs(["7", "6"], needs_gate=True)
    record("6", branch="attack")
    with pytest.raises(RecordError, match="can't be used"):
        check_runs(["7", "6"], needs_gate=True)


def test_values_that_are_not_numbers_are_not_requested(record: Record) -> None:
    record()
    with pytest.raises(RecordError, match="not the id of a workflow run"):
        check_runs(["7/../../other"], needs_gate=False)


@pytest.fixture
def plan(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """Plan to continue run 7, whose plan is in run/: ``plan("--from", "deploy", commit=..., settings=[...])``."""
    (tmp_path / "pipeline.toml").write_text("[targets.prod]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLOPS_CONTINUED_RUN", "7")
    monkeypatch.setenv("GITHUB_SHA", "a" * 40)

    def call(*options: str, **changes: Any) -> int:
        document = {"target": "prod", "jobs": [], "settings": [], "commit": "a" * 40, "workflow_run": "", **changes}
        (tmp_path / "run").mkdir(exist_ok=True)
        (tmp_path / "run/plan.json").write_text(json.dumps(document))
        return main(["plan", "--target", "prod", *options])

    return call


def test_a_forged_artifact_is_refused_before_anything_reads_it(
    record: Record, plan: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    record(branch="attack")
    assert plan("--from", "register") == RecordError.exit_code
    assert "its branch is 'attack'" in capsys.readouterr().err
    record()
    assert plan("--from", "register") == 0
    assert json.loads((tmp_path / "run/plan.json").read_text())["continued_runs"] == ["7"]
    record(jobs={"pipeline / validate": "success"})
    assert plan("--from", "register") == RecordError.exit_code
    assert plan("--from", "train") == 0
    record("6")
    assert plan("--from", "register", continued_runs=["6"]) == 0


@pytest.mark.parametrize("changes", [{"commit": "b" * 40}, {"settings": ["training.experiment=x"]}])
def test_a_resumed_run_continues_as_it_was_planned(
    record: Record, plan: Callable[..., int], changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Commit and settings come from a job's tags, which others may have changed."""
    record()
    monkeypatch.setenv("MLOPS_RESUME", "true")
    assert plan("--from", "train") == 0
    assert plan("--from", "train", **changes) == 2
    assert "but this would resume them at commit" in capsys.readouterr().err
    monkeypatch.setenv("MLOPS_RESUME", "false")
    assert plan("--from", "train", **changes) == 0
