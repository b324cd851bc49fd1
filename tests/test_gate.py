"""The gate as a stage: records in, verdict, files, tags and exit code out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlops.cloud.workspace import Workspace
from mlops.core import guard
from mlops.core.config import Config, EndpointConfig, GateConfig, Rule
from mlops.core.errors import AzureError, ConfigError, EvidenceError, NotPromoted, RecordError, SelfTestFailed
from mlops.core.records import Evaluated, Judged, Outcome, Override, Trained, Validated, Verdict
from mlops.core.run import Run
from mlops.gate import gate, main
from mlops.judging import validity
from mlops.judging.judge import judge
from tests.support.evidence import make_rows, make_rule, name_rules
from tests.support.run_directories import make_run, write_evaluated

Fault = Callable[[str], None]

RULES = (
    make_rule(baseline="champion", test="paired_bootstrap", min_rows=50),
    make_rule(baseline="base", margin=-0.05, test="paired_bootstrap", min_rows=50),
    make_rule("retention.nll", baseline="base", margin=0.05, test="paired_bootstrap", min_rows=50),
    make_rule("retention.kl_base", ceiling=0.5),
)


def config(*rules: Rule) -> Config:
    return Config(target="test", gate=GateConfig(rules=name_rules(rules or RULES)))


def candidate(**changes: Any) -> dict[Any, Sequence[Mapping[str, Any]]]:
    return {"candidate": make_rows("candidate", **{"shift": -0.4, **changes}), "champion": make_rows("champion"), "base": make_rows("base")}


@pytest.fixture
def training(workspace: Workspace) -> str:
    """A run in MLflow, as the training's."""
    client = workspace.tracking.client
    experiment = client.get_experiment_by_name("gate")
    return str(client.create_run(experiment.experiment_id if experiment else client.create_experiment("gate")).info.run_id)


def tags(workspace: Workspace, run: str) -> dict[str, str]:
    return {key: value for key, value in workspace.tracking.client.get_run(run).data.tags.items() if not key.startswith("mlflow.")}


def test_a_better_model_is_promoted(tmp_path: Path, workspace: Workspace, training: str) -> None:
    run = make_run(tmp_path, mlflow_run=training)
    judged = gate(config(), run, workspace)
    assert judged.verdict is Verdict.PROMOTE
    assert [judgement.outcome for judgement in judged.judgements] == [Outcome.SHOWN] * 4
    assert not judged.first_run
    assert run.read(Judged) == judged
    assert judged.self_test
    assert {probe.result for probe in judged.self_test} == {"detected"}


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({"shift": 0.4}, Verdict.REJECT),
        ({"shift": 0.0}, Verdict.REJECT),  # not 5 % better than the base, and that is shown
        ({"kl": 2.0}, Verdict.REJECT),  # better on the target, and far from what it was
        ({"shift": -0.1}, Verdict.HOLD),  # about 5 % better
    ],
)
def test_a_worse_model_is_not_promoted(tmp_path: Path, changes: dict[str, float], verdict: Verdict) -> None:
    assert judge(config(), make_run(tmp_path, candidate(**changes))).verdict is verdict


def test_a_first_run_is_judged_against_the_base(tmp_path: Path) -> None:
    scores = candidate()
    del scores["champion"]
    judged = judge(config(), make_run(tmp_path / "good", scores))
    assert (judged.verdict, judged.first_run) == (Verdict.PROMOTE, True)
    assert judged.judgements[0].compared_with == "base"
    assert judged.notes[0].startswith("Endpoint chat serves nothing: this is a first run.")
    scores["candidate"] = make_rows("candidate", shift=0.2)
    assert judge(config(), make_run(tmp_path / "bad", scores)).verdict is Verdict.REJECT


