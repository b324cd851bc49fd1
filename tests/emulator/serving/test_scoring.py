"""Scoring by plain requests: who may ask, who answers, how much at once, and what is said when it goes wrong."""

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
from azure.identity import DefaultAzureCredential

from mlops.emulator.base.azure import Options
from mlops.emulator.identity.entra import MANAGEMENT, ML, issue
from mlops.emulator.server import Emulator
from mlops.emulator.serving import containers, scoring
from mlops.emulator.serving.endpoints import audience

pytestmark = [
    # The SDK leaves its connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

ECHO = Path(__file__).with_name("echo")
Score = Callable[..., requests.Response]


@pytest.fixture(scope="module")
def client(emulator: Emulator) -> Iterator[MLClient]:
    """A client with an endpoint ``talk`` and two deployments that say who they are; ``blue`` takes two requests at once."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in emulator.environment().items():
            patch.setenv(name, value)
        i = emulator.azure.identity
        ml = MLClient(DefaultAzureCredential(), i.subscription, i.group, i.workspace)
        model = ml.models.create_or_update(Model(name="echo", version="1", path=str(ECHO), type="mlflow_model"))
        ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="talk", auth_mode="key")).result()
        settings = OnlineRequestSettings(request_timeout_ms=60000, max_concurrent_requests_per_instance=2)
        deploying = [
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
        for poller in deploying:
            poller.result()
        yield ml


@pytest.fixture(autouse=True)
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """The SDK keeps the deployment of one invocation in a class, for all that follow."""
    monkeypatch.setattr(EndpointInvokeFields, "DEFAULT_HEADER", {"Content-Type": "application/json"})


@pytest.fixture(autouse=True)
def traffic(client: MLClient) -> Callable[[Mapping[str, int]], None]:
    """Set the endpoint's traffic; every test starts with all of it on ``blue``."""

    def route(wanted: Mapping[str, int]) -> None:
        endpoint = client.online_endpoints.get("talk")
        endpoint.traffic = dict(wanted)
        client.online_endpoints.begin_create_or_update(endpoint).result()

    route({"blue": 100})
    return route


@pytest.fixture(scope="module")
def key(client: MLClient) -> str:
    return str(client.online_endpoints.get_keys("talk").primary_key)


@pytest.fixture
def score(client: MLClient, key: str) -> Score:
    """Ask the endpoint something."""

    def send(question: str = "hi", token: str | None = key, **headers: str) -> requests.Response:
        authorization = {"Authorization": f"Bearer {token}"} if token else {}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        payload = {"input_data": {"input_string": [{"role": "user", "content": question}]}}
        url = "https://talk.eastus.inference.ml.azure.com/score"
        return requests.post(url, json=payload, headers=authorization | named, timeout=120)

    return send


def test_an_answer_tells_who_gave_it(score: Score) -> None:
    answer = score("hello")
    assert (answer.status_code, answer.json()) == (200, {"output": "I am blue: hello"})
    assert answer.headers["azureml-model-deployment"] == "blue"
    assert score("hello", azureml_model_deployment="green").json() == {"output": "I am green: hello"}


def test_the_sdk_invokes_with_and_without_a_deployment(client: MLClient, tmp_path: Path) -> None:
    request = tmp_path / "request.json"
    request.write_text('{"input_data": {"input_string": [[{"role": "user", "content": "hi"}]]}, "params": {}}')
    assert client.online_endpoints.invoke("talk", request_file=str(request)) == '{"output":"I am blue: hi"}'
    assert "I am green" in client.online_endpoints.invoke("talk", request_file=str(request), deployment_name="green")


def test_only_the_keys_open_it(score: Score, client: MLClient, emulator: Emulator) -> None:
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
def test_tokens_open_an_endpoint_of_tokens(client: MLClient, emulator: Emulator, mode: str, resource: str | None) -> None:
    name = mode.replace("_", "-")
    client.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode=mode)).result()
    token = issue(emulator.azure, resource) if resource else client.online_endpoints.get_keys(name).access_token

    def status(token: str) -> int:
        url = f"https://{name}.eastus.inference.ml.azure.com/score"
        return requests.post(url, json={}, headers={"Authorization": f"Bearer {token}"}, timeout=60).status_code

    assert status(token) == 404, "there is no deployment behind it, but we are in"
    assert status(issue(emulator.azure, MANAGEMENT)) == 401
    assert status(issue(emulator.azure, resource or audience(name), minutes=-1)) == 401


