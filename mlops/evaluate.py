"""Score the candidate, the champion and the base model alike, on the suites that validation froze.

    python -m mlops.evaluate --target prod

One command job per model runs ``mlops/remote`` on the training compute. A score is used again only where model, suites, code and
settings are all equal; then nothing is computed and nothing is paid for.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict

from mlops.cloud.jobs import KEY, JobInput, JobView
from mlops.core import console, stage
from mlops.core.config import Config
from mlops.core.errors import AzureError, EvidenceError, MlopsError
from mlops.core.records import Evaluated, ModelScores, Registered, Sample, Suite, Trained, Validated
from mlops.core.run import Run, file_sha256

if TYPE_CHECKING:
    from mlops.cloud.workspace import Workspace

__all__ = ["evaluate", "evaluation_key", "evaluation_version", "main"]

Role = Literal["candidate", "champion", "base"]

_CODE = Path(__file__).parent / "remote"
_NAME_HINT = "score"
_OUTPUT = "scores"
_AGAIN = "run `mlops evaluate` again; if it stays, `az ml job show` the job and read its log"


class _Result(BaseModel):
    """result.json, as mlops/remote/score.py writes it."""

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
class _Subject:
    """A model to be scored, and the key of its score."""

    role: Role
    model: str
    key: str


@dataclass(frozen=True)
class _Scored:
    """What a scoring job left, and that it fits what was asked."""

    job: str
    folder: Path
    result: _Result
    reused: bool


def evaluate(config: Config, run: Run, workspace: Workspace) -> Evaluated:
    """Score candidate, champion (what the endpoint serves now) and base, and keep their rows under ``run/evaluate/``.

    Raises:
        EvidenceError: a result is missing or is not about what was asked.
        JobFailed, JobCanceled, JobStatusUnknown: a scoring job did not complete; those beside it are cancelled.
    """
    validated, trained = run.read(Validated), run.read(Trained)
    version = evaluation_version(config, validated)
    endpoint = config.champion_endpoint
    champion = workspace.endpoints.live_model(endpoint)
    before = run.find(Evaluated)
    if before is not None and before.evaluation_version == version and champion is not None and _promoted_before(run, champion):
        console.info(f"  {endpoint} serves this very candidate: what was evaluated before it was promoted stands, nothing to do")
        return before
    models: dict[Role, str] = {"candidate": trained.model_output, "base": validated.base_model}
    if champion is not None:
        models["champion"] = champion
    subjects = [_Subject(role, model, evaluation_key(model, validated, version)) for role, model in models.items()]

    if before is not None and before.evaluation_version == version and {r: m.model for r, m in before.models.items()} == models:
        console.info("  evaluated already, with the same models, suites, code and settings: nothing to do")
        return before

    results = _Scoring(config, run, workspace, validated, version).all(subjects)
    if len({scored.result.base_weights_digest for scored in results.values()}) > 1:
        raise EvidenceError("The models were not held against the same base model, so their divergence from it can't be compared.", _AGAIN)
    record = Evaluated(
        inputs={Validated.stage: validated.digest(), Trained.stage: trained.digest()},
        files={f"scores.{role}": run.keep(_scores_path(run, role), sum(s.result.rows.values())) for role, s in results.items()},
        evaluation_version=version,
        models={role: _model_scores(role, models[role], scored) for role, scored in results.items()},
        champion_note="" if champion else f"Endpoint {endpoint} serves nothing: this is a first run.",
    )
    _tell(record)
    return run.write(record)


def _promoted_before(run: Run, champion: str) -> bool:
    """Whether what is live is what this run has registered: its own candidate must not become the champion that it is held against."""
    registered = run.find(Registered)
    # A registration that no longer fits the training in this run directory is not found.
    return registered is not None and registered.model.lower() == champion.lower()


def evaluation_version(config: Config, validated: Validated) -> str:
    """sha256 over the code in mlops/remote and every setting that may move a figure."""
    settings = config.evaluation.model_dump(
        include={"generate_rows", "max_tokens", "max_new_tokens", "batch_tokens", "precision", "environment"}
    )
    code = {path.name: file_sha256(path) for path in _code()}
    return _sha256({"code": code, "settings": settings, "compute_size": validated.compute_size})


def evaluation_key(model: str, validated: Validated, version: str) -> str:
    """sha256 over everything that decides a model's score."""
    suites = {name: suite.digest for name, suite in validated.suites.items()}
    return _sha256({"model": model, "base": validated.base_model, "suites": suites, "version": version})


