"""Scoring by plain requests: authentication, routing, concurrency, and errors."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.ai.ml import MLClient
from azure.ai.ml.constants._endpoint import EndpointInvokeFields
from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint, Model, OnlineRequestSettings
from azure.core.exceptions import HttpResponseError

from mlops.emulator.base.azure import Options
from mlops.emulator.base.fork_servers import ForkServers
from mlops.emulator.identity.entra import MANAGEMENT, ML, issue
from mlops.emulator.server import Emulator
from mlops.emulator.serving import containers
from mlops.emulator.serving.endpoints import audience
from mlops.emulator.serving.scoring import LoadBalancer, choose_deployment, choose_mirror
from tests.support.processes import wait_until
from tests.support.project import open_sdk

pytestmark = [
    # The SDK does not close its connections.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

ECHO = Path(__file__).with_name("echo")
Score = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def client(emulator: Emulator) -> Iterator[MLClient]:
    """A client of a workspace with an endpoint ``talk`` and two deployments that answer with their name."""
    with pytest.MonkeyPatch.context() as patch:
        ml = open_sdk(emulator, patch)
        model = ml.models.create_or_update(Model(name="echo", version="1", path=str(ECHO), type="mlflow_model"))
        ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="talk", auth_mode="key")).result()
        settings = OnlineRequestSettings(request_timeout_ms=60000, max_concurrent_requests_per_instance=2)
        pollers = [
            ml.online_deployments.begin_create_or_update(
                ManagedOnlineDeployment(
                    name=name,
                    endpoint_name="talk",
                    model=model.id,
                    instance_type="Standard_NC6s_v3",
                    instance_count=1,
                    environment_variables={"NAME": f"I am {name}"},
                    request_settings=settings,
                )
            )
            for name in ("blue", "green")
        ]
        for poller in pollers:
            poller.result()
        yield ml


@pytest.fixture(autouse=True)
def reset_sdk_headers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reset the headers of the SDK: it keeps the deployment of an invocation in a class, for all that follow."""
    monkeypatch.setattr(EndpointInvokeFields, "DEFAULT_HEADER", {"Content-Type": "application/json"})


@pytest.fixture(autouse=True)
def traffic(client: MLClient) -> Callable[[Mapping[str, int]], None]:
    """Set the endpoint's traffic. At the start of every test ``blue`` receives all of it."""

    def set_traffic(percentages: Mapping[str, int]) -> None:
        endpoint = client.online_endpoints.get("talk")
        endpoint.traffic = dict(percentages)
        client.online_endpoints.begin_create_or_update(endpoint).result()

    set_traffic({"blue": 100})
    return set_traffic


@pytest.fixture(scope="module")
def key(client: MLClient) -> str:
    return str(client.online_endpoints.get_keys("talk").primary_key)


@pytest.fixture
def score(client: MLClient, key: str) -> Score:
    """Send a question to the endpoint."""

    def send(question: str = "hi", token: str | None = key, **headers: str) -> requests.Response:
        authorization = {"Authorization": f"Bearer {token}"} if token else {}
        extra = {name.replace("_", "-"): value for name, value in headers.items()}
        payload = {"input_data": {"input_string": [{"role": "user", "content": question}]}}
        url = "https://talk.eastus.inference.ml.azure.com/score"
        return requests.post(url, json=payload, headers=authorization | extra, timeout=120)

    return send


def test_a_response_names_its_deployment(score: Score) -> None:
    answer = score("hello")
    assert (answer.status_code, answer.json()) == (200, {"output": "I am blue: hello"})
    assert answer.headers["azureml-model-deployment"] == "blue"
    assert score("hello", azureml_model_deployment="green").json() == {"output": "I am green: hello"}