def test_without_traffic_nobody_answers(score: Score, traffic: Callable[[Mapping[str, int]], None]) -> None:
    traffic({})
    answer = score()
    assert answer.status_code == 404
    assert answer.text.startswith("No valid deployments to route to.")
    assert score(azureml_model_deployment="green").status_code == 200
    assert score(azureml_model_deployment="nobody").status_code == 404


def test_traffic_is_split_by_weight(score: Score, traffic: Callable[[Mapping[str, int]], None]) -> None:
    traffic({"blue": 80, "green": 20})
    scoring.SOURCE.seed(7)
    with ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: score(), range(50)))
    seen = Counter(answer.headers["azureml-model-deployment"] for answer in answers)
    same = random.Random(7)
    assert seen == Counter(scoring.choose({"blue": 80, "green": 20}, same) for _ in range(50))
    assert seen["blue"] > seen["green"] > 0
    assert all(answer.json()["output"].startswith(f"I am {answer.headers['azureml-model-deployment']}") for answer in answers)


def test_weights_mean_what_they_say() -> None:
    source = random.Random(11)
    drawn = Counter(scoring.choose({"a": 90, "b": 10, "c": 0}, source) for _ in range(10_000))
    # 90 % ± five standard deviations of a binomial with n = 10,000.
    assert abs(drawn["a"] - 9000) < 5 * 30
    assert set(drawn) == {"a", "b"}
    assert scoring.choose({"a": 0}, source) is None


@pytest.mark.parametrize(
    ("payload", "inner"),
    [
        ('{"input_data": {"colour": "red"}}', "400"),
        ("no JSON", "400"),
        ('{"input_data": {"input_string": [{"role": "user", "content": "fail"}]}}', "500"),
    ],
)
def test_what_the_container_refuses_is_424(key: str, payload: str, inner: str) -> None:
    url = "https://talk.eastus.inference.ml.azure.com/score"
    answer = requests.post(url, data=payload, headers={"Authorization": f"Bearer {key}"}, timeout=60)
    assert answer.status_code == 424
    assert answer.headers["ms-azureml-model-error-statuscode"] == inner
    assert answer.headers["ms-azureml-model-error-reason"] == "model_error"
    assert answer.headers["azureml-model-deployment"] == "blue"


def test_several_requests_at_once_leave_the_liveness_probe_free(score: Score, client: MLClient, emulator: Emulator) -> None:
    with ThreadPoolExecutor(4) as pool:
        waiting = [pool.submit(score, "sleep 3") for _ in range(4)]
        blue = containers.find(emulator.azure, "talk/blue")
        assert blue is not None
        while blue.in_flight < 4:
            assert not any(future.done() for future in waiting)
            time.sleep(0.02)
        extra = score()
        assert (extra.status_code, extra.text) == (429, "Too many pending requests.")
        assert not any(future.done() for future in waiting)
        line = next(line for line in client.online_deployments.get_logs("blue", "talk", lines=99).splitlines() if "listening on" in line)
        assert requests.get(f"http://{line.split()[-1]}/health/live", timeout=60).text == "Healthy"
        assert not any(future.done() for future in waiting), "it answered while the model was at work"
        assert [future.result().status_code for future in waiting] == [200] * 4
    assert score().status_code == 200


