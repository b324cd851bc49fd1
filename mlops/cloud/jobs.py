"""Jobs: submit, find again, watch, cancel; their metrics and outputs.

A job's name is made from what decides its result: ``mlops-{name_hint}-{first 16 of tags[RUN_KEY]}-{n}``, n = 1 for the first attempt. So
the job of a key is found with one GET per attempt instead of paging through every job of the workspace, and two runners that submit the
same work at the same moment ask for the same name: Azure keeps one job, and nobody pays twice.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mlops.cloud.entities import word
from mlops.cloud.errors import NotFound, translated
from mlops.cloud.session import Session
from mlops.cloud.tags import MARK, PIPELINE, RUN_KEY
from mlops.core import console
from mlops.core.errors import AzureError

__all__ = ["ACTIVE", "JobInput", "JobView", "Jobs"]


ACTIVE = frozenset({"NotStarted", "Starting", "Provisioning", "Preparing", "Queued", "Running", "Finalizing", "Scheduled"})
"""Statuses from which a job can still complete."""
OVER = frozenset({"Completed", "Failed", "Canceled", "CancelRequested"})
"""Statuses in which a job costs nothing any more, or soon will not. In any other (``NotResponding``, ``Paused``, one unheard of) it may."""

_LITERALS = frozenset({"string", "integer", "number", "boolean"})


@dataclass(frozen=True)
class JobInput:
    """A job's input: ``uri_file``, ``uri_folder``, ``mlflow_model``, … and a local path or an azureml:// URI.

    For literals, ``type`` is ``string``, ``integer``, ``number`` or ``boolean`` and ``path`` the value.
    """

    type: str
    path: str


@dataclass(frozen=True, kw_only=True)
class JobView:
    """A job as it stands."""

    name: str
    """Also its MLflow run id."""
    status: str
    display_name: str = ""
    experiment: str = ""
    studio_url: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)
    outputs: Mapping[str, str] = field(default_factory=dict)
    """Output → azureml:// URI, or empty where the service gives none."""
    created_at: datetime | None = None

    @property
    def identity(self) -> str:
        """When Azure created the job (ISO 8601, UTC), which tells it from another job that had the same name."""
        return self.created_at.astimezone(UTC).isoformat() if self.created_at else ""

    @property
    def active(self) -> bool:
        """Whether it can still complete."""
        return self.status in ACTIVE

    @property
    def over(self) -> bool:
        """Whether it costs nothing any more, or has been told to end."""
        return self.status in OVER


