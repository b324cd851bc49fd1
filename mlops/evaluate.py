"""Score the candidate, the champion and the base model alike, on the suites that validation froze.

    python -m mlops.evaluate --target prod

One command job per model runs ``mlops/remote`` on the training compute. A score is used again only where model, suites, code and
settings are all equal; then nothing is computed and nothing is paid for.
"""

from __future__ import annotations

import hashlib
import json
import math
import shutil
import sys
from typing import TYPE_CHECKING, Any

from mlops.cli import stage
from mlops.cloud import champion as champions
from mlops.cloud.evaluation import AGAIN, Role, Scored, Scoring, Subject, code
from mlops.cloud.jobs import JobInput
from mlops.core import console
from mlops.core.config import Config
from mlops.core.errors import EvidenceError
from mlops.core.records import Evaluated, FileDigest, ModelScores, Registered, Suite, Trained, Validated
from mlops.core.run import Run, file_sha256
from mlops.judging import metrics
from mlops.judging.evidence import Rows, Scoreless

if TYPE_CHECKING:
    from mlops.cloud.workspace import Workspace

__all__ = ["evaluate", "evaluation_key", "evaluation_version", "main"]


def evaluate(config: Config, run: Run, workspace: Workspace) -> Evaluated:
    """Score candidate, champion (what the endpoint serves now) and base, and keep their rows under ``run/evaluate/``.

    A champion that can't be scored is recorded as missing: that is no first run, and no other model answers for it.

    Raises:
        EvidenceError: a result is missing or is not about what was asked.
        JobFailed, JobCanceled, JobStatusUnknown: a scoring job did not complete; those beside it are cancelled.
        TrafficError: it can't be told which model is live.
        AzureError, CredentialError: the endpoint or the registry can't be read.
    """
    validated, trained = run.read(Validated), run.read(Trained)
    version = evaluation_version(config, validated)
    endpoint = config.champion_endpoint
    live = workspace.endpoints.live(endpoint)
    before, own = _before(run, version), _registered(run)
    if before is not None and live.model is not None and live.model.lower() == own:
        # This run's own candidate must not become the champion that it is held against.
        console.info(f"  {endpoint} serves this very candidate: what was evaluated before it was promoted stands, nothing to do")
        return before
    champion = champions.find(workspace, endpoint, live, own=own, base=validated.base_model, data_fingerprint=trained.data_fingerprint)
    models: dict[Role, str] = {"candidate": trained.model_output, "base": validated.base_model}
    if champion.model:
        models["champion"] = champion.model
    if before is not None and not (champion.lost or before.missing) and {r: m.model for r, m in before.models.items()} == models:
        console.info("  evaluated already, with the same models, suites, code and settings: nothing to do")
        return before

    keys = {role: evaluation_key(model, validated, version) for role, model in models.items()}
    subjects = [Subject(role, model, keys[role], lost=role == "champion" and champion.lost != "") for role, model in models.items()]
    results = _scoring(config, run, workspace, validated, version).all(subjects)
    if len({scored.result.base_weights_digest for scored in results.values()}) > 1:
        raise EvidenceError("The models were not held against the same base model, so their divergence from it can't be compared.", AGAIN)
    record = Evaluated(
        inputs={Validated.stage: validated.digest(), Trained.stage: trained.digest()},
        files={f"scores.{role}": _keep(run, role, scored) for role, scored in results.items()},
        evaluation_version=version,
        models={role: _model_scores(role, models[role], scored) for role, scored in results.items()},
        missing={"champion": champion.lost} if champion.lost and "champion" not in results else {},
        champion=champion.model,
        champion_note="" if champion.model or champion.lost else f"Endpoint {endpoint} serves nothing: this is a first run.",
        notes=(*champion.notes, *(f"{role}: {note}" for role, scored in results.items() for note in scored.result.notes)),
    )
    _tell(record)
    return run.write(record)


def evaluation_version(config: Config, validated: Validated) -> str:
    """sha256 over the code in mlops/remote and every setting that may move a figure."""
    settings = config.evaluation.model_dump(
        include={"generate_rows", "max_tokens", "max_new_tokens", "batch_tokens", "precision", "environment"}
    )
    files = {path.name: file_sha256(path) for path in code()}
    return _sha256({"code": files, "settings": settings, "compute_size": validated.compute_size})


def evaluation_key(model: str, validated: Validated, version: str) -> str:
    """sha256 over everything that decides a model's score."""
    suites = {name: suite.digest for name, suite in validated.suites.items()}
    return _sha256({"model": model, "base": validated.base_model, "suites": suites, "version": version})


def _before(run: Run, version: str) -> Evaluated | None:
    """What was evaluated before, if code and settings are still those."""
    before = run.find(Evaluated)
    return before if before is not None and before.evaluation_version == version else None