def test_a_champion_that_could_not_be_evaluated_is_not_a_first_run(tmp_path: Path) -> None:
    scores = candidate()
    del scores["champion"]
    run = make_run(tmp_path, scores)
    changes = {
        "missing": {"champion": "model chat:3 is not in the registry"},
        "champion": "chat:3",
        "champion_note": "",
        "notes": ("Mind.",),
    }
    run.write(run.read(Evaluated).model_copy(update=changes))
    judged = judge(config(), run)
    assert (judged.verdict, judged.first_run) == (Verdict.HOLD, False)
    assert judged.judgements[0].outcome is Outcome.INVALID
    assert judged.notes == ("The champion was not evaluated: model chat:3 is not in the registry", "Mind.")


def test_without_rules_the_verdict_is_hold(tmp_path: Path) -> None:
    judged = judge(Config(target="test"), make_run(tmp_path))
    assert judged.verdict is Verdict.HOLD
    assert "nothing is judged" in judged.reasons[0]


def test_training_on_test_rows_gives_hold(tmp_path: Path) -> None:
    judged = judge(config(), make_run(tmp_path, overlap=True))
    assert judged.verdict is Verdict.HOLD
    assert "the target suite overlaps the training data: 1 rows" in judged.reasons[0]


def test_the_same_evidence_gives_the_same_verdict(tmp_path: Path, workspace: Workspace, training: str) -> None:
    run = make_run(tmp_path, mlflow_run=training)
    first = gate(config(), run, workspace)
    page = (tmp_path / "gate.md").read_bytes()
    before = tags(workspace, training)
    again = gate(config(), run, workspace)
    assert again.digest() == first.digest()
    assert (tmp_path / "gate.md").read_bytes() == page
    assert tags(workspace, training).keys() == before.keys()


def test_other_rules_give_a_new_verdict(tmp_path: Path, workspace: Workspace, training: str) -> None:
    run = make_run(tmp_path, mlflow_run=training)
    gate(config(), run, workspace)
    assert gate(config(make_rule(ceiling=0.1)), run, workspace).verdict is Verdict.REJECT
    assert run.read(Judged).verdict is Verdict.REJECT


# Fails closed ---------------------------------------------------------------------------------------------------------------------


def test_scores_that_were_tampered_with_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = tmp_path / "evaluate" / "candidate.jsonl"
    path.write_text(path.read_text().replace('"nll": ', '"nll": 0', 1))
    with pytest.raises(RecordError, match="is missing or has changed since evaluate wrote it"):
        judge(config(), run)


def test_a_gate_that_fails_deletes_the_earlier_verdict(tmp_path: Path, workspace: Workspace, training: str) -> None:
    run = make_run(tmp_path, mlflow_run=training)
    assert gate(config(), run, workspace).verdict is Verdict.PROMOTE
    write_evaluated(run, run.read(Validated), run.read(Trained), {"base": make_rows("base")})
    with pytest.raises(EvidenceError, match="but no model was evaluated as the candidate"):
        gate(config(), run, workspace)
    assert not run.has(Judged)


def test_an_evaluation_of_another_training_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.write(run.read(Trained).model_copy(update={"job": "train-2"}))
    with pytest.raises(RecordError, match="another train record"):
        judge(config(), run)


def test_another_candidate_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    evaluated = run.read(Evaluated)
    other = evaluated.models["candidate"].model_copy(update={"model": "azureml://jobs/other/outputs/trained_model"})
    run.write(evaluated.model_copy(update={"models": {**evaluated.models, "candidate": other}}))
    with pytest.raises(EvidenceError, match="azureml://jobs/other/outputs/trained_model was evaluated as the candidate"):
        judge(config(), run)


def test_a_record_of_another_schema_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = tmp_path / "evaluate.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "schema_version": 0}))
    with pytest.raises(RecordError, match="schema_version"):
        judge(config(), run)


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
def test_rows_that_are_not_scores_are_refused(tmp_path: Path, break_row: Any) -> None:
    run = make_run(tmp_path)
    evaluated = run.read(Evaluated)
    path = tmp_path / "evaluate" / "candidate.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    break_row(rows[5])
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run.write(evaluated.model_copy(update={"files": {**evaluated.files, "scores.candidate": run.describe_file(path)}}))
    with pytest.raises(EvidenceError, match="can't be read as per-row scores"):
        judge(config(), run)