def test_the_sdk_invokes_with_and_without_a_deployment(client: MLClient, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text('{"input_data": {"input_string": [[{"role": "user", "content": "hi"}]]}, "params": {}}')
    assert client.online_endpoints.invoke("talk", request_file=str(request)) == '{"output":"I am blue: hi"}'
    assert "I am green" in client.online_endpoints.invoke("talk", request_file=str(request), deployment_name="green")


def test_only_the_keys_are_accepted(score: Score, client: MLClient, emulator: Emulator) -> None:
    wrong = score(token="wrong")
    assert (wrong.status_code, wrong.text) == (401, "key_auth_access_denied")
    missing = score(token=None)
    assert (missing.status_code, missing.text) == (401, "key_auth_bad_header_forbidden")
    assert score(token=None, Authorization="Basic abc").status_code == 401
    assert score(token=issue(emulator.azure, MANAGEMENT)).status_code == 401
    secondary = client.online_endpoints.get_keys("talk").secondary_key
    assert score(token=secondary).status_code == 200
    client.online_endpoints.begin_regenerate_keys("talk", key_type="secondary").result()
    assert score(token=secondary).status_code == 401


@pytest.mark.parametrize(("mode", "resource"), [("aml_token", None), ("aad_token", ML)])
def test_tokens_are_accepted_by_an_endpoint_with_tokens(client: MLClient, emulator: Emulator, mode: str, resource: str | None) -> None:
    name = mode.replace("_", "-")
    client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode=mode)).result()
    token = issue(emulator.azure, resource) if resource else client.online_endpoints.get_keys(name).access_token

    def status(token: str) -> int:
        url = f"https://{name}.eastus.inference.ml.azure.com/score"
        return requests.post(url, json={}, headers={"Authorization": f"Bearer {token}"}, timeout=60).status_code

    assert status(token) == 404, "the token is accepted, but there is no deployment"
    assert status(issue(emulator.azure, MANAGEMENT)) == 401
    assert status(issue(emulator.azure, resource or audience(name), minutes=-1)) == 401


def test_without_traffic_there_is_no_deployment_to_route_to(score: Score, traffic: Callable[[Mapping[str, int]], None]) -> None:
    traffic({})
    answer = score()
    assert answer.status_code == 404
    assert answer.text.startswith("No valid deployments to route to.")
    assert score(azureml_model_deployment="green").status_code == 200
    assert score(azureml_model_deployment="nobody").status_code == 404


def test_traffic_is_distributed_by_percentage(score: Score, emulator: Emulator, traffic: Callable[[Mapping[str, int]], None]) -> None:
    traffic({"blue": 80, "green": 20})
    emulator.azure.services.get(LoadBalancer).random.seed(7)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: score(), range(50)))
    counts = Counter(answer.headers["azureml-model-deployment"] for answer in answers)
    source = random.Random(7)
    assert counts == Counter(choose_deployment({"blue": 80, "green": 20}, source) for _ in range(50))
    assert counts["blue"] > counts["green"] > 0
    assert all(answer.json()["output"].startswith(f"I am {answer.headers['azureml-model-deployment']}") for answer in answers)


def test_percentages_are_probabilities() -> None:
    source = random.Random(11)
    drawn = Counter(choose_deployment({"a": 90, "b": 10, "c": 0}, source) for _ in range(10_000))
    # 90 % ± five standard deviations of a binomial with n = 10,000.
    assert abs(drawn["a"] - 9000) < 5 * 30
    assert set(drawn) == {"a", "b"}
    assert choose_deployment({"a": 0}, source) is None


