"""Watching a job until it ends.

The SDK's ``jobs.stream`` returns without an error for jobs that were cancelled, that don't respond or that are paused, and has no
time limit; so the job is watched here, and what counts is its status at the end.
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
SLOWEST_POLL_S = 15.0
TAIL_LINES = 30
LOST_POLLS = 5
"""So many failed looks at a job in a row are too many."""


class Watch:
    """Follows one job: says when it or one of its steps changes, shows new log lines, ends with the truth.

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
        self._shown: dict[str, int] = {}

    def wait(self, timeout_s: float, detach_s: float | None = None) -> JobView:
        """Wait until the job ends, print its log, and return only if it Completed.

        Raises:
            JobFailed: with the service's error, the last log lines and the studio URL.
            JobCanceled: Canceled or CancelRequested.
            JobStatusUnknown: any other status, or still active after ``timeout_s`` (then it is cancelled if this process may cancel it).
            Detached: still active after ``detach_s``; it keeps running.
            KeyboardInterrupt: after cancelling the job if this process may cancel it; somebody else's job keeps running.
        """
        try:
            view = self._until_ended(timeout_s, detach_s)
        except KeyboardInterrupt:
            if self._jobs.may_cancel(self._job):
                console.warning(f"Interrupted: cancelling job {self._job}, so that it doesn't go on costing money.")
                self._jobs.cancel(self._job)
            else:
                console.warning(f"Interrupted: job {self._job} was started by somebody else and goes on.")
            raise
        return self._judge(view)

    def _until_ended(self, timeout_s: float, detach_s: float | None) -> JobView:
        deadline, pause, lost = time.monotonic() + timeout_s, FIRST_POLL_S, 0
        detach = time.monotonic() + detach_s if detach_s is not None else math.inf
        while True:
            try:
                view = self._jobs.get(self._job)
                self._tell(view)
                lost = 0
            except (AzureError, CredentialError) as problem:
                # The job runs on whatever happens to our view of it, so one bad answer is no reason to leave it.
                lost += 1
                if lost >= LOST_POLLS:
                    raise JobStatusUnknown(
                        f"Job {self._job} can't be watched any more and may still run and cost money: {problem.what}",
                        "run the same command again: it attaches to the job",
                    ) from problem
            else:
                if not view.active:
                    return view
                if time.monotonic() >= detach:
                    raise Detached(f"Job {self._job} is {view.status} and goes on without us: {view.studio_url}")
                if time.monotonic() >= deadline:
                    raise self._overdue(view, timeout_s)
            # After a lost look there is no hurry: five of them in a row would be over before the service is back.
            time.sleep(pause if lost else min(pause, max(0.0, min(deadline, detach) - time.monotonic())))
            pause = min(pause * 1.2, SLOWEST_POLL_S)

    def _overdue(self, view: JobView, timeout_s: float) -> JobStatusUnknown:
        if self._jobs.may_cancel(self._job):
            self._jobs.cancel(self._job)
            outcome = "was told to cancel"
        else:
            outcome = "goes on, since somebody else started it"
        return JobStatusUnknown(
            f"Job {self._job} was still {view.status} after {timeout_s / 3600:.1f} hours and {outcome}.",
            "raise training.timeout_hours in pipeline.toml if it needs longer",
        )

    def _tell(self, view: JobView) -> None:
        if self._statuses.get(self._job) != view.status:
            self._statuses[self._job] = view.status
            console.info(f"  {view.display_name or self._job}: {view.status}")
        runs = self._runs()
        for run in runs:
            if run.run != self._job and self._statuses.get(run.run) != run.status:
                self._statuses[run.run] = run.status
                console.info(f"    {run.name}: {run.status}")
            # A pipeline's own log only tells of its steps, and these speak for themselves.
            if run.run != self._job or len(runs) == 1:
                self._show_log(run)

    def _runs(self) -> list[RunDetails]:
        """The job's own run and those of its steps, as far as run history has them yet."""
        try:
            return [self._history.details(self._job), *(self._with_logs(child) for child in self._history.descendants(self._job))]
        except MlopsError:
            # What the job is doing is a courtesy; how it ends is read elsewhere.
            return []

    def _with_logs(self, child: RunDetails) -> RunDetails:
        """A list of children leaves out their log files; asking each child at every poll would be wasteful."""
        news = child.status != self._statuses.get(child.run)
        return self._history.details(child.run) if news or child.status == "Running" else child

    def _show_log(self, run: RunDetails) -> None:
        for name in _readable(run.logs):
            key = f"{run.run}/{name}"
            try:
                new = self._history.log(run.logs[name], self._shown.get(key, 0))
            except MlopsError:
                return
            # Half a line waits for its other half.
            whole = new[: new.rfind(b"\n") + 1]
            self._shown[key] = self._shown.get(key, 0) + len(whole)
            for line in whole.decode("utf-8", errors="replace").splitlines():
                console.info(f"      {line}")

    def _judge(self, view: JobView) -> JobView:
        where = f"\nStudio: {view.studio_url}" if view.studio_url else ""
        if view.status == "Completed":
            return view
        if view.status == "Failed":
            error, tail = self._post_mortem()
            raise JobFailed(
                f"Job {view.name} failed: {error}{tail}{where}",
                "mend what the log shows and run the command again: it makes a new attempt",
            )
        if view.status in ("Canceled", "CancelRequested"):
            raise JobCanceled(
                f"Job {view.name} was cancelled ({view.status}); its outputs are not to be trusted.{where}",
                "run the command again: it makes a new attempt",
            )
        raise JobStatusUnknown(
            f"Job {view.name} stands at {view.status}, which is neither running nor done; it may still cost money.{where}",
            f"look at it in the studio; cancel it with `az ml job cancel -n {view.name}` if it is stuck",
        )

    def _post_mortem(self) -> tuple[str, str]:
        """The service's error and the end of the log of the step that failed first."""
        try:
            own = self._history.details(self._job)
            failed = [self._history.details(child.run) for child in self._history.descendants(self._job) if child.status == "Failed"]
        except MlopsError as problem:
            return f"(run history could not be read: {problem.what})", ""
        # The deepest failed step is the one that broke; those above it failed because of it.
        culprit = failed[-1] if failed else own
        error = culprit.error or own.error or "the service gave no error"
        tail = self._tail(culprit)
        step = f"step {culprit.name}: " if culprit is not own else ""
        return step + error, "\nLast lines of its log:\n" + "\n".join(f"  {line}" for line in tail) if tail else ""

    def _tail(self, run: RunDetails) -> list[str]:
        try:
            texts = [self._history.log(run.logs[name]).decode("utf-8", errors="replace") for name in _readable(run.logs)]
        except MlopsError as problem:
            return [f"(the log could not be read: {problem.what})"]
        return "\n".join(texts).splitlines()[-TAIL_LINES:]


def _readable(logs: Iterable[str]) -> list[str]:
    """The log files that carry the user's own output: ``user_logs/std_log*.txt``, else the pipeline's execution log."""
    names = sorted(logs)
    own = [name for name in names if name.startswith("user_logs/std_log")]
    # With several processes each has a log of its own; the first speaks for all.
    return own[:1] or [name for name in names if name.endswith("executionlogs.txt")]
