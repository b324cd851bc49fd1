"""Scores of models on the frozen suites: found from an equal earlier job, or made by a new one on the training compute."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from mlops.cloud.errors import NotFound
from mlops.cloud.jobs import JobInput, JobView
from mlops.cloud.tags import EVALUATION_VERSION, ROLE, RUN_KEY
from mlops.core import console
from mlops.core.errors import AzureError, EvidenceError, MlopsError
from mlops.core.records import Sample
from mlops.core.run import file_sha256

if TYPE_CHECKING:
    from mlops.cloud.workspace import Workspace

__all__ = ["AGAIN", "Result", "Role", "Scored", "Scoring", "Subject", "code"]

Role = Literal["candidate", "champion", "base"]

AGAIN = "run `mlops evaluate` again; if it stays, read the job's log (`az ml job show`, or its page in the studio)"

_CODE = Path(__file__).parents[1] / "remote"
_NAME_HINT = "score"
_OUTPUT = "scores"


class Result(BaseModel):
    """result.json, as mlops/remote/__main__.py writes it."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    schema_version: Literal[1]
    key: str
    evaluation_version: str
    weights_digest: str
    base_weights_digest: str
    mlflow_run_id: str
    metrics: dict[str, float]
    rows: dict[str, int]
    suite_digests: dict[str, str]
    scores_sha256: str
    samples: tuple[Sample, ...]
    notes: tuple[str, ...]


@dataclass(frozen=True)
class Subject:
    """A model to be scored."""

    role: Role
    model: str
    """Full id."""
    key: str
    """sha256 over everything that decides its score."""
    lost: bool = False
    """Whether no job could read it: then only an equal earlier score will do."""


@dataclass(frozen=True)
class Scored:
    """What a scoring job left, after it was held against what was asked."""

    job: str
    folder: Path
    result: Result
    rows: tuple[dict[str, Any], ...]
    """Of scores.jsonl."""
    reused: bool


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """One evaluation's scoring jobs.

    Args:
        workspace: where they run.
        compute: on which compute.
        environment: in which environment.
        experiment: under which experiment.
        folder: where to keep what is downloaded, and the code snapshot.
        inputs: what every job is given beside the model; ``base`` is left out where the model is the base.
        values: further options of ``mlops.remote``.
        version: the evaluation version, a tag.
        timeout_s: for one job.
        check: raises EvidenceError where a result is not about what was asked.
    """

    workspace: Workspace
    compute: str
    environment: str
    experiment: str
    folder: Path
    inputs: Mapping[str, JobInput]
    values: Mapping[str, str | int]
    version: str
    timeout_s: float
    check: Callable[[Subject, Scored], None]

    def all(self, subjects: Sequence[Subject]) -> dict[Role, Scored]:
        """Scores by role; a lost model without an earlier score is left out. Equal keys share a job.

        All jobs are submitted before the first is waited for. If anything stops this, those that this process submitted are cancelled.

        Raises:
            EvidenceError: a job completed and its result is missing or about something else.
            JobFailed, JobCanceled, JobStatusUnknown: a job did not complete.
        """
        unique: dict[str, Subject] = {}
        for subject in subjects:
            unique.setdefault(subject.key, subject)
        found = {key: scored for key, subject in unique.items() if (scored := self._reuse(subject))}
        waiting: dict[str, str] = {}
        try:
            for key, subject in unique.items():
                if key in found:
                    continue
                if running := self._running(subject):
                    waiting[key] = running
                elif not subject.lost:
                    waiting[key] = self._submit(subject)
            for key, job in list(waiting.items()):
                console.info(f"  waiting for the score of the {unique[key].role} ({unique[key].model}), job {job}")
                self.workspace.jobs.wait(job, self.timeout_s)
                del waiting[key]
                found[key] = self._collect(job, unique[key], reused=False)
        except BaseException:
            # Nobody will read what the others find; they must not go on billing. A job of another runner's is not ours to stop.
            for job in filter(self.workspace.jobs.started, waiting.values()):
                self._cancel(job)
            raise
        return {subject.role: found[subject.key] for subject in subjects if subject.key in found}

    def _reuse(self, subject: Subject) -> Scored | None:
        """An equal score from an earlier job, if it can still be read and fits."""
        for job in self._jobs(subject):
            if job.status == "Completed":
                try:
                    scored = self._collect(job.name, subject, reused=True)
                except (EvidenceError, AzureError) as problem:
                    console.warning(f"The score in job {job.name} can't be used again: {problem.what}")
                    continue
                console.info(f"  the {subject.role} was scored alike by job {job.name}: used again")
                return scored
        return None

    def _running(self, subject: Subject) -> str | None:
        job = next((job for job in self._jobs(subject) if job.active), None)
        if job is None:
            return None
        self.workspace.jobs.take_over(job)
        return job.name

    def _jobs(self, subject: Subject) -> list[JobView]:
        return self.workspace.jobs.find(self.experiment, {RUN_KEY: subject.key}, name_hint=_NAME_HINT)

    def _submit(self, subject: Subject) -> str:
        inputs = {"model": JobInput("mlflow_model", subject.model), **self.inputs}
        if inputs["base"] == inputs["model"]:
            del inputs["base"]
        values = {"model-id": subject.model, "role": subject.role, "key": subject.key, "evaluation-version": self.version, **self.values}
        return self.workspace.jobs.submit_command(
            name_hint=_NAME_HINT,
            code=_snapshot(self.folder / "code"),
            command=_command(inputs, values),
            inputs=inputs,
            outputs={_OUTPUT: "uri_folder"},
            environment=self.environment,
            compute=self.compute,
            environment_variables={},
            tags={RUN_KEY: subject.key, EVALUATION_VERSION: self.version, ROLE: subject.role},
            experiment=self.experiment,
            display_name=f"score the {subject.role}",
        )

    def _cancel(self, job: str) -> None:
        try:
            self.workspace.jobs.cancel(job)
        except MlopsError as problem:
            console.warning(str(problem))

    def _collect(self, job: str, subject: Subject, *, reused: bool) -> Scored:
        """Download what a job left and hold it against what was asked of it."""
        try:
            folder = self.workspace.jobs.download_output(job, _OUTPUT, self.folder / subject.key[:16])
        except NotFound as problem:
            raise EvidenceError(f"Job {job} completed and its scores are not there: {problem.what}", AGAIN) from problem
        scored = Scored(job, folder, _read_result(folder, job), _read_rows(folder / "scores.jsonl", job), reused)
        self.check(subject, scored)
        return scored


