"""The gate as a stage: records in, verdict, files and exit code out."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlops.core.config import Config, GateConfig, Rule
from mlops.core.errors import EvidenceError, RecordError
from mlops.core.records import Evaluated, Judged, Outcome, Trained, Validated, Verdict
from mlops.core.run import Run
from mlops.gate import gate, main
from tests.judging.making import rows, rule
from tests.report.making import make_run, write_evaluated

RULES = (
    rule(baseline="champion", test="paired_bootstrap", min_rows=50),
    rule(baseline="base", margin=-0.05, test="paired_bootstrap", min_rows=50),
    rule("retention.nll", baseline="base", margin=0.05, test="paired_bootstrap", min_rows=50),
    rule("retention.kl_base", ceiling=0.5),
)


def config(*rules: Rule) -> Config:
    return Config(target="test", gate=GateConfig(rules=rules or RULES))


def candidate(**changes: Any) -> dict[Any, Sequence[Mapping[str, Any]]]:
    return {"candidate": rows("candidate", **{"shift": -0.4, **changes}), "champion": rows("champion"), "base": rows("base")}


def test_a_better_model_is_promoted(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    judged = gate(config(), run)
    assert judged.verdict is Verdict.PROMOTE
    assert [judgement.outcome for judgement in judged.judgements] == [Outcome.SHOWN] * 4
    assert not judged.first_run
    assert run.read(Judged) == judged


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"shift": 0.4}, Verdict.REJECT),
        ({"shift": 0.0}, Verdict.REJECT),  # not 5 % better than the base, and that is shown
        ({"kl": 2.0}, Verdict.REJECT),  # better on the target, and far from what it was
        ({"shift": -0.1}, Verdict.HOLD),  # about 5 % better
    ],
)
def test_a_worse_model_is_not(tmp_path: Path, changes: dict[str, float], verdict: Verdict) -> None:
    assert gate(config(), make_run(tmp_path, candidate(**changes))).verdict is verdict


def test_a_first_run_is_judged_against_the_base(tmp_path: Path) -> None:
    made = candidate()
    del made["champion"]
    judged = gate(config(), make_run(tmp_path / "good", made))
    assert (judged.verdict, judged.first_run) == (Verdict.PROMOTE, True)
    assert judged.judgements[0].answered_against == "base"
    made["candidate"] = rows("candidate", shift=0.2)
    assert gate(config(), make_run(tmp_path / "bad", made)).verdict is Verdict.REJECT


def test_without_rules_it_holds(tmp_path: Path) -> None:
    judged = gate(Config(target="test"), make_run(tmp_path))
    assert judged.verdict is Verdict.HOLD
    assert "nothing was asked" in judged.reasons[0]


def test_training_on_the_test_holds(tmp_path: Path) -> None:
    judged = gate(config(), make_run(tmp_path, overlap=True))
    assert judged.verdict is Verdict.HOLD
    assert "the target suite overlaps the training data: 1 rows" in judged.reasons[0]


def test_the_same_evidence_gives_the_same_decision(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    first = gate(config(), run)
    page = (tmp_path / "gate.md").read_bytes()
    again = gate(config(), run)
    assert again.digest() == first.digest()
    assert (tmp_path / "gate.md").read_bytes() == page


def test_other_rules_decide_anew(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    gate(config(), run)
    assert gate(config(rule(ceiling=0.1)), run).verdict is Verdict.REJECT
    assert run.read(Judged).verdict is Verdict.REJECT


# Fails closed ---------------------------------------------------------------------------------------------------------------------


def test_scores_that_were_touched_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = tmp_path / "evaluate" / "candidate.jsonl"
    path.write_text(path.read_text().replace('"nll": ', '"nll": 0', 1))
    with pytest.raises(RecordError, match="is not the file that evaluate recorded"):
        gate(config(), run)


def test_an_older_decision_does_not_outlive_a_gate_that_stops(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    assert gate(config(), run).verdict is Verdict.PROMOTE
    write_evaluated(run, run.read(Validated), run.read(Trained), {"base": rows("base")})
    with pytest.raises(EvidenceError, match="evaluated as the candidate nothing"):
        gate(config(), run)
    assert not run.has(Judged)


def test_an_evaluation_of_another_training_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.write(run.read(Trained).model_copy(update={"job": "train-2"}))
    with pytest.raises(RecordError, match="another train record"):
        gate(config(), run)


def test_another_candidate_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    evaluated = run.read(Evaluated)
    other = evaluated.models["candidate"].model_copy(update={"model": "azureml://jobs/other/outputs/trained_model"})
    run.write(evaluated.model_copy(update={"models": {**evaluated.models, "candidate": other}}))
    with pytest.raises(EvidenceError, match="evaluated as the candidate azureml://jobs/other"):
        gate(config(), run)


def test_a_record_of_another_schema_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = tmp_path / "evaluate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 0}))
    with pytest.raises(RecordError, match="schema_version"):
        gate(config(), run)


@pytest.mark.parametrize(
    "break_row",
    [
        lambda row: row.pop("nll"),
        lambda row: row.update(nll="2.0"),
        lambda row: row.update(tokens=1.5),
        lambda row: row.update(tokens=-1),
        lambda row: row.pop("suite"),
        lambda row: row.update(id=None),
    ],
)
def test_rows_that_are_no_scores_are_refused(tmp_path: Path, break_row: Any) -> None:
    run = make_run(tmp_path)
    evaluated = run.read(Evaluated)
    path = tmp_path / "evaluate" / "candidate.jsonl"
    made = [json.loads(line) for line in path.read_text().splitlines()]
    break_row(made[5])
    path.write_text("".join(json.dumps(row) + "\n" for row in made))
    run.write(evaluated.model_copy(update={"files": {**evaluated.files, "scores.candidate": run.keep(path)}}))
    with pytest.raises(EvidenceError, match="can't be read as per-row scores"):
        gate(config(), run)


def test_metrics_that_are_not_from_the_rows_hold(tmp_path: Path) -> None:
    run = make_run(tmp_path, candidate(shift=0.4))
    evaluated = run.read(Evaluated)
    scores = evaluated.models["candidate"]
    flattered = scores.model_copy(update={"metrics": {**scores.metrics, "target.nll": 0.5}})
    run.write(evaluated.model_copy(update={"models": {**evaluated.models, "candidate": flattered}}))
    judged = gate(config(rule(ceiling=1.0)), run)
    assert judged.verdict is Verdict.HOLD
    assert "does not follow from its rows" in judged.reasons[0]


# What comes out -------------------------------------------------------------------------------------------------------------------


def pipeline(path: Path, ceiling: float) -> Path:
    path.write_text(f'[[targets.test.gate.rules]]\nmetric = "target.nll"\ndirection = "lower"\nceiling = {ceiling}\n')
    return path


@pytest.mark.parametrize(("ceiling", "verdict", "code"), [(3.0, "PROMOTE", 0), (0.1, "REJECT", 20)])
def test_exit_code_output_and_summary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ceiling: float, verdict: str, code: int) -> None:
    make_run(tmp_path / "run")
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.setenv(name, str(tmp_path / name))
    settings = pipeline(tmp_path / "pipeline.toml", ceiling)
    assert main(["--target", "test", "--config", str(settings), "--run", str(tmp_path / "run")]) == code
    assert f"\n{verdict}\n" in (tmp_path / "GITHUB_OUTPUT").read_text()
    assert (tmp_path / "GITHUB_STEP_SUMMARY").read_text().startswith(f"## Gate: {verdict}\n")
    assert (tmp_path / "run" / "report.html").is_file()


def test_hold_exits_with_10(tmp_path: Path) -> None:
    make_run(tmp_path / "run", overlap=True)
    settings = pipeline(tmp_path / "pipeline.toml", 3.0)
    assert main(["--target", "test", "--config", str(settings), "--run", str(tmp_path / "run")]) == 10


def test_unfinished_evaluation_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="mlops evaluate"):
        gate(config(), Run(tmp_path))
