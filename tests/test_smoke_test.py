from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlops.cloud.answers import SHAPES, Answer
from mlops.cloud.invoke import build_payload
from mlops.cloud.workspace import Workspace
from mlops.core.config import Config
from mlops.core.errors import RecordError, SmokeTestFailed
from mlops.core.records import Deployed, Judged, Registered, Trained
from mlops.core.run import Run
from mlops.emulator.server import Emulator
from mlops.smoke_test import Question, fault, percentile, questions, smoke_test
from tests.support.deployments import behind_the_gate, registered_model
from tests.support.roles import restricted


def question(text: str = "What is the capital of France?") -> Question:
    return Question(({"role": "user", "content": text},), "Paris")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("Paris.", "", id="good"),
        pytest.param("   \n", "is empty", id="empty"),
        pytest.param(" what is the  capital of FRANCE? ", "repeats the question", id="echo"),
        pytest.param("What is the capital of France? Paris.", "repeats the question", id="prompt-not-cut-off"),
        pytest.param("Paris.<|end|><|user|> And", "continues past its end", id="runs-on"),
    ],
)
def test_a_bad_answer_is_a_fault_and_a_good_one_is_not(text: str, expected: str) -> None:
    actual = fault(question(), Answer(text, "output"))
    assert expected in actual
    assert bool(actual) == bool(expected)


@pytest.mark.parametrize("text", ["Hi there, how can I help?", "Hi!", "hi"])
def test_a_greeting_may_be_answered_with_a_greeting(text: str) -> None:
    assert fault(question("Hi"), Answer(text, "output")) == ""


@pytest.fixture
def deployed(
    inside: Emulator,
    workspace: Workspace,
    trained_job: str,
    tmp_path: Path,
    settings: Callable[..., Config],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Callable[[str], tuple[Config, Run]]]:
    """Deploy the model behind an image that answers in a shape; return the settings and a run directory up to ``deploy``."""
    config = settings(
        '[targets.test.endpoint]\nname = "shapes"\nprobe_initial_delay_s = 1\n[targets.test.smoke]\nrequests = 2\nmax_new_tokens = 4'
    )

    def deploy(shape: str) -> tuple[Config, Run]:
        monkeypatch.setattr(inside.azure, "options", replace(inside.azure.options, answer_shape=shape))
        endpoint = workspace.endpoints.find("shapes") or workspace.endpoints.create(config.endpoint, {})
        model = registered_model(workspace, trained_job)
        deployment = workspace.endpoints.deploy(config.endpoint, shape, model, {})
        run = behind_the_gate(tmp_path / "run", trained_job)
        inputs = {"train": run.read(Trained).digest(), "gate": run.read(Judged).digest()}
        registered = run.write(Registered(inputs=inputs, name="answering", version="1", model=model, tags={}))
        run.write(
            Deployed(
                inputs={"gate": inputs["gate"], "register": registered.digest()},
                endpoint="shapes", endpoint_identity=endpoint.identity, endpoint_created=False, scoring_uri=endpoint.scoring_uri,
                deployment=shape, identity=deployment.identity, model=model, sku=deployment.sku, instances=1, traffic_before={},
                traffic_now={},
            )
        )  # fmt: skip
        return config, run

    yield deploy
    workspace.endpoints.delete("shapes")


@pytest.mark.slow
@pytest.mark.parametrize("shape", SHAPES)
def test_the_answers_of_every_serving_image_are_read(
    shape: str, deployed: Callable[[str], tuple[Config, Run]], workspace: Workspace, capsys: pytest.CaptureFixture[str]
) -> None:
    config, run = deployed(shape)
    smoked = smoke_test(config, run, workspace)
    assert (smoked.failures, smoked.answer_shapes) == (0, (shape,))
    assert [sample.answer for sample in smoked.samples] == ["That is a fine number."] * 2
    assert f"shape of the answers: {shape}, {SHAPES[shape]}" in capsys.readouterr().out
    if shape != "chat-completion":
        raw = json.loads((run.directory / "smoke.jsonl").read_text().splitlines()[0])["raw"]
        assert json.loads(raw) == json.loads(SHAPES[shape].replace("…", "That is a fine number."))


@pytest.mark.slow
def test_answers_of_an_unknown_shape_stop_the_test_at_once(
    deployed: Callable[[str], tuple[Config, Run]], workspace: Workspace, settings: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, run = deployed("output")
    tolerant = config.model_copy(update={"smoke": config.smoke.model_copy(update={"max_failures": 2})})
    monkeypatch.setattr("mlops.cloud.answers._KEYS", {"text": "output"})
    with pytest.raises(SmokeTestFailed, match="has none of the shapes") as caught:
        smoke_test(tolerant, run, workspace)
    assert 'it begins with: {"output":"That is a fine number."}' in str(caught.value)
    assert (run.directory / "smoke.jsonl").read_text().count("\n") == 1
    assert workspace.endpoints.find_deployment("shapes", "output") is None


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 95), percentile([3.0], 95), percentile([1.0, 9.0], 95)) == (50.0, 95.0, 3.0, 9.0)


def rows(path: Path, *conversations: list[tuple[str, str]]) -> Path:
    lines = [json.dumps({"messages": [{"role": role, "content": text} for role, text in talk]}) for talk in conversations]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_question_ends_with_the_users_last_turn(tmp_path: Path) -> None:
    talk = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Who are you?"), ("assistant", "A model.")]
    [sampled] = questions(rows(tmp_path / "gen.jsonl", talk), 5, 42)
    assert [message["content"] for message in sampled.messages] == ["Be kind.", "Hi", "Hello", "Who are you?"]
    assert (sampled.prompt, sampled.reference) == ("Who are you?", "A model.")


def test_the_same_seed_samples_the_same_questions_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    talks = [[("user", f"question {number}")] for number in range(50)]
    one = questions(rows(tmp_path / "one.jsonl", *talks), 10, 42)
    two = questions(rows(tmp_path / "two.jsonl", *reversed(talks)), 10, 42)
    other = questions(tmp_path / "one.jsonl", 10, 43)
    assert one == two
    assert len(one) == 10
    assert one != other


def test_a_file_without_a_question_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no conversation with a user's turn"):
        questions(rows(tmp_path / "gen.jsonl", [("assistant", "Hello")]), 5, 42)


def test_the_payload_is_the_flat_form_with_greedy_decoding() -> None:
    assert build_payload([{"role": "user", "content": "Hi", "extra": "x"}], 7) == {
        "input_data": {
            "input_string": [{"role": "user", "content": "Hi"}],
            "parameters": {"do_sample": False, "max_new_tokens": 7},
        }
    }


def test_a_key_that_may_not_be_read_deletes_the_deployment(
    deployed: Callable[[str], tuple[Config, Run]], inside: Emulator, workspace: Workspace
) -> None:
    config, run = deployed("output")
    action = "Microsoft.MachineLearningServices/workspaces/onlineEndpoints/listKeys/action"
    name = run.read(Deployed).deployment
    with restricted(inside, "prod", action), pytest.raises(SmokeTestFailed, match="was deleted") as raised:
        smoke_test(config, run, workspace)
    assert f"grant {action} at " in raised.value.fix
    endpoint = workspace.endpoints.find("shapes")
    assert endpoint is None or workspace.endpoints.find_deployment("shapes", name) is None
