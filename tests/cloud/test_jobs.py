from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops.cloud import watch
from mlops.cloud.errors import NotFound
from mlops.cloud.jobs import JobInput, Jobs, JobView, _name
from mlops.cloud.outputs import _inside
from mlops.cloud.session import Session
from mlops.cloud.tags import RUN_KEY
from mlops.cloud.watch import Watch
from mlops.cloud.workspace import Workspace
from mlops.core.config import ComputeConfig, Config
from mlops.core.errors import AzureError, CredentialError, Detached, JobCanceled, JobFailed, JobStatusUnknown, MlopsError

Settings = Callable[..., Config]
Fault = Callable[[str], None]
HINT = "unit test"
SCRIPT = """
import os, sys, time
from pathlib import Path

out = Path(sys.argv[1])
print("begun", flush=True)
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
    """Another one for each test: each has a folder of its own."""
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
        command="python script.py ${{outputs.result}} ${{inputs.word}}",
        inputs={"word": JobInput("string", "hello")},
        outputs={"result": "uri_folder"},
        environment="azureml://registries/azureml/environments/acft-hf-nlp-gpu/versions/112",
        compute="cluster",
        environment_variables=variables,
        tags={RUN_KEY: key(folder), "colour": "red"},
        experiment="experiment",
        display_name="a small job",
    )


def find(workspace: Workspace, folder: Path, experiment: str = "experiment", **tags: str) -> list[str]:
    return [job.name for job in workspace.jobs.find(experiment, {RUN_KEY: key(folder), **tags}, name_hint=HINT)]


def test_a_job_is_submitted_watched_found_again_and_its_output_downloaded(
    workspace: Workspace, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = submit(workspace, tmp_path)
    done = workspace.wait(job, 60)
    assert (done.status, done.experiment, done.display_name) == ("Completed", "experiment", "a small job")
    assert done.studio_url.startswith("https://ml.azure.com/runs/")
    assert workspace.session.is_from_this_run(done.tags)
    assert "begun" in capsys.readouterr().out
    assert (workspace.history.details(job).seconds or 0) > 0

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
    # Cancelling what has ended is no error: the aim is reached.
    workspace.jobs.cancel(job)
    assert workspace.jobs.get(job).status == "Completed"


def test_an_output_without_files_is_an_error_and_leaves_the_folder_alone(workspace: Workspace, tmp_path: Path) -> None:
    job = submit(workspace, tmp_path, EMPTY="1")
    workspace.wait(job, 60)
    folder = tmp_path / "result"
    folder.mkdir()
    (folder / "kept.txt").touch()
    with pytest.raises(AzureError, match=r"'result' of job .* has no files"):
        workspace.outputs.download(workspace.jobs.get(job), "result", folder)
    assert [path.name for path in tmp_path.glob("*result*")] == ["result"]
    assert (folder / "kept.txt").exists()


def test_a_failed_job_raises_with_its_log_and_the_next_attempt_gets_a_name_of_its_own(workspace: Workspace, tmp_path: Path) -> None:
    first = submit(workspace, tmp_path, BREAK="1")
    with pytest.raises(JobFailed, match="broken on purpose") as caught:
        workspace.wait(first, 60)
    assert "Last lines of its log" in str(caught.value)
    assert "https://ml.azure.com/runs/" in str(caught.value)
    second = submit(workspace, tmp_path)
    assert second != first
    workspace.wait(second, 60)
    assert find(workspace, tmp_path) == [second, first]


def test_a_job_that_somebody_cancels_is_no_success(fault: Fault, workspace: Workspace, tmp_path: Path) -> None:
    fault("job-canceled@*")
    with pytest.raises(JobCanceled, match="was cancelled"):
        workspace.wait(submit(workspace, tmp_path), 60)


def test_a_job_that_takes_too_long_is_cancelled(workspace: Workspace, tmp_path: Path) -> None:
    job = submit(workspace, tmp_path, WAIT="1")
    with pytest.raises(JobStatusUnknown, match="told to cancel"):
        workspace.wait(job, 0.1)
    assert ended(workspace, job) == "Canceled"


def test_an_interrupt_cancels_the_job_that_we_started(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = submit(workspace, tmp_path, WAIT="1")
    with monkeypatch.context() as patch:
        interrupt(patch)
        with pytest.raises(KeyboardInterrupt):
            workspace.wait(job, 60)
    assert ended(workspace, job) == "Canceled"


def test_an_interrupt_leaves_the_job_that_somebody_else_started(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Workspace.open(workspace.session.config)
    job = submit(other, tmp_path, WAIT="1")
    with monkeypatch.context() as patch:
        interrupt(patch)
        with pytest.raises(KeyboardInterrupt):
            workspace.wait(job, 60)
    assert workspace.jobs.get(job).active
    workspace.jobs.cancel(job)


def test_two_that_submit_the_same_work_at_once_share_one_job(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    other = Workspace.open(workspace.session.config)
    first = submit(workspace, tmp_path, WAIT="1")
    # The other looked before the first had submitted, and submits after it.
    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "_attempts", lambda *_: iter(()))
        assert submit(other, tmp_path, WAIT="1") == first
    assert find(workspace, tmp_path) == [first]
    workspace.jobs.cancel(first)


def test_bad_moments_of_the_service_do_not_end_the_watch(fault: Fault, workspace: Workspace, tmp_path: Path) -> None:
    fault("drop@arm GET */jobs/* x2")
    fault("503@api GET */history/* x3")
    assert workspace.wait(submit(workspace, tmp_path), 60).status == "Completed"


def test_a_service_that_stays_away_ends_the_watch_and_says_that_the_job_may_cost_money(
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
def test_a_look_that_is_lost_when_the_time_to_detach_has_come_is_made_up_for(
    problem: MlopsError, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking again at once, five times, would call the job lost within a millisecond."""
    job = submit(workspace, tmp_path, WAIT="1")
    pauses: list[float] = []
    problems, look = iter([problem] * (watch.LOST_POLLS - 1)), Jobs.get

    def get(jobs: Jobs, name: str) -> JobView:
        for lost in problems:
            raise lost
        return look(jobs, name)

    with monkeypatch.context() as patch:
        patch.setattr(Jobs, "get", get)
        patch.setattr("mlops.cloud.watch.time.sleep", pauses.append)
        with pytest.raises(Detached):
            workspace.wait(job, 60, 0)
    assert len(pauses) == watch.LOST_POLLS - 1
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
def test_only_completed_is_completed(status: str, error: type[Exception], settings: Settings) -> None:
    workspace = Workspace(Session(settings(environment={}), None, {}))
    watching = Watch(workspace.jobs, workspace.history, "j")
    view = JobView(name="j", status=status)
    assert not view.active
    with pytest.raises(error):
        watching._judge(view)
    assert watching._judge(JobView(name="j", status="Completed")).name == "j"


