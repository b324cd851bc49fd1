"""Judge the evaluation in a run directory, and check a stored verdict. Nothing is written, and no service is called."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from mlops.core.errors import ConfigError, EvidenceError, SelfTestFailed
from mlops.core.evaluation_version import evaluation_version
from mlops.core.judgement import Probe
from mlops.core.records import Evaluated, Judged, ModelScores, Prepared, Suite, Trained, Validated
from mlops.core.reuse import reuse_key
from mlops.core.run import Run, file_sha256
from mlops.core.settings import Config, Rule
from mlops.dataset.checks import RETENTION, TRAINING_SPLIT, check
from mlops.dataset.hashes import hash64, normalize
from mlops.judging.evidence import Evidence, FrozenSuite, ModelEvidence, Rows
from mlops.judging.rules import expand
from mlops.judging.selftest.probes import self_test
from mlops.judging.statistics.spending import spend
from mlops.judging.validity import rule_problem
from mlops.judging.verdict import Decision, decide
from mlops.judging.wording import describe, percent

__all__ = ["decide_as_try", "gather_evidence", "judge", "reject_duplicates", "require_all_detected", "run_self_test"]

_TEMPLATE_TOKENS = 64
"""At least as many tokens as a chat template adds to a message."""


def judge(config: Config, run: Run) -> Judged:
    """Judge the stored evaluation by the rules, and run the self-test. The same run directory and settings give the same record.

    Raises:
        ConfigError: a rule requires a worse model, or is meaningless.
        RecordError: a record is missing or out of date.
        EvidenceError: the per-row scores or a suite can't be read, or are those of another candidate.
        SelfTestFailed: the gate misses a mutation of the evidence.
    """
    evaluated, validated, trained = run.read(Evaluated), run.read(Validated), run.read(Trained)
    evidence = _evidence(config, run, evaluated, validated, trained)
    rules = _rules(config, evaluated.tries)
    decision = decide(rules, evidence)
    names = [name for name, rule in config.gate.enabled_rules.items() for _ in expand(rule, evidence)]
    probes = self_test(rules, evidence, decision, decide)
    require_all_detected(probes)
    return Judged(
        inputs={record.stage: record.digest() for record in (evaluated, validated, trained)},
        target=config.target,
        verdict=decision.verdict,
        reasons=decision.reasons,
        judgements=tuple(judgement.model_copy(update={"name": name}) for name, judgement in zip(names, decision.judgements, strict=True)),
        rules_digest=reuse_key(config.gate.enabled_rules, {}),
        settings_digest=reuse_key({"gate": config.gate, "evaluation": config.evaluation, "data": config.data}, {}),
        suite_digests=dict(evidence.suite_digests),
        evaluation_version=evaluated.evaluation_version,
        candidate_job=trained.job,
        candidate_model=trained.model_output,
        first_run=evidence.is_first_run,
        notes=_notes(config, evaluated, evidence),
        self_test=probes,
    )


def run_self_test(config: Config, run: Run) -> tuple[Probe, ...]:
    """Run the self-test on the stored evaluation, and return the probes whatever their result.

    Raises:
        ConfigError, RecordError, EvidenceError: as :func:`judge`.
    """
    evaluated = run.read(Evaluated)
    evidence = _evidence(config, run, evaluated, run.read(Validated), run.read(Trained))
    rules = _rules(config, evaluated.tries)
    return self_test(rules, evidence, decide(rules, evidence), decide)


def decide_as_try(config: Config, run: Run, tries: int) -> Decision:
    """Judge the stored evaluation as if this many candidates had been counted, without the self-test.

    Raises:
        ConfigError, RecordError, EvidenceError: as :func:`judge`.
    """
    evidence = _evidence(config, run, run.read(Evaluated), run.read(Validated), run.read(Trained))
    return decide(_rules(config, tries), evidence)


def _rules(config: Config, tries: int) -> tuple[Rule, ...]:
    """Return the rules, with the confidence that this try needs.

    Refuse meaningless rules: ``validate`` does too, but the rules may have changed since.
    """
    for name, rule in config.gate.enabled_rules.items():
        if (problem := rule_problem(rule)) is not None:
            raise ConfigError(
                f"{config.locate(f'gate.rules.{name}')}: {describe(rule)}: {problem}", f"correct rule {name}; nothing was judged"
            )
    rules = tuple(config.gate.enabled_rules.values())
    if not config.gate.correct_retries:
        return rules
    return tuple(rule.model_copy(update={"confidence": spend(rule.confidence, tries)}) for rule in rules)


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
            "if a ruined candidate is missed, the rules in pipeline.toml are too lenient to stop anything; otherwise this is a bug in the"
            " gate: please report it. `mlops gate --self-test` shows all probes",
        )


def _evidence(config: Config, run: Run, evaluated: Evaluated, validated: Validated, trained: Trained) -> Evidence:
    candidate = evaluated.models.get("candidate")
    if candidate is None or candidate.model != trained.model_output:
        actual = candidate.model if candidate else "no model"
        raise EvidenceError(
            f"The training produced {trained.model_output}, but {actual} was evaluated as the candidate.", "run `mlops evaluate` again"
        )
    return gather_evidence(config, run, evaluated, validated)


def gather_evidence(config: Config, run: Run, evaluated: Evaluated, validated: Validated) -> Evidence:
    """Collect reported metrics, per-row scores, the frozen suites, digests, and overlaps between suites and training data.

    Raises:
        EvidenceError: the per-row scores or a suite can't be read.
    """
    missing = dict(evaluated.missing)
    if evaluated.champion and "champion" not in evaluated.models:
        # A champion that is named exists even without scores, so this isn't a first run.
        missing.setdefault("champion", f"{evaluated.champion} is live, but the evaluation has no scores of it. Run `mlops evaluate` again.")
    if evaluated.anchor and "anchor" not in evaluated.models:
        missing.setdefault("anchor", f"it is {evaluated.anchor}, but the evaluation has no scores of it. Run `mlops evaluate` again.")
    return Evidence(
        models={role: _model_evidence(run, evaluated, scores) for role, scores in evaluated.models.items()},
        suite_digests={name: suite.digest for name, suite in validated.suites.items()},
        overlapping=_find_overlaps(run, validated),
        missing=missing,
        suites={name: _read_suite(run, suite, config.evaluation.max_tokens) for name, suite in validated.suites.items()},
        problems=tuple(_find_problems(config, evaluated, validated)),
    )


def _find_problems(config: Config, evaluated: Evaluated, validated: Validated) -> list[str]:
    """Return what makes the evaluation as a whole invalid."""
    problems = []
    if evaluated.evaluation_version != evaluation_version(config, validated):
        problems.append(
            f"the scores were computed by other code or with other settings than those of target {config.target} "
            f"(evaluation version {evaluated.evaluation_version[:12]}): run `mlops evaluate` again"
        )
    for role, named in (("champion", evaluated.champion), ("anchor", evaluated.anchor)):
        scores = evaluated.models.get(role)
        if scores is not None and named and scores.model.lower() != named.lower():
            problems.append(f"the {role} is {named}, but {scores.model} was evaluated as the {role}")
    return problems


def _model_evidence(run: Run, evaluated: Evaluated, scores: ModelScores) -> ModelEvidence:
    if scores.scores not in evaluated.files:
        raise EvidenceError(f"The evaluation record names no file with the rows of the {scores.role}.", "run `mlops evaluate` again")
    path = run.directory / evaluated.files[scores.scores].path
    try:
        rows = [json.loads(line, object_pairs_hook=reject_duplicates) for line in path.read_bytes().split(b"\n") if line]
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


def reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Refuse a row with two values for one field, because parsers differ in which they use."""
    row = dict(pairs)
    if len(row) != len(pairs):
        raise ValueError(f"a field appears twice in a row: {', '.join(name for name, _ in pairs)}")
    return row