def code() -> list[Path]:
    """The files that run on the compute: the package ``mlops.remote``."""
    return sorted(_CODE.glob("*.py"))


def _snapshot(folder: Path) -> Path:
    """Make ``folder`` one with the package ``mlops.remote`` and nothing else of ours, to be uploaded as a job's code."""
    shutil.rmtree(folder, ignore_errors=True)
    package = folder / "mlops" / "remote"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    for path in code():
        shutil.copyfile(path, package / path.name)
    return folder.resolve()


def _command(inputs: Mapping[str, JobInput], values: Mapping[str, str | int]) -> str:
    """The job's command line, for a POSIX shell; Azure ML replaces what stands in ``${{ }}``."""
    files = [f"--{name} ${{{{inputs.{name}}}}}" for name in inputs]
    names = [f"--{name} {shlex.quote(str(value))}" for name, value in values.items()]
    return " ".join(["python -m mlops.remote", *files, f"--output ${{{{outputs.{_OUTPUT}}}}}", *names])


def _read_result(folder: Path, job: str) -> Result:
    try:
        result = Result.model_validate(json.loads((folder / "result.json").read_bytes()))
        digest = file_sha256(folder / "scores.jsonl")
    except (OSError, ValueError) as problem:
        raise EvidenceError(f"Job {job} completed and left no result that can be read: {problem}", AGAIN) from problem
    if digest != result.scores_sha256:
        raise EvidenceError(f"scores.jsonl of job {job} is not the file that its result.json is about.", AGAIN)
    return result


def _read_rows(path: Path, job: str) -> tuple[dict[str, Any], ...]:
    try:
        rows = tuple(json.loads(line) for line in path.read_bytes().split(b"\n") if line)
    except ValueError as problem:
        raise EvidenceError(f"scores.jsonl of job {job} can't be read: {problem}", AGAIN) from problem
    if not all(isinstance(row, dict) for row in rows):
        raise EvidenceError(f"scores.jsonl of job {job} has lines that are no rows.", AGAIN)
    return rows
