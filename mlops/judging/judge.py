"""What the rules say of the evaluation in a run directory. Nothing is written, and nobody is asked."""

from __future__ import annotations

import json
from collections.abc import Sequence

from mlops.core.config import Config, Rule, locate
from mlops.core.errors import ConfigError, EvidenceError, SelfTestFailed
from mlops.core.records import Evaluated, Judged, ModelScores, Prepared, Probe, Trained, Validated
from mlops.core.run import Run
from mlops.dataset.checks import RETENTION, TRAINED_ON, check
from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.judging.selftest.probes import self_test
from mlops.judging.validity import direction_fault
from mlops.judging.verdict import decide
from mlops.judging.wording import describe

__all__ = ["gather", "judge", "none_missed", "probe"]


def judge(config: Config, run: Run) -> Judged:
    """What the rules say of the stored evaluation, after the self-test.

    Raises:
        ConfigError: a rule asks for a worse model.
        RecordError: a record is missing or out of date.
        EvidenceError: the per-row scores can't be read, or are about another candidate.
        SelfTestFailed: the gate does not notice what it must notice.
    """
    evaluated, validated, trained = run.read(Evaluated), run.read(Validated), run.read(Trained)
    evidence = _evidence(run, evaluated, validated, trained)
    rules = _rules(config)
    decision = decide(rules, evidence)
    probes = self_test(rules, evidence, decision, decide)
    none_missed(probes)
    return Judged(
        inputs={record.stage: record.digest() for record in (evaluated, validated, trained)},
        target=config.target,
        verdict=decision.verdict,
        reasons=decision.reasons,
        judgements=decision.judgements,
        candidate_job=trained.job,
        candidate_model=trained.model_output,
        first_run=_first_run(evaluated),
        notes=_notes(evaluated),
        self_test=probes,
    )


def probe(config: Config, run: Run) -> tuple[Probe, ...]:
    """The self-test on the stored evaluation, whatever comes out.

    Raises:
        RecordError, EvidenceError: as :func:`judge`.
    """
    evidence = _evidence(run, run.read(Evaluated), run.read(Validated), run.read(Trained))
    rules = _rules(config)
    return self_test(rules, evidence, decide(rules, evidence), decide)


def _rules(config: Config) -> tuple[Rule, ...]:
    """The rules, none of which asks for a worse model. ``validate`` refuses that, too, but they may have been changed since."""
    for rule in config.gate.rules:
        if (fault := direction_fault(rule)) is not None:
            raise ConfigError(f"{locate(config, 'gate.rules')}: {describe(rule)}: {fault}", "turn the rule's direction")
    return config.gate.rules


def none_missed(probes: Sequence[Probe]) -> None:
    """Raise SelfTestFailed, with what was missed, where something was."""
    missed = [
        f"{probe.name} ({probe.change}): expected is {probe.expected}, and {probe.found}" for probe in probes if probe.result == "missed"
    ]
    if missed:
        raise SelfTestFailed(
            f"The gate does not notice {len(missed)} of {len(probes)} sabotages of this evidence, so it gives no verdict and nothing is"
            f" registered, deployed or moved. {'. '.join(missed)}.",
            "this is a bug of the gate, or of rules that it can't answer: `mlops gate --self-test` shows all probes; please report it",
        )


def _evidence(run: Run, evaluated: Evaluated, validated: Validated, trained: Trained) -> Evidence:
    candidate = evaluated.models.get("candidate")
    if candidate is None or candidate.model != trained.model_output:
        seen = candidate.model if candidate else "nothing"
        raise EvidenceError(f"Trained was {trained.model_output}, and evaluated as the candidate {seen}.", "run `mlops evaluate` again")
    return gather(run, evaluated, validated)


def gather(run: Run, evaluated: Evaluated, validated: Validated) -> Evidence:
    """The evidence: reported metrics, per-row scores, digests, and whether a suite is in the training data.

    Raises:
        EvidenceError: the per-row scores can't be read.
    """
    return Evidence(
        models={role: _model_evidence(run, evaluated, scores) for role, scores in evaluated.models.items()},
        suite_digests={name: suite.digest for name, suite in validated.suites.items()},
        overlapping=_overlapping(run, validated),
        missing=evaluated.missing,
    )


def _model_evidence(run: Run, evaluated: Evaluated, scores: ModelScores) -> ModelEvidence:
    if scores.scores not in evaluated.files:
        raise EvidenceError(f"The evaluation names no file with the rows of the {scores.role}.", "run `mlops evaluate` again")
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


def _overlapping(run: Run, validated: Validated) -> dict[str, str]:
    """Suite → what of it is in the training data. Looked at again, on the very files: validation may have been told to go on."""
    files = {"target": "test_sft", "retention": RETENTION}
    paths = {name: run.directory / suite.path for name, suite in validated.suites.items()}
    training = run.directory / run.read(Prepared).files[TRAINED_ON].path
    checked = check({TRAINED_ON: training, **{files[name]: path for name, path in paths.items()}})
    overlaps = [finding for finding in checked.findings if finding.rule in ("overlap.exact", "overlap.normalised")]
    found: dict[str, str] = {}
    for name, path in paths.items():
        here = [finding for finding in overlaps if finding.where.startswith(f"{path}:")]
        if here:
            found[name] = f"{len(here)} rows, the first at {here[0].where}, which {here[0].message}"
    return found


def _first_run(evaluated: Evaluated) -> bool:
    return "champion" not in evaluated.models and "champion" not in evaluated.missing


def _notes(evaluated: Evaluated) -> tuple[str, ...]:
    first = f"First run. {evaluated.champion_note} Rules against the champion are answered against the base model."
    missing = [f"The {role} was not evaluated: {why}" for role, why in sorted(evaluated.missing.items())]
    return (*([" ".join(first.split())] if _first_run(evaluated) else []), *missing, *evaluated.notes)
