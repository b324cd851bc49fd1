"""Past verdicts, read back from a real MLflow server behind the emulated workspace."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlops.cli.gate_queries import history as tell
from mlops.cloud.workspace import Workspace
from mlops.core.config import Config, GateConfig, Rule, TrainingConfig
from mlops.core.records import Trained
from mlops.gate import gate, main
from mlops.report import verdict_tags
from tests.support.evidence import named, rule
from tests.support.run_directories import make_run

EXPERIMENT = "history-of-verdicts"
GOOD, BAD = rule(ceiling=3.0), rule(ceiling=0.1)


def settings(*rules: Rule) -> Config:
    return Config(target="test", gate=GateConfig(rules=named(rules)), training=TrainingConfig(experiment=EXPERIMENT))


def new_run(workspace: Workspace) -> str:
    client = workspace.tracking.client
    known = client.get_experiment_by_name(EXPERIMENT)
    return str(client.create_run(known.experiment_id if known else client.create_experiment(EXPERIMENT)).info.run_id)


def test_past_verdicts_newest_first(tmp_path: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    tell(settings(), workspace, 5)
    assert "no verdict in experiment history-of-verdicts" in capsys.readouterr().out

    first, second = (make_run(tmp_path / name, mlflow_run=new_run(workspace)) for name in ("one", "two"))
    second.write(second.read(Trained).model_copy(update={"job": "train-2"}))
    gate(settings(BAD), first, workspace)
    gate(settings(GOOD), first, workspace)  # laxer rules: the REJECT stays to be seen
    gate(settings(GOOD), first, workspace)  # the same again is no new verdict
    runs = workspace.tracking.tagged(EXPERIMENT, verdict_tags.VERDICT, ["PROMOTE", "HOLD", "REJECT"], 5)
    assert list(runs) == [first.read(Trained).mlflow_run_id]
    decisions = verdict_tags.past(runs)
    assert [decision.verdict for decision in decisions] == ["PROMOTE", "REJECT"]
    assert {decision.job for decision in decisions} == {"train-1"}

    capsys.readouterr()
    tell(settings(), workspace, 5)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split()[:2] == ["judged", "(UTC)"]
    assert len(lines) == 3
    tell(settings(), workspace, 1)
    assert len(capsys.readouterr().out.splitlines()) == 2


def test_the_command(tmp_path: Path, workspace: Workspace, capsys: pytest.CaptureFixture[str]) -> None:
    gate(settings(rule(baseline="champion", margin=0.1)), make_run(tmp_path / "run", mlflow_run=new_run(workspace)), workspace)
    path = tmp_path / "pipeline.toml"
    path.write_text(f'[targets.test.training]\nexperiment = "{EXPERIMENT}"\n')
    capsys.readouterr()
    assert main(["--target", "test", "--config", str(path), "--history", "3"]) == 0
    told = capsys.readouterr().out
    assert re.search(r"PROMOTE  test +train-1 +[0-9a-f]{12}  target\.nll \(champion\) -0\.[34]\d+ +–", told)
    with pytest.raises(SystemExit):
        main(["--target", "test", "--config", str(path), "--history", "none"])


def test_tags_of_others_are_passed_over() -> None:
    runs = {"run": {"mlops.verdict": "PROMOTE", "mlops.verdict.abc": "not ours", "mlops.verdict.def": '{"at": "yesterday"}'}}
    assert verdict_tags.past(runs) == []
