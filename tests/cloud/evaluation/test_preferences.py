"""What a judge prefers becomes a metric, if the judge can be trusted."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mlops.cloud.judge_model import KEY
from mlops.core.errors import ConfigError
from mlops.judging.judge import gather_evidence
from mlops.judging.metric_table import METRICS
from mlops.judging.metrics import Metric
from tests.support import judge_server
from tests.support.evaluation import ALL, Evaluation, Make
from tests.support.judge_server import JudgeServer

LABELS = [{"prompt": f"Question {number}", "better": f"right {number}", "worse": f"wrong {number}"} for number in range(40)]
METRIC = Metric("target.judge_win", "target", None, METRICS["judge_win"])


def prefer_the_candidate(_: str, first: str, second: str) -> str:
    good = ("right", "candidate")
    return "TIE" if first.startswith(good) == second.startswith(good) else "FIRST" if first.startswith(good) else "SECOND"


@pytest.fixture
def judged(make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Evaluation]:
    """Build an evaluation with this judge."""
    monkeypatch.setenv(KEY, judge_server.KEY)
    labels = tmp_path / "labels.jsonl"
    labels.write_text("".join(json.dumps(pair) + "\n" for pair in LABELS))

    def build(server: JudgeServer, *overrides: str, **options: str) -> Evaluation:
        names = {"url": server.url, "model": "judge-1", "labeled_pairs": str(labels)}
        return make(*(f"evaluation.judge.{name}={value}" for name, value in names.items()), *overrides, **options)

    return build


def test_the_judges_preference_is_a_metric_that_a_rule_can_compare(judged: Callable[..., Evaluation]) -> None:
    with JudgeServer(prefer_the_candidate) as server:
        evaluation = judged(server, "evaluation.judge.rows=5", live="blue")
        record = evaluation.evaluate()
        assert {role: model.metrics["target.judge_win"] for role, model in record.models.items()} == {
            "candidate": 1.0, "champion": 0.5, "base": 0.5,
        }  # fmt: skip
        assert any("agrees with 40 of 40 labels, which shows at least 91%; 80% are required." in note for note in record.notes)
        evidence = gather_evidence(evaluation.config, evaluation.run, record, evaluation.validated)
        for role, model in evidence.models.items():
            rows = model.rows["target"]
            assert METRIC.value(rows) == record.models[role].metrics["target.judge_win"]
            assert METRIC.selects(rows).sum() == 5
        requests = server.requests
        assert requests == 2 * (40 + 5 + 5)
        # Nothing is scored or judged twice, and opinions outlive the record.
        assert evaluation.evaluate() == record
        evaluation.run.path("evaluate.json").unlink()
        assert evaluation.evaluate().models == {role: model.model_copy(update={"reused": True}) for role, model in record.models.items()}
        assert server.requests == requests
        assert evaluation.scored() == ALL


@pytest.mark.parametrize("reply", ["FIRST", "TIE"])
def test_a_judge_that_disagrees_with_the_labels_measures_nothing(reply: str, judged: Callable[..., Evaluation]) -> None:
    with JudgeServer(lambda *_: reply) as server:
        evaluation = judged(server, live="blue")
        record = evaluation.evaluate()
    assert any("So target.judge_win is not measured." in note for note in record.notes)
    assert all("target.judge_win" not in model.metrics for model in record.models.values())
    evidence = gather_evidence(evaluation.config, evaluation.run, record, evaluation.validated)
    assert METRIC.value(evidence.models["candidate"].rows["target"]) is None


def test_another_judge_judges_again_without_scoring_again(judged: Callable[..., Evaluation]) -> None:
    with JudgeServer(prefer_the_candidate) as server:
        assert judged(server).evaluate().judge != ""
        before = server.requests
        evaluation = judged(server, "evaluation.judge.min_agreement=0.99")
        assert any("So target.judge_win is not measured." in note for note in evaluation.evaluate().notes)
        assert server.requests == before
        assert len(evaluation.scored()) == 2


def test_a_judge_without_a_model_is_refused_before_anything_is_scored(judged: Callable[..., Evaluation]) -> None:
    with JudgeServer(prefer_the_candidate) as server:
        evaluation = judged(server, "evaluation.judge.model=''")
        with pytest.raises(ConfigError, match=r"evaluation\.judge\.model is not"):
            evaluation.evaluate()
    assert evaluation.jobs() == []
