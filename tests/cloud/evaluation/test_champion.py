"""Special cases of the champion: none may pass for a first run, and none may make it easier for the candidate."""

from __future__ import annotations

from contextlib import ExitStack

import pytest

from mlops.core.errors import AzureError, TrafficError
from mlops.core.records import Evaluated
from mlops.emulator.server import Emulator
from tests.support.evaluation import ALL, ENDPOINT, FINGERPRINT_OF_OTHER_DATA, MODEL_NAME, VERSIONS, Make

BLUE, GREEN = VERSIONS["blue"], VERSIONS["green"]
ELSEWHERE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"


def test_the_training_data_of_the_champion_is_noted(make: Make) -> None:
    evaluation = make(live="blue")
    [note] = evaluation.evaluate().notes
    assert "trained on other data" in note
    assert FINGERPRINT_OF_OTHER_DATA in note
    assert evaluation.trained.data_fingerprint in note
    assert "only favor it" in note
    evaluation.traffic(green=100)
    [note] = evaluation.evaluate().notes
    assert "unknown (no tag mlops.data_fingerprint" in note
    tags = {"mlops.data_fingerprint": evaluation.trained.data_fingerprint}
    with evaluation.changed("model", f"{MODEL_NAME}/{GREEN}", tags=tags):
        assert make(live="green", folder="other").evaluate().notes == ()


def test_an_archived_champion_is_scored(make: Make) -> None:
    evaluation = make(live="blue")
    with evaluation.changed("model", f"{MODEL_NAME}/{BLUE}", archived=True):
        assert set(evaluation.evaluate().models) == set(ALL)


def test_a_deleted_champion_is_missing_and_not_a_first_run(make: Make, trained_job: str, capsys: pytest.CaptureFixture[str]) -> None:
    evaluation = make(live="blue")
    with evaluation.changed("model", f"{MODEL_NAME}/{BLUE}"):
        record = evaluation.evaluate()
        # No job that must fail, and the others are scored.
        assert evaluation.scored() == ["base", "candidate"]
        assert set(record.models) == {"candidate", "base"}
        assert record.champion == evaluation.model("blue")
        assert record.champion_note == ""
        assert record.champion in record.missing["champion"]
        assert "mlops rollback" in record.missing["champion"]
        assert "no rule that compares with it can hold" in capsys.readouterr().err
        again = evaluation.evaluate()
        assert again.digest() == record.digest()
        assert evaluation.scored() == ["base", "candidate"]
    # It is back: only it is scored.
    restored = evaluation.evaluate()
    assert (restored.missing, evaluation.scored()) == ({}, ALL)

    # Gone again, and its score is still there: no model is needed for that.
    other = make(live="blue", folder="other")
    with other.changed("model", f"{MODEL_NAME}/{BLUE}"):
        record = other.evaluate()
    assert record.missing == {}
    assert record.models["champion"].reused
    assert record.models["champion"].job == restored.models["champion"].job
    assert evaluation.scored() == ALL
    # On other rows there is none.
    other.freeze(target=7)
    other.retrain(trained_job)
    with other.changed("model", f"{MODEL_NAME}/{BLUE}"):
        assert set(other.evaluate().missing) == {"champion"}


@pytest.mark.parametrize(
    "model",
    [
        pytest.param("azureml://registries/azureml/models/never-was/versions/1", id="a registry's"),
        pytest.param(f"{ELSEWHERE}/models/judged/versions/1", id="another workspace's"),
        pytest.param("azureml:judged:1", id="no full id"),
        pytest.param(None, id="none, it is inside the image"),
    ],
)
def test_a_champion_that_can_not_be_looked_up_is_missing(model: str | None, make: Make) -> None:
    evaluation = make(live="blue")
    with evaluation.changed("deployment", f"{ENDPOINT}/blue", model=model):
        record = evaluation.evaluate()
    assert record.champion == model or record.champion.endswith(f"/onlineEndpoints/{ENDPOINT}/deployments/blue")
    assert record.champion in record.missing["champion"]
    assert evaluation.scored() == ["base", "candidate"]


def test_a_champion_whose_files_are_gone_is_missing(make: Make) -> None:
    evaluation = make(live="blue")
    model = evaluation.store.get("model", f"{MODEL_NAME}/{BLUE}")
    assert model is not None
    with evaluation.changed("model", f"{MODEL_NAME}/{BLUE}", uri=model["uri"] + "/nothing-here"):
        assert set(evaluation.evaluate().missing) == {"champion"}


def test_a_registry_that_does_not_answer_is_an_error_and_nothing_is_submitted(make: Make, inside: Emulator) -> None:
    evaluation = make(live="blue")
    faults, inside.azure.faults = inside.azure.faults, type(inside.azure.faults)(["500@arm GET */models/* always"])
    try:
        with pytest.raises(AzureError, match="reading model judged:1"):
            evaluation.evaluate()
    finally:
        inside.azure.faults = faults
    assert evaluation.jobs() == []
    assert not evaluation.run.has(Evaluated)


def test_an_endpoint_without_traffic_is_not_a_first_run_while_it_has_other_deployments(make: Make) -> None:
    evaluation = make()
    record = evaluation.evaluate()
    assert (record.champion, record.champion_note) == ("", "")
    assert evaluation.model("blue") in record.missing["champion"]
    assert evaluation.model("green") in record.missing["champion"]
    assert "mlops teardown" in record.missing["champion"]
    # The candidate's own deployment, not promoted yet, is not a champion.
    evaluation.register(GREEN, evaluation.model("green"))
    with evaluation.changed("deployment", f"{ENDPOINT}/blue"):
        record = evaluation.evaluate()
    assert record.missing == {}
    assert "this is a first run" in record.champion_note
    assert set(evaluation.evaluate().missing) == {"champion"}


def test_a_promoted_candidate_is_not_compared_with_itself(make: Make) -> None:
    evaluation = make(at="nowhere")
    before = evaluation.evaluate()
    blue = evaluation.workspace.assets.get_model(MODEL_NAME, BLUE)
    evaluation.register(BLUE, blue.id, blue.identity)
    config = make(live="blue", folder="other").config
    assert evaluation.evaluate(config) == before
    assert evaluation.scored() == ["base", "candidate"]
    # Only the name is the same: this is another model.
    evaluation.register(BLUE, blue.id, "of another one")
    assert evaluation.evaluate(config).champion == blue.id
    assert evaluation.scored() == ALL


def test_split_traffic_is_noted(make: Make) -> None:
    evaluation = make()
    evaluation.traffic(blue=90, green=10)
    record = evaluation.evaluate()
    assert record.champion == evaluation.model("blue")
    assert f"{record.champion} 90 %, {evaluation.model('green')} 10 %" in record.notes[0]


@pytest.mark.parametrize("shares", [{"blue": 50, "green": 50}, {"blue": 100, "gone": 0}])
def test_traffic_without_a_champion_is_an_error(shares: dict[str, int], make: Make) -> None:
    evaluation = make()
    evaluation.traffic(**{name: share for name, share in shares.items() if share})
    with ExitStack() as stack:
        if "gone" in shares:
            stack.enter_context(evaluation.changed("deployment", f"{ENDPOINT}/blue"))
        with pytest.raises(TrafficError) as caught:
            evaluation.evaluate()
    assert caught.value.exit_code == 15
    assert caught.value.fix
    assert evaluation.jobs() == []
