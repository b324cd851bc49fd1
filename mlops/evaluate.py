"""Score the candidate, the champion, the anchor and the base model in the same way, on the suites that validation froze.

    mlops evaluate --target prod

One command job per model runs ``mlops/remote`` on the training compute. A score is reused, at no cost, if model, suites, code and settings
are all the same.
"""

from __future__ import annotations

import json
import math
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from mlops.cli import stage
from mlops.cli.tries import find_other_tries
from mlops.cloud import champion as champions
from mlops.cloud.anchor import find_anchor
from mlops.cloud.champion import Champion
from mlops.cloud.evaluation import RETRY, Role, Scoring, ScoringOutput, Subject
from mlops.cloud.jobs import JobInput
from mlops.cloud.preferences import COLUMN, METRIC, Preferences, collect_preferences, judge_digest
from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.errors import EvidenceError
from mlops.core.evaluation_version import evaluation_version
from mlops.core.record import FileDigest
from mlops.core.records import Evaluated, ModelScores, Registered, Suite, Trained, Validated
from mlops.core.reuse import reuse_key
from mlops.core.run import Run, file_sha256
from mlops.core.settings import Config
from mlops.judging import metrics
from mlops.judging.evidence import InvalidScores, Rows

__all__ = ["evaluate", "evaluation_key", "main"]


def evaluate(config: Config, run: Run, workspace: Workspace) -> Evaluated:
    """Score candidate, champion (the model that the endpoint serves now), anchor (the best that it has served) and base.

    Their rows are stored under ``run/evaluate/``. The anchor is left out if it is the champion, or if no rule compares with it.

    A champion or anchor that can't be scored is recorded as missing: this isn't a first run, and no other model takes its place.

    Raises:
        EvidenceError: a result is missing or is not what was requested.
        JobFailed, JobCanceled, JobStatusUnknown: a scoring job did not complete; the other jobs are canceled.
        ConfigError: the cluster is not the one that was validated.
        TrafficError: it is unclear which model is live.
        AzureError, CredentialError: the endpoint or the registry can't be read.
    """
    validated, trained = run.read(Validated), run.read(Trained)
    version = evaluation_version(config, validated)
    endpoint = config.champion_endpoint
    live = workspace.endpoints.get_live(endpoint)
    judge = judge_digest(config.evaluation.judge)
    before, registered = _find_before(run, version, judge), run.find(Registered)
    own = registered.model.lower() if registered is not None else ""
    champion = champions.find(workspace, endpoint, live, own=own, base=validated.base_model, data_fingerprint=trained.data_fingerprint)
    if before is not None and registered is not None and _is_candidate(champion, registered):
        # This run's own candidate must not become the champion that it is compared with.
        console.info(f"  nothing to do: {endpoint} already serves this candidate, which was evaluated before it was promoted")
        return before
    models: dict[Role, tuple[str, str]] = {"candidate": (trained.model_output, trained.identity), "base": (validated.base_model, "")}
    anchor = _find_anchor(config, workspace, champion)
    missing: dict[Role, str] = {}
    compared_with: dict[Role, Champion | None] = {"champion": champion, "anchor": anchor}
    for role, compared in compared_with.items():
        if compared is not None and compared.model:
            models[role] = (compared.model, compared.identity)
        if compared is not None and compared.unavailable:
            missing[role] = compared.unavailable
    evaluated = {role: (scores.model, scores.identity) for role, scores in before.models.items()} if before is not None else {}
    if before is not None and evaluated == models and not (missing or before.missing):
        console.info("  nothing to do: the same models were evaluated with the same suites, code and settings")
        return before

    subjects = [
        Subject(
            role=role,
            model=model,
            key=evaluation_key(model, validated, version),
            identity=identity,
            unavailable=role in missing,
        )
        for role, (model, identity) in models.items()
    ]
    results = _build_scoring(config, run, workspace, validated, version).all(subjects)
    if len({scored.result.base_weights_digest for scored in results.values()}) > 1:
        raise EvidenceError("The models were compared with different base models, so their divergences can't be compared.", RETRY)
    preferences = _collect_preferences(config, run, workspace, validated, results)
    record = Evaluated(
        inputs={Validated.stage: validated.digest(), Trained.stage: trained.digest()},
        files={f"scores.{role}": _store_rows(run, role, scored, preferences) for role, scored in results.items()},
        evaluation_version=version,
        models={
            subject.role: _model_scores(subject, results[subject.role], preferences) for subject in subjects if subject.role in results
        },
        missing={role: why for role, why in missing.items() if role not in results},
        champion=champion.model,
        anchor=anchor.model if anchor is not None else "",
        judge=judge,
        tries=1 + len(find_other_tries(config.target, workspace, validated, trained, champion.model)),
        champion_note="" if champion.model or champion.unavailable else f"Endpoint {endpoint} serves nothing: this is a first run.",
        notes=(
            *champion.notes,
            *filter(None, [preferences.note]),
            *(f"{role}: {note}" for role, scored in results.items() for note in scored.result.notes),
        ),
    )
    _print_summary(record)
    return run.write(record)


