"""Delete expired endpoints and standby deployments, and cancel abandoned jobs of this pipeline. Without --delete only list them.

mlops reap
mlops reap --delete
mlops reap --json
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from mlops.cli import stage
from mlops.cloud.endpoint_views import DeploymentView, EndpointView
from mlops.cloud.errors import NotFound
from mlops.cloud.jobs import JobView
from mlops.cloud.standby import find_standby, is_expired
from mlops.cloud.tags import DETACHED, EXPIRES, MARK, PIPELINE, RUN, TARGET, WAITING
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.config import ephemeral_targets
from mlops.core.errors import GitHubRefused, MlopsError, TeardownIncomplete
from mlops.core.settings import Config
from mlops.github.client import Repository

__all__ = ["main", "reap"]

MODE = "MLOPS_REAP"
"""Environment variable with which workflows choose ``delete`` or ``list``."""


def reap(config: Config, workspace: Workspace, delete: bool) -> dict[str, str]:
    """List the expired endpoints and abandoned jobs of the workspace, whatever their target, and remove them if ``delete``.

    An endpoint is removed only if it has this pipeline's tag, a run of this repository, a target whose endpoints are ephemeral according
    to pipeline.toml, an expiry in the past and no deployment of anybody else: a tag alone can't make production's endpoint expire. A job
    is canceled only if it belongs to this pipeline and GitHub says that its run has ended, unless it was detached. Of any target, the
    deployment that was kept at 0 % for a rollback is removed once ``endpoint.keep_previous_hours`` are over.

    Returns:
        Endpoint, deployment or job → why it is kept; empty for what has expired.

    Raises:
        TeardownIncomplete: something could not be read or removed; all others have been handled.
    """
    ephemeral = ephemeral_targets(Path(config.file))
    candidates: list[tuple[str, str, Callable[[], None]]] = []
    failures: list[str] = []
    for endpoint in workspace.endpoints.list_all():
        with _collect_failure(f"endpoint {endpoint.name}", failures):
            reason = _reason_to_keep_endpoint(workspace, endpoint, ephemeral)
            candidates.append((f"endpoint {endpoint.name}", reason, partial(workspace.endpoints.delete, endpoint.name)))
            if reason and (standby := _find_expired_standby(workspace, endpoint)) is not None:
                delete_standby = partial(workspace.endpoints.delete_deployment, endpoint.name, standby.name)
                name = f"standby deployment {standby.name} of {endpoint.name}"
                candidates.append((name, _owner_elsewhere(standby.tags), delete_standby))
    for job in workspace.jobs.list_all_targets():
        if not job.is_over:
            with _collect_failure(f"job {job.name}", failures):
                candidates.append((f"job {job.name}", _reason_to_keep_job(workspace, job), partial(workspace.jobs.cancel, job.name)))

    console.table([(name, reason) for name, reason, _ in candidates if reason], ("kept", "why"))
    expired = [(name, remove) for name, reason, remove in candidates if not reason]
    for name, remove in expired if delete else ():
        with _collect_failure(name, failures):
            remove()
    _report([name for name, _ in expired], delete=delete)
    if failures:
        raise TeardownIncomplete(
            "These resources could not be read or removed, and may cost money: " + "; ".join(failures), "run `mlops reap --delete` again"
        )
    return {name: reason for name, reason, _ in candidates}


@contextmanager
def _collect_failure(name: str, failures: list[str]) -> Iterator[None]:
    """Collect the failure of one resource, so that the others are still handled. A resource that is gone by now isn't a failure."""
    try:
        yield
    except NotFound:
        pass
    except MlopsError as problem:
        failures.append(f"{name}: {problem.in_one_line}")


def _reason_to_keep_endpoint(workspace: Workspace, endpoint: EndpointView, ephemeral: frozenset[str]) -> str:
    """Return why an endpoint is kept; empty if it has expired."""
    if endpoint.tags.get(PIPELINE) != MARK:
        return "was not created by this pipeline"
    if foreign := _owner_elsewhere(endpoint.tags):
        return foreign
    if (target := endpoint.tags.get(TARGET, "")) not in ephemeral:
        return f"belongs to target {target or '(unknown)'}, whose endpoints are not ephemeral"
    expires = endpoint.tags.get(EXPIRES, "")
    try:
        left = datetime.fromisoformat(expires) - datetime.now(UTC)
    except (ValueError, TypeError):
        return f"its tag {EXPIRES} is not a time: {expires!r}" if expires else "never expires"
    if left.total_seconds() > 0:
        return f"expires at {expires}"
    foreign_deployments = [item.name for item in workspace.endpoints.list_deployments(endpoint.name) if item.tags.get(PIPELINE) != MARK]
    return f"has deployments that this pipeline did not create: {', '.join(sorted(foreign_deployments))}" if foreign_deployments else ""


def _find_expired_standby(workspace: Workspace, endpoint: EndpointView) -> DeploymentView | None:
    """Return the deployment that the last promotion kept for a rollback, if this pipeline created it and its time is over."""
    standby = find_standby(workspace, endpoint) if is_expired(endpoint) else None
    return standby if standby is not None and standby.tags.get(PIPELINE) == MARK else None


def _reason_to_keep_job(workspace: Workspace, job: JobView) -> str:
    """Return why an unfinished job is kept; empty if it is abandoned."""
    if foreign := _owner_elsewhere(job.tags):
        return foreign
    # The job's own tags lack what was added after its creation.
    if workspace.tracking.get_tags(job.name).get(DETACHED) == WAITING:
        return "was detached on purpose"
    number = job.tags.get(RUN, "").rpartition("/")[2]
    if not console.in_github() or not (number.isascii() and number.isdigit()):
        return "doesn't belong to a workflow run whose status GitHub can report"
    try:
        status, conclusion = Repository().workflow_run(int(number))
    except GitHubRefused as problem:
        return f"the status of its run is unknown: {problem}"
    return "" if status == "completed" else f"its run {number} is {status} {conclusion}".rstrip()


def _owner_elsewhere(tags: Mapping[str, str]) -> str:
    """Return why a resource doesn't belong to this repository; empty if it does, or outside GitHub."""
    repository, run = os.environ.get("GITHUB_REPOSITORY"), tags.get(RUN, "")
    return f"belongs to {run or 'nobody'}, not to {repository}" if repository and not run.startswith(f"{repository}/") else ""


def _report(expired: Sequence[str], *, delete: bool) -> None:
    if not expired:
        console.info("  nothing has expired")
        return
    title = "Removed because expired or abandoned" if delete else "Expired or abandoned; `mlops reap --delete` removes"
    console.notice(f"{title}: {', '.join(expired)}")
    console.summary(f"## {title}\n\n" + "\n".join(f"- {name}" for name in expired))


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--delete",
        action="store_true",
        default=os.environ.get(MODE) == "delete",
        help=f"delete the listed resources (same as {MODE}=delete)",
    )


main = stage.command(reap, add_options=_add_options)