def test_metrics_that_do_not_follow_from_the_rows_give_hold(tmp_path: Path) -> None:
    run = make_run(tmp_path, candidate(shift=0.4))
    evaluated = run.read(Evaluated)
    scores = evaluated.models["candidate"]
    flattered = scores.model_copy(update={"metrics": {**scores.metrics, "target.nll": 0.5}})
    run.write(evaluated.model_copy(update={"models": {**evaluated.models, "candidate": flattered}}))
    judged = judge(config(make_rule(ceiling=1.0)), run)
    assert judged.verdict is Verdict.HOLD
    assert "does not follow from its rows" in judged.reasons[0]


def test_a_failed_self_test_gives_no_verdict(tmp_path: Path, workspace: Workspace, training: str, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path, mlflow_run=training)
    gate(config(), run, workspace)
    before = tags(workspace, training)
    monkeypatch.setattr(validity, "_check_suite", lambda *_: iter(()))
    with pytest.raises(SelfTestFailed, match=r"scored on a different suite .* target\.nll: not worse than the champion is shown") as caught:
        gate(config(), run, workspace)
    assert caught.value.exit_code == 19
    assert not run.has(Judged)
    assert tags(workspace, training) == before


# What is written to MLflow --------------------------------------------------------------------------------------------------------------


def test_the_verdict_is_tagged_on_the_candidates_run(tmp_path: Path, workspace: Workspace, training: str) -> None:
    run = make_run(tmp_path, mlflow_run=training)
    judged = gate(config(), run, workspace)
    written = tags(workspace, training)
    assert written["mlops.verdict"] == "PROMOTE"
    assert written["mlops.verdict_reasons"] == "All 4 critical rules are shown to hold."
    assert written["mlops.verdict_rules"] == "4 shown, 0 failed, 0 unproven, 0 invalid"
    assert written["mlops.gate_record"] == judged.digest()
    assert written["mlops.override"] == "none"
    assert written["mlops.suite.target"] == run.read(Validated).suites["target"].digest
    assert f"mlops.verdict.{judged.digest()[:12]}" in written


def test_a_candidate_is_not_admitted_if_mlflow_can_not_be_updated(tmp_path: Path, workspace: Workspace) -> None:
    run = make_run(tmp_path, mlflow_run="no-such-run")
    with pytest.raises(AzureError, match="tagging no-such-run"):
        gate(config(), run, workspace)
    assert not run.has(Judged)


