"""Jobs: submit, find, cancel.

A job's name is derived from what determines its result: ``mlops-{name_hint}-{first 16 of tags[RUN_KEY]}-{n}``, with n = 1 for the first
attempt. Looking up the jobs of a key takes one GET per attempt, and two for the first that does not exist, instead of listing every job of
the workspace. Two runners that submit the same work at the same moment use the same name: Azure keeps one job, and nobody pays twice.
"""

from __future__ import annotations

import contextlib
import io
import itertools
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops.cloud.creators import creator_of
from mlops.cloud.entities import as_text
from mlops.cloud.errors import NotFound, read_twice, translate_errors
from mlops.cloud.session import Session
from mlops.cloud.tags import MARK, PIPELINE, RUN_KEY
from mlops.core import console
from mlops.core.errors import AzureError

__all__ = ["ACTIVE", "JobInput", "JobView", "Jobs"]

ACTIVE = frozenset({"NotStarted", "Starting", "Provisioning", "Preparing", "Queued", "Running", "Finalizing", "Scheduled"})
"""Statuses from which a job can still complete."""
OVER = frozenset({"Completed", "Failed", "Canceled", "CancelRequested"})
"""Statuses in which a job no longer costs money, or soon won't. In any other status (``NotResponding``, ``Paused``, a new one) it may."""


@dataclass(frozen=True)
class JobInput:
    """An input of a job: ``uri_file``, ``uri_folder``, ``mlflow_model``, … with a local path or an azureml:// URI."""

    type: str
    path: str


@dataclass(frozen=True, kw_only=True)
class JobView:
    """The current state of a job."""

    name: str
    """Name of the job, which is also the id of its MLflow run."""
    status: str
    display_name: str = ""
    experiment: str = ""
    studio_url: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Output → azureml:// URI, or empty if the service gives none."""
    created_at: datetime | None = None
    creator: str = ""
    """Who created it according to Azure (see :mod:`mlops.cloud.creators`)."""

    @property
    def identity(self) -> str:
        """When Azure created the job (ISO 8601, UTC), which distinguishes it from others of the same name."""
        return self.created_at.astimezone(UTC).isoformat() if self.created_at else ""

    @property
    def is_active(self) -> bool:
        """Whether it can still complete."""
        return self.status in ACTIVE

    @property
    def is_over(self) -> bool:
        """Whether it no longer costs money, or is about to stop."""
        return self.status in OVER


