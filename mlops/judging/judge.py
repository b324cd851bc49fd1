"""Judge the evaluation in a run directory. Nothing is written, and no service is called."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mlops.core.config import Config, Rule
from mlops.core.errors import ConfigError, EvidenceError, SelfTestFailed
from mlops.core.records import Evaluated, Judged, ModelScores, Prepared, Probe, Trained, Validated
from mlops.core.run import Run
from mlops.dataset.checks import RETENTION, TRAINING_SPLIT, check
from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.judging.selftest.probes import self_test
from mlops.judging.validity import direction_problem
from mlops.judging.verdict import decide
from mlops.judging.wording import describe

__all__ = ["gather_evidence", "judge", "require_all_detected", "run_self_test"]


def judge(config: Config, run: Run) -> Judged:
    """Judge the stored evaluation by the rules, and run the self-test.

    Raises:
        ConfigError: a rule demands a worse model.
        RecordError: a record is missing or out of date.
        EvidenceError: the per-row scores can't be read, or are those of another candidate.
        SelfTestFailed: the gate misses a mutation of the evidence.
    """
    evaluated, validated, trained = run.read(Evaluated), run.read(Validated), run.read(Trained)
    evidence = _evidence(run, evaluated, validated, trained)
    rules = _rules(config)
    decision = decide(rules, evidence)
    probes = self_test(rules, evidence, decision, decide)
    require_all_detected(probes)
    return Judged(
        inputs={record.stage: record.digest() for record in (evaluated, validated, trained)},
        target=config.target,
        verdict=decision.verdict,
        reasons=decision.reasons,
        judgements=decision.judgements,
        candidate_job=trained.job,
        candidate_model=trained.model_output,
        first_run=evidence.is_first_run,
        notes=_notes(evaluated, evidence),
        self_test=probes,
    )


def run_self_test(config: Config, run: Run) -> tuple[Probe, ...]:
    """Run the self-test on the stored evaluation, and return the probes whatever their result.

    Raises:
        RecordError, EvidenceError: as :func:`judge`.
    """
    evidence = _evidence(run, run.read(Evaluated), run.read(Validated), run.read(Trained))
    rules = _rules(config)
    return self_test(rules, evidence, decide(rules, evidence), decide)


def _rules(config: Config) -> tuple[Rule, ...]:
    """Return the rules. None may demand a worse model; ``validate`` checks this too, but the rules may have changed since."""
    for name, rule in config.gate.enabled_rules.items():
        if (problem := direction_problem(rule)) is not None:
            raise ConfigError(f"{config.locate(f'gate.rules.{name}')}: {describe(rule)}: {problem}", "reverse the rule's direction")
    return tuple(config.gate.enabled_rules.values())


def require_all_detected(probes: Sequence[Probe]) -> None:
    """Raise SelfTestFailed if the gate missed a mutation."""
    missed = [
        f"{probe.name} ({probe.mutation}): expected: {probe.expected}; actual: {probe.actual}"
        for probe in probes
        if probe.result == "missed"
    ]
    if missed:
        raise SelfTestFailed(
            f"The gate missed {len(missed)} of {len(probes)} mutations of this evidence, so there is no verdict. Nothing was registered or"
            f" deployed, and traffic is unchanged. {'. '.join(missed)}.",
            "this is a bug in the gate, or in rules that it can't judge; `mlops gate --self-test` shows all probes; please report it",
        )


def _evidence(run: Run, evaluated: Evaluated, validated: Validated, trained: Trained) -> Evidence:
    candidate = evaluated.models.get("candidate")
    if candidate is None or candidate.model != trained.model_output:
        actual = candidate.model if candidate else "no model"
        raise EvidenceError(
            f"The training produced {trained.model_output}, but {actual} was evaluated as the candidate.", "run `mlops evaluate` again"
        )
    return gather_evidence(run, evaluated, validated)


def gather_evidence(run: Run, evaluated: Evaluated, validated: Validated) -> Evidence:
    """Collect reported metrics, per-row scores, digests, and overlaps between suites and training data.

    Raises:
        EvidenceError: the per-row scores can't be read.
    """
    return Evidence(
        models={role: _model_evidence(run, evaluated, scores) for role, scores in evaluated.models.items()},
        suite_digests={name: suite.digest for name, suite in validated.suites.items()},
        overlapping=_find_overlaps(run, validated),
        missing=evaluated.missing,
    )


def _model_evidence(run: Run, evaluated: Evaluated, scores: ModelScores) -> ModelEvidence:
    if scores.scores not in evaluated.files:
        raise EvidenceError(f"The evaluation record names no file with the rows of the {scores.role}.", "run `mlops evaluate` again")
    path = run.directory / evaluated.files[scores.scores].path
    try:
        rows = [json.loads(line) for line in path.read_bytes().split(b"\n") if line]
        suites = sorted({row["suite"] for row in rows})
        by_suite = {suite: Rows.of(row for row in rows if row["suite"] == suite) for suite in suites}
    except (OSError, ValueError, TypeError, KeyError) as problem:
        raise EvidenceError(f"{path} can't be read as per-row scores: {problem!r}", "run `mlops evaluate` again") from problem
    return ModelEvidence(
        model=scores.model,
        run=scores.job,
        weights_digest=scores.weights_digest,
        metrics=scores.metrics,
        suite_digests=scores.suite_digests,
        rows=by_suite,
    )


def _find_overlaps(run: Run, validated: Validated) -> dict[str, str]:
    """Return suite → which of its rows are in the training data. The files are checked again because validation can be overruled."""
    files = {"target": "test_sft", "retention": RETENTION}
    paths = {name: run.directory / suite.path for name, suite in validated.suites.items()}
    training = run.directory / run.read(Prepared).files[TRAINING_SPLIT].path
    checked = check({TRAINING_SPLIT: training, **{files[name]: path for name, path in paths.items()}})
    overlaps = [finding for finding in checked.findings if finding.rule in ("overlap.exact", "overlap.normalized")]
    by_suite: dict[str, str] = {}
    for name, path in paths.items():
        in_suite = [finding for finding in overlaps if finding.where.startswith(f"{path}:")]
        if in_suite:
            by_suite[name] = f"{len(in_suite)} rows, the first at {in_suite[0].where}, which {in_suite[0].message}"
    return by_suite


def _notes(evaluated: Evaluated, evidence: Evidence) -> tuple[str, ...]:
    first_run = f"{evaluated.champion_note} Rules that compare with the champion compare with the base model instead.".strip()
    missing = [f"The {role} was not evaluated: {why}" for role, why in sorted(evaluated.missing.items())]
    return (*([first_run] if evidence.is_first_run else []), *missing, *evaluated.notes)