class _Scoring:
    """The scoring jobs of one evaluation."""

    def __init__(self, config: Config, run: Run, workspace: Workspace, validated: Validated, version: str) -> None:
        self.config = config
        self.run = run
        self.workspace = workspace
        self.validated = validated
        self.version = version

    def all(self, subjects: Sequence[_Subject]) -> dict[Role, _Scored]:
        """Scores by role. All jobs are submitted before the first is waited for; equal keys share a job."""
        unique = {subject.key: subject for subject in subjects}
        found = {key: scored for key, subject in unique.items() if (scored := self._reuse(subject))}
        waiting: dict[str, str] = {}
        submitted: set[str] = set()
        try:
            for key, subject in unique.items():
                if key in found:
                    continue
                if running := self._running(subject):
                    waiting[key] = running
                else:
                    waiting[key] = self._submit(subject)
                    submitted.add(waiting[key])
            for key, job in list(waiting.items()):
                console.info(f"  waiting for the score of the {unique[key].role} ({unique[key].model}), job {job}")
                self.workspace.jobs.wait(job, self.config.training.timeout_hours * 3600)
                del waiting[key]
                found[key] = self._collect(job, unique[key], reused=False)
        except BaseException:
            # Nobody will read what the others find; they must not go on billing. A job of another runner's is not ours to stop.
            for job in submitted & set(waiting.values()):
                self._cancel(job)
            raise
        for subject in subjects:
            shutil.copyfile(found[subject.key].folder / "scores.jsonl", _scores_path(self.run, subject.role))
        return {subject.role: found[subject.key] for subject in subjects}

    def _reuse(self, subject: _Subject) -> _Scored | None:
        """An equal score from an earlier job, if it can still be read and fits."""
        for job in self._jobs(subject):
            if job.status == "Completed":
                try:
                    scored = self._collect(job.name, subject, reused=True)
                except (EvidenceError, AzureError) as problem:
                    console.warning(f"The score in job {job.name} can't be used again and is computed anew: {problem.what}")
                    continue
                console.info(f"  the {subject.role} was scored alike by job {job.name}: used again")
                return scored
        return None

    def _running(self, subject: _Subject) -> str | None:
        return next((job.name for job in self._jobs(subject) if job.active), None)

    def _jobs(self, subject: _Subject) -> list[JobView]:
        return self.workspace.jobs.find(self.config.training.experiment, {KEY: subject.key}, name_hint=_NAME_HINT)

    def _submit(self, subject: _Subject) -> str:
        settings = self.config.evaluation
        inputs = {"model": JobInput("mlflow_model", subject.model)}
        if subject.model != self.validated.base_model:
            inputs["base"] = JobInput("mlflow_model", self.validated.base_model)
        for name, suite in self.validated.suites.items():
            inputs[name] = JobInput("uri_file", str((self.run.directory / suite.path).resolve()))
        values: dict[str, str | int] = {
            "model-id": subject.model,
            "base-id": self.validated.base_model,
            "role": subject.role,
            "key": subject.key,
            "evaluation-version": self.version,
            "generate-rows": settings.generate_rows,
            "max-tokens": settings.max_tokens,
            "max-new-tokens": settings.max_new_tokens,
            "batch-tokens": settings.batch_tokens,
            "precision": settings.precision,
        }
        return self.workspace.jobs.submit_command(
            name_hint=_NAME_HINT,
            code=_snapshot(self.run),
            command=_command(inputs, values),
            inputs=inputs,
            outputs={_OUTPUT: "uri_folder"},
            environment=settings.environment,
            compute=self.validated.compute,
            environment_variables={},
            tags={KEY: subject.key, "mlops.evaluation_version": self.version, "mlops.role": subject.role},
            experiment=self.config.training.experiment,
            display_name=f"score the {subject.role}",
        )

    def _cancel(self, job: str) -> None:
        try:
            self.workspace.jobs.cancel(job)
        except MlopsError as problem:
            console.warning(str(problem))

    def _collect(self, job: str, subject: _Subject, *, reused: bool) -> _Scored:
        """Download what a job left and hold it against what was asked of it."""
        folder = self.workspace.jobs.download_output(job, _OUTPUT, self.run.path("evaluate", subject.key[:16]))
        result = _read_result(folder, job)
        expected = {
            "evaluation key": (result.key, subject.key),
            "evaluation version": (result.evaluation_version, self.version),
            "suite digests": (result.suite_digests, {name: suite.digest for name, suite in self.validated.suites.items()}),
            "rows": (result.rows, {name: suite.rows for name, suite in self.validated.suites.items()}),
        }
        for what, (found, asked) in expected.items():
            if found != asked:
                raise EvidenceError(f"Job {job} has scored something else: its {what} are {found}, and {asked} was asked.", _AGAIN)
        scored = [(str(row.get("suite")), str(row.get("id"))) for row in _read_rows(folder / "scores.jsonl", job)]
        asked_ids = [(name, str(row.get("prompt_id"))) for name, suite in self.validated.suites.items() for row in self._suite_rows(suite)]
        if sorted(scored) != sorted(asked_ids):
            raise EvidenceError(f"Job {job} has scored other rows than those of the suites ({len(scored)} of {len(asked_ids)}).", _AGAIN)
        for note in result.notes:
            console.warning(f"{job}: {note}")
        return _Scored(job, folder, result, reused)

    def _suite_rows(self, suite: Suite) -> list[dict[str, Any]]:
        path = self.run.directory / suite.path
        if not path.is_file() or file_sha256(path) != suite.digest:
            raise EvidenceError(f"{path} is missing or is not the {suite.name} suite that validation froze.", "run `mlops validate` again")
        return [json.loads(line) for line in path.read_bytes().split(b"\n") if line]