def test_a_verdict_that_stops_is_recorded_even_if_mlflow_can_not_be_updated(
    tmp_path: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    run = make_run(tmp_path, candidate(shift=0.4), mlflow_run="no-such-run")
    assert gate(config(), run, workspace).verdict is Verdict.REJECT
    assert run.read(Judged).verdict is Verdict.REJECT
    assert "it is missing from the history in MLflow" in capsys.readouterr().err


# The lock -------------------------------------------------------------------------------------------------------------------------


def judged_as(run: Run, verdict: Verdict, override: Override | None, target: str = "test") -> Run:
    """A record as it should never be, written past all checks."""
    judged = judge(config(), run)
    run.write(judged.model_copy(update={"verdict": verdict, "override": override, "target": target}))
    return run


OVERRIDE = Override(reason="we know better", actor="octocat", approvers=("hubot",), environment="gate-override")
LOCAL = Override(reason="we know better", actor="somebody")
EPHEMERAL = config().model_copy(update={"endpoint": EndpointConfig(ephemeral=True)})


def test_hold_with_an_override_is_admitted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = judged_as(make_run(tmp_path), Verdict.HOLD, OVERRIDE)
    judged = guard.require_admission(run, config())
    assert (judged.is_admitted, judged.exit_code, judged.verdict) == (True, 0, Verdict.HOLD)
    assert "octocat has overridden it: we know better" in capsys.readouterr().err


@pytest.mark.parametrize("verdict", [Verdict.HOLD, Verdict.REJECT])
def test_nothing_else_is_admitted(tmp_path: Path, verdict: Verdict) -> None:
    with pytest.raises(NotPromoted, match=f"The gate says {verdict}"):
        guard.require_admission(judged_as(make_run(tmp_path), verdict, None), config())


def test_a_record_of_an_overridden_reject_is_invalid(tmp_path: Path) -> None:
    run = judged_as(make_run(tmp_path), Verdict.REJECT, OVERRIDE)
    with pytest.raises(RecordError, match="REJECT has no override"):
        guard.require_admission(run, config())
    assert not run_copy(run).is_admitted


def run_copy(run: Run) -> Judged:
    """The same, past the record's own check."""
    return Judged.model_construct(**json.loads((run.directory / "gate.json").read_bytes()) | {"verdict": Verdict.REJECT})


def test_a_verdict_for_another_target_is_refused(tmp_path: Path) -> None:
    with pytest.raises(NotPromoted, match="rules of target pr, but this is target test"):
        guard.require_admission(judged_as(make_run(tmp_path), Verdict.PROMOTE, None, target="pr"), config())


def test_an_override_from_a_laptop_admits_only_to_ephemeral_targets(tmp_path: Path) -> None:
    run = judged_as(make_run(tmp_path), Verdict.HOLD, LOCAL)
    with pytest.raises(NotPromoted, match=r"endpoint\.ephemeral"):
        guard.require_admission(run, config())
    assert guard.require_admission(run, EPHEMERAL).override == LOCAL


@pytest.mark.parametrize("broken", [{"reason": "short"}, {"actor": ""}, {"approvers": []}, {"environment": ""}])
def test_a_malformed_override_is_refused(tmp_path: Path, broken: dict[str, Any]) -> None:
    run = judged_as(make_run(tmp_path), Verdict.HOLD, OVERRIDE)
    path = run.directory / "gate.json"
    record = json.loads(path.read_bytes())
    record["override"] |= broken
    path.write_text(json.dumps(record))
    with pytest.raises(RecordError, match="override"):
        guard.require_admission(run, config())


# What comes out -------------------------------------------------------------------------------------------------------------------


def pipeline(path: Path, ceiling: float) -> Path:
    path.write_text(f'[targets.test.gate.rules.only]\nmetric = "target.nll"\ndirection = "lower"\nceiling = {ceiling}\n')
    return path


@pytest.mark.parametrize(("ceiling", "verdict", "code"), [(3.0, "PROMOTE", 0), (0.1, "REJECT", 20)])
def test_exit_code_output_and_summary(
    tmp_path: Path, training: str, monkeypatch: pytest.MonkeyPatch, ceiling: float, verdict: str, code: int
) -> None:
    make_run(tmp_path / "run", mlflow_run=training)
    for name in ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY"):
        monkeypatch.setenv(name, str(tmp_path / name))
    settings = pipeline(tmp_path / "pipeline.toml", ceiling)
    assert main(["--target", "test", "--config", str(settings), "--run", str(tmp_path / "run")]) == code
    output = (tmp_path / "GITHUB_OUTPUT").read_text()
    assert f"\n{verdict}\n" in output
    assert "override<<" in output
    assert "\nfalse\n" in output
    assert (tmp_path / "GITHUB_STEP_SUMMARY").read_text().startswith(f"## Gate: {verdict}\n")
    assert (tmp_path / "run" / "report.html").is_file()


def test_hold_exits_with_10(tmp_path: Path, training: str) -> None:
    make_run(tmp_path / "run", overlap=True, mlflow_run=training)
    settings = pipeline(tmp_path / "pipeline.toml", 3.0)
    assert main(["--target", "test", "--config", str(settings), "--run", str(tmp_path / "run")]) == 10


def test_unfinished_evaluation_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="mlops evaluate"):
        judge(config(), Run(tmp_path))