class Jobs:
    """The workspace's jobs. Use it as ``workspace.jobs``."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._started: set[str] = set()

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
        environment_variables: Mapping[str, str],
        tags: Mapping[str, str],
        experiment: str,
        display_name: str,
    ) -> str:
        """Submit a command job and return its name.

        ``tags`` must hold :data:`RUN_KEY`; the workspace's own tags are added. ``outputs`` is name → type (``uri_folder``, …).
        """
        from azure.ai.ml import Input, Output
        from azure.ai.ml import command as command_job

        with translated(f"building the job {display_name}"):
            job = command_job(
                code=str(code),
                command=command,
                inputs={
                    name: given.path if given.type in _LITERALS else Input(type=given.type, path=given.path)
                    for name, given in inputs.items()
                },
                outputs={name: Output(type=kind, mode="rw_mount") for name, kind in outputs.items()},
                environment=environment,
                compute=compute,
                environment_variables=dict(environment_variables),
            )
        return self._submit(job, name_hint, tags, experiment, display_name)

    def submit_pipeline(self, pipeline: Any, *, name_hint: str, tags: Mapping[str, str], experiment: str, display_name: str) -> str:
        """Submit a pipeline built with ``azure.ai.ml.dsl`` and return the job's name. ``tags`` must hold :data:`RUN_KEY`."""
        return self._submit(pipeline, name_hint, tags, experiment, display_name)

    def find(self, experiment: str, tags: Mapping[str, str], *, name_hint: str) -> list[JobView]:
        """The jobs of a key, newest attempt first. ``tags`` must hold :data:`RUN_KEY`; ``name_hint`` is the one of the submit.

        Tags are compared, too: a job that has the name by chance, or another's key with the same beginning, is left out.
        """
        found = [view for view in self._attempts(name_hint, tags[RUN_KEY]) if view.experiment == experiment]
        return [view for view in reversed(found) if tags.items() <= view.tags.items()]

    def list_owned(self) -> Iterator[JobView]:
        """Every job of this pipeline and target, in the order in which the service lists them."""
        return (job for job in self.list_all_targets() if self._session.owns(job.tags))

    def list_all_targets(self) -> Iterator[JobView]:
        """Every job of this pipeline, whatever its target."""

        with translated("listing jobs"):
            # The service filters by the tag's name; its value is for us to compare.
            for job in self._session.ml.jobs.list(tag=RUN_KEY):
                if job is not None and (job.tags or {}).get(PIPELINE) == MARK:
                    yield _view(job)

    def get(self, job: str) -> JobView:
        """A job as it stands.

        Raises:
            NotFound: no such job.
        """
        with translated(f"reading job {job}"):
            return _view(self._session.ml.jobs.get(job))

    def may_cancel(self, job: str) -> bool:
        """Whether this process has submitted it or taken it over, and so may cancel it."""
        return job in self._started

    def take_over(self, job: JobView) -> None:
        """Treat a job that an earlier attempt of this very workflow run has submitted as submitted here: an interrupt cancels it.

        What another run has submitted stays that run's; so does what another process on a laptop has, which may still wait for it.
        """
        if console.in_github() and self._session.is_from_this_run(job.tags):
            self._started.add(job.name)

    def cancel(self, job: str) -> None:
        """Tell a job to stop; one that has ended already is left alone."""
        try:
            with translated(f"cancelling job {job}"):
                self._session.ml.jobs.begin_cancel(job)
        except AzureError as problem:
            if not self.get(job).active:
                return
            raise AzureError(
                f"Job {job} could not be cancelled and may go on costing money: {problem.what}",
                f"cancel it in the studio, or run `az ml job cancel -n {job}`",
            ) from problem

    def _submit(self, job: Any, name_hint: str, tags: Mapping[str, str], experiment: str, display_name: str) -> str:
        attempts = sum(1 for _ in self._attempts(name_hint, tags[RUN_KEY]))
        job.name = _name(name_hint, tags[RUN_KEY], attempts + 1)
        job.display_name = display_name
        job.experiment_name = experiment
        job.tags = {**self._session.tags, **tags}
        try:
            # Whether or not it shows progress, the SDK prints a colour code after each upload.
            aside = contextlib.nullcontext() if sys.stderr.isatty() else contextlib.redirect_stderr(io.StringIO())
            with translated(f"submitting the job {display_name}"), aside:
                made = _view(self._session.ml.jobs.create_or_update(job))
        except AzureError:
            # Refused, perhaps because somebody was faster: then there is a job of this name now, and theirs can't be changed by us.
            rival = self._same_work(job.name, tags[RUN_KEY])
            if rival is None:
                raise
            console.info(f"  {rival.name} was submitted by somebody else just now: {rival.studio_url}")
            return rival.name
        except KeyboardInterrupt:
            # The request may have been heard all the same, and nobody would wait for what it has started.
            heard = self._same_work(job.name, tags[RUN_KEY])
            if heard is not None and self._session.is_from_this_run(heard.tags):
                console.warning(f"Interrupted: cancelling job {heard.name}, which was submitted just now.")
                self.cancel(heard.name)
            raise
        self._started.add(made.name)
        console.info(f"  submitted {made.name}: {made.studio_url}")
        return made.name

    def _same_work(self, name: str, key: str) -> JobView | None:
        try:
            found = self.get(name)
        except NotFound:
            return None
        return found if found.tags.get(RUN_KEY) == key else None

    def _attempts(self, name_hint: str, key: str) -> Iterator[JobView]:
        """The jobs of a key, oldest first."""
        number = 1
        while True:
            try:
                yield self.get(_name(name_hint, key, number))
            except NotFound:
                return
            number += 1


def _name(name_hint: str, key: str, attempt: int) -> str:
    """A job's name: letters, digits, ``-`` and ``_`` only, as the service wants it."""
    hint = re.sub(r"[^a-z0-9]+", "-", name_hint.lower()).strip("-")
    return f"mlops-{hint}-{key[:16]}-{attempt}"


def _view(job: Any) -> JobView:
    outputs = {name: word(getattr(output, "path", None)) for name, output in (getattr(job, "outputs", None) or {}).items()}
    created = job.creation_context.created_at if job.creation_context else None
    return JobView(
        name=str(job.name),
        status=word(job.status, "Unknown"),
        display_name=word(job.display_name),
        experiment=word(job.experiment_name),
        studio_url=word(job.studio_url),
        tags=dict(job.tags or {}),
        properties=dict(job.properties or {}),
        outputs=outputs,
        created_at=created,
    )
