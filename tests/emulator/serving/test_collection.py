"""The collection of production data, through the real SDK: what is written where, and what is refused."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.ai.ml import MLClient
from azure.ai.ml.entities import DataCollector, DeploymentCollection, ManagedOnlineDeployment, ManagedOnlineEndpoint, Model

from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.server import Emulator
from mlops.emulator.serving.collection import MAX_INLINE
from mlops.emulator.storage import blobs
from tests.support.project import open_sdk

pytestmark = [
    # The SDK does not close its connections.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]
SIZE = "Standard_NC6s_v3"
SCORE = "https://watched.eastus.inference.ml.azure.com/score"


@pytest.fixture(scope="module")
def client(emulator: Emulator) -> Iterator[MLClient]:
    """A client of a workspace with an endpoint ``watched`` and a deployment ``blue`` whose requests are collected."""
    with pytest.MonkeyPatch.context() as patch:
        ml = open_sdk(emulator, patch)
        ml.models.create_or_update(Model(name="echo", version="1", path=str(Path(__file__).with_name("echo")), type="mlflow_model"))
        ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="watched", auth_mode="key")).result()
        deploy(ml, "blue", sampling_rate=1.0)
        yield ml


def deploy(client: MLClient, name: str, **settings: Any) -> None:
    client.online_deployments.begin_create_or_update(
        ManagedOnlineDeployment(
            name=name,
            endpoint_name="watched",
            model=str(client.models.get("echo", "1").id),
            instance_type=SIZE,
            instance_count=1,
            data_collector=DataCollector({"request": DeploymentCollection(enabled="true")}, **settings),
        )
    ).result()


def score(client: MLClient, deployment: str, question: str) -> int:
    key = client.online_endpoints.get_keys("watched").primary_key
    headers = {"Authorization": f"Bearer {key}"} | ({"azureml-model-deployment": deployment} if deployment else {})
    payload = {"input_data": {"input_string": [{"role": "user", "content": question}]}}
    return requests.post(SCORE, json=payload, headers=headers, timeout=60).status_code


def collected(emulator: Emulator, deployment: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the path below the collection, and the event, of each collected request."""
    root = blobs.path(emulator.azure, blobs.datastore_container(emulator.azure), f"modelDataCollector/watched/{deployment}/request")
    return [
        (path.relative_to(root).as_posix(), json.loads(line))
        for path in sorted(root.rglob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


def test_each_request_is_collected_as_it_was_sent(client: MLClient, emulator: Emulator) -> None:
    shown = client.online_deployments.get("blue", "watched").data_collector
    assert (shown.rolling_rate, shown.sampling_rate, shown.collections["request"].enabled) == ("Hour", 1.0, "true")
    assert [score(client, "blue", question) for question in ("one", "two", "fail")] == [200, 200, 424]
    events = collected(emulator, "blue")
    assert [event["data"]["input_data"]["input_string"][0]["content"] for _, event in events] == ["one", "two", "fail"]
    path, event = events[0]
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/\d\d/[0-9a-f-]{36}\.jsonl", path)
    assert (event["type"], event["datacontenttype"], event["method"]) == ("azureml.inference.request", "application/json", "POST")
    assert event["source"].endswith("/onlineEndpoints/watched/deployments/blue")
    client.data.get("watched-blue-request", version="1")


def test_a_large_payload_is_in_a_separate_file(client: MLClient, emulator: Emulator) -> None:
    before = len(collected(emulator, "blue"))
    assert score(client, "blue", "x" * MAX_INLINE) == 200
    _, event = collected(emulator, "blue")[before]
    assert (event["datainblob"], event["datacontenttype"]) == ("true", "text/plain")
    container = blobs.path(emulator.azure, blobs.datastore_container(emulator.azure))
    assert container.joinpath(event["data"].split("/", 4)[4]).stat().st_size > MAX_INLINE


def test_mirrored_requests_are_collected_from_the_receiving_deployment_and_sampled_if_requested(
    client: MLClient, emulator: Emulator
) -> None:
    deploy(client, "green", rolling_rate="day")
    deploy(client, "none", sampling_rate=1e-9)
    endpoint = client.online_endpoints.get("watched")
    endpoint.traffic, endpoint.mirror_traffic = {"blue": 100}, {"green": 50}
    client.online_endpoints.begin_create_or_update(endpoint).result()
    while not (events := collected(emulator, "green")):
        assert score(client, "", "live") == 200
        time.sleep(0.05)
    assert events[0][1]["data"]["input_data"]["input_string"][0]["content"] == "live"
    assert re.fullmatch(r"\d{4}/\d\d/\d\d/[0-9a-f-]{36}\.jsonl", events[0][0])
    assert score(client, "none", "unseen") == 200
    assert collected(emulator, "none") == []


@pytest.mark.parametrize(
    ("collector", "status", "message"),
    [
        ({}, 400, "dataCollector.collections: Field required"),
        ({"collections": {}, "destination": "x"}, 400, "dataCollector.destination"),
        ({"collections": {"request": {"enabled": "true"}}}, 400, "dataCollector.collections.request.enabled"),
        ({"collections": {"request": {"dataCollectionMode": "On"}}}, 400, "dataCollectionMode"),
        ({"collections": {"request": {"samplingRate": 1.1}}}, 400, "samplingRate"),
        ({"collections": {"request": {}}, "rollingRate": "Week"}, 400, "rollingRate"),
        ({"collections": {"request": {"dataId": "mine"}}}, 400, "is not the id of a data asset: mine"),
        ({"collections": {"request": {"dataId": "/subscriptions/s/data/nobody/versions/1"}}}, 404, "nobody:1"),
        ({"collections": {"request": {}}}, 501, "without a data asset"),
        ({"collections": {"model_inputs": {}}}, 501, "the collection model_inputs"),
        ({"collections": {}, "requestLogging": {"captureHeaders": ["x"]}}, 501, "capture headers"),
    ],
)
def test_a_collector_that_the_service_or_the_emulator_would_not_take_is_refused(
    client: MLClient, emulator: Emulator, collector: dict[str, Any], status: int, message: str
) -> None:
    url = f"https://management.azure.com{emulator.azure.workspace_id}/onlineEndpoints/watched/deployments/rejected"
    properties = {"endpointComputeType": "Managed", "model": client.models.get("echo", "1").id, "instanceType": SIZE}
    body: Any = {"location": "eastus", "sku": {"name": "Default", "capacity": 1}, "properties": properties | {"dataCollector": collector}}
    headers = {"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"}
    answer = requests.put(url, params={"api-version": "2023-04-01-preview"}, json=body, headers=headers, timeout=60)
    assert answer.status_code == status, answer.text
    assert message in answer.text
