"""The gate as a stage: records in, verdict, files, tags and exit code out."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pytest

from mlops.cli import guard
from mlops.cloud.workspace import Workspace
from mlops.core.errors import AzureError, ConfigError, EvidenceError, NotPromoted, RecordError, SelfTestFailed
from mlops.core.judgement import Outcome, Override, Verdict
from mlops.core.records import Evaluated, Judged, Trained, Validated
from mlops.core.run import Run
from mlops.core.settings import Config, EndpointConfig, EvaluationConfig, GateConfig, Rule, TrainingConfig
from mlops.gate import gate, main
from mlops.judging import validity
from mlops.judging.judge import gather_evidence, judge
from mlops.judging.replay import check_verdict
from mlops.remote.metrics import aggregate
from mlops.remote.suites import read_suite
from mlops.report import verdict_tags
from tests.support.evidence import RETENTION, make_rows, make_rule, name_rules
from tests.support.run_directories import make_run, write_evaluated, write_jsonl

Fault = Callable[[str], None]

RULES = (
    make_rule(baseline="champion", test="paired_bootstrap", min_rows=50),
    make_rule(baseline="base", margin=-0.05, test="paired_bootstrap", min_rows=50),
    make_rule("retention.nll", baseline="base", margin=0.05, test="paired_bootstrap", min_rows=50),
    make_rule("retention.kl_base", ceiling=0.5),
)


BARELY_BETTER = -0.035
"""A shift with which a candidate is better than the champion with a confidence of 95 %, but not of 99.9 %."""


def config(*rules: Rule) -> Config:
    """Return settings with these rules, and one about the retention suite if none of them is."""
    both = any(rule.metric.startswith("retention.") for rule in rules)
    return Config(target="test", gate=GateConfig(rules=name_rules((*rules, *(() if both else (RETENTION,))) if rules else RULES)))


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


def test_each_further_try_on_the_same_data_needs_more_confidence(tmp_path: Path) -> None:
    rules = (make_rule(baseline="champion", test="paired_bootstrap", min_rows=50),)
    lenient = Config(target="test", gate=GateConfig(rules=name_rules((*rules, RETENTION)), correct_retries=False))
    run = make_run(tmp_path, candidate(shift=BARELY_BETTER))
    evaluated = run.read(Evaluated)

    def judge_try(number: int, settings: Config) -> Judged:
        run.write(evaluated.model_copy(update={"tries": number}))
        return judge(settings, run)

    assert [judge_try(number, config(*rules)).verdict for number in (1, 20)] == [Verdict.PROMOTE, Verdict.HOLD]
    assert judge_try(20, lenient).verdict is Verdict.PROMOTE
    judged = judge_try(20, config(*rules))
    assert judged.judgements[0].confidence == pytest.approx(1 - 0.05 / 210)
    assert "This is candidate 20 on this target suite against this champion." in judged.notes[0]
    assert judged.notes[0].endswith("a confidence of 99.98 % instead of 95 %.")
    # A record that claims fewer tries than the evaluation does not follow from it.
    run.write(judge_try(1, config(*rules)))
    run.write(evaluated.model_copy(update={"tries": 20}))
    with pytest.raises((NotPromoted, RecordError)):
        guard.require_admission(run, config(*rules), OFFLINE)


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


@pytest.mark.parametrize("overlap", ["exact", "normalized", "answer"])
def test_training_on_test_rows_gives_hold(tmp_path: Path, overlap: Literal["exact", "normalized", "answer"]) -> None:
    judged = judge(config(), make_run(tmp_path, overlap=overlap))
    assert judged.verdict is Verdict.HOLD
    assert "the target suite overlaps the training data: 1 rows" in judged.reasons[0]


def test_training_on_pieces_of_many_test_rows_gives_hold(tmp_path: Path) -> None:
    judged = judge(config(), make_run(tmp_path, overlap="pieces"))
    assert judged.verdict is Verdict.HOLD
    assert "60 of 60 rows of test_sft have an answer that is in the training data piece by piece" in judged.reasons[0]


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
    judged = judge(config(make_rule(ceiling=1.0), make_rule("retention.nll", baseline="base", margin=0.45, margin_kind="absolute")), run)
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
    with pytest.raises(AzureError, match="no-such-run"):
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

LOCAL = Override(reason="we know better", actor="somebody")
OFFLINE: Any = None
"""No workspace: MLflow is read only if the verdict is PROMOTE and follows from the evidence."""
EPHEMERAL = config().model_copy(update={"endpoint": EndpointConfig(ephemeral=True)})


def judged_run(folder: Path, verdict: Verdict = Verdict.PROMOTE, override: Override | None = None) -> Run:
    """A run that the gate has judged."""
    run = make_run(folder, candidate(shift={Verdict.PROMOTE: -0.4, Verdict.HOLD: -0.1, Verdict.REJECT: 0.4}[verdict]))
    judged = judge(config(), run)
    assert judged.verdict is verdict
    run.write(judged.model_copy(update={"override": override}))
    return run


def edit(run: Run, **fields: Any) -> Run:
    """Change the gate's record with an editor."""
    path = run.directory / "gate.json"
    path.write_text(json.dumps(json.loads(path.read_bytes()) | fields))
    return run


