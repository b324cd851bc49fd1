"""End what this pipeline made and forgot: endpoints past their expiry, jobs whose workflow run is over. Without --delete only list them.

mlops reap
mlops reap --delete
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

from mlops.cli import stage
from mlops.cloud.tags import DETACHED, EXPIRES, MARK, PIPELINE, RUN, WAITING
from mlops.core import console
from mlops.core.errors import MlopsError, TeardownIncomplete

if TYPE_CHECKING:
    from mlops.cloud.endpoints import EndpointView
    from mlops.cloud.jobs import JobView
    from mlops.cloud.workspace import Workspace

__all__ = ["main", "reap"]

MODE = "MLOPS_REAP"
"""Environment variable with which workflows choose ``delete`` or ``list``."""


def reap(workspace: Workspace, delete: bool) -> None:
    """List the expired endpoints and abandoned jobs of the workspace, whatever their target, and delete or cancel them if ``delete``.

    An endpoint goes only if it has our tag, a run of this repository, an expiry in the past and no deployment of anybody else's. A job
    is cancelled only if it is ours and GitHub says that its run has ended, unless it was detached on purpose.

    Raises:
        TeardownIncomplete: something that should be gone is still there.
    """
    found: list[tuple[str, str, Callable[[], None]]] = []
    for endpoint in workspace.endpoints.all():
        what = f"endpoint {endpoint.name}"
        found.append((what, _keeps_endpoint(workspace, endpoint), partial(workspace.endpoints.delete, endpoint.name)))
    for job in workspace.jobs.list_all_targets():
        if not job.over:
            found.append((f"job {job.name}", _keeps_job(job), partial(workspace.jobs.cancel, job.name)))

    gone, failed = [], []
    for what, reason, end in found:
        if reason:
            console.info(f"  left alone: {what}: {reason}")
            continue
        gone.append(what)
        if delete:
            try:
                end()
            except MlopsError as problem:
                failed.append(f"{what}: {problem.what}")
    _tell(gone, delete=delete)
    if failed:
        raise TeardownIncomplete("Still there, and perhaps costing money: " + "; ".join(failed), "run `mlops reap --delete` again")


def _keeps_endpoint(workspace: Workspace, endpoint: EndpointView) -> str:
    """Why an endpoint is left alone; empty where it goes."""

    if endpoint.tags.get(PIPELINE) != MARK:
        return "was not made by this pipeline"
    if foreign := _foreign(endpoint.tags):
        return foreign
    expires = endpoint.tags.get(EXPIRES, "")
    try:
        left = datetime.fromisoformat(expires) - datetime.now(UTC)
    except (ValueError, TypeError):
        return f"its tag {EXPIRES} says no time: {expires!r}" if expires else "never expires"
    if left.total_seconds() > 0:
        return f"expires at {expires}"
    foreigners = [found.name for found in workspace.endpoints.deployments(endpoint.name) if found.tags.get(PIPELINE) != MARK]
    return f"carries deployments that this pipeline did not make: {', '.join(sorted(foreigners))}" if foreigners else ""


def _keeps_job(job: JobView) -> str:
    """Why a job that is not over is left alone; empty where it is cancelled."""
    from mlops.github.client import GitHubRefused, Repository

    if foreign := _foreign(job.tags):
        return foreign
    if job.tags.get(DETACHED) == WAITING:
        return "was detached on purpose"
    number = job.tags.get(RUN, "").rpartition("/")[2]
    if not console.in_github() or not number.isdigit():
        return "belongs to no workflow run that could be asked about"
    try:
        status, conclusion = Repository().workflow_run(int(number))
    except GitHubRefused as problem:
        return f"its run can't be asked about: {problem}"
    return "" if status == "completed" else f"its run {number} is {status} {conclusion}".rstrip()


def _foreign(tags: Mapping[str, str]) -> str:

    here, run = os.environ.get("GITHUB_REPOSITORY"), tags.get(RUN, "")
    return f"belongs to {run or 'nobody'}, not to {here}" if here and not run.startswith(f"{here}/") else ""


def _tell(gone: Sequence[str], *, delete: bool) -> None:
    if not gone:
        console.info("  nothing has expired")
        return
    title = "Ended, since it had expired" if delete else "Has expired; `mlops reap --delete` would end it"
    console.notice(f"{title}: {', '.join(gone)}")
    console.summary(f"## {title}\n\n" + "\n".join(f"- {what}" for what in gone))


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--delete",
        action="store_true",
        default=os.environ.get(MODE) == "delete",
        help=f"delete what is listed ({MODE}=delete: the same)",
    )


main = stage.command(reap, add_options=_add_options)
