"""Carry detached trainings on: where one has completed, start the rest of its pipeline; where one has failed, say so once.

mlops resume
"""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from mlops.cli import stage
from mlops.cloud.tags import COMMIT, DETACHED, DISPATCHED, RUN, SETTINGS, TARGET, WAITING
from mlops.core import console
from mlops.core.errors import GitHubRefused, JobFailed

if TYPE_CHECKING:
    from mlops.cloud.jobs import JobView
    from mlops.cloud.workspace import Workspace

__all__ = ["main", "resume"]

WORKFLOW = "dispatch.yml"
PATIENCE = timedelta(days=1)
"""With the run that was dispatched. One that was cancelled before it began is made up for after that."""


def resume(workspace: Workspace) -> None:
    """Look at every detached training of this repository, whatever its target.

    The run that takes a training over marks it. Until then, perhaps for hours, that run may wait for its turn or for reviewers, so a
    training for which one was dispatched is left alone for a day.

    Raises:
        JobFailed: a training ended without completing since the last time; the others have been seen to.
        GitHubRefused: a pipeline could not be started; the next time tries again, and the others have been seen to.
    """

    failed: list[str] = []
    refused: list[GitHubRefused] = []
    for job in workspace.jobs.list_all_targets():
        if job.tags.get(DETACHED) != WAITING or not _of_this_repository(job.tags.get(RUN, "")):
            continue
        if not job.over:
            console.info(f"  {job.name} is {job.status}: {job.studio_url}")
        elif job.status == "Completed":
            if since := _dispatched(job):
                console.info(f"  {job.name} has completed, and {WORKFLOW} was dispatched for it at {since}")
                continue
            try:
                _carry_on(workspace, job)
            except GitHubRefused as problem:
                console.error(f"{job.name} has completed, and {WORKFLOW} could not be started: {problem}")
                refused.append(problem)
        else:
            workspace.tracking.set_tags(job.name, {DETACHED: job.status})
            failed.append(f"{job.name} ended as {job.status}: {job.studio_url}")
    if failed:
        raise JobFailed(
            "A detached training did not complete: " + "; ".join(failed), "read its log in the studio; then push again or run dispatch.yml"
        )
    if refused:
        raise refused[0]


def _dispatched(job: JobView) -> str:
    """When a run was dispatched that shall take the training over; empty where none was, or where that one should have begun by now."""

    told = job.tags.get(DISPATCHED, "")
    try:
        return told if datetime.now(UTC) - datetime.fromisoformat(told) < PATIENCE else ""
    except (ValueError, TypeError):
        return ""


def _carry_on(workspace: Workspace, job: JobView) -> None:
    from mlops.github.client import Repository

    inputs = {
        "action": "run",
        "target": job.tags[TARGET],
        "from": "train",
        "run-id": job.tags[RUN].rpartition("/")[2],
        "commit": job.tags.get(COMMIT, ""),
        "settings": job.tags.get(SETTINGS, ""),
    }
    if not console.in_github():
        console.info(f"  {job.name} has completed; `mlops run --target {inputs['target']} --from train` carries it on")
        return
    Repository().dispatch(WORKFLOW, os.environ.get("GITHUB_REF_NAME", "main"), inputs)
    workspace.tracking.set_tags(job.name, {DISPATCHED: datetime.now(UTC).isoformat(timespec="seconds")})
    console.notice(f"{job.name} has completed: {WORKFLOW} carries on what run {inputs['run-id']} began.")


def _of_this_repository(run: str) -> bool:
    here = os.environ.get("GITHUB_REPOSITORY")
    return here is None or run.startswith(f"{here}/")


main = stage.command(resume)
