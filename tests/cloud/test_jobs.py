from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops.cloud import watch
from mlops.cloud.errors import NotFound
from mlops.cloud.jobs import Jobs, JobView, _make_name
from mlops.cloud.outputs import _safe_path
from mlops.cloud.session import Session
from mlops.cloud.tags import RUN_KEY
from mlops.cloud.watch import Watch
from mlops.cloud.workspace import Workspace
from mlops.core.errors import AzureError, CredentialError, Detached, JobCanceled, JobFailed, JobStatusUnknown, MlopsError
from mlops.core.settings import ComputeConfig, Config

Settings = Callable[..., Config]
Fault = Callable[[str], None]
HINT = "unit test"
SCRIPT = """
import os, sys, time
from pathlib import Path

out = Path(sys.argv[1])
print("started", flush=True)
if os.environ.get("WAIT"):
    time.sleep(60)
if os.environ.get("BREAK"):
    raise RuntimeError("broken on purpose")
if not os.environ.get("EMPTY"):
    (out / "deep").mkdir(parents=True)
    (out / "answer.txt").write_text("42")
    (out / "deep" / "er.txt").write_text(sys.argv[2])
"""


def key(folder: Path) -> str:
    """Return a key that is unique per test, because each test has its own folder."""
    return hashlib.sha256(str(folder).encode()).hexdigest()


def submit(workspace: Workspace, folder: Path, **variables: str) -> str:
    """Submit a small command job and return its name."""
    workspace.compute.ensure(ComputeConfig(name="cluster"))
    code = folder / "code"
    code.mkdir(exist_ok=True)
    (code / "script.py").write_text(SCRIPT)
    return workspace.jobs.submit_command(
        name_hint=HINT,
        code=code,
        command=" ".join([*(f"{name}={value}" for name, value in variables.items()), "python script.py ${{outputs.result}} hello"]),
        inputs={},
        outputs={"result": "uri_folder"},
        environment="azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112",
        compute="cluster",
        tags={RUN_KEY: key(folder), "colour": "red"},
        experiment="experiment",
        display_name="a small job",
    )


def test_without_storage_keys_a_job_needs_an_identity_of_its_cluster(
    start_emulator: Callable[..., object], settings: Callable[..., Config], open_workspace: Callable[[Config], Workspace], tmp_path: Path
) -> None:
    start_emulator(storage="identity")
    workspace = open_workspace(settings())
    job = submit(workspace, tmp_path)
    assert ended(workspace, job) == "Failed"
    with pytest.raises(JobFailed, match="its keys are disabled, and compute cluster has no user-assigned managed identity"):
        Watch(workspace.jobs, workspace.history, job).wait(60)


def find(workspace: Workspace, folder: Path, experiment: str = "experiment", **tags: str) -> list[str]:
    return [job.name for job in workspace.jobs.find(experiment, {RUN_KEY: key(folder), **tags}, name_hint=HINT)]


def test_a_job_is_submitted_watched_found_and_its_output_downloaded(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = submit(workspace, tmp_path)
    done = workspace.wait(job, 60)
    assert (done.status, done.experiment, done.display_name) == ("Completed", "experiment", "a small job")
    assert done.studio_url.startswith("https://ml.azure.com/runs/")
    assert workspace.session.is_from_this_run(done.tags)
    assert "started" in capsys.readouterr().out
    assert (workspace.history.get_details(job).seconds or 0) > 0

    assert find(workspace, tmp_path) == [job]
    assert find(workspace, tmp_path, colour="red") == [job]
    assert find(workspace, tmp_path, colour="blue") == []
    assert find(workspace, tmp_path, experiment="other") == []
    assert find(workspace, tmp_path / "another key") == []

    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "stale.txt").touch()
    assert workspace.outputs.download(workspace.jobs.get(job), "result", folder) == folder
    assert {path.relative_to(folder).as_posix(): path.read_text() for path in folder.rglob("*.txt")} == {
        "answer.txt": "42",
        "deep/er.txt": "hello",
    }
    located = workspace.outputs.resolve(f"azureml://jobs/{job}/outputs/result")
    assert located.endswith(f"/datastores/workspaceblobstore/paths/azureml/{job}/result/")
    assert workspace.outputs.resolve(located) == located
    with pytest.raises(NotFound, match=f"Job {job} has no output 'nothing'"):
        workspace.outputs.resolve(f"azureml://jobs/{job}/outputs/nothing")
    # Canceling a job that has ended is not an error.
    workspace.jobs.cancel(job)
    assert workspace.jobs.get(job).status == "Completed"


def test_an_output_without_files_is_an_error_and_keeps_the_folder(workspace: Workspace, tmp_path: Path) -> None:
    job = submit(workspace, tmp_path, EMPTY="1")
    workspace.wait(job, 60)
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "kept.txt").touch()
    with pytest.raises(AzureError, match=r"'result' of job .* has no files"):
        workspace.outputs.download(workspace.jobs.get(job), "result", folder)
    assert [path.name for path in tmp_path.glob("*result*")] == ["result"]
    assert (folder / "kept.txt").exists()


def test_a_failed_job_raises_with_its_log_and_the_next_attempt_gets_another_name(workspace: Workspace, tmp_path: Path) -> None:
    first = submit(workspace, tmp_path, BREAK="1")
    with pytest.raises(JobFailed, match="broken on purpose") as caught:
        workspace.wait(first, 60)
    assert "Last lines of its log" in str(caught.value)
    assert "https://ml.azure.com/runs/" in str(caught.value)
    second = submit(workspace, tmp_path)
    assert second != first
    workspace.wait(second, 60)
    assert find(workspace, tmp_path) == [second, first]