def test_a_promoted_candidate_is_admitted(tmp_path: Path, workspace: Workspace) -> None:
    run = judged_run(tmp_path)
    assert guard.require_admission(run, config(), workspace) == run.read(Judged)


@pytest.mark.parametrize("verdict", [Verdict.HOLD, Verdict.REJECT])
def test_nothing_else_is_admitted(tmp_path: Path, verdict: Verdict) -> None:
    with pytest.raises(NotPromoted, match=f"The gate says {verdict}"):
        guard.require_admission(judged_run(tmp_path, verdict), config(), OFFLINE)


def test_the_verdict_is_printed_before_the_judgements(
    tmp_path: Path, workspace: Workspace, training: str, capsys: pytest.CaptureFixture[str]
) -> None:
    gate(config(), make_run(tmp_path, mlflow_run=training), workspace)
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    first = next(index for index, words in enumerate(lines) if words[:1] == ["verdict"])
    assert lines[first][1] == "PROMOTE"
    assert lines[first + 1][:1] == ["target"]
    assert first < next(index for index, words in enumerate(lines) if words[:1] == ["shown"])


def test_an_override_from_a_laptop_admits_only_to_ephemeral_targets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = judged_run(tmp_path, Verdict.HOLD, LOCAL)
    with pytest.raises(NotPromoted, match=r"settings_digest|endpoint\.ephemeral"):
        guard.require_admission(run, config(), OFFLINE)
    admitted = guard.require_admission(run, EPHEMERAL, OFFLINE)
    assert (admitted.override, admitted.is_admitted, admitted.exit_code, admitted.verdict) == (LOCAL, True, 0, Verdict.HOLD)
    assert "somebody has overridden it: we know better" in capsys.readouterr().err