@pytest.mark.parametrize(
    ("status", "over"),
    [("Completed", True), ("Failed", True), ("Canceled", True), ("CancelRequested", True), ("Running", False), ("NotResponding", False),
     ("Paused", False), ("SomethingNew", False), ("", False)],
)  # fmt: skip
def test_what_is_not_known_to_be_over_may_cost_money(status: str, over: bool) -> None:
    assert JobView(name="j", status=status).over is over


def test_names_are_such_as_the_service_takes() -> None:
    assert _name("Smoke: the Candidate!", "0123456789abcdef" * 4, 2) == "mlops-smoke-the-candidate-0123456789abcdef-2"


@pytest.mark.parametrize("name", ["../out.txt", "a/../../out.txt", "/etc/passwd", "", "."])
def test_a_file_name_that_leads_out_of_the_folder_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(AzureError, match="leads out of"):
        _inside(tmp_path, name)


def interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The next time the watch waits, somebody presses Ctrl-C."""

    def sleep(_seconds: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mlops.cloud.watch.time.sleep", sleep)


def ended(workspace: Workspace, job: str) -> str:
    """The job's status once it has ended."""
    for _ in range(100):
        if (status := workspace.jobs.get(job).status) in ("Canceled", "Completed", "Failed"):
            return status
        time.sleep(0.1)
    return status