def _registered(run: Run) -> str:
    """Id of the candidate, in lower case, where it is registered; empty elsewhere, and where the registration is of another training."""
    registered = run.find(Registered)
    return registered.model.lower() if registered is not None else ""


def _scoring(config: Config, run: Run, workspace: Workspace, validated: Validated, version: str) -> Scoring:
    settings = config.evaluation
    inputs = {"base": JobInput("mlflow_model", validated.base_model)}
    inputs |= {name: JobInput("uri_file", str((run.directory / suite.path).resolve())) for name, suite in validated.suites.items()}
    return Scoring(
        workspace=workspace,
        compute=validated.compute,
        environment=settings.environment,
        experiment=config.training.experiment,
        folder=run.path("evaluate", "jobs").parent,
        inputs=inputs,
        values={
            "base-id": validated.base_model,
            "generate-rows": settings.generate_rows,
            "max-tokens": settings.max_tokens,
            "max-new-tokens": settings.max_new_tokens,
            "batch-tokens": settings.batch_tokens,
            "precision": settings.precision,
        },
        version=version,
        timeout_s=config.training.timeout_hours * 3600,
        check=_Asked(run, validated, version),
    )


class _Asked:
    """What a score must be about."""

    def __init__(self, run: Run, validated: Validated, version: str) -> None:
        self.version = version
        self.suites = validated.suites
        self.rows = sorted((name, row_id) for name, suite in self.suites.items() for row_id in _row_ids(run, suite))

    def __call__(self, subject: Subject, scored: Scored) -> None:
        """Hold a score against what was asked.

        Raises:
            EvidenceError: with what does not fit.
        """
        job, result = scored.job, scored.result
        expected = {
            "evaluation key": (result.key, subject.key),
            "evaluation version": (result.evaluation_version, self.version),
            "suite digests": (result.suite_digests, {name: suite.digest for name, suite in self.suites.items()}),
            "rows": (result.rows, {name: suite.rows for name, suite in self.suites.items()}),
        }
        for what, (found, asked) in expected.items():
            if found != asked:
                raise EvidenceError(f"Job {job} has scored something else: its {what} are {found}, and {asked} was asked.", AGAIN)
        if sorted((str(row.get("suite")), str(row.get("id"))) for row in scored.rows) != self.rows:
            raise EvidenceError(
                f"Job {job} has scored other rows than those of the suites ({len(scored.rows)} of {len(self.rows)}).", AGAIN
            )
        _check_metrics(scored)


def _row_ids(run: Run, suite: Suite) -> list[str]:
    path = run.directory / suite.path
    if not path.is_file() or file_sha256(path) != suite.digest:
        raise EvidenceError(f"{path} is missing or is not the {suite.name} suite that validation froze.", "run `mlops validate` again")
    return [str(json.loads(line).get("prompt_id")) for line in path.read_bytes().split(b"\n") if line]


def _check_metrics(scored: Scored) -> None:
    """What a job reports must follow from its rows; what is NaN or infinite in both is for the gate to judge."""
    try:
        by_suite = {suite: Rows.of(row for row in scored.rows if row["suite"] == suite) for suite in scored.result.suite_digests}
    except Scoreless as problem:
        raise EvidenceError(f"Job {scored.job} has left rows that are no scores: {problem}", AGAIN) from problem
    for name, reported in scored.result.metrics.items():
        metric = metrics.parse(name)
        value = metric.value(by_suite[metric.suite]) if metric is not None and metric.suite in by_suite else None
        if value is not None and not _equal(value, reported):
            raise EvidenceError(f"Job {scored.job} reports {name} = {reported:.6g}, and its rows give {value:.6g}.", AGAIN)


def _equal(value: float, reported: float) -> bool:
    return math.isclose(value, reported, rel_tol=1e-6, abs_tol=1e-12) or (math.isnan(value) and math.isnan(reported))


def _keep(run: Run, role: str, scored: Scored) -> FileDigest:
    path = run.path("evaluate", f"{role}.jsonl")
    shutil.copyfile(scored.folder / "scores.jsonl", path)
    return run.keep(path, len(scored.rows))


def _model_scores(role: Role, model: str, scored: Scored) -> ModelScores:
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
    for why in record.missing.values():
        console.warning(f"The champion can't be evaluated, so rules against it can't hold. {why}")
    for note in record.notes:
        console.warning(note)
    for role, scores in record.models.items():
        figures = [
            f"{name} {scores.metrics[name]:.4g}" for name in ("target.nll", "retention.nll", "retention.kl_base") if name in scores.metrics
        ]
        console.info(f"  {role}: {', '.join(figures)}")


def _sha256(content: Any) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


main = stage.command(evaluate, needs=(Validated, Trained))


if __name__ == "__main__":
    sys.exit(main())