def evaluation_key(model: str, validated: Validated, version: str) -> str:
    """Return the sha256 over everything that affects a model's score, with the model represented by its id."""
    suites = {name: suite.digest for name, suite in validated.suites.items()}
    return reuse_key({}, {}, model=model, base=validated.base_model, suites=suites, version=version)


def _find_before(run: Run, version: str, judge: str) -> Evaluated | None:
    """Return the earlier evaluation, if code, settings and judge are still the same."""
    before = run.find(Evaluated)
    return before if before is not None and (before.evaluation_version, before.judge) == (version, judge) else None


def _find_anchor(config: Config, workspace: Workspace, champion: Champion) -> Champion | None:
    """Return the best model so far, if it is not the champion and a rule compares with it."""
    if all(rule.baseline != "anchor" for rule in config.gate.enabled_rules.values()):
        return None
    return find_anchor(workspace, workspace.endpoints.find(config.champion_endpoint), champion)


def _is_candidate(champion: Champion, registered: Registered) -> bool:
    """Return whether the live model is the one that this run registered. If it has been deleted, only its id can tell."""
    same_id = champion.model.lower() == registered.model.lower()
    return same_id and (champion.unavailable != "" or champion.identity == registered.identity)


def _build_scoring(config: Config, run: Run, workspace: Workspace, validated: Validated, version: str) -> Scoring:
    settings = config.evaluation
    inputs = {"base": JobInput("mlflow_model", validated.base_model)}
    inputs |= {name: JobInput("uri_file", str((run.directory / suite.path).resolve())) for name, suite in validated.suites.items()}
    return Scoring(
        workspace=workspace,
        compute=validated.compute,
        compute_size=validated.compute_size,
        environment=settings.environment,
        experiment=config.training.experiment,
        folder=run.path("evaluate", "jobs").parent,
        inputs=inputs,
        values={
            "base-id": validated.base_model,
            "generate-rows": settings.generate_rows,
            "task-rows": settings.task_rows,
            "max-tokens": settings.max_tokens,
            "max-new-tokens": settings.max_new_tokens,
            "batch-tokens": settings.batch_tokens,
            "precision": settings.precision,
            "trust-remote-code": str(settings.trust_remote_code).lower(),
        },
        version=version,
        timeout_s=config.training.timeout_hours * 3600,
        check=ScoreValidator(run, validated, version),
    )


class ScoreValidator:
    """Checks that a scoring job scored what it should, and that its metrics follow from its rows."""

    def __init__(self, run: Run, validated: Validated, version: str) -> None:
        self.version = version
        self.suites = validated.suites
        self.rows = sorted((name, row_id) for name, suite in self.suites.items() for row_id in _row_ids(run, suite))

    def __call__(self, subject: Subject, scored: ScoringOutput) -> None:
        """Check a job's scores.

        Raises:
            EvidenceError: with what does not match.
        """
        job, result = scored.job, scored.result
        expected = {
            "evaluation key": (result.key, subject.key),
            "evaluation version": (result.evaluation_version, self.version),
            "suite digests": (result.suite_digests, {name: suite.digest for name, suite in self.suites.items()}),
            "rows": (result.rows, {name: suite.rows for name, suite in self.suites.items()}),
        }
        for name, (actual, requested) in expected.items():
            if actual != requested:
                raise EvidenceError(f"Job {job} has scored something else: its {name} is {actual}, but {requested} was requested.", RETRY)
        if sorted((str(row.get("suite")), str(row.get("id"))) for row in scored.rows) != self.rows:
            raise EvidenceError(f"Job {job} scored rows that aren't those of the suites ({len(scored.rows)} of {len(self.rows)}).", RETRY)
        _check_metrics(scored)


