"""Scores of models on the frozen suites, reused from an equal earlier job or computed by a new one on the training compute."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from mlops.cloud.errors import NotFound, read_twice
from mlops.cloud.jobs import JobInput, JobView
from mlops.cloud.tags import EVALUATION_VERSION, MODEL_IDENTITY, ROLE, RUN_KEY
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import EvidenceError, MlopsError
from mlops.core.evaluation_version import scoring_code
from mlops.core.records import Sample
from mlops.core.run import file_sha256

__all__ = ["RETRY", "Result", "Role", "Scoring", "ScoringOutput", "Subject"]

Role = Literal["candidate", "champion", "anchor", "base"]

RETRY = "run `mlops evaluate` again; if that doesn't help, read the job's log (`az ml job show`, or its page in the studio)"

_NAME_HINT = "score"
_OUTPUT = "scores"


class Result(BaseModel):
    """The contents of result.json, as mlops/remote/__main__.py writes it."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())

    schema_version: Literal[2]
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
    """A model to score."""

    role: Role
    model: str
    """Full id."""
    key: str
    """sha256 over everything that determines its score; of the model, its id."""
    identity: str = ""
    """Distinguishes the model from another one with the same id; empty for a registry's models, which can't change."""
    unavailable: bool = False
    """Whether jobs can't read it, so that only an earlier score can be used."""


@dataclass(frozen=True)
class ScoringOutput:
    """The output of a scoring job, validated."""

    job: str
    folder: Path
    result: Result
    rows: tuple[dict[str, Any], ...]
    """The rows of scores.jsonl."""
    reused: bool


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """The scoring jobs of one evaluation.

    Args:
        workspace: where they run.
        compute: the cluster they run on.
        compute_size: the VM size that it must have.
        environment: the environment they run in.
        experiment: the experiment they are listed under.
        folder: where downloads and the code snapshot are stored.
        inputs: inputs of every job besides the model; ``base`` is left out if the model is the base.
        values: further options of ``mlops.remote``.
        version: the evaluation version; becomes a tag.
        timeout_s: for one job.
        check: raises EvidenceError if a result does not answer what was requested.
    """

    workspace: Workspace
    compute: str
    compute_size: str
    environment: str
    experiment: str
    folder: Path
    inputs: Mapping[str, JobInput]
    values: Mapping[str, str | int]
    version: str
    timeout_s: float
    check: Callable[[Subject, ScoringOutput], None]

    def all(self, subjects: Sequence[Subject]) -> dict[Role, ScoringOutput]:
        """Return the scores by role, without unavailable models that have no earlier score. Subjects with equal keys share a job.

        All jobs are submitted before the first is waited for. If anything stops this, the jobs that this process submitted are canceled.

        Raises:
            EvidenceError: a job completed and its result is missing or is not what was requested.
            JobFailed, JobCanceled, JobStatusUnknown: a job did not complete.
            ConfigError: the cluster is not the one that was validated.
            AzureError: the service fails, also while an earlier score is read.
        """
        unique: dict[str, Subject] = {}
        for subject in subjects:
            unique.setdefault(subject.key, subject)
        results = {key: scored for key, subject in unique.items() if (scored := self._reuse(subject))}
        pending: dict[str, str] = {}
        try:
            for key, subject in unique.items():
                if key in results:
                    continue
                if running := self._find_running(subject):
                    pending[key] = running
                elif not subject.unavailable:
                    pending[key] = self._submit(subject)
            for key, job in list(pending.items()):
                console.info(f"  waiting for the score of the {unique[key].role} ({unique[key].model}), job {job}")
                self.workspace.wait(job, self.timeout_s)
                del pending[key]
                results[key] = self._collect(job, unique[key], reused=False)
        except BaseException:
            # Nobody will read the other results, so their jobs must not keep costing money. Another runner's jobs are not ours to cancel.
            for job in filter(self.workspace.jobs.may_cancel, pending.values()):
                self._cancel(job)
            raise
        return {subject.role: results[subject.key] for subject in subjects if subject.key in results}

    def _reuse(self, subject: Subject) -> ScoringOutput | None:
        """Return an equal score from an earlier job, if it is still there and valid. If the service fails, nothing is paid for again."""
        for job in self._find_jobs(subject):
            if job.status == "Completed":
                try:
                    scored = self._collect(job.name, subject, reused=True)
                except EvidenceError as problem:
                    console.warning(f"The score in job {job.name} can't be reused: {problem.what}")
                    continue
                console.info(f"  reusing the score of the {subject.role} from job {job.name}")
                return scored
        return None

    def _find_running(self, subject: Subject) -> str | None:
        job = next((job for job in self._find_jobs(subject) if job.is_active), None)
        if job is None:
            return None
        self.workspace.jobs.take_over(job)
        return job.name

    def _find_jobs(self, subject: Subject) -> list[JobView]:
        """Return the jobs that scored this very model, newest first. An unavailable model's identity is unknown, so its id decides."""
        jobs = self.workspace.jobs.find(self.experiment, {RUN_KEY: subject.key}, name_hint=_NAME_HINT)
        return [job for job in jobs if subject.unavailable or job.tags.get(MODEL_IDENTITY, "") == subject.identity]

    def _submit(self, subject: Subject) -> str:
        self.workspace.compute.check_unchanged(self.compute, self.compute_size)
        inputs = {"model": JobInput("mlflow_model", self.workspace.outputs.resolve(subject.model)), **self.inputs}
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
            tags={RUN_KEY: subject.key, EVALUATION_VERSION: self.version, ROLE: subject.role}
            | ({MODEL_IDENTITY: subject.identity} if subject.identity else {}),
            experiment=self.experiment,
            display_name=f"score the {subject.role}",
        )

    def _cancel(self, job: str) -> None:
        try:
            self.workspace.jobs.cancel(job)
        except MlopsError as problem:
            console.warning(str(problem))

    def _collect(self, job: str, subject: Subject, *, reused: bool) -> ScoringOutput:
        """Download the output of a job and validate it."""
        into = self.folder / subject.key[:16]
        try:
            folder = read_twice(lambda: self.workspace.outputs.download(self.workspace.jobs.get(job), _OUTPUT, into))
        except NotFound as problem:
            raise EvidenceError(f"Job {job} completed, but its scores are missing: {problem.what}", RETRY) from problem
        scored = ScoringOutput(job, folder, _read_result(folder, job), _read_rows(folder / "scores.jsonl", job), reused)
        self.check(subject, scored)
        return scored