def _read_suite(run: Run, suite: Suite, max_tokens: int) -> FrozenSuite:
    """Read the frozen rows, which every model must have been scored on.

    Raises:
        EvidenceError: the file is not the one that validation froze.
    """
    path, fix = run.directory / suite.path, "run `mlops validate` again"
    if not path.is_file() or file_sha256(path) != suite.digest:
        raise EvidenceError(f"{path} is missing or is not the {suite.name} suite that validation froze.", fix)
    try:
        rows = sorted((json.loads(line) for line in path.read_bytes().split(b"\n") if line), key=lambda row: str(row["prompt_id"]))
        messages = [[(str(message["role"]), str(message["content"])) for message in row["messages"]] for row in rows]
        return FrozenSuite(
            ids=tuple(str(row["prompt_id"]) for row in rows),
            kinds=tuple(str(row.get("kind") or "") for row in rows),
            texts=tuple(hashlib.sha256(json.dumps(each).encode()).hexdigest()[:16] for each in messages),
            contents=tuple(str(hash64(*(part for role, text in each for part in (role.encode(), normalize(text))))) for each in messages),
            fewest_tokens=np.array([_fewest_tokens(each, max_tokens) for each in messages], dtype=np.float64),
            most_tokens=np.array([_most_tokens(each) for each in messages], dtype=np.float64),
        )
    except (ValueError, TypeError, KeyError) as problem:
        raise EvidenceError(f"{path} can't be read as a suite: {problem!r}", fix) from problem


