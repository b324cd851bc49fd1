"""Decide whether the candidate may go on: PROMOTE (exit 0), HOLD (10) or REJECT (20).

    python -m mlops.gate --target prod

Judges what ``evaluate`` measured by the rules in pipeline.toml, asks Azure nothing and decides alike every time. Leaves
``run/gate.json``, ``run/gate.md`` and ``run/report.html``.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from mlops.core import console, stage
from mlops.core.config import Config
from mlops.core.errors import EvidenceError
from mlops.core.records import Evaluated, Judged, ModelScores, Prepared, Trained, Validated, Verdict
from mlops.core.run import Run, write_atomically
from mlops.dataset.checks import RETENTION, TRAINED_ON, check
from mlops.judging.evidence import Evidence, ModelEvidence, Rows
from mlops.judging.rules import answer
from mlops.judging.verdict import combine
from mlops.report import html, markdown

__all__ = ["gate", "gather", "main"]


def gate(config: Config, run: Run) -> Judged:
    """Answer every rule and combine the answers.

    Raises:
        RecordError: a record is missing or out of date.
        EvidenceError: the per-row scores can't be read, or are about another candidate.
    """
    # If this stops half-way, an earlier decision, perhaps under other rules, must not stand.
    run.forget(Judged)
    evaluated, validated, trained = run.read(Evaluated), run.read(Validated), run.read(Trained)
    candidate = evaluated.models.get("candidate")
    if candidate is None or candidate.model != trained.model_output:
        seen = candidate.model if candidate else "nothing"
        raise EvidenceError(f"Trained was {trained.model_output}, and evaluated as the candidate {seen}.", "run `mlops evaluate` again")
    evidence = gather(run, evaluated, validated)
    judgements = tuple(answer(rule, evidence) for rule in config.gate.rules)
    verdict, reasons = combine(judgements)
    record = Judged(
        inputs={record.stage: record.digest() for record in (evaluated, validated, trained)},
        verdict=verdict,
        reasons=reasons,
        judgements=judgements,
        candidate_job=trained.job,
        candidate_model=trained.model_output,
        first_run="champion" not in evaluated.models,
    )
    page = markdown.gate_page(record, evaluated)
    path = run.path("gate.md")
    write_atomically(path, page.encode())
    record = run.write(record.model_copy(update={"files": {"markdown": run.keep(path)}}))
    report = html.write(run)
    _tell(record, page, report)
    return record


def gather(run: Run, evaluated: Evaluated, validated: Validated) -> Evidence:
    """The evidence: reported metrics, per-row scores, digests, and whether a suite is in the training data.

    Raises:
        EvidenceError: the per-row scores can't be read.
    """
    return Evidence(
        models={role: _model_evidence(run, evaluated, scores) for role, scores in evaluated.models.items()},
        suite_digests={name: suite.digest for name, suite in validated.suites.items()},
        overlapping=_overlapping(run, validated),
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


def _tell(record: Judged, page: str, report: Path) -> None:
    for judgement in record.judgements:
        console.info(f"  {judgement.outcome.value:9} {judgement.rule}{'' if judgement.critical else ' (not critical)'}")
        console.info(f"            {judgement.reason}")
    console.summary(page)
    console.output("verdict", record.verdict.value)
    say = {Verdict.PROMOTE: console.notice, Verdict.HOLD: console.warning, Verdict.REJECT: console.error}[record.verdict]
    say(f"{record.verdict.value}: {markdown.MEANING[record.verdict]}.")
    console.info(f"  report: {report}")


def main(argv: Sequence[str] | None = None) -> int:
    """Run this stage as a command."""
    return stage.run(gate, argv)


if __name__ == "__main__":
    sys.exit(main())
