"""Watching a job until it ends.

The SDK's ``jobs.stream`` returns without an error for jobs that were canceled, do not respond or are paused, and it has no time limit.
So the job is polled here, and its final status decides.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable

from mlops.cloud.jobs import Jobs, JobView
from mlops.cloud.run_history import RunDetails, RunHistory
from mlops.core import console
from mlops.core.errors import AzureError, CredentialError, Detached, JobCanceled, JobFailed, JobStatusUnknown, MlopsError

__all__ = ["Watch"]

FIRST_POLL_S = 1.0
MAX_POLL_S = 15.0
TAIL_LINES = 30
MAX_FAILED_POLLS = 5
"""This many failed polls in a row end the watch."""


class Watch:
    """Follows one job: reports status changes of the job and its steps, prints new log lines, and raises unless it completes.

    Args:
        jobs: the workspace's jobs.
        history: its run history.
        job: the job's name.
    """

    def __init__(self, jobs: Jobs, history: RunHistory, job: str) -> None:
        self._jobs = jobs
        self._history = history
        self._job = job
        self._statuses: dict[str, str] = {}
        self._log_offsets: dict[str, int] = {}

    def wait(self, timeout_s: float, detach_s: float | None = None) -> JobView:
        """Wait until the job ends, print its log, and return only if it Completed.

        Raises:
            JobFailed: with the service's error, the last log lines and the studio URL.
            JobCanceled: Canceled or CancelRequested.
            JobStatusUnknown: any other status, or still active after ``timeout_s`` (then it is canceled if this process may cancel it).
            Detached: still active after ``detach_s``; it keeps running.
            KeyboardInterrupt: after canceling the job if this process may cancel it; another runner's job keeps running.
        """
        try:
            job = self._poll_until_ended(timeout_s, detach_s)
        except KeyboardInterrupt:
            if self._jobs.may_cancel(self._job):
                console.warning(f"Interrupted: canceling job {self._job} so that it stops costing money.")
                self._jobs.cancel(self._job)
            else:
                console.warning(f"Interrupted: job {self._job} was started by another runner and keeps running.")
            raise
        return self._check_completed(job)

    def _poll_until_ended(self, timeout_s: float, detach_s: float | None) -> JobView:
        deadline, pause, failures = time.monotonic() + timeout_s, FIRST_POLL_S, 0
        detach = time.monotonic() + detach_s if detach_s is not None else math.inf
        while True:
            try:
                job = self._jobs.get(self._job)
                self._report(job)
                failures = 0
            except (AzureError, CredentialError) as problem:
                # The job runs whether or not we can see it, so one failed poll does not end the watch.
                failures += 1
                if failures >= MAX_FAILED_POLLS:
                    raise JobStatusUnknown(
                        f"Job {self._job} can no longer be watched and may still run and cost money: {problem.what}",
                        "run the same command again: it attaches to the job",
                    ) from problem
            else:
                if not job.is_active:
                    return job
                if time.monotonic() >= detach:
                    raise Detached(f"Job {self._job} is {job.status} and continues without this process: {job.studio_url}")
                if time.monotonic() >= deadline:
                    raise self._time_out(job, timeout_s)
            # After a failed poll, wait in full: otherwise all attempts could be over before the service is back.
            time.sleep(pause if failures else min(pause, max(0.0, min(deadline, detach) - time.monotonic())))
            pause = min(pause * 1.2, MAX_POLL_S)

    def _time_out(self, job: JobView, timeout_s: float) -> JobStatusUnknown:
        if self._jobs.may_cancel(self._job):
            self._jobs.cancel(self._job)
            outcome = "is being canceled"
        else:
            outcome = "keeps running, because another runner started it"
        return JobStatusUnknown(
            f"Job {self._job} was still {job.status} after {timeout_s / 3600:.1f} hours and {outcome}.",
            "raise training.timeout_hours in pipeline.toml if it needs longer",
        )

    def _report(self, job: JobView) -> None:
        if self._statuses.get(self._job) != job.status:
            self._statuses[self._job] = job.status
            console.info(f"  {job.display_name or self._job}: {job.status}")
        runs = self._read_runs()
        for run in runs:
            if run.run != self._job and self._statuses.get(run.run) != run.status:
                self._statuses[run.run] = run.status
                console.info(f"    {run.name}: {run.status}")
            # A pipeline's own log only repeats the statuses of its steps.
            if run.run != self._job or len(runs) == 1:
                self._print_log(run)

    def _read_runs(self) -> list[RunDetails]:
        """Return the job's own run and those of its steps, as far as run history has them yet."""
        try:
            root = self._history.get_details(self._job)
            return [root, *(self._with_logs(step) for step in self._history.list_descendants(self._job))]
        except MlopsError:
            # Progress output is optional; the job's status is read from elsewhere.
            return []

    def _with_logs(self, step: RunDetails) -> RunDetails:
        """Add the log files, which a list of children lacks. Reading every step at every poll would be wasteful."""
        has_changed = step.status != self._statuses.get(step.run)
        return self._history.get_details(step.run) if has_changed or step.status == "Running" else step

    def _print_log(self, run: RunDetails) -> None:
        for name in _user_logs(run.logs):
            key = f"{run.run}/{name}"
            offset = self._log_offsets.get(key, 0)
            try:
                new = self._history.read_log(run.logs[name], offset)
            except MlopsError:
                return
            # Print whole lines only.
            lines = new[: new.rfind(b"\n") + 1]
            self._log_offsets[key] = offset + len(lines)
            for line in lines.decode("utf-8", errors="replace").splitlines():
                console.info(f"      {line}")

    def _check_completed(self, job: JobView) -> JobView:
        studio = f"\nStudio: {job.studio_url}" if job.studio_url else ""
        if job.status == "Completed":
            return job
        if job.status == "Failed":
            raise JobFailed(
                f"Job {job.name} failed: {self._explain_failure()}{studio}",
                "fix what the log shows and run the command again: it makes a new attempt",
            )
        if job.status in ("Canceled", "CancelRequested"):
            raise JobCanceled(
                f"Job {job.name} was canceled ({job.status}); its outputs may be incomplete.{studio}",
                "run the command again: it makes a new attempt",
            )
        raise JobStatusUnknown(
            f"Job {job.name} has status {job.status}, which is neither running nor finished; it may still cost money.{studio}",
            f"look at it in the studio; cancel it with `az ml job cancel -n {job.name}` if it is stuck",
        )

    def _explain_failure(self) -> str:
        """Return the service's error and the end of the log of the step that failed first."""
        try:
            root = self._history.get_details(self._job)
            steps = self._history.list_descendants(self._job)
            failed = [self._history.get_details(step.run) for step in steps if step.status == "Failed"]
        except MlopsError as problem:
            return f"(run history could not be read: {problem.what})"
        # The deepest failed step is the cause; those above it failed because of it.
        cause = failed[-1] if failed else root
        error = cause.error or root.error or "the service gave no error"
        step = f"step {cause.name}: " if cause is not root else ""
        tail = "".join(f"\n  {line}" for line in self._read_log_tail(cause))
        return f"{step}{error}" + (f"\nLast lines of its log:{tail}" if tail else "")

    def _read_log_tail(self, run: RunDetails) -> list[str]:
        try:
            texts = [self._history.read_log(run.logs[name]).decode("utf-8", errors="replace") for name in _user_logs(run.logs)]
        except MlopsError as problem:
            return [f"(the log could not be read: {problem.what})"]
        return "\n".join(texts).splitlines()[-TAIL_LINES:]


def _user_logs(logs: Iterable[str]) -> list[str]:
    """Return the log files with the user's own output: ``user_logs/std_log*.txt``, or else the pipeline's execution log."""
    names = sorted(logs)
    user_logs = [name for name in names if name.startswith("user_logs/std_log")]
    # Each of several processes has its own log; the first one is enough.
    return user_logs[:1] or [name for name in names if name.endswith("executionlogs.txt")]
