"""Checks whether the records of another workflow run may be used: an artifact doesn't show who made it, but GitHub does."""

from __future__ import annotations

import os
from collections.abc import Sequence

from mlops.core.errors import RecordError
from mlops.github.client import Repository, run_url

__all__ = ["check_runs"]

EVENTS = {".github/workflows/train.yml": "push", ".github/workflows/dispatch.yml": "workflow_dispatch"}
"""Workflow file whose artifacts may be used → the event that must have triggered it."""
GATE = "evaluate-gate"


def check_runs(runs: Sequence[str], *, needs_gate: bool) -> None:
    """Check where records come from, before they are used.

    A pull request's branch can change its own workflow and upload any artifact named ``run``, with a PROMOTE in it. So can a tag, whose
    name GitHub gives as the branch of its run. Therefore the commit must be part of the branch that this job runs on.

    Args:
        runs: ids of the workflow run whose artifact it is, and of those that it continued.
        needs_gate: whether the gate must have passed in one of them, because the next stage relies on its verdict.

    Raises:
        RecordError: a run is of another workflow file, event, branch or repository, or of a commit that this job's branch doesn't contain;
            this job does not run on a branch; or the gate has passed in none of them.
        GitHubRefused: GitHub doesn't say.
    """
    repository, branch, head = Repository(), os.environ.get("GITHUB_REF_NAME", ""), os.environ.get("GITHUB_SHA", "")
    if os.environ.get("GITHUB_REF_TYPE") != "branch" or not head:
        raise RecordError("This job doesn't run on a branch, so no records can be used.", "dispatch on the branch, not on a tag")
    has_passed_the_gate = False
    for run in runs:
        if not run.isdigit():
            raise RecordError(f"{run!r} is not the id of a workflow run.", "set run-id to the number in the run's URL")
        actual = repository.describe_run(int(run))
        differences = [
            f"{name} is {value!r}, not {expected!r}"
            for name, value, expected in (
                ("its repository", actual.repository.lower(), repository.name.lower()),
                ("its branch", actual.branch, branch),
                ("its event", actual.event, EVENTS.get(actual.file, f"that of {' or '.join(EVENTS)}")),
            )
            if value != expected
        ]
        if not differences and not repository.contains(head, actual.commit):
            differences = [f"its commit {actual.commit} is not on branch {branch}"]
        if differences:
            raise RecordError(
                f"The records of {run_url(run)} can't be used: {'; '.join(differences)} ({actual.file}).",
                "continue a run of train.yml or dispatch.yml for a commit that this branch contains, or start from validate",
            )
        has_passed_the_gate |= actual.jobs.get(GATE) == "success"
    if needs_gate and not has_passed_the_gate:
        raise RecordError(f"The job {GATE} has not succeeded in {run_url(runs[0])}.", f"dispatch from {GATE}")
