"""Detached training jobs with GitHub and Azure emulated: which are continued, ignored or reported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlops.cli.resume import resume
from mlops.cloud.jobs import Jobs, JobView
from mlops.cloud.tags import COMMIT, DETACHED, DISPATCHED, MARK, OWNER, PIPELINE, RUN, RUN_KEY, SETTINGS, TARGET, WAITING
from mlops.cloud.workspace import Workspace
from mlops.core.errors import AzureError, GitHubRefused, JobFailed
from mlops.core.settings import ComputeConfig, Config
from mlops.emulator import github_api
from mlops.emulator.base.azure import Options
from mlops.emulator.identity import entra
from mlops.emulator.server import Emulator

Settings = Callable[..., Config]
Open = Callable[[Config], Workspace]
REPOSITORY = "octo/chat"
SHA = "c" * 40
LATER = (COMMIT, SETTINGS, DETACHED)
RUNS = {"Completed": "true", "Failed": "false", "Running": "sleep 600"}
"""Status → the command of a job that reaches it."""


@pytest.fixture(scope="module")
def octo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    with Emulator(tmp_path_factory.mktemp("emulator"), Options(github=REPOSITORY)) as running:
        yield running


@pytest.fixture
def workspace(octo: Emulator, settings: Settings, open_workspace: Open, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """The workspace as the schedule's job sees it. Afterwards no job is detached and nothing has been dispatched."""
    for name, value in octo.environment().items():
        monkeypatch.setenv(name, value)
    workspace = open_workspace(settings())
    workspace.compute.ensure(ComputeConfig(name="cluster", max_instances=9))
    enter(octo, monkeypatch, actions="write")
    yield workspace
    for job in list(workspace.jobs.list_all_targets()):
        workspace.tracking.set_tags(job.name, {DETACHED: "no longer"})
        if job.is_active:
            workspace.jobs.cancel(job.name)
    for key, _ in octo.azure.store.list("github-dispatch"):
        octo.azure.store.delete("github-dispatch", key)


def enter(octo: Emulator, monkeypatch: pytest.MonkeyPatch, **permissions: str) -> None:
    """Become a job of the repository."""
    token = github_api.issue_token(octo.azure, permissions)
    for name, value in {
        "GITHUB_ACTIONS": "true",
        "GITHUB_REPOSITORY": REPOSITORY,
        "GITHUB_TOKEN": token,
        "GITHUB_REF_NAME": "main",
    }.items():
        monkeypatch.setenv(name, value)


def submit_training(workspace: Workspace, folder: Path, name: str, status: str = "Completed", **tags: str) -> str:
    """Submit a training job of run 7 that is detached, or has other tags, and wait for its status.

    A training is detached while it runs, so the tags that say so are only on its run in MLflow.
    """
    from azure.ai.ml import command

    folder.joinpath("nothing.txt").touch()
    all_tags = {PIPELINE: MARK, TARGET: "prod", OWNER: "octocat", RUN: f"{REPOSITORY}/7", RUN_KEY: name} | tags
    job: Any = command(
        command=RUNS[status],
        code=str(folder),
        environment="azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112",
        compute="cluster",
        tags={key: value for key, value in all_tags.items() if key not in LATER},
    )
    job.name = name
    workspace.session.ml.jobs.create_or_update(job)
    workspace.tracking.set_tags(name, {DETACHED: WAITING} | {key: tags[key] for key in LATER if key in tags})
    if status == "Completed":
        workspace.wait(name, 120)
    elif status == "Failed":
        with pytest.raises(JobFailed):
            workspace.wait(name, 120)
    return name


def test_a_completed_job_is_continued_with_its_commit_and_settings(workspace: Workspace, octo: Emulator, tmp_path: Path) -> None:
    submit_training(workspace, tmp_path, "done", **{COMMIT: SHA, SETTINGS: "endpoint.name=x\nsmoke.requests=2"})
    resume(workspace)
    assert github_api.dispatches(octo.azure) == [
        {
            "workflow": "dispatch.yml",
            "ref": "main",
            "inputs": {
                "action": "resume",
                "target": "prod",
                "from": "train",
                "run-id": "7",
                "commit": SHA,
                "settings": "endpoint.name=x\nsmoke.requests=2",
            },
        }
    ]