class Jobs:
    """The workspace's jobs. Use it as ``workspace.jobs``."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._cancelable: set[str] = set()

    def submit_command(
        self,
        *,
        name_hint: str,
        code: Path,
        command: str,
        inputs: Mapping[str, JobInput],
        outputs: Mapping[str, str],
        environment: str,
        compute: str,
        tags: Mapping[str, str],
        experiment: str,
        display_name: str,
    ) -> str:
        """Submit a command job and return its name.

        ``tags`` must contain :data:`RUN_KEY`; the session's tags are added. ``outputs`` maps a name to a type (``uri_folder``, …).
        """
        from azure.ai.ml import Input, Output
        from azure.ai.ml import command as command_job

        with translate_errors(f"building the job {display_name}"):
            job = command_job(
                code=str(code),
                command=command,
                inputs={name: Input(type=source.type, path=source.path) for name, source in inputs.items()},
                outputs={name: Output(type=kind, mode="rw_mount") for name, kind in outputs.items()},
                environment=environment,
                compute=compute,
            )
        return self.submit(job, name_hint=name_hint, tags=tags, experiment=experiment, display_name=display_name)

    def submit(self, job: Any, *, name_hint: str, tags: Mapping[str, str], experiment: str, display_name: str) -> str:
        """Submit a job or a pipeline of the SDK and return its name. ``tags`` must contain :data:`RUN_KEY`; the session's are added."""
        key = tags[RUN_KEY]
        attempts = sum(1 for _ in self._list_attempts(name_hint, key))
        job.name = _make_name(name_hint, key, attempts + 1)
        job.display_name = display_name
        job.experiment_name = experiment
        job.tags = {**self._session.tags, **tags}
        try:
            # The SDK prints a color code after each upload, even if it shows no progress.
            quiet = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
            with translate_errors(f"submitting the job {display_name}"), quiet:
                submitted = _view(self._session.ml.jobs.create_or_update(job))
            # Azure accepts a job that exists already, whoever created it.
            if not self._is_trusted(submitted):
                raise AzureError(f"The name {submitted.name} is taken by a job of another identity.", "run the stage again")
            self._cancelable.add(submitted.name)
            console.info(f"  submitted {submitted.name}: {submitted.studio_url}")
        except AzureError:
            # Another runner may have submitted the same work first. Then a job of this name exists, and we can't change it.
            rival = self._find_same_work(job.name, key)
            if rival is None:
                raise
            console.info(f"  another runner has just submitted {rival.name}: {rival.studio_url}")
            return rival.name
        except KeyboardInterrupt:
            # The request may have reached the service. Nobody would wait for the job that it started.
            orphan = self._find_same_work(job.name, key)
            if orphan is not None and self._session.is_from_this_run(orphan.tags):
                console.warning(f"Interrupted: canceling job {orphan.name}, which was just submitted.")
                self.cancel(orphan.name)
            raise
        return submitted.name

    def find(self, experiment: str, tags: Mapping[str, str], *, name_hint: str) -> list[JobView]:
        """Return the jobs of a key, newest attempt first. ``tags`` must contain :data:`RUN_KEY`; ``name_hint`` is the submit's.

        Tags are compared as well, because a job may have the name by chance, or another key that starts alike. Jobs of an identity that
        this target doesn't trust are skipped, with a warning.
        """
        attempts = [job for job in self._list_attempts(name_hint, tags[RUN_KEY]) if job.experiment == experiment]
        matching = [job for job in reversed(attempts) if tags.items() <= job.tags.items()]
        return [job for job in matching if self._is_trusted(job)]

    def list_owned(self) -> Iterator[JobView]:
        """List the jobs of this pipeline and target, in the service's order."""
        return (job for job in self.list_all_targets() if self._session.owns(job.tags))

    def list_all_targets(self) -> Iterator[JobView]:
        """List the jobs of this pipeline, whatever their target."""
        with translate_errors("listing jobs"):
            # The service filters by the name of a tag, but not by its value.
            for job in self._session.ml.jobs.list(tag=RUN_KEY):
                if job is not None and (job.tags or {}).get(PIPELINE) == MARK:
                    yield _view(job)

    def get(self, job: str) -> JobView:
        """Read a job.

        Raises:
            NotFound: there is no such job.
        """
        with translate_errors(f"reading job {job}"):
            return _view(self._session.ml.jobs.get(job))

    def may_cancel(self, job: str) -> bool:
        """Return whether this process submitted the job or took it over, and so may cancel it."""
        return job in self._cancelable

    def take_over(self, job: JobView) -> None:
        """Treat a job of an earlier attempt of this very workflow run as submitted here, so that an interrupt cancels it.

        A job of another run stays that run's. The same holds for a job of another process on a laptop, which may still be waiting for it.
        """
        if console.in_github() and self._session.is_from_this_run(job.tags):
            self._cancelable.add(job.name)

    def cancel(self, job: str) -> None:
        """Cancel a job. Does nothing to a job that has already ended."""
        try:
            with translate_errors(f"canceling job {job}"):
                self._session.ml.jobs.begin_cancel(job)
        except AzureError as problem:
            if not self.get(job).is_active:
                return
            raise AzureError(
                f"Job {job} could not be canceled and may still cost money: {problem.what}",
                f"{problem.fix}; or " * bool(problem.fix) + f"cancel it in the studio, or run `az ml job cancel -n {job}`",
            ) from problem

    def _find_same_work(self, name: str, key: str) -> JobView | None:
        job = self._look_up(name)
        return job if job is not None and job.tags.get(RUN_KEY) == key and self._is_trusted(job) else None

    def _look_up(self, name: str) -> JobView | None:
        """Return the job of this name, or None."""
        try:
            return read_twice(lambda: self.get(name))
        except NotFound:
            return None

    def _is_trusted(self, job: JobView) -> bool:
        if self._session.trusts(job.creator):
            return True
        console.warning(
            f"Job {job.name} is not reused: it was created by {job.creator or 'an unknown identity'}, and target"
            f" {self._session.config.target} only trusts {self._session.creator} and workspace.trusted_creators."
        )
        return False

    def _list_attempts(self, name_hint: str, key: str) -> Iterator[JobView]:
        """List the jobs of a key, oldest first."""
        numbers = itertools.count(1)
        while (job := self._look_up(_make_name(name_hint, key, next(numbers)))) is not None:
            yield job


def _make_name(name_hint: str, key: str, attempt: int) -> str:
    """Return a job name of letters, digits, ``-`` and ``_`` only, as the service requires."""
    hint = re.sub(r"[^a-z0-9]+", "-", name_hint.lower()).strip("-")
    return f"mlops-{hint}-{key[:16]}-{attempt}"


def _view(job: Any) -> JobView:
    return JobView(
        name=str(job.name),
        status=as_text(job.status, "Unknown"),
        display_name=as_text(job.display_name),
        experiment=as_text(job.experiment_name),
        studio_url=as_text(job.studio_url),
        tags=dict(job.tags or {}),
        properties=dict(job.properties or {}),
        outputs={name: as_text(getattr(output, "path", None)) for name, output in (getattr(job, "outputs", None) or {}).items()},
        created_at=job.creation_context.created_at if job.creation_context else None,
        creator=creator_of(job.creation_context),
    )