def test_candidates_that_were_evaluated_at_the_same_moment_count_each_other_before_they_are_admitted(
    tmp_path: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = config(make_rule(baseline="champion", test="paired_bootstrap", min_rows=50))
    client = workspace.tracking.client
    experiment = client.create_experiment("same-moment")
    first, second, third = (client.create_run(experiment).info.run_id for _ in range(3))
    # Neither evaluation could count the other candidate.
    barely = make_run(tmp_path / "barely", candidate(shift=BARELY_BETTER), mlflow_run=first, experiment="same-moment")
    clearly = make_run(tmp_path / "clearly", mlflow_run=second, experiment="same-moment")
    assert [gate(settings, run, workspace).verdict for run in (barely, clearly)] == [Verdict.PROMOTE] * 2
    assert [run.read(Evaluated).tries for run in (barely, clearly)] == [1, 1]

    with pytest.raises(NotPromoted, match=f"The evaluation counted 1 .* but there are 2 by now: {second} and this one") as caught:
        guard.require_admission(barely, settings, workspace)
    elsewhere = settings.model_copy(update={"training": TrainingConfig(experiment="elsewhere")})
    with pytest.raises(NotPromoted, match="there are 2 by now"):
        guard.require_admission(barely, elsewhere, workspace)
    assert "the verdict is HOLD" in str(caught.value)
    assert "target.nll: It is not shown that the candidate is not worse than the champion" in str(caught.value)
    assert guard.require_admission(clearly, settings, workspace).verdict is Verdict.PROMOTE
    assert f"there are 2 by now: {first} and this one. The verdict is still PROMOTE" in capsys.readouterr().out

    # An evaluation that counted the others is not corrected twice, and neither is one whose verdict leads to nothing that lasts.
    later = make_run(tmp_path / "later", mlflow_run=third, experiment="same-moment")
    later.write(later.read(Evaluated).model_copy(update={"tries": 3}))
    gate(settings, later, workspace)
    capsys.readouterr()
    guard.require_admission(later, settings, workspace)
    lenient = settings.model_copy(update={"gate": settings.gate.model_copy(update={"correct_retries": False})})
    barely.write(judge(lenient, barely))
    guard.require_admission(barely, lenient, workspace)
    assert "by now" not in capsys.readouterr().out


def test_many_further_candidates_are_named_in_part(tmp_path: Path, workspace: Workspace) -> None:
    settings = config(make_rule(baseline="champion", test="paired_bootstrap", min_rows=50))
    run = make_run(tmp_path, candidate(shift=BARELY_BETTER), experiment="many-at-once")
    run.write(judge(settings, run))
    written = verdict_tags.tags(run.read(Judged), run.read(Evaluated))
    client = workspace.tracking.client
    experiment = client.create_experiment("many-at-once")
    others = {client.create_run(experiment, tags=written).info.run_id for _ in range(7)}
    for other_data in ({"mlops.verdict_target": "pr"}, {"mlops.champion": "azureml://models/older"}, {"mlops.suite.target": "0" * 64}):
        client.create_run(experiment, tags=written | other_data)
    with pytest.raises(NotPromoted, match=r"there are 8 by now: .* and 2 more and this one") as caught:
        guard.require_admission(run, settings, workspace)
    assert sum(other in str(caught.value) for other in others) == 5


def test_a_promote_does_not_count_if_nobody_can_count_the_candidates(tmp_path: Path, workspace: Workspace, fault: Fault) -> None:
    run = judged_run(tmp_path)
    fault("403@api GET */experiments/get-by-name*")
    with pytest.raises(AzureError):
        guard.require_admission(run, config(), workspace)


FORGERIES: dict[str, tuple[Verdict, dict[str, Any], str]] = {
    "a REJECT becomes a PROMOTE": (Verdict.REJECT, {"verdict": "PROMOTE"}, "verdict is 'PROMOTE', but 'REJECT' follows"),
    "a HOLD becomes a PROMOTE": (Verdict.HOLD, {"verdict": "PROMOTE"}, "verdict is 'PROMOTE', but 'HOLD' follows"),
    "no judgements": (Verdict.PROMOTE, {"judgements": []}, r"judgements is \[\]"),
    "no self-test": (Verdict.PROMOTE, {"self_test": []}, r"self_test is \[\]"),
    "other reasons": (Verdict.PROMOTE, {"reasons": ["All is well."]}, "'All is well.'"),
    "another candidate": (Verdict.PROMOTE, {"candidate_model": "azureml://jobs/other/outputs/trained_model"}, "candidate_model is"),
    "no first run": (Verdict.PROMOTE, {"first_run": True}, "first_run is True"),
    "other rules": (Verdict.PROMOTE, {"rules_digest": "0" * 64}, "rules_digest is"),
    "other settings": (Verdict.PROMOTE, {"settings_digest": ""}, "settings_digest is ''"),
    "another suite": (Verdict.PROMOTE, {"suite_digests": {}}, "suite_digests.retention is None"),
    "another evaluation": (Verdict.PROMOTE, {"evaluation_version": "v1"}, "evaluation_version is 'v1'"),
    "a verdict of another target": (Verdict.PROMOTE, {"target": "pr"}, "rules of target pr, but this is target test"),
    "an override with typed names": (
        Verdict.HOLD,
        {"override": {"reason": "we know better", "actor": "octocat", "approvers": ["hubot"], "environment": "gate-override"}},
        "is not confirmed: outside GitHub nobody can tell who approved it",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FORGERIES)
def test_a_record_that_does_not_follow_from_the_evidence_is_refused(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    verdict, fields, says = FORGERIES[name]
    with pytest.raises(NotPromoted, match=says):
        guard.require_admission(edit(judged_run(tmp_path, verdict), **fields), config(), OFFLINE)


def test_numbers_that_differ_by_rounding_are_accepted_and_others_are_not(tmp_path: Path) -> None:
    run = judged_run(tmp_path)
    judgements = json.loads((tmp_path / "gate.json").read_bytes())["judgements"]
    low, reason = judgements[0]["interval"]["low"], judgements[0]["reason"]

    def check(low: float, reason: str) -> None:
        judgements[0]["interval"]["low"], judgements[0]["reason"] = low, reason
        check_verdict(config(), run, edit(run, judgements=judgements).read(Judged))

    check(low * (1 + 1e-5), reason)
    check(low, reason.replace("1.656", "1.657"))
    for other, says in ((low * 1.01, r"\.interval\.low"), (-low, r"\.interval\.low")):
        with pytest.raises(NotPromoted, match=rf"judgements\[0\]{says} is .*, but .* follows"):
            check(other, reason)
    for other_reason in (reason.replace("1.656", "1.7"), reason.replace("not worse", "worse"), f"{reason} 1"):
        with pytest.raises(NotPromoted, match=r"judgements\[0\]\.reason is"):
            check(low, other_reason)


def test_only_the_first_differences_are_named(tmp_path: Path) -> None:
    run = judged_run(tmp_path)
    forged = run.read(Judged).model_copy(
        update={"first_run": True, "rules_digest": "0", "settings_digest": "0", "evaluation_version": "v1", "notes": ("x" * 99,)}
    )
    with pytest.raises(NotPromoted) as caught:
        check_verdict(config(), run, forged)
    assert "evaluation_version is 'v1'" in str(caught.value)
    assert "first_run is True, but False follows" in str(caught.value)
    assert f"notes is ['{'x' * 78}…, but [] follows and 2 more. Nothing was" in str(caught.value)


@pytest.mark.parametrize("inputs", [{}, {"validate": ""}])
def test_a_record_that_does_not_say_what_it_was_made_from_is_refused(inputs: dict[str, str], tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="doesn't say which records it was made from"):
        guard.require_admission(edit(judged_run(tmp_path), inputs=inputs), config(), OFFLINE)


@pytest.mark.parametrize("field", ["candidate_model", "candidate_job"])
def test_an_id_that_differs_in_its_last_digit_is_another_one(tmp_path: Path, field: str) -> None:
    """Numbers in sentences may be rounded, but a version is not a number that is about right."""
    run = judged_run(tmp_path)
    name = "azureml://registries/r/models/chat/versions/1000"
    trained = run.read(Trained)
    run.write(trained.model_copy(update={"model_output" if field == "candidate_model" else "job": name}))
    evaluated = run.read_unchecked(Evaluated)
    models = evaluated.models | {"candidate": evaluated.models["candidate"].model_copy(update={"model": run.read(Trained).model_output})}
    inputs = {**evaluated.inputs, Trained.stage: run.read(Trained).digest()}
    run.write(evaluated.model_copy(update={"models": models, "inputs": inputs}))
    judged = judge(config(), run)
    assert getattr(judged, field) == name
    check_verdict(config(), run, judged)
    with pytest.raises(NotPromoted, match=f"{field} is '.*1001', but '.*1000' follows"):
        check_verdict(config(), run, judged.model_copy(update={field: name.replace("1000", "1001")}))


def test_a_verdict_by_other_rules_is_refused(tmp_path: Path, workspace: Workspace) -> None:
    """As with `--config` in one of two stages."""
    run = make_run(tmp_path, candidate(shift=0.0))
    lenient = config(make_rule(baseline="base", margin=0.2))
    run.write(judge(lenient, run))
    assert guard.require_admission(run, lenient, workspace).verdict is Verdict.PROMOTE
    with pytest.raises(NotPromoted, match="does not follow"):
        guard.require_admission(run, config(), workspace)


def test_a_plan_of_another_target_is_refused(tmp_path: Path) -> None:
    run = judged_run(tmp_path)
    run.path("plan.json").write_text('{"target": "pr", "jobs": [], "settings": []}')
    with pytest.raises(NotPromoted, match="are from a plan of target pr, but this is target test"):
        guard.require_admission(run, config(), OFFLINE)


def test_scores_that_change_after_the_verdict_are_refused(tmp_path: Path) -> None:
    run = judged_run(tmp_path)
    evaluated = run.read(Evaluated)
    write_evaluated(run, run.read(Validated), run.read(Trained), candidate(shift=0.4))
    # The forger also repairs the digest of the verdict's input.
    edit(run, inputs=json.loads((tmp_path / "gate.json").read_bytes())["inputs"] | {"evaluate": run.read(Evaluated).digest()})
    assert run.read(Evaluated) != evaluated
    with pytest.raises(NotPromoted, match="does not follow"):
        guard.require_admission(run, config(), OFFLINE)


def test_a_record_of_an_overridden_reject_is_invalid(tmp_path: Path) -> None:
    run = edit(judged_run(tmp_path, Verdict.REJECT), override=LOCAL.model_dump(mode="json"))
    with pytest.raises(RecordError, match="REJECT has no override"):
        guard.require_admission(run, config(), OFFLINE)
    assert not Judged.model_construct(**json.loads((tmp_path / "gate.json").read_bytes()) | {"verdict": Verdict.REJECT}).is_admitted


@pytest.mark.parametrize("broken", [{"reason": "short"}, {"actor": ""}, {"approvers": ["hubot"]}, {"environment": "gate-override"}])
def test_a_malformed_override_is_refused(tmp_path: Path, broken: dict[str, Any]) -> None:
    run = edit(judged_run(tmp_path, Verdict.HOLD), override=LOCAL.model_dump(mode="json") | broken)
    with pytest.raises(RecordError, match="override"):
        guard.require_admission(run, EPHEMERAL, OFFLINE)


# Evidence that is wrong in all files alike ------------------------------------------------------------------------------------------------


def rewrite(run: Run, change: Callable[[list[dict[str, Any]]], list[dict[str, Any]]]) -> Run:
    """Change the rows of all three models in the same way, with metrics and digests that follow."""
    roles: tuple[Literal["candidate", "champion", "base"], ...] = ("candidate", "champion", "base")
    scores: dict[Any, Any] = {
        role: change([json.loads(line) for line in (run.directory / "evaluate" / f"{role}.jsonl").read_text().splitlines()])
        for role in roles
    }
    write_evaluated(run, run.read(Validated), run.read(Trained), scores)
    return run


def relabel(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"kind": "facts" if row["kind"] else ""} for row in rows]


def rename(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"id": f"{row['id']}-foreign"} if number == 3 else row for number, row in enumerate(rows)]


def empty(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"tokens": 0, "nll": 0.0, "greedy_tokens": 0, "kl": None if row["kl"] is None else 0.0} if number % 3 == 0 else row
            for number, row in enumerate(rows)]  # fmt: skip