def _fewest_tokens(messages: Sequence[tuple[str, str]], max_tokens: int) -> int:
    """Return the smallest number of tokens that the answers can have: 0 if the row may have been cut off before them."""
    # No token is shorter than a byte, so a row with fewer bytes was not cut off. Hardly any token is longer than a word.
    longest = sum(len(text.encode()) + _TEMPLATE_TOKENS for _, text in messages)
    words = sum(len(text.split()) for role, text in messages if role == "assistant")
    return 0 if longest > max_tokens else max(1, words // 4)


def _most_tokens(messages: Sequence[tuple[str, str]]) -> int:
    return sum(len(text.encode()) + _TEMPLATE_TOKENS for role, text in messages if role == "assistant")


def _find_overlaps(run: Run, validated: Validated) -> dict[str, str]:
    """Return suite → which of its rows are in the training data. Checks the files again, because findings can be overridden."""
    files = {"target": "test_sft", "retention": RETENTION}
    paths = {name: run.directory / suite.path for name, suite in validated.suites.items()}
    training = run.read(Prepared).path(TRAINING_SPLIT, run.directory)
    checked = check({TRAINING_SPLIT: training, **{files[name]: path for name, path in paths.items()}})
    overlaps = [finding for finding in checked.findings if finding.rule.startswith("overlap.") and finding.severity == "error"]
    by_suite: dict[str, str] = {}
    for name, path in paths.items():
        in_suite = [finding for finding in overlaps if finding.where.startswith(f"{path}:")]
        if in_suite:
            rows = [finding for finding in in_suite if finding.rule != "overlap.suite"]
            by_suite[name] = f"{len(rows)} rows, the first at {rows[0].where}, which {rows[0].message}" if rows else in_suite[0].message
    return by_suite


def _notes(config: Config, evaluated: Evaluated, evidence: Evidence) -> tuple[str, ...]:
    first_run = f"{evaluated.champion_note} Rules that compare with the champion compare with the base model instead.".strip()
    missing = [f"The {role} was not evaluated: {why}" for role, why in sorted(evidence.missing.items())]
    corrected = config.gate.correct_retries and evaluated.tries > 1
    retry = (
        f"This is candidate {evaluated.tries} on this target suite against this champion. So that retrying doesn't help, each test has a"
        f" confidence of {percent(spend(0.95, evaluated.tries))} instead of 95 %."
    )
    return (*([first_run] if evidence.is_first_run else []), *([retry] if corrected else []), *missing, *evaluated.notes)
