"""Past verdicts, read from a real MLflow server behind the emulated workspace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlops.cli.gate_queries import edit_rules, history
from mlops.cloud.workspace import Workspace
from mlops.core.errors import UsageError
from mlops.core.records import Judged, Trained
from mlops.core.settings import Config, GateConfig, Rule, TrainingConfig
from mlops.gate import gate, main
from mlops.report import verdict_tags
from tests.support.evidence import RETENTION, make_rule, name_rules
from tests.support.run_directories import make_run

EXPERIMENT = "history-of-verdicts"
GOOD, BAD = make_rule(ceiling=2.2), make_rule(ceiling=0.1)


def settings(*rules: Rule) -> Config:
    """Return settings with these rules, and one about the retention suite."""
    return Config(target="test", gate=GateConfig(rules=name_rules((*rules, RETENTION))), training=TrainingConfig(experiment=EXPERIMENT))


def new_run(workspace: Workspace) -> str:
    client = workspace.tracking.client
    experiment = client.get_experiment_by_name(EXPERIMENT)
    return str(client.create_run(experiment.experiment_id if experiment else client.create_experiment(EXPERIMENT)).info.run_id)


def test_past_verdicts_newest_first(tmp_path: Path, workspace: Workspace) -> None:
    assert "no verdict in experiment history-of-verdicts" in history(settings(), workspace, 5).text

    first, second = (make_run(tmp_path / name, mlflow_run=new_run(workspace)) for name in ("one", "two"))
    second.write(second.read(Trained).model_copy(update={"job": "train-2"}))
    gate(settings(BAD), first, workspace)
    gate(settings(GOOD), first, workspace)  # weaker rules: the REJECT stays visible
    gate(settings(GOOD), first, workspace)  # the same verdict again adds nothing
    runs = workspace.tracking.find_runs(EXPERIMENT, verdict_tags.VERDICT, ["PROMOTE", "HOLD", "REJECT"], 5)
    assert list(runs) == [first.read(Trained).mlflow_run_id]
    decisions = verdict_tags.past(runs)
    assert [decision.verdict for decision in decisions] == ["PROMOTE", "REJECT"]
    assert {decision.job for decision in decisions} == {"train-1"}

    lines = history(settings(), workspace, 5).text.splitlines()
    assert lines[0].split()[:2] == ["judged", "(UTC)"]
    assert len(lines) == 3
    assert len(history(settings(), workspace, 1).text.splitlines()) == 2


def test_the_command_prints_past_verdicts(tmp_path: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    gate(settings(make_rule(baseline="champion", margin=0.1)), make_run(tmp_path / "run", mlflow_run=new_run(workspace)), workspace)
    path = tmp_path / "pipeline.toml"
    path.write_text(f'[targets.test.training]\nexperiment = "{EXPERIMENT}"\n')
    capsys.readouterr()
    assert main(["--target", "test", "--config", str(path), "--history", "3"]) == 0
    output = capsys.readouterr().out
    assert re.search(
        r"PROMOTE  test +train-1 +[0-9a-f]{12}  target\.nll \(champion\) -0\.[34]\d+, retention\.nll \(base\) -0\.4\d+ +–", output
    )
    with pytest.raises(SystemExit):
        main(["--target", "test", "--config", str(path), "--history", "none"])


def test_foreign_tags_are_ignored() -> None:
    runs = {"run": {"mlops.verdict": "PROMOTE", "mlops.verdict.abc": "not ours", "mlops.verdict.def": '{"at": "yesterday"}'}}
    assert verdict_tags.past(runs) == []


@pytest.mark.slow
def test_the_oldest_decisions_make_room_for_a_new_one(tmp_path: Path, workspace: Workspace) -> None:
    run = make_run(tmp_path / "run", mlflow_run=new_run(workspace))
    for number in range(12):
        gate(settings(make_rule(baseline="champion", margin=0.1 + number / 100)), run, workspace)
    tags = workspace.tracking.get_tags(run.read(Trained).mlflow_run_id)
    decisions = verdict_tags.past({"": tags})
    assert len(decisions) == 10
    assert decisions[0].record == run.read(Judged).digest()[:12]
    assert max(len(value) for value in tags.values()) <= 1000


def test_rules_are_edited_by_name_or_by_metric_and_baseline() -> None:
    rules = {
        "loss": make_rule(baseline="base"),
        "loss-again": make_rule(baseline="champion"),
        "drift": make_rule("retention.kl_base", ceiling=1.0),
    }
    edited = edit_rules(rules, ["loss margin=0.1", "target.nll min_rows=9", "target.nll@champion critical=false", "drift ceiling=inf"])
    assert edited["loss"] == make_rule(baseline="base", margin=0.1, min_rows=9)
    assert edited["loss-again"] == make_rule(baseline="champion", min_rows=9, critical=False)
    assert edited["drift"].ceiling is None
    with pytest.raises(UsageError, match="matches no rule") as raised:
        edit_rules(rules, ["los margin=0.1"])
    assert "loss (target.nll@base), loss-again (target.nll@champion), drift (retention.kl_base@none)" in raised.value.fix


def test_a_dropped_rule_can_be_tried_out() -> None:
    assert not edit_rules({"loss": make_rule()}, ["loss enabled=false"])["loss"].enabled
