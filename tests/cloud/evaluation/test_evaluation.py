"""Scoring jobs: which results are accepted, and what happens to the other jobs when one does not complete."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from mlops.cloud.jobs import Jobs
from mlops.cloud.tags import RUN
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import AzureError, EvidenceError, JobCanceled, JobFailed, JobStatusUnknown
from mlops.core.records import Evaluated
from mlops.core.settings import Config
from mlops.emulator.history import runstore
from mlops.evaluate import main
from tests.support.evaluation import Make

Open = Callable[[Config], Workspace]
Fault = Callable[[str], None]


def altered(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


TAMPERED: dict[str, Callable[[Path], object]] = {
    "a row's score": lambda output: altered(output / "scores.jsonl", '"nll": ', '"nll": 1'),
    "a metric": lambda output: altered(output / "result.json", '"target.nll": ', '"target.nll": 1'),
    "the suite": lambda output: altered(output / "result.json", '"suite_digests": {"target": "', '"suite_digests": {"target": "0'),
    "the rows are gone": lambda output: (output / "scores.jsonl").unlink(),
    "the result is gone": lambda output: (output / "result.json").unlink(),
    "the result is no JSON": lambda output: (output / "result.json").write_text("{"),
}


@pytest.mark.parametrize("what", TAMPERED)
def test_a_stored_score_that_was_tampered_with_is_computed_again(what: str, make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = make(at="nowhere")
    before = evaluation.evaluate()
    [stored] = evaluation.names("candidate")
    TAMPERED[what](evaluation.output(stored))
    other = make(at="nowhere", folder="other")
    record = other.evaluate()
    assert f"The score in job {stored} can't be reused" in capsys.readouterr().err
    assert evaluation.names("candidate") == [stored, record.models["candidate"].job]
    assert record.models["candidate"].metrics == before.models["candidate"].metrics
    assert (record.models["candidate"].reused, record.models["base"].reused) == (False, True)


def test_a_stored_score_that_the_service_does_not_return_is_not_paid_for_again(make: Make, fault: Fault) -> None:
    evaluation = make(at="nowhere")
    evaluation.evaluate()
    jobs = evaluation.names("candidate")
    fault("403@blob GET *scores/result.json x1")
    with pytest.raises(AzureError, match="403"):
        make(at="nowhere", folder="other").evaluate()
    assert evaluation.names("candidate") == jobs
    assert make(at="nowhere", folder="other").evaluate().models["candidate"].reused


@pytest.mark.parametrize("request_", ["arm GET */jobs/mlops-score-*", "blob GET *scores/result.json", "blob GET *scores/scores.jsonl"])
def test_a_single_404_is_no_proof_that_a_score_is_gone(request_: str, make: Make, fault: Fault) -> None:
    jobs = {model.job for model in make(at="nowhere").evaluate().models.values()}
    fault(f"404@{request_}")
    again = make(at="nowhere", folder="other").evaluate().models
    assert {model.job for model in again.values()} == jobs
    assert all(model.reused for model in again.values())


@pytest.mark.parametrize(
    ("how", "says"),
    [("empty", "its scores are missing"), ("foreign", "scored rows that"), ("other base", "compared with different base models")],
)
def test_a_job_that_completes_without_the_requested_scores_is_an_error(how: str, says: str, make: Make) -> None:
    evaluation = make(at="nowhere", base="wait" if how != "other base" else "", candidate=how)
    with pytest.raises(EvidenceError, match=says) as caught:
        evaluation.evaluate()
    assert (caught.value.exit_code, "mlops evaluate" in caught.value.fix) == (11, True)
    assert not evaluation.run.has(Evaluated)
    if how != "other base":
        evaluation.expect_jobs([("candidate", "Completed"), ("base", "Canceled")])


def test_nan_scores_of_a_candidate_are_left_for_the_gate_to_judge(make: Make) -> None:
    record = make(at="nowhere", candidate="nan").evaluate()
    assert math.isnan(record.models["candidate"].metrics["target.nll"])


def test_a_suite_that_was_changed_on_disk_is_detected_before_any_job_is_submitted(make: Make) -> None:
    evaluation = make(at="nowhere")
    altered(evaluation.run.directory / "suites" / "target.jsonl", "target-0", "target-9")
    with pytest.raises(EvidenceError, match="is not the target suite that validation froze"):
        evaluation.evaluate()
    assert evaluation.jobs() == []


@pytest.mark.parametrize(
    ("order", "error", "code", "status"),
    [("job-failed", JobFailed, 7, "Failed"), ("job-canceled", JobCanceled, 8, "Canceled")],
)
def test_a_job_that_does_not_complete_cancels_the_others(
    order: str, error: type[Exception], code: int, status: str, make: Make, fault: Fault
) -> None:
    evaluation = make(live="blue", base="wait", champion="wait")
    fault(f"{order}@score the candidate")
    with pytest.raises(error, match=r"https://ml\.azure\.com/runs/") as caught:
        evaluation.evaluate()
    assert getattr(caught.value, "exit_code", None) == code
    assert "run the command again" in str(caught.value)
    evaluation.expect_jobs([("candidate", status), ("base", "Canceled"), ("champion", "Canceled")])
    assert not evaluation.run.has(Evaluated)


def test_a_failing_scorer_is_reported_with_its_log_and_tried_again_by_the_next_run(make: Make) -> None:
    evaluation = make(at="nowhere", candidate="fail")
    with pytest.raises(JobFailed, match="broken on purpose"):
        evaluation.evaluate()
    with pytest.raises(JobFailed):
        evaluation.evaluate()
    assert [status for role, status in evaluation.jobs() if role == "candidate"] == ["Failed", "Failed"]


def test_a_job_that_does_not_respond_is_an_error(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = make(at="nowhere", candidate="wait", base="wait")
    wait = Workspace.wait

    def stop_responding(workspace: Workspace, job: str, *timeouts: float) -> object:
        with runstore.change(evaluation.emulator.azure, job) as document:
            document["status"] = "NotResponding"
        return wait(workspace, job, *timeouts)

    monkeypatch.setattr(Workspace, "wait", stop_responding)
    with pytest.raises(JobStatusUnknown, match="it may still cost money") as caught:
        evaluation.evaluate()
    assert caught.value.exit_code == 9
    evaluation.expect_jobs([("candidate", "Canceled"), ("base", "Canceled")])


def test_a_job_that_takes_too_long_is_canceled_with_the_others(make: Make) -> None:
    evaluation = make("training.timeout_hours=0.00001", at="nowhere", candidate="wait", base="wait")
    with pytest.raises(JobStatusUnknown, match="is being canceled") as caught:
        evaluation.evaluate()
    assert (caught.value.exit_code, "training.timeout_hours" in caught.value.fix) == (9, True)
    evaluation.expect_jobs([("candidate", "Canceled"), ("base", "Canceled")])


def test_sigterm_cancels_the_jobs_of_this_run_and_no_others(
    make: Make, open_workspace: Open, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    evaluation = make(at="nowhere", candidate="wait", base="wait", champion="wait")
    other = open_workspace(evaluation.config)
    other.session.tags[RUN] = "somewhere else"
    with monkeypatch.context() as patch:
        # As if the other runner had been killed: nothing cancels its jobs.
        patch.setattr(Workspace, "wait", lambda *_: (_ for _ in ()).throw(SystemExit(137)))
        patch.setattr(Jobs, "cancel", lambda *_: None)
        with pytest.raises(SystemExit):
            evaluation.evaluate(workspace=other)
    mine = make(live="blue", folder="mine", candidate="wait", base="wait", champion="wait")

    def terminate() -> None:
        deadline = time.monotonic() + 60
        while len(mine.jobs()) < 3 and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate)
    thread.start()
    code = main(["--target", "test", "--config", str(tmp_path / "pipeline.toml"), "--run", str(tmp_path / "mine")])
    thread.join()
    assert code == 130
    mine.expect_jobs([("candidate", "Running"), ("base", "Running"), ("champion", "Canceled")])
    for role in ("candidate", "base"):
        [name] = mine.names(role)
        mine.workspace.jobs.cancel(name)


@pytest.mark.parametrize("faults", [(), ("404@arm GET */jobs/mlops-score-*",)], ids=["plain", "a single 404"])
def test_an_interrupt_while_a_job_is_being_submitted_leaves_no_job_behind(
    faults: Sequence[str], make: Make, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluation = make(at="nowhere", candidate="wait", base="wait")
    operations = evaluation.workspace.session.ml.jobs
    submit = operations.create_or_update

    def interrupted(job: object) -> None:
        submit(job)
        for each in faults:
            fault(each)
        raise KeyboardInterrupt

    monkeypatch.setattr(operations, "create_or_update", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate()
    evaluation.expect_jobs([("candidate", "Canceled")])


def test_an_interrupt_right_after_a_job_was_submitted_leaves_no_job_behind(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    evaluation = make(at="nowhere", candidate="wait", base="wait")
    info = console.info

    def interrupted(line: str) -> None:
        info(line)
        if line.startswith("  submitted "):
            raise KeyboardInterrupt

    monkeypatch.setattr(console, "info", interrupted)
    with pytest.raises(KeyboardInterrupt):
        evaluation.evaluate()
    evaluation.expect_jobs([("candidate", "Canceled")])