@pytest.mark.parametrize(
    ("payload", "inner"),
    [
        ('{"input_data": {"colour": "red"}}', "400"),
        ("no JSON", "400"),
        ('{"input_data": {"input_string": [{"role": "user", "content": "fail"}]}}', "500"),
    ],
)
def test_an_error_of_the_container_is_424(key: str, payload: str, inner: str) -> None:
    url = "https://talk.eastus.inference.ml.azure.com/score"
    answer = requests.post(url, data=payload, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    assert answer.status_code == 424
    assert answer.headers["ms-azureml-model-error-statuscode"] == inner
    assert answer.headers["ms-azureml-model-error-reason"] == "model_error"
    assert answer.headers["azureml-model-deployment"] == "blue"


def test_concurrent_requests_do_not_block_the_liveness_probe(score: Score, client: MLClient, emulator: Emulator) -> None:
    with ThreadPoolExecutor(4) as pool:
        responses = [pool.submit(score, "sleep 3") for _ in range(4)]
        blue = containers.find(emulator.azure, "talk/blue")
        assert blue is not None
        while blue.in_flight < 4:
            assert not any(future.done() for future in responses)
            time.sleep(0.02)
        extra = score()
        assert (extra.status_code, extra.text) == (429, "Too many pending requests.")
        assert not any(future.done() for future in responses)
        line = next(line for line in client.online_deployments.get_logs("blue", "talk", lines=99).splitlines() if "listening on" in line)
        assert requests.get(f"http://{line.split()[-1]}/health/live", timeout=60).text == "Healthy"
        assert not any(future.done() for future in responses), "the model must still be working when the probe is answered"
        assert [future.result().status_code for future in responses] == [200] * 4
    assert score().status_code == 200


def test_a_request_times_out_as_configured(score: Score, client: MLClient) -> None:
    model = client.models.get("echo", version="1").id
    settings = OnlineRequestSettings(request_timeout_ms=1000)
    client.online_deployments.begin_create_or_update(
        ManagedOnlineDeployment(
            name="hasty", endpoint_name="talk", model=model, instance_type="Standard_NC6s_v3", instance_count=1, request_settings=settings
        )
    ).result()
    late = score("sleep 30", azureml_model_deployment="hasty")
    assert (late.status_code, late.headers["azureml-model-deployment"]) == (408, "hasty")
    client.online_deployments.begin_delete("hasty", "talk").result()


def test_a_container_that_exits_during_a_request_is_424(score: Score) -> None:
    answer = score("die", azureml_model_deployment="green")
    assert (answer.status_code, answer.headers["ms-azureml-model-error-statuscode"]) == (424, "502")
    # Until it has exited, it may accept another request and lose that one, too.
    wait_until(lambda: score("are you back", azureml_model_deployment="green").status_code == 200)
    assert score("back again", azureml_model_deployment="green").json() == {"output": "I am green: back again"}


@pytest.mark.parametrize("status", [408, 424, 429, 500, 503])
def test_an_injected_fault_happens_once(score: Score, emulator: Emulator, status: int) -> None:
    emulator.azure.faults.add(f"scoring-{status}@blue")
    answers = [score(), score()]
    assert [answer.status_code for answer in answers] == [status, 200]
    assert ("ms-azureml-model-error-statuscode" in answers[0].headers) == (status == 424)


def test_the_front_end_answers_health_and_swagger(key: str) -> None:
    host = "https://talk.eastus.inference.ml.azure.com"
    assert requests.get(host, timeout=60).text == "Healthy"
    assert requests.get(f"{host}/swagger.json", timeout=60).status_code == 401
    swagger = requests.get(f"{host}/swagger.json", headers={"Authorization": f"Bearer {key}"}, timeout=60).json()
    assert list(swagger["paths"]) == ["/score"]
    assert requests.get("https://nobody.eastus.inference.ml.azure.com/", timeout=60).status_code == 404


@pytest.mark.parametrize(
    ("live", "mirrored", "message"),
    [
        ({"blue": 100}, {"green": 51}, "At most 50 % of the traffic can be mirrored, not 51 %"),
        ({"blue": 100}, {"blue": 10}, "can receive either live or mirrored traffic, not both"),
        ({"blue": 90, "green": 10}, {"green": 10}, "can receive either live or mirrored traffic, not both"),
        ({}, {"blue": 10, "green": 10}, r"to only one deployment, not to \[blue, green\]"),
        ({"blue": 100}, {"nobody": 10}, r"\[nobody\], which does not exist"),
    ],
)
def test_traffic_that_cant_be_mirrored_is_refused(client: MLClient, live: dict[str, int], mirrored: dict[str, int], message: str) -> None:
    endpoint = client.online_endpoints.get("talk")
    endpoint.traffic, endpoint.mirror_traffic = live, mirrored
    with pytest.raises(HttpResponseError, match=message):
        client.online_endpoints.begin_create_or_update(endpoint).result()
    unchanged = client.online_endpoints.get("talk")
    assert (unchanged.traffic["blue"], unchanged.mirror_traffic) == (100, {})


def test_a_part_of_the_requests_is_mirrored_and_never_seen_by_the_client(client: MLClient, score: Score, emulator: Emulator) -> None:
    endpoint = client.online_endpoints.get("talk")
    endpoint.mirror_traffic = {"GREEN": 50}
    assert client.online_endpoints.begin_create_or_update(endpoint).result().mirror_traffic == {"green": 50}
    with pytest.raises(HttpResponseError, match="takes 50 % of the mirrored traffic"):
        client.online_deployments.begin_delete("green", "talk").result()

    def requests_of_green() -> int:
        return str(client.online_deployments.get_logs("green", "talk", lines=5000)).count("POST /score 200")

    before = requests_of_green()
    # As the front end draws: a deployment, then whether the request is mirrored.
    emulator.azure.services.get(LoadBalancer).random.seed(5)
    source, expected = random.Random(5), 0
    for _ in range(20):
        assert score("hello").json() == {"output": "I am blue: hello"}
        choose_deployment({"blue": 100}, source)
        expected += choose_mirror({"green": 50}, source) is not None
    assert 0 < expected < 20
    assert score("hello", azureml_model_deployment="blue").status_code == 200, "a request that names a deployment is not mirrored"
    while requests_of_green() < before + expected:
        time.sleep(0.05)
    assert requests_of_green() == before + expected
    # A mirror that fails does not concern the client.
    emulator.azure.services.get(LoadBalancer).random.seed(0)
    assert [score("fail").status_code for _ in range(3)] == [424] * 3
    endpoint.mirror_traffic = {}
    client.online_endpoints.begin_create_or_update(endpoint).result()


def test_a_mirror_that_does_not_answer_does_not_delay_the_client(client: MLClient, score: Score, emulator: Emulator) -> None:
    endpoint = client.online_endpoints.get("talk")
    endpoint.mirror_traffic = {"green": 50}
    client.online_endpoints.begin_create_or_update(endpoint).result()
    container = containers.find(emulator.azure, "talk/green")
    assert container is not None
    ready, container.client = container.client, None
    try:
        emulator.azure.services.get(LoadBalancer).random.seed(5)
        assert [score("hello").status_code for _ in range(4)] == [200] * 4
    finally:
        container.client = ready
        endpoint.mirror_traffic = {}
        client.online_endpoints.begin_create_or_update(endpoint).result()


@pytest.fixture
def restart(tmp_path: Path, options: Options, fork_servers: ForkServers, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Start an emulator, or restart it on the same state; return it and a client."""
    running: list[Emulator] = []

    def start() -> tuple[Emulator, MLClient]:
        while running:
            running.pop().stop()
        running.append(Emulator(tmp_path / "state", options, fork_servers=fork_servers).start())
        return running[0], open_sdk(running[0], monkeypatch)

    yield start
    while running:
        running.pop().stop()


def test_an_endpoint_survives_a_restart(restart: Callable[[], Any], tmp_path: Path) -> None:
    _, ml = restart()
    model = ml.models.create_or_update(Model(name="echo", version="1", path=str(ECHO), type="mlflow_model"))
    endpoint = ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="again", auth_mode="key")).result()
    ml.online_deployments.begin_create_or_update(
        ManagedOnlineDeployment(
            name="demo",
            endpoint_name="again",
            model=model.id,
            instance_type="Standard_NC6s_v3",
            instance_count=1,
            environment_variables={"NAME": "still me"},
            request_settings=OnlineRequestSettings(request_timeout_ms=90000),
        )
    ).result()
    endpoint.traffic = {"demo": 100}
    ml.online_endpoints.begin_create_or_update(endpoint).result()
    key = ml.online_endpoints.get_keys("again").primary_key
    _, ml = restart()
    endpoint = ml.online_endpoints.get("again")
    assert (endpoint.provisioning_state, endpoint.traffic) == ("Succeeded", {"demo": 100})
    assert ml.online_endpoints.get_keys("again").primary_key == key
    request = tmp_path / "request.json"
    request.write_text('{"input_data": {"input_string": [{"role": "user", "content": "hi"}]}}')
    assert ml.online_endpoints.invoke("again", request_file=str(request)) == '{"output":"still me: hi"}'


def test_an_operation_that_was_in_progress_when_the_emulator_stopped_has_failed(restart: Callable[[], Any]) -> None:
    emulator, ml = restart()
    model = ml.models.create_or_update(Model(name="echo", version="1", path=str(ECHO), type="mlflow_model"))
    ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="broken", auth_mode="key")).result()
    body: Any = {
        "location": "eastus",
        "sku": {"name": "Default", "capacity": 1},
        "properties": {"endpointComputeType": "Managed", "model": model.id, "instanceType": "Standard_NC6s_v3"},
    }
    answer = requests.put(
        f"https://management.azure.com{emulator.azure.workspace_id}/onlineEndpoints/broken/deployments/demo",
        params={"api-version": "2023-04-01-preview"},
        json=body,
        headers={"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"},
        timeout=60,
    )
    assert answer.json()["properties"]["provisioningState"] == "Creating"
    emulator, ml = restart()
    assert ml.online_deployments.get("demo", "broken").provisioning_state == "Failed"
    headers = {"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"}
    status = requests.get(answer.headers["Azure-AsyncOperation"], headers=headers, timeout=60).json()
    assert (status["status"], status["error"]["code"]) == ("Failed", "OperationCanceled")
    ml.online_endpoints.begin_delete("broken").result()