# The commands beside it -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., int]:
    """A run directory that the gate has judged, and `mlops gate` on it, without Azure."""
    run = make_run(tmp_path / "run")
    run.write(judge(config(make_rule(ceiling=3.0)), run))
    settings = pipeline(tmp_path / "pipeline.toml", 0.1)
    return lambda *options: main(["--target", "test", "--config", str(settings), "--run", str(run.directory), *options])


def content(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(path): (path.read_bytes(), path.stat().st_mtime_ns) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_what_if_judges_by_other_rules_and_writes_nothing(
    stored: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = content(tmp_path)
    assert stored("--what-if") == 0
    output = capsys.readouterr().out
    assert "The gate's verdict was PROMOTE; under the current rules it would be REJECT." in output
    assert "~ target.nll: at most 0.1 (was: at most 3): shown → failed" in output
    assert content(tmp_path) == before


def test_what_if_edits_rules(stored: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stored("--what-if", "--rule", "target.nll ceiling=3.0") == 0
    assert "it would be PROMOTE" in capsys.readouterr().out
    assert stored("--what-if", "--rule", "target.nll@none ceiling=1.9 critical=false") == 0
    assert "shown → shown, not critical" in capsys.readouterr().out
    settings = tmp_path / "pipeline.toml"
    settings.write_text(settings.read_text().replace("target.nll", "retention.nll"))
    assert stored("--what-if") == 0
    output = capsys.readouterr().out
    assert "− target.nll: at most 3: was shown, no longer a rule" in output
    assert "+ retention.nll: at most 0.1: failed, a new rule" in output


def test_set_can_not_change_rules(stored: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever may dispatch a workflow gives it settings, and must not judge by rules of his own where the endpoint stays."""
    assert stored("--set", "gate.rules.only={metric='target.rows', direction='higher', floor=1}") == 2
    assert "--set gate.rules.only is refused for target test" in capsys.readouterr().err


def test_a_rule_that_requires_a_worse_model_gives_no_verdict(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="lets through what is worse: a better model has a lower nll"):
        judge(config(make_rule(direction="higher", baseline="base")), run)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--what-if", "--rule", "target.nl ceiling=3"), "the rules are only (target.nll@none)"),
        (("--what-if", "--rule", "target.nll@base ceiling=3"), "matches no rule"),
        (("--what-if", "--rule", "target.nll"), "changes nothing"),
        (("--what-if", "--rule", "target.nll marginn=1"), "a rule has enabled, metric"),
        (("--what-if", "--rule", "target.nll ceiling"), "is not of the form"),
        (("--rule", "target.nll ceiling=3"), "--what-if only"),
        (("--explain", "target.nl"), "choose one of target.nll"),
    ],
)
def test_misuse_is_reported(stored: Callable[..., int], capsys: pytest.CaptureFixture[str], options: tuple[str, ...], says: str) -> None:
    assert stored(*options) == 2
    assert says in capsys.readouterr().err


def test_self_test_prints_each_probe(stored: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = content(tmp_path)
    assert stored("--self-test") == 0
    output = capsys.readouterr().out
    assert "detected  a metric value of the candidate is NaN" in output
    assert "n/a       a metric value of the baseline is NaN" in output
    assert "no critical rule depends on it" in output
    assert content(tmp_path) == before


def test_self_test_fails_if_the_gate_misses_a_mutation(
    stored: Callable[..., int], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(validity, "_check_value", lambda *_: iter(()))
    assert stored("--self-test") == 19
    output = capsys.readouterr()
    assert "MISSED    a metric value of the candidate is infinite" in output.out
    assert "a metric value of the candidate is infinite" in output.err


def test_explain_needs_only_the_record(stored: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("evaluate.json", "train.json", "validate.json", "evaluate/candidate.jsonl"):
        (tmp_path / "run" / name).unlink()
    (tmp_path / "pipeline.toml").unlink()
    assert stored("--explain") == 0
    output = capsys.readouterr().out
    assert "▸ target.nll: at most 3: SHOWN" in output
    assert "→ all shown, and at least one rule: PROMOTE" in output
