from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from mlops.cloud.answers import SHAPES
from mlops.cloud.invoke import build_payload
from mlops.cloud.workspace import Workspace
from mlops.core.errors import SmokeTestFailed
from mlops.core.records import Deployed, Judged, Registered, Trained
from mlops.core.run import Run
from mlops.core.settings import Config
from mlops.emulator.server import Emulator
from mlops.smoke_test import smoke_test
from tests.support.deployments import behind_the_gate, registered_model
from tests.support.roles import restricted


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