def other_texts(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row | {"text": "0" * 16} for row in rows]


ALIKE: dict[str, tuple[Callable[[list[dict[str, Any]]], list[dict[str, Any]]], str]] = {
    "dropped": (lambda rows: [row for row in rows if row["id"] != "target-00004"], "not scored on exactly the frozen target suite: 1 rows"),
    "foreign": (rename, "1 rows are absent, and 1 are foreign"),
    "of other kinds": (relabel, "rows of other kinds than the frozen retention suite"),
    "without tokens": (empty, "numbers of tokens that the texts of the frozen target suite can't have"),
    "with other texts": (other_texts, "was scored on other texts"),
}


@pytest.mark.parametrize("name", ALIKE)
def test_rows_that_are_wrong_in_all_files_alike_give_hold(name: str, tmp_path: Path) -> None:
    change, says = ALIKE[name]
    judged = judge(config(), rewrite(make_run(tmp_path), change))
    assert judged.verdict is Verdict.HOLD
    assert any(says in reason for reason in judged.reasons), judged.reasons


def test_copies_of_rows_add_no_evidence(tmp_path: Path) -> None:
    """25 rows 20 times give a narrow interval and prove no more than 25 rows."""
    run = make_run(tmp_path, copies=20, n=500)
    judged = judge(config(), run)
    assert judged.verdict is Verdict.HOLD
    assert "475 of 500 rows of the target suite repeat the input of another row" in judged.reasons[0]
    assert judged.judgements[0].n == 25


