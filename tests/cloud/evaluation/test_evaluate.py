"""Which models are scored, and when."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from mlops.cloud.jobs import JobInput
from mlops.cloud.tags import RUN_KEY
from mlops.core.errors import ConfigError
from mlops.core.records import Evaluated
from mlops.report.verdict_tags import SUITE
from tests.support.evaluation import ALL, ENDPOINT, MODEL_NAME, VERSIONS, Make


def test_a_first_run_scores_candidate_and_base(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = make(at="nowhere", candidate="note")
    record = evaluation.evaluate()
    assert set(record.models) == {"candidate", "base"}
    assert (record.champion, record.missing) == ("", {})
    assert record.champion_note == "Endpoint nowhere serves nothing: this is a first run."
    # The job's notes are in the record.
    assert record.notes == ("candidate: a note of the job",)
    assert evaluation.run.read(Evaluated) == record
    candidate = record.models["candidate"]
    assert (candidate.model, candidate.rows, candidate.reused) == (evaluation.trained.model_output, {"target": 6, "retention": 4}, False)
    assert record.files[candidate.scores].rows == 10
    assert "candidate: target.nll" in capsys.readouterr().out


def test_a_second_run_computes_nothing_and_another_folder_reuses_every_score(make: Make, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = make(live="blue")
    record = evaluation.evaluate()
    assert evaluation.scored() == ALL
    capsys.readouterr()
    assert evaluation.evaluate() == record
    assert "nothing to do" in capsys.readouterr().out
    elsewhere = make(live="blue", folder="elsewhere").evaluate()
    assert evaluation.scored() == ALL
    assert all(model.reused for model in elsewhere.models.values())
    assert elsewhere.digest() == record.digest()


def test_only_a_new_champion_is_scored(make: Make) -> None:
    evaluation = make(live="blue")
    before = evaluation.evaluate()
    evaluation.traffic(green=100)
    after = evaluation.evaluate()
    assert evaluation.scored() == [*ALL, "champion"]
    assert (before.champion, after.champion) == (evaluation.model("blue"), evaluation.model("green"))
    assert after.models["champion"].model == after.champion
    assert [role for role, model in after.models.items() if model.reused] == ["candidate", "base"]


@pytest.mark.parametrize("changed", ["a suite", "a setting", "the code"])
def test_a_change_that_affects_scores_scores_all_three_again(changed: str, make: Make, trained_job: str) -> None:
    evaluation = make(live="blue")
    before = evaluation.evaluate()
    if changed == "a suite":
        evaluation.freeze(retention=5)
        evaluation.retrain(trained_job)
    elif changed == "the code":
        make(live="blue", nobody="does this")
    config = make("evaluation.max_tokens=64", live="blue", folder="other").config if changed == "a setting" else None
    after = evaluation.evaluate(config)
    assert evaluation.scored() == sorted(ALL * 2)
    assert not any(model.reused for model in after.models.values())
    assert {after.models[role].job for role in ALL}.isdisjoint(before.models[role].job for role in ALL)
    # All are on the same rows, those that are frozen now.
    assert {model.rows["retention"] for model in after.models.values()} == {5 if changed == "a suite" else 4}

    evaluation = make(live="blue")
    assert evaluation.evaluate().digest() == before.digest()
    assert evaluation.scored() == sorted(ALL * 2)


def test_a_candidate_whose_job_was_created_again_is_scored_again(make: Make, trained_job: str) -> None:
    evaluation = make(at="nowhere")
    evaluation.retrain(trained_job, "2026-01-01T00:00:00+00:00")
    before = evaluation.evaluate()
    evaluation.retrain(trained_job, "2026-02-02T00:00:00+00:00")
    after = evaluation.evaluate()
    assert after.models["candidate"].model == before.models["candidate"].model
    assert after.models["candidate"].job != before.models["candidate"].job
    assert evaluation.scored() == ["base", "candidate", "candidate"]
    # The first one has not become unusable.
    evaluation.retrain(trained_job, "2026-01-01T00:00:00+00:00")
    assert evaluation.evaluate().models["candidate"].job == before.models["candidate"].job


def test_a_champion_that_was_registered_again_is_scored_again(make: Make) -> None:
    evaluation = make(live="blue")
    before = evaluation.evaluate()
    blue = f"{MODEL_NAME}/{VERSIONS['blue']}"
    registered = evaluation.store.get("model", blue)
    assert registered is not None
    with evaluation.changed("model", blue, created=registered["created"] | {"at": "2026-01-01T00:00:00+00:00"}):
        after = evaluation.evaluate()
    assert after.champion == before.champion
    assert after.models["champion"].job != before.models["champion"].job
    assert evaluation.scored() == [*ALL, "champion"]


def test_nothing_is_submitted_to_a_cluster_that_was_created_again_with_another_size(make: Make) -> None:
    evaluation = make(at="nowhere")
    cluster = evaluation.store.get("compute", "cluster")
    assert cluster is not None
    other = cluster["aml"] | {"vmSize": "STANDARD_NC6S_V3"}
    with evaluation.changed("compute", "cluster", aml=other), pytest.raises(ConfigError, match=r"had VM size .* now has") as caught:
        evaluation.evaluate()
    assert "mlops validate" in caught.value.fix
    assert evaluation.jobs() == []


def test_an_endpoint_that_serves_the_base_model_needs_no_third_job(make: Make) -> None:
    evaluation = make(live="blue")
    base = evaluation.validated.base_model
    with evaluation.changed("deployment", f"{ENDPOINT}/blue", model=base.replace("/models/", "/Models/")):
        record = evaluation.evaluate()
    assert evaluation.scored() == ["base", "candidate"]
    assert record.models["champion"].job == record.models["base"].job
    assert record.champion == base


def test_the_real_scorer_scores_a_copy_of_the_base_model_like_the_base_model(
    make: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    settings = ("evaluation.precision=float32", "evaluation.generate_rows=1", "evaluation.max_new_tokens=2", "evaluation.max_tokens=64")
    evaluation = make(*settings, at="nowhere")
    monkeypatch.undo()
    (tmp_path / "nothing").mkdir()
    (tmp_path / "nothing" / "read.me").touch()
    copy = evaluation.workspace.jobs.submit_command(
        name_hint="copy base",
        code=tmp_path / "nothing",
        command="cp -r ${{inputs.base}}/. ${{outputs.trained_model}}",
        inputs={"base": JobInput("mlflow_model", evaluation.validated.base_model)},
        outputs={"trained_model": "mlflow_model"},
        environment=evaluation.config.evaluation.environment,
        compute="cluster",
        tags={RUN_KEY: hashlib.sha256(b"copy base").hexdigest()},
        experiment="copies",
        display_name="copy the base model",
    )
    evaluation.workspace.wait(copy, 60)
    evaluation.retrain(copy)
    record = evaluation.evaluate()
    candidate, base = record.models["candidate"], record.models["base"]
    assert candidate.model != base.model
    assert candidate.weights_digest == base.weights_digest
    assert candidate.metrics["target.nll"] == pytest.approx(base.metrics["target.nll"])
    assert candidate.metrics["retention.kl_base"] == pytest.approx(0, abs=1e-6)
    assert candidate.samples
    assert not [note for note in record.notes if "MLflow" in note], "the job needs no route of MLflow 3 that Azure answers with 404"
    logged = evaluation.workspace.tracking.client.get_run(candidate.mlflow_run_id).data
    assert logged.metrics["target.nll"] == pytest.approx(candidate.metrics["target.nll"])


def test_candidates_that_were_judged_on_the_same_suite_against_the_same_champion_are_counted(make: Make) -> None:
    evaluation = make(live="blue")
    assert evaluation.evaluate().tries == 1
    champion, suite = evaluation.model("blue").lower(), evaluation.validated.suites["target"].digest
    same = {SUITE: suite, "mlops.champion": champion, "mlops.verdict_target": "test"}
    others = [same, same, same | {"mlops.champion": "none"}, same | {"mlops.verdict_target": "pr"}, same | {SUITE: "another"}]
    for job, tags in zip(range(len(others)), others, strict=True):
        client = evaluation.workspace.tracking.client
        experiment = client.get_experiment_by_name(evaluation.config.training.experiment)
        client.create_run(experiment.experiment_id, run_name=f"training {job}", tags=tags)
    # An evaluation that is up to date stays as it is, so that judging it twice gives the same verdict.
    assert evaluation.evaluate().tries == 1
    again = make(live="blue", folder="again")
    assert again.evaluate().tries == 3
    # Its own training is not counted twice, whatever the verdict about it was.
    evaluation.workspace.tracking.set_tags(again.trained.mlflow_run_id, same)
    assert make(live="blue", folder="third").evaluate().tries == 3
    assert make(live="green", folder="fourth").evaluate().tries == 1