def test_a_canceled_job_raises(fault: Fault, workspace: Workspace, tmp_path: Path) -> None:
    fault("job-canceled@*")
    with pytest.raises(JobCanceled, match="was canceled"):
        workspace.wait(submit(workspace, tmp_path), 60)


def test_a_job_that_times_out_is_canceled(workspace: Workspace, tmp_path: Path) -> None:
    job = submit(workspace, tmp_path, WAIT="1")
    with pytest.raises(JobStatusUnknown, match="is being canceled"):
        workspace.wait(job, 0.1)
    assert ended(workspace, job) == "Canceled"


def test_an_interrupt_cancels_a_job_of_this_process(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit(workspace, tmp_path, WAIT="1")
    with monkeypatch.context() as patch:
        interrupt(patch)
        with pytest.raises(KeyboardInterrupt):
            workspace.wait(job, 60)
    assert ended(workspace, job) == "Canceled"


def test_an_interrupt_does_not_cancel_a_job_of_another_runner(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Workspace.open(workspace.session.config)
    job = submit(other, tmp_path, WAIT="1")
    with monkeypatch.context() as patch:
        interrupt(patch)
        with pytest.raises(KeyboardInterrupt):
            workspace.wait(job, 60)
    assert workspace.jobs.get(job).is_active
    workspace.jobs.cancel(job)


def test_two_runners_that_submit_the_same_work_share_one_job(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Workspace.open(workspace.session.config)
    first = submit(workspace, tmp_path, WAIT="1")
    # The other runner looked before the first one submitted, and submits after it.
    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "_list_attempts", lambda *_: iter(()))
        assert submit(other, tmp_path, WAIT="1") == first
    assert find(workspace, tmp_path) == [first]
    workspace.jobs.cancel(first)


def test_temporary_failures_do_not_end_the_watch(fault: Fault, workspace: Workspace, tmp_path: Path) -> None:
    fault("drop@arm GET */jobs/* x2")
    fault("503@api GET */history/* x3")
    assert workspace.wait(submit(workspace, tmp_path), 60).status == "Completed"


def test_a_persistent_failure_ends_the_watch_with_a_warning_about_costs(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = submit(workspace, tmp_path, WAIT="1")
    broken = AzureError("the network is gone")

    def get(_self: Jobs, _job: str) -> JobView:
        raise broken

    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "get", get)
        patch.setattr(watch, "FIRST_POLL_S", 0.01)
        with pytest.raises(JobStatusUnknown, match="may still run and cost money"):
            workspace.wait(job, 60)
    workspace.jobs.cancel(job)


@pytest.mark.parametrize("problem", [AzureError("the network is gone"), CredentialError("GitHub gives no token")])
def test_a_failed_poll_at_the_time_to_detach_is_repeated_after_a_pause(
    problem: MlopsError, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the pause, five polls in a row would fail within a millisecond."""
    job = submit(workspace, tmp_path, WAIT="1")
    pauses: list[float] = []
    problems, original = iter([problem] * (watch.MAX_FAILED_POLLS - 1)), Jobs.get

    def get(jobs: Jobs, name: str) -> JobView:
        for failure in problems:
            raise failure
        return original(jobs, name)

    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "get", get)
        patch.setattr("mlops.cloud.watch.time.sleep", pauses.append)
        with pytest.raises(Detached):
            workspace.wait(job, 60, 0)
    assert len(pauses) == watch.MAX_FAILED_POLLS - 1
    assert min(pauses) >= watch.FIRST_POLL_S
    workspace.jobs.cancel(job)


def test_a_job_that_does_not_exist_is_not_found(workspace: Workspace) -> None:
    with pytest.raises(NotFound):
        workspace.jobs.get("nothing-here")


@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("Canceled", JobCanceled),
        ("CancelRequested", JobCanceled),
        ("NotResponding", JobStatusUnknown),
        ("Paused", JobStatusUnknown),
        ("Unknown", JobStatusUnknown),
        ("SomethingNew", JobStatusUnknown),
        ("", JobStatusUnknown),
    ],
)
def test_only_a_completed_job_is_returned(status: str, error: type[Exception], settings: Settings) -> None:
    workspace = Workspace(Session(settings(environment={}), None, {}))
    watch_job = Watch(workspace.jobs, workspace.history, "j")
    view = JobView(name="j", status=status)
    assert not view.is_active
    with pytest.raises(error):
        watch_job._check_completed(view)
    assert watch_job._check_completed(JobView(name="j", status="Completed")).name == "j"


@pytest.mark.parametrize(
    ("status", "over"),
    [("Completed", True), ("Failed", True), ("Canceled", True), ("CancelRequested", True), ("Running", False), ("NotResponding", False),
     ("Paused", False), ("SomethingNew", False), ("", False)],
)  # fmt: skip
def test_unknown_statuses_may_still_cost_money(status: str, over: bool) -> None:
    assert JobView(name="j", status=status).is_over is over


def test_job_names_are_valid_for_the_service() -> None:
    assert _make_name("Smoke: the Candidate!", "0123456789abcdef" * 4, 2) == "mlops-smoke-the-candidate-0123456789abcdef-2"


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/etc/passwd", "", "."])
def test_a_file_name_that_leads_outside_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(AzureError, match="is outside"):
        _safe_path(tmp_path, name)


def interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """Simulate Ctrl-C at the next pause of the watch."""

    def sleep(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlops.cloud.watch.time.sleep", sleep)


def ended(workspace: Workspace, job: str) -> str:
    """Wait until the job ends and return its status."""
    for _ in range(1200):
        if (status := workspace.jobs.get(job).status) in ("Canceled", "Completed", "Failed"):
            return status
        time.sleep(0.1)
    return status