def test_a_request_may_take_as_long_as_the_settings_say(score: Score, client: MLClient) -> None:
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


def test_a_container_that_dies_under_a_request_is_to_blame(score: Score) -> None:
    answer = score("die", azureml_model_deployment="green")
    assert (answer.status_code, answer.headers["ms-azureml-model-error-statuscode"]) == (424, "502")
    assert score("back again", azureml_model_deployment="green").json() == {"output": "I am green: back again"}


@pytest.mark.parametrize("status", [408, 424, 429, 500, 503])
def test_faults_on_order_come_once(score: Score, emulator: Emulator, status: int) -> None:
    emulator.azure.faults.order(f"scoring-{status}@blue")
    answers = [score(), score()]
    assert [answer.status_code for answer in answers] == [status, 200]
    assert ("ms-azureml-model-error-statuscode" in answers[0].headers) == (status == 424)


def test_the_front_end_tells_that_it_is_there(key: str) -> None:
    host = "https://talk.eastus.inference.ml.azure.com"
    assert requests.get(host, timeout=60).text == "Healthy"
    assert requests.get(f"{host}/swagger.json", timeout=60).status_code == 401
    described = requests.get(f"{host}/swagger.json", headers={"Authorization": f"Bearer {key}"}, timeout=60).json()
    assert list(described["paths"]) == ["/score"]
    assert requests.get("https://nobody.eastus.inference.ml.azure.com/", timeout=60).status_code == 404


def test_mirrored_traffic_is_refused_and_not_forgotten(client: MLClient) -> None:
    endpoint = client.online_endpoints.get("talk")
    endpoint.mirror_traffic = {"green": 10}
    with pytest.raises(HttpResponseError, match="does not implement mirrored traffic"):
        client.online_endpoints.begin_create_or_update(endpoint).result()


@pytest.fixture
def twice(tmp_path: Path, options: Options, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[], Any]]:
    """Start an emulator on the same state again and again; gives it and a client."""
    running: list[Emulator] = []

    def again() -> tuple[Emulator, MLClient]:
        while running:
            running.pop().stop()
        running.append(Emulator(tmp_path / "state", options).start())
        for name, value in running[0].environment().items():
            monkeypatch.setenv(name, value)
        i = running[0].azure.identity
        return running[0], MLClient(DefaultAzureCredential(), i.subscription, i.group, i.workspace)

    yield again
    while running:
        running.pop().stop()


def test_a_restart_finds_the_endpoint_again(twice: Callable[[], Any], tmp_path: Path) -> None:
    _, ml = twice()
    model = ml.models.create_or_update(Model(name="echo", version="1", path=str(ECHO), type="mlflow_model"))
    made = ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="again", auth_mode="key")).result()
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
    made.traffic = {"demo": 100}
    ml.online_endpoints.begin_create_or_update(made).result()
    key = ml.online_endpoints.get_keys("again").primary_key
    _, ml = twice()
    found = ml.online_endpoints.get("again")
    assert (found.provisioning_state, found.traffic) == ("Succeeded", {"demo": 100})
    assert ml.online_endpoints.get_keys("again").primary_key == key
    request = tmp_path / "request.json"
    request.write_text('{"input_data": {"input_string": [{"role": "user", "content": "hi"}]}}')
    assert ml.online_endpoints.invoke("again", request_file=str(request)) == '{"output":"still me: hi"}'


def test_what_was_under_way_when_the_emulator_stopped_has_failed(twice: Callable[[], Any]) -> None:
    emulator, ml = twice()
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
    emulator, ml = twice()
    assert ml.online_deployments.get("demo", "broken").provisioning_state == "Failed"
    headers = {"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"}
    status = requests.get(answer.headers["Azure-AsyncOperation"], headers=headers, timeout=60).json()
    assert (status["status"], status["error"]["code"]) == ("Failed", "OperationCanceled")
    ml.online_endpoints.begin_delete("broken").result()
