"""Carry detached trainings on: where one has completed, start the rest of its pipeline; where one has failed, say so once.

python -m mlops.resume
"""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from mlops.core import console, stage
from mlops.core.errors import GitHubRefused, JobFailed

if TYPE_CHECKING:
    from mlops.cloud.jobs import JobView
    from mlops.cloud.workspace import Workspace

__all__ = ["main", "resume"]

WORKFLOW = "dispatch.yml"


def resume(workspace: Workspace) -> None:
    """Look at every detached training of this repository, whatever its target.

    Dispatching twice does no harm: the first run that takes the job over marks it, and one that waits is replaced by a later one.

    Raises:
        JobFailed: a training ended without completing since the last time; the others have been seen to.
        GitHubRefused: a pipeline could not be started; the next time tries again, and the others have been seen to.
    """
    from mlops.cloud.jobs import DETACHED, WAITING
    from mlops.cloud.workspace import RUN

    failed: list[str] = []
    refused: list[GitHubRefused] = []
    for job in workspace.jobs.of_pipeline():
        if job.tags.get(DETACHED) != WAITING or not _of_this_repository(job.tags.get(RUN, "")):
            continue
        if job.active:
            console.info(f"  {job.name} is {job.status}: {job.studio_url}")
        elif job.status == "Completed":
            try:
                _carry_on(job)
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


def _carry_on(job: JobView) -> None:
    from mlops.cloud.jobs import COMMIT, SETTINGS
    from mlops.cloud.workspace import RUN, TARGET
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
    console.notice(f"{job.name} has completed: {WORKFLOW} carries on what run {inputs['run-id']} began.")


def _of_this_repository(run: str) -> bool:
    here = os.environ.get("GITHUB_REPOSITORY")
    return here is None or run.startswith(f"{here}/")


def main(argv: Sequence[str] | None = None) -> int:
    """Run this as a command."""
    arguments = stage.parser(inspect.cleandoc(__doc__ or ""), prog="mlops resume").parse_args(argv)
    return stage.guarded(lambda: stage.step(stage.settings(arguments), "resume", resume))


if __name__ == "__main__":
    sys.exit(main())