def _snapshot(folder: Path) -> Path:
    """Copy only the package ``mlops.remote`` into ``folder``, to be uploaded as a job's code."""
    shutil.rmtree(folder, ignore_errors=True)
    package = folder / "mlops" / "remote"
    package.mkdir(parents=True)
    (package.parent / "__init__.py").touch()
    for path in scoring_code():
        shutil.copyfile(path, package / path.name)
    return folder.resolve()


def _command(inputs: Mapping[str, JobInput], values: Mapping[str, str | int]) -> str:
    """Return the job's command line for a POSIX shell; Azure ML replaces ``${{ … }}``."""
    files = [f"--{name} ${{{{inputs.{name}}}}}" for name in inputs]
    names = [f"--{name} {shlex.quote(str(value))}" for name, value in values.items()]
    return " ".join(["python -m mlops.remote", *files, f"--output ${{{{outputs.{_OUTPUT}}}}}", *names])


def _read_result(folder: Path, job: str) -> Result:
    try:
        result = Result.model_validate(json.loads((folder / "result.json").read_bytes()))
        digest = file_sha256(folder / "scores.jsonl")
    except (OSError, ValueError) as problem:
        raise EvidenceError(f"Job {job} completed, but its result can't be read: {problem}", RETRY) from problem
    if digest != result.scores_sha256:
        raise EvidenceError(f"scores.jsonl of job {job} is not the file that its result.json describes.", RETRY)
    return result


def _read_rows(path: Path, job: str) -> tuple[dict[str, Any], ...]:
    try:
        rows = tuple(json.loads(line) for line in path.read_bytes().split(b"\n") if line)
    except ValueError as problem:
        raise EvidenceError(f"scores.jsonl of job {job} can't be read: {problem}", RETRY) from problem
    if not all(isinstance(row, dict) for row in rows):
        raise EvidenceError(f"scores.jsonl of job {job} has lines that are not JSON objects.", RETRY)
    return rows
