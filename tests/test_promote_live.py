"""A promotion that is also compared by requests that users have sent, which are stored nowhere but where Azure collects them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mlops.cloud.collected import read_requests
from mlops.cloud.invoke import EndpointClient, ScoringResponse, build_payload
from mlops.cloud.workspace import Workspace
from mlops.core.errors import CanaryStopped
from mlops.core.run import Run
from mlops.core.settings import Config
from mlops.deploy import deploy
from mlops.emulator.storage import blobs
from mlops.promote import promote
from mlops.smoke_test import smoke_test
from tests.test_promote import Stage, stage

__all__ = ["stage"]

Fault = Callable[[str], None]
SECRET = "Sesame"


def send(endpoint: Stage, count: int) -> None:
    """Send requests as users do."""
    client = endpoint.workspace.endpoints.open_client(endpoint.workspace.endpoints.get(endpoint.name), timeout_s=30)
    for number in range(count):
        assert client.invoke(question(number)).status == 200


def question(number: int) -> dict[str, Any]:
    return build_payload([{"role": "user", "content": f"{SECRET} {number}"}], 4)


def folder(endpoint: Stage, deployment: str) -> Path:
    azure = endpoint.emulator.azure
    return blobs.path(azure, blobs.datastore_container(azure), f"modelDataCollector/{endpoint.name}/{deployment}/request")


def collected(endpoint: Stage, deployment: str) -> list[str]:
    """Return the requests of users that a deployment has collected, in their order."""
    lines = [line for path in sorted(folder(endpoint, deployment).rglob("*.jsonl")) for line in path.read_text().splitlines()]
    texts = [json.loads(line)["data"]["input_data"]["input_string"][-1]["content"] for line in lines]
    return [text for text in texts if text.startswith(SECRET)]


def candidate(endpoint: Stage, name: str, live_requests: int, *options: str) -> tuple[Config, Run, Workspace, str]:
    """Deploy and test a model that is to be promoted."""
    config, workspace = endpoint.session(f"endpoint.deployment_prefix={name}", *options)
    run = endpoint.registered(name, workspace.endpoints.get_live_model(endpoint.name))
    new = deploy(config, run, workspace).deployment
    smoke_test(config, run, workspace)
    config = config.model_copy(update={"promotion": config.promotion.model_copy(update={"live_requests": live_requests})})
    return config, run, workspace, new


def test_requests_of_users_are_answered_by_both_and_stored_nowhere(
    stage: Stage, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], fault: Fault
) -> None:
    stage.rows, stage.promotion = 30, "steps = [50, 100]\nmargin = 0.5\nlatency_floor_ms = 60_000"
    collecting = "endpoint.collect_requests=true"
    summary = stage.tmp_path / "summary.md"
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(summary))
    invoke = EndpointClient.invoke

    def answer_in_a_foreign_shape(self: EndpointClient, body: Mapping[str, Any], deployment: str | None = None) -> ScoringResponse:
        response = invoke(self, body, deployment)
        content = json.dumps({"foreign": body}).encode() if SECRET in json.dumps(body) else response.content
        return ScoringResponse(**{**vars(response), "content": content})

    monkeypatch.setattr(EndpointClient, "invoke", answer_in_a_foreign_shape)

    # Nothing is collected of the first deployment, so there is nothing to compare by: that is said, and the suite decides.
    first = stage.live()
    send(stage, 2)
    config, run, workspace, second = candidate(stage, "second", 5, collecting)
    promoted = promote(config, run, workspace)
    assert f"Users' requests are not compared: {first} does not collect them" in capfd.readouterr().err
    assert promoted.canary is not None
    assert (promoted.canary.live_requested, promoted.canary.live, promoted.canary.live_digest) == (5, 0, "")

    # Collected, but the pipeline's own requests are no users'.
    config, run, workspace, third = candidate(stage, "third", 5, collecting)
    for path in folder(stage, second).rglob("*.jsonl"):
        path.unlink()
    with pytest.raises(CanaryStopped, match="there are no users' requests in the workspace's storage") as stopped:
        promote(config, run, workspace)
    assert "promotion.live_requests = 0" in stopped.value.fix

    # Fewer than asked for, and lines that can't be read: what there is, is used, once each.
    send(stage, 4)
    send(stage, 1)
    [path] = folder(stage, second).rglob("*.jsonl")
    event = json.loads(path.read_text().splitlines()[0])
    with path.open("a") as file:
        file.write("".join(json.dumps(event | change) + "\n" for change in ({"datainblob": "true"}, {"type": "other"}, {"data": 5})))
        file.write(json.dumps(event)[:30])
    found = read_requests(workspace.outputs, stage.name, second, 2, ())
    assert [payload["input_data"]["input_string"][0]["content"] for payload in found.payloads] == [f"{SECRET} 0", f"{SECRET} 3"]
    assert SECRET not in repr(found)
    capfd.readouterr()
    promoted = promote(config, run, workspace)
    said = capfd.readouterr()
    assert f"Only 4 of 5 users' requests are compared: {second} has no more. 4 lines could not be read" in said.out + said.err
    assert promoted.canary is not None
    assert (promoted.canary.live_requested, promoted.canary.live, len(promoted.canary.live_digest)) == (5, 4, 64)
    measures = {measure.name: (measure.pairs, measure.difference) for measure in promoted.canary.measures}
    assert measures["usable answers to live requests"] == measures["answers to live requests in time"] == (4, 0.0)
    # The new deployment has answered each, the newest first.
    assert collected(stage, third) == [f"{SECRET} {number}" for number in (0, 3, 2, 1)]

    # Worse for users only: the suite does not save it.
    monkeypatch.setattr(EndpointClient, "invoke", invoke)
    send(stage, 20)
    config, run, workspace, fourth = candidate(stage, "fourth", 20, collecting)
    fault(f"scoring-424@{fourth} x11")
    with pytest.raises(CanaryStopped, match=r"usable answers to live requests -100\.0 points in 11 pairs"):
        promote(config, run, workspace)
    assert stage.champion() == third

    everything = [said.out, said.err, *capfd.readouterr()]
    written = [path for path in stage.tmp_path.rglob("*") if path.is_file()]
    assert summary in written or not summary.exists()
    assert any(path.name == "promote.json" for path in written)
    everything += [path.read_text(errors="replace") for path in written]
    assert [text for text in everything if SECRET in text] == []
    # Nor in Azure, but where it collects them.
    others = [path for path in (stage.emulator.state).rglob("*") if path.is_file() and "modelDataCollector" not in path.parts]
    assert [path for path in others if SECRET.encode() in path.read_bytes()] == []