def _row_ids(run: Run, suite: Suite) -> list[str]:
    path = run.directory / suite.path
    if not path.is_file() or file_sha256(path) != suite.digest:
        raise EvidenceError(f"{path} is missing or is not the {suite.name} suite that validation froze.", "run `mlops validate` again")
    return [str(json.loads(line).get("prompt_id")) for line in path.read_bytes().split(b"\n") if line]


def _check_metrics(scored: ScoringOutput) -> None:
    """Check that the reported metrics follow from the rows. If both are NaN or infinite, the gate judges them."""
    try:
        by_suite = {suite: Rows.of(row for row in scored.rows if row["suite"] == suite) for suite in scored.result.suite_digests}
    except InvalidScores as problem:
        raise EvidenceError(f"Job {scored.job} wrote rows that are not scores: {problem}", RETRY) from problem
    for name, reported in scored.result.metrics.items():
        metric = metrics.parse(name)
        value = metric.value(by_suite[metric.suite]) if metric is not None and metric.suite in by_suite else None
        if value is not None and not _equal(value, reported):
            raise EvidenceError(f"Job {scored.job} reports {name} = {reported:.6g}, but its rows give {value:.6g}.", RETRY)


def _equal(value: float, reported: float) -> bool:
    return math.isclose(value, reported, rel_tol=1e-6, abs_tol=1e-12) or (math.isnan(value) and math.isnan(reported))


def _collect_preferences(
    config: Config, run: Run, workspace: Workspace, validated: Validated, results: Mapping[Role, ScoringOutput]
) -> Preferences:
    """Return the judge's preferences, if there is a judge."""
    if not config.evaluation.judge.url:
        return Preferences({}, "")
    suite = run.directory / validated.suites["target"].path
    rows: dict[str, Sequence[Mapping[str, Any]]] = {role: scored.rows for role, scored in results.items()}
    credential = workspace.session.credential
    return collect_preferences(config.evaluation.judge, credential, suite, rows, run.path("evaluate", "judge.jsonl"))


def _store_rows(run: Run, role: str, scored: ScoringOutput, preferences: Preferences) -> FileDigest:
    path = run.path("evaluate", f"{role}.jsonl")
    preferences_by_row = preferences.by_role.get(role, {})
    if not preferences_by_row:
        shutil.copyfile(scored.folder / "scores.jsonl", path)
    else:
        rows = (
            row | ({COLUMN: preferences_by_row[row["id"]]} if row["suite"] == "target" and row["id"] in preferences_by_row else {})
            for row in scored.rows
        )
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return run.describe_file(path, len(scored.rows))


def _model_scores(subject: Subject, scored: ScoringOutput, preferences: Preferences) -> ModelScores:
    result = scored.result
    preferred = preferences.mean(subject.role)
    return ModelScores(
        role=subject.role,
        model=subject.model,
        identity=subject.identity,
        weights_digest=result.weights_digest,
        job=scored.job,
        mlflow_run_id=result.mlflow_run_id or scored.job,
        metrics=result.metrics | ({METRIC: preferred} if preferred is not None else {}),
        rows=result.rows,
        suite_digests=result.suite_digests,
        scores=f"scores.{subject.role}",
        samples=result.samples,
        reused=scored.reused,
    )


def _print_summary(record: Evaluated) -> None:
    if record.champion_note:
        console.info(f"  {record.champion_note}")
    for role, reason in record.missing.items():
        console.warning(f"The {role} can't be evaluated, so no rule that compares with it can hold. {reason}")
    for note in record.notes:
        console.warning(note)
    for role, scores in record.models.items():
        shown = [name for name in metrics.HEADLINE if name in scores.metrics]
        console.info(f"  {role}: {', '.join(f'{name} {scores.metrics[name]:.4g}' for name in shown)}")


main = stage.command(evaluate, needs=(Validated, Trained))


if __name__ == "__main__":
    sys.exit(main())