def _command(inputs: Mapping[str, JobInput], values: Mapping[str, str | int]) -> str:
    """The job's command line, for a POSIX shell; Azure ML replaces what stands in ``${{ }}``."""
    files = [f"--{name} ${{{{inputs.{name}}}}}" for name in inputs]
    names = [f"--{name} {shlex.quote(str(value))}" for name, value in values.items()]
    return " ".join(["python -m mlops.remote.score", *files, f"--output ${{{{outputs.{_OUTPUT}}}}}", *names])


def _code() -> list[Path]:
    return sorted(_CODE.glob("*.py"))


def _snapshot(run: Run) -> Path:
    """A folder with mlops/remote and nothing else of ours, to be uploaded as the job's code."""
    folder = run.path("evaluate", "code", "mlops", "remote", "score.py").parents[2]
    shutil.rmtree(folder)
    package = run.path("evaluate", "code", "mlops", "__init__.py")
    package.touch()
    for path in _code():
        shutil.copyfile(path, run.path("evaluate", "code", "mlops", "remote", path.name))
    return folder.resolve()


def _read_result(folder: Path, job: str) -> _Result:
    path = folder / "result.json"
    try:
        result = _Result.model_validate(json.loads(path.read_bytes()))
        digest = file_sha256(folder / "scores.jsonl")
    except (OSError, ValueError) as problem:
        raise EvidenceError(f"Job {job} completed and left no result that can be read: {problem}", _AGAIN) from problem
    if digest != result.scores_sha256:
        raise EvidenceError(f"scores.jsonl of job {job} is not the file that its result.json is about.", _AGAIN)
    return result


def _read_rows(path: Path, job: str) -> list[dict[str, Any]]:
    try:
        rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
    except ValueError as problem:
        raise EvidenceError(f"scores.jsonl of job {job} can't be read: {problem}", _AGAIN) from problem
    if not all(isinstance(row, dict) for row in rows):
        raise EvidenceError(f"scores.jsonl of job {job} has lines that are no rows.", _AGAIN)
    return rows


def _scores_path(run: Run, role: str) -> Path:
    return run.path("evaluate", f"{role}.jsonl")


def _model_scores(role: Role, model: str, scored: _Scored) -> ModelScores:
    result = scored.result
    return ModelScores(
        role=role,
        model=model,
        weights_digest=result.weights_digest,
        job=scored.job,
        mlflow_run_id=result.mlflow_run_id or scored.job,
        metrics=result.metrics,
        rows=result.rows,
        suite_digests=result.suite_digests,
        scores=f"scores.{role}",
        samples=result.samples,
        reused=scored.reused,
    )


def _tell(record: Evaluated) -> None:
    if record.champion_note:
        console.info(f"  {record.champion_note}")
    for role, scores in record.models.items():
        figures = [
            f"{name} {scores.metrics[name]:.4g}" for name in ("target.nll", "retention.nll", "retention.kl_base") if name in scores.metrics
        ]
        console.info(f"  {role}: {', '.join(figures)}")


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def main(argv: Sequence[str] | None = None) -> int:
    """Run this stage as a command."""
    return stage.run(evaluate, argv)


if __name__ == "__main__":
    sys.exit(main())