def test_a_job_of_another_identity_is_not_continued(
    workspace: Workspace, octo: Emulator, open_workspace: Open, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may submit jobs may give them any tag, also those that ask for a continuation."""
    with monkeypatch.context() as patch:
        for name, value in entra.add_application(octo.azure).items():
            patch.setenv(name, value)
        submit_training(open_workspace(settings()), tmp_path, "planted")
    resume(workspace)
    assert github_api.dispatches(octo.azure) == []


def test_foreign_leftovers_do_not_stop_the_others(
    workspace: Workspace, octo: Emulator, open_workspace: Open, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run without a job, a job without a target, and a job that can't be read."""
    with monkeypatch.context() as patch:
        for name, value in entra.add_application(octo.azure).items():
            patch.setenv(name, value)
        client = open_workspace(settings()).tracking.client
        planted = client.create_run(client.create_experiment("first-of-all"), tags={PIPELINE: MARK, DETACHED: WAITING}).info.run_id
    for name in ("without-target", "unreadable", "well"):
        submit_training(workspace, tmp_path, name, **{TARGET: ""} if name == "without-target" else {})
    read = Jobs.get

    def get(self: Jobs, job: str) -> JobView:
        if job == "unreadable":
            raise AzureError("JobParsingError: this job is of a type that the SDK doesn't know")
        return read(self, job)

    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "get", get)
        with pytest.raises(AzureError, match="JobParsingError"):
            resume(workspace)
    assert [dispatch["inputs"]["target"] for dispatch in github_api.dispatches(octo.azure)] == ["prod"]
    workspace.tracking.set_tags("unreadable", {DETACHED: "no longer"})
    outcomes = resume(workspace)
    assert outcomes == {planted: "no longer exists, or was never a job", "without-target": f"has no tag {TARGET}", "well": "Completed"}
    workspace.tracking.set_tags(planted, {DETACHED: "no longer"})


@pytest.mark.parametrize(("ahead", "dispatched"), [(timedelta(hours=8), 0), (timedelta(days=2), 1)])
def test_a_dispatch_in_the_future_is_believed_as_long_as_a_clock_may_be_wrong(
    workspace: Workspace, octo: Emulator, tmp_path: Path, ahead: timedelta, dispatched: int
) -> None:
    """Otherwise one wrong clock, or one tag, would stop a pipeline for years."""
    name = submit_training(workspace, tmp_path, f"future-{ahead.days}")
    workspace.tracking.set_tags(name, {DISPATCHED: (datetime.now(UTC) + ahead).isoformat()})
    resume(workspace)
    assert len(github_api.dispatches(octo.azure)) == dispatched


def test_a_job_with_a_queued_run_is_not_dispatched_again(
    workspace: Workspace, octo: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The dispatched run may wait for hours: for another pipeline of its target, or for reviewers."""
    submit_training(workspace, tmp_path, "queued")
    for _ in range(2):
        resume(workspace)
    assert len(github_api.dispatches(octo.azure)) == 1
    assert "dispatch.yml was dispatched for it at 20" in capsys.readouterr().out
    # It was canceled before it started, so no run has taken the job over.
    monkeypatch.setattr("mlops.cli.resume.DISPATCH_TIMEOUT", timedelta(0))
    resume(workspace)
    assert len(github_api.dispatches(octo.azure)) == 2


def test_running_foreign_and_attached_jobs_are_ignored(
    workspace: Workspace, octo: Emulator, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submit_training(workspace, tmp_path, "running", "Running")
    submit_training(workspace, tmp_path, "taken", **{DETACHED: f"{REPOSITORY}/8"})
    submit_training(workspace, tmp_path, "never-detached", **{DETACHED: ""})
    submit_training(workspace, tmp_path, "of-another", **{RUN: "octo/other/7"})
    submit_training(workspace, tmp_path, "of-a-namesake", **{RUN: f"{REPOSITORY}-2/7"})
    capsys.readouterr()
    resume(workspace)
    assert github_api.dispatches(octo.azure) == []
    output = capsys.readouterr().out
    assert "running is " in output
    assert not any(name in output for name in ("taken", "never-detached", "of-another", "of-a-namesake"))


def test_a_failed_job_is_reported_once_and_the_others_are_handled(workspace: Workspace, octo: Emulator, tmp_path: Path) -> None:
    submit_training(workspace, tmp_path, "broken", "Failed")
    submit_training(workspace, tmp_path, "whole")
    with pytest.raises(JobFailed, match="broken ended as Failed"):
        resume(workspace)
    assert [dispatch["inputs"]["run-id"] for dispatch in github_api.dispatches(octo.azure)] == ["7"]
    assert workspace.tracking.get_tags("broken")[DETACHED] == "Failed"
    resume(workspace)


def test_a_dispatch_that_github_refuses_is_tried_again_next_time(
    workspace: Workspace, octo: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        submit_training(workspace, tmp_path, name)
    with monkeypatch.context() as patch:
        enter(octo, patch, actions="read")
        with pytest.raises(GitHubRefused) as raised:
            resume(workspace)
    assert "actions: write" in raised.value.fix
    output = capsys.readouterr().out
    assert "one has completed, but dispatch.yml could not be started" in output
    assert "two has completed, but dispatch.yml could not be started" in output
    resume(workspace)
    assert len(github_api.dispatches(octo.azure)) == 2


def test_outside_github_the_command_is_printed(
    workspace: Workspace, octo: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    submit_training(workspace, tmp_path, "on-a-laptop")
    for name in ("GITHUB_ACTIONS", "GITHUB_REPOSITORY"):
        monkeypatch.delenv(name)
    resume(workspace)
    assert "continue with `mlops run --target prod --from train`" in capsys.readouterr().out
    assert github_api.dispatches(octo.azure) == []