def test_the_scorer_and_the_gate_agree_on_the_digest_of_a_text(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    texts = {row.id: row.text for name in ("target", "retention") for row in read_suite(name, tmp_path / "suites" / f"{name}.jsonl").rows}
    assert judge(config(), rewrite(run, lambda rows: [row | {"text": texts[row["id"]]} for row in rows])).verdict is Verdict.PROMOTE


def test_a_champion_whose_scores_are_gone_is_missing(tmp_path: Path) -> None:
    scores = candidate()
    del scores["champion"]
    run = make_run(tmp_path, scores)
    run.write(run.read(Evaluated).model_copy(update={"champion": "azureml://models/champion"}))
    judged = judge(config(), run)
    assert (judged.verdict, judged.first_run) == (Verdict.HOLD, False)
    assert "azureml://models/champion is live, but the evaluation has no scores of it" in judged.reasons[0]


def test_a_row_may_have_as_many_tokens_as_its_text_allows(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    evaluated, validated = run.read(Evaluated), run.read(Validated)
    question, answer = (
        message["content"] for message in json.loads((tmp_path / "suites" / "target.jsonl").read_text().splitlines()[0])["messages"]
    )
    longest = len(question) + len(answer) + 2 * 64  # with what a chat template adds to each message

    def tokens(max_tokens: int) -> tuple[float, float]:
        settings = config().model_copy(update={"evaluation": EvaluationConfig(max_tokens=max_tokens)})
        suite = gather_evidence(settings, run, evaluated, validated).suites["target"]
        return float(suite.fewest_tokens[0]), float(suite.most_tokens[0])

    assert tokens(longest) == (len(answer.split()) // 4, len(answer) + 64)
    assert tokens(longest - 1) == (0, len(answer) + 64), "a text that is cut off may lose its answer"


def test_an_anchor_whose_scores_are_gone_is_missing(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.write(run.read(Evaluated).model_copy(update={"anchor": "azureml://models/anchor"}))
    judged = judge(config(make_rule(baseline="anchor")), run)
    assert (judged.verdict, judged.judgements[0].compared_with) == (Verdict.HOLD, "anchor")
    assert "it is azureml://models/anchor, but the evaluation has no scores of it" in judged.reasons[0]


def test_a_candidate_is_compared_with_an_anchor_that_was_evaluated(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    evaluated = run.read(Evaluated)
    rows = run.describe_file(write_jsonl(tmp_path / "evaluate" / "anchor.jsonl", make_rows("anchor", shift=-0.2)))
    scores = {"role": "anchor", "model": "azureml://models/anchor", "job": "score-anchor", "weights_digest": "a", "scores": "scores.anchor"}
    metrics = aggregate(make_rows("anchor", shift=-0.2))
    models = evaluated.models | {"anchor": evaluated.models["base"].model_copy(update={**scores, "metrics": metrics})}
    files = evaluated.files | {"scores.anchor": rows}
    run.write(evaluated.model_copy(update={"models": models, "files": files, "anchor": "azureml://models/anchor"}))
    judged = judge(config(make_rule(baseline="anchor", test="paired_bootstrap")), run)
    assert (judged.verdict, judged.judgements[0].compared_with) == (Verdict.PROMOTE, "anchor")
    assert not any("was not evaluated" in note for note in judged.notes)


@pytest.mark.parametrize("role", ["champion", "anchor"])
def test_scores_of_another_model_than_the_champion_or_anchor_are_refused(tmp_path: Path, role: str) -> None:
    run = make_run(tmp_path)
    evaluated = run.read(Evaluated)
    models = {
        **evaluated.models,
        "anchor": evaluated.models["base"].model_copy(update={"role": "anchor", "model": "azureml://models/anchor"}),
    }
    run.write(evaluated.model_copy(update={"models": models, role: "azureml://models/other"}))
    judged = judge(config(), run)
    assert judged.verdict is Verdict.HOLD
    assert f"but azureml://models/{role} was evaluated as the {role}" in judged.reasons[0]
    run.write(evaluated.model_copy(update={"champion": "AZUREML://models/CHAMPION"}))
    assert judge(config(), run).verdict is Verdict.PROMOTE, "Azure's ids are case-insensitive"


def test_scores_by_other_code_or_settings_are_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    run.write(run.read(Evaluated).model_copy(update={"evaluation_version": "v1"}))
    judged = judge(config(), run)
    assert judged.verdict is Verdict.HOLD
    assert "computed by other code or with other settings" in judged.reasons[0]


def test_a_suite_that_is_not_the_frozen_one_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    (tmp_path / "suites" / "target.jsonl").write_text("")
    with pytest.raises(EvidenceError, match="is not the target suite that validation froze"):
        judge(config(), run)


def test_a_field_that_appears_twice_in_a_row_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path)
    path = tmp_path / "evaluate" / "candidate.jsonl"
    path.write_text(path.read_text().replace('"nll": ', '"nll": 99.0, "nll": ', 1))
    evaluated = run.read_unchecked(Evaluated)
    run.write(evaluated.model_copy(update={"files": {**evaluated.files, "scores.candidate": run.describe_file(path)}}))
    with pytest.raises(EvidenceError, match="a field appears twice"):
        judge(config(), run)


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        (make_rule(baseline="base", margin=5), r"a margin of 5 is implausible: .* \(0.05 is 5 %\)"),
        (make_rule(baseline="base", margin=5, margin_kind="absolute"), r"must lie between -0.5 and 0.5 \(nats per token\)"),
        (make_rule(ceiling=1e300), r"a ceiling of 1e\+300 is meaningless"),
        (make_rule("target.rouge_l", "higher", floor=-1.0), "a floor of -1 is meaningless"),
    ],
)
def test_numbers_that_can_not_be_meant_give_no_verdict(rule: Rule, says: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=says):
        judge(config(rule), make_run(tmp_path))


@pytest.mark.parametrize(
    "rule", [make_rule("target.rows", "higher", floor=1.0), make_rule(ceiling=20.0), make_rule("retention.nll", ceiling=19.0)]
)
def test_rules_that_a_ruined_candidate_passes_give_no_verdict(rule: Rule, tmp_path: Path) -> None:
    with pytest.raises(SelfTestFailed, match=r"a ruined candidate: .* these rules can't stop anything"):
        judge(config(rule), make_run(tmp_path))


# What comes out -------------------------------------------------------------------------------------------------------------------


def pipeline(path: Path, ceiling: float) -> Path:
    path.write_text(
        f'[targets.test.gate.rules.only]\nmetric = "target.nll"\ndirection = "lower"\nceiling = {ceiling}\n'
        '[targets.test.gate.rules.kept]\nmetric = "retention.token_accuracy"\ndirection = "higher"\nfloor = 0.8\n'
    )
    return path


@pytest.mark.parametrize(("ceiling", "verdict", "code"), [(2.2, "PROMOTE", 0), (0.1, "REJECT", 20)])
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
    make_run(tmp_path / "run", overlap="exact", mlflow_run=training)
    settings = pipeline(tmp_path / "pipeline.toml", 2.2)
    assert main(["--target", "test", "--config", str(settings), "--run", str(tmp_path / "run")]) == 10


def test_unfinished_evaluation_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="mlops evaluate"):
        judge(config(), Run(tmp_path))


# The commands beside it -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def stored(tmp_path: Path) -> Callable[..., int]:
    """A run directory that the gate has judged, and `mlops gate` on it, without Azure."""
    run = make_run(tmp_path / "run")
    run.write(judge(config(make_rule(ceiling=2.2), make_rule("retention.token_accuracy", "higher", floor=0.8)), run))
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
    assert "~ target.nll: at most 0.1 (was: at most 2.2): shown → failed" in output
    assert content(tmp_path) == before


def test_what_if_edits_rules(stored: Callable[..., int], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert stored("--what-if", "--rule", "target.nll ceiling=2.2") == 0
    assert "it would be PROMOTE" in capsys.readouterr().out
    assert stored("--what-if", "--rule", "target.nll@none ceiling=1.9 critical=false") == 19
    assert "no critical rule is about the target suite" in capsys.readouterr().err
    settings = tmp_path / "pipeline.toml"
    settings.write_text(settings.read_text().replace("target.nll", "retention.nll").replace("retention.token", "target.token"))
    assert stored("--what-if") == 0
    output = capsys.readouterr().out
    assert "− target.nll: at most 2.2: was shown, no longer a rule" in output
    assert "+ retention.nll: at most 0.1: failed, a new rule" in output


def test_set_can_not_change_rules(stored: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever may dispatch a workflow gives it settings, and must not judge by rules of his own where the endpoint stays."""
    assert stored("--set", "gate.rules.only={metric='target.rows', direction='higher', floor=1}") == 2
    assert "--set gate.rules.only.metric is refused for target test" in capsys.readouterr().err


def test_a_rule_that_requires_a_worse_model_gives_no_verdict(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    with pytest.raises(ConfigError, match="favors worse models: a better model has a lower nll"):
        judge(config(make_rule(direction="higher", baseline="base")), run)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--what-if", "--rule", "target.nl ceiling=3"), "the rules are only (target.nll@none), kept (retention.token_accuracy@none)"),
        (("--what-if", "--rule", "target.nll@base ceiling=3"), "matches no rule"),
        (("--what-if", "--rule", "target.nll"), "changes nothing"),
        (("--what-if", "--rule", "target.nll marginn=1"), "a rule has enabled, metric"),
        (("--what-if", "--rule", "target.nll ceiling"), "is not of the form"),
        (("--rule", "target.nll ceiling=3"), "--what-if only"),
        (("--explain", "target.nl"), "choose one of retention.token_accuracy, target.nll"),
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
    assert "▸ rule-1: target.nll: at most 2.2: SHOWN" in output
    assert "→ all shown, and at least one rule: PROMOTE" in output
