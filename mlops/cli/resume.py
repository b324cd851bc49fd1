"""Continue the pipelines of detached training jobs: if one has completed, start the remaining stages; if one has failed, report it once.

mlops resume
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta

from mlops.cli import stage
from mlops.cloud.errors import NotFound
from mlops.cloud.jobs import JobView
from mlops.cloud.tags import COMMIT, DETACHED, DISPATCHED, MARK, PIPELINE, RUN, SETTINGS, TARGET, WAITING
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import AzureError, GitHubRefused, JobFailed, MlopsError
from mlops.github.client import Repository

__all__ = ["main", "resume"]

WORKFLOW = "dispatch.yml"
DISPATCH_TIMEOUT = timedelta(days=1)
"""If the dispatched run hasn't started after this time, e.g. because it was canceled in the queue, another one is dispatched."""


def resume(workspace: Workspace) -> dict[str, str]:
    """Check every detached training job of this repository that a trusted identity created, whatever its target.

    Tags only say which run to look up: the dispatched run takes the records of that run, after it has checked where they come from, and
    stops if the target, commit or settings in the tags are not those of the run's own plan.

    The run that takes a job over marks it. Until then that run may wait for hours, in a queue or for reviewers, so a job for which a run
    was dispatched is left alone for a day.

    A problem with one job doesn't keep the others from being handled; otherwise whoever may submit jobs could block all of them.

    Returns:
        Detached job → its status, or why it is not continued.

    Raises:
        JobFailed: a job has ended without completing since the last time; all others have been handled.
        GitHubRefused: a pipeline could not be started and will be tried again next time; all others have been handled.
        AzureError: a job could not be read or tagged; all others have been handled.
    """
    failures: list[str] = []
    jobs: dict[str, str] = {}
    problems: list[MlopsError] = []
    # The tags of the runs, not those of the jobs, which lack what was added after their creation.
    for name, tags in workspace.tracking.find_all_runs(DETACHED, WAITING).items():
        if tags.get(PIPELINE) != MARK:
            continue
        try:
            job = workspace.jobs.get(name)
            if status := _handle(workspace, job, tags):
                jobs[name] = status
            if job.is_over and status == job.status != "Completed":
                failures.append(f"{name} ended as {status}: {job.studio_url}")
        except NotFound:
            jobs[name] = "no longer exists, or was never a job"
            console.info(f"  {name} is not continued: it {jobs[name]}")
        except GitHubRefused as problem:
            jobs[name] = job.status
            console.error(f"{name} has completed, but {WORKFLOW} could not be started: {problem}")
            problems.append(problem)
        except AzureError as problem:
            jobs[name] = "could not be read or tagged"
            console.error(f"{name} {jobs[name]}: {problem}")
            problems.append(problem)
    if failures:
        raise JobFailed(
            "A detached training job did not complete: " + "; ".join(failures),
            "read its log in the studio; then push again or run dispatch.yml",
        )
    if problems:
        raise problems[0]
    return jobs


def _handle(workspace: Workspace, job: JobView, tags: Mapping[str, str]) -> str:
    """Continue the pipeline of a job if it has completed. Return its status, or why it is not continued; empty for another repository's."""
    if not workspace.session.trusts(job.creator):
        reason = f"created by {job.creator or 'an unknown identity'}"
        console.info(f"  {job.name} is not continued: it was {reason}")
        return reason
    if not _is_of_this_repository(job.tags.get(RUN, "")):
        return ""
    if not job.tags.get(TARGET):
        console.info(f"  {job.name} is not continued: it has no tag {TARGET}")
        return f"has no tag {TARGET}"
    if not job.is_over:
        console.info(f"  {job.name} is {job.status}: {job.studio_url}")
    elif job.status != "Completed":
        workspace.tracking.set_tags(job.name, {DETACHED: job.status})
    elif time := _dispatch_time(tags):
        console.info(f"  {job.name} has completed, and {WORKFLOW} was dispatched for it at {time}")
    else:
        _continue_pipeline(workspace, job, tags)
    return job.status


def _dispatch_time(tags: Mapping[str, str]) -> str:
    """Return when a run was dispatched for the job; empty if none was, or if it should have started by now."""
    time = tags.get(DISPATCHED, "")
    try:
        # The clock that wrote it may be ahead of this one, but not by more than that.
        return time if abs(datetime.now(UTC) - datetime.fromisoformat(time)) < DISPATCH_TIMEOUT else ""
    except (ValueError, TypeError):
        return ""


def _continue_pipeline(workspace: Workspace, job: JobView, tags: Mapping[str, str]) -> None:
    inputs = {
        "action": "resume",
        "target": job.tags[TARGET],
        "from": "train",
        "run-id": job.tags[RUN].rpartition("/")[2],
        "commit": tags.get(COMMIT, ""),
        "settings": tags.get(SETTINGS, ""),
    }
    if not console.in_github():
        console.info(f"  {job.name} has completed; continue with `mlops run --target {inputs['target']} --from train`")
        return
    Repository().dispatch(WORKFLOW, os.environ.get("GITHUB_REF_NAME", "main"), inputs)
    workspace.tracking.set_tags(job.name, {DISPATCHED: datetime.now(UTC).isoformat(timespec="seconds")})
    console.notice(f"{job.name} has completed: {WORKFLOW} continues the pipeline of run {inputs['run-id']}.")


def _is_of_this_repository(run: str) -> bool:
    repository = os.environ.get("GITHUB_REPOSITORY")
    return repository is None or run.startswith(f"{repository}/")


main = stage.command(resume)
