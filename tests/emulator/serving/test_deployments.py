"""Online deployments through the real SDK: real containers, and all their failures."""

from __future__ import annotations

import os
import re
import shutil
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.ai.ml import MLClient
from azure.ai.ml.entities import ManagedOnlineDeployment, ManagedOnlineEndpoint, Model, OnlineRequestSettings, ProbeSettings
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.server import Emulator
from mlops.emulator.serving import containers
from mlops.emulator.storage import blobs
from tests.support.project import open_sdk

pytestmark = [
    # The SDK does not close its connections.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

SendRequest = Callable[..., requests.Response]
SIZE = "Standard_NC6s_v3"
ECHO = Path(__file__).with_name("echo")


@pytest.fixture(scope="module")
def client(emulator: Emulator) -> Iterator[MLClient]:
    """A client of a workspace with an endpoint ``shop``."""
    with pytest.MonkeyPatch.context() as patch:
        ml = open_sdk(emulator, patch)
        ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="shop", auth_mode="key")).result()
        yield ml


@pytest.fixture(scope="module")
def good(client: MLClient) -> str:
    """A model that works."""
    return str(client.models.create_or_update(Model(name="good", version="1", path=str(ECHO), type="mlflow_model")).id)


@pytest.fixture(scope="module")
def broken(client: MLClient, emulator: Emulator) -> str:
    """A model that can't be loaded."""
    folder = blobs.path(emulator.azure, blobs.datastore_container(emulator.azure), "broken")
    folder.mkdir()
    (folder / "MLmodel").write_text("flavors:\n  python_function:\n    loader_module: nobody.has.this\n")
    path = "azureml://datastores/workspaceblobstore/paths/broken"
    return str(client.models.create_or_update(Model(name="broken", version="1", path=path, type="mlflow_model")).id)


@pytest.fixture
def send_request(client: MLClient, emulator: Emulator) -> SendRequest:
    """Send a request below ``…/onlineEndpoints`` that the SDK would not send."""

    def send(method: str, path: str, body: Any = None) -> requests.Response:
        url = f"https://management.azure.com{emulator.azure.workspace_id}/onlineEndpoints/{path}"
        headers = {"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"}
        return requests.request(method, url, params={"api-version": "2023-04-01-preview"}, json=body, headers=headers, timeout=60)

    return send


def deploy(client: MLClient, name: str, model: str, **options: Any) -> Any:
    deployment = ManagedOnlineDeployment(
        name=name, endpoint_name="shop", model=model, **{"instance_type": SIZE, "instance_count": 1, **options}
    )
    return client.online_deployments.begin_create_or_update(deployment).result()


def set_traffic(client: MLClient, traffic: Mapping[str, int]) -> Any:
    endpoint = client.online_endpoints.get("shop")
    endpoint.traffic = dict(traffic)
    return client.online_endpoints.begin_create_or_update(endpoint).result()


def container_processes(emulator: Emulator, deployment: str) -> list[int]:
    """Return the process ids of a deployment's containers, without their guards."""
    folder = f"/deployments/shop/{deployment}/ready".encode()
    pids = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                arguments = (entry / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if str(emulator.state).encode() + folder in arguments and b"--" not in arguments:
                pids.append(int(entry.name))
    return pids


def body(model: str, **properties: Any) -> dict[str, Any]:
    return {
        "location": "eastus",
        "sku": {"name": "Default", "capacity": 1},
        "properties": {"endpointComputeType": "Managed", "model": model, "instanceType": SIZE, **properties},
    }


@pytest.fixture(scope="module")
def blue(client: MLClient, good: str) -> Any:
    """A deployment like the tutorial's."""
    return deploy(
        client,
        "blue",
        good,
        instance_type="STANDARD_NC6S_V3",
        liveness_probe=ProbeSettings(initial_delay=600),
        request_settings=OnlineRequestSettings(request_timeout_ms=90000),
        tags={"run": "a"},
    )


def test_a_deployment_has_the_defaults_of_the_service(client: MLClient, blue: Any, good: str) -> None:
    stored = client.online_deployments.get("blue", "shop")
    assert (stored.provisioning_state, stored.instance_type, stored.instance_count, stored.tags) == ("Succeeded", SIZE, 1, {"run": "a"})
    assert stored.model == good
    assert vars(stored.liveness_probe) == {
        "failure_threshold": 30, "success_threshold": 1, "timeout": 2, "period": 10, "initial_delay": 600,
    }  # fmt: skip
    assert stored.readiness_probe.initial_delay == 10
    assert (stored.request_settings.request_timeout_ms, stored.request_settings.max_concurrent_requests_per_instance) == (90000, 1)
    assert [deployment.name for deployment in client.online_deployments.list("shop")] == ["blue"]
    assert client.online_endpoints.get("shop").traffic == {"blue": 0}, "a new deployment receives no traffic"


@pytest.mark.usefixtures("blue")
def test_a_deployment_has_the_fields_of_the_service(send_request: SendRequest, good: str) -> None:
    answer = send_request("GET", "shop/deployments/blue").json()
    assert answer["sku"] == {"name": "Default", "tier": "Standard", "capacity": 1}
    properties = answer["properties"]
    assert (properties["privateNetworkConnection"], properties["environmentId"], properties["codeConfiguration"]) == (False, None, None)
    refused = send_request("PUT", "shop/deployments/private", body(good, privateNetworkConnection=True))
    assert refused.status_code == 501
    # The read-only fields of what was read can be sent back; it is still the connection that is refused.
    refused = send_request("PUT", "shop/deployments/private", answer | {"properties": properties | {"privateNetworkConnection": True}})
    assert refused.status_code == 501, refused.text


@pytest.mark.usefixtures("blue")
def test_logs_are_those_of_the_container(client: MLClient) -> None:
    text = client.online_deployments.get_logs("blue", "shop", lines=1000)
    assert "UserContainerStart: Succeeded" in text
    assert "weights sha256" in text
    assert "listening on" not in client.online_deployments.get_logs("blue", "shop", lines=1, container_type="storage-initializer")
    one = client.online_deployments.get_logs("blue", "shop", lines=1).splitlines()
    assert one == text.splitlines()[:5] + text.splitlines()[-1:]


@pytest.mark.usefixtures("blue")
def test_traffic_sums_to_0_or_100_and_goes_to_existing_deployments(client: MLClient) -> None:
    for traffic, message in (({"blue": 50}, "sum to 50"), ({"blue": 50, "nobody": 50}, r"\[nobody\], which does not exist")):
        with pytest.raises(HttpResponseError, match=message):
            set_traffic(client, traffic)
        assert client.online_endpoints.get("shop").traffic == {"blue": 0}
    assert set_traffic(client, {"BLUE": 100}).traffic == {"blue": 100}
    assert set_traffic(client, {"blue": 0}).traffic == {}


@pytest.mark.usefixtures("blue")
def test_a_deployment_with_traffic_cant_be_deleted(client: MLClient, emulator: Emulator) -> None:
    set_traffic(client, {"blue": 100})
    with pytest.raises(HttpResponseError, match="takes 100 % of the endpoint's traffic"):
        client.online_deployments.begin_delete("blue", "shop").result()
    assert client.online_deployments.get("blue", "shop").provisioning_state == "Succeeded"
    assert len(container_processes(emulator, "blue")) == 1
    set_traffic(client, {"blue": 0})


@pytest.mark.usefixtures("blue")
def test_an_update_rolls_over_to_another_container(client: MLClient, good: str, emulator: Emulator) -> None:
    before = container_processes(emulator, "blue")
    changed = deploy(client, "blue", good, request_settings=OnlineRequestSettings(request_timeout_ms=20000), instance_count=2)
    assert (changed.request_settings.request_timeout_ms, changed.instance_count, changed.tags) == (20000, 2, {})
    after = container_processes(emulator, "blue")
    assert len(after) == 1
    assert after != before


@pytest.mark.usefixtures("blue")
def test_a_patch_changes_the_number_of_instances_and_tags_only(client: MLClient, send_request: SendRequest, good: str) -> None:
    before = client.online_deployments.get("blue", "shop")
    answer = send_request("PATCH", "shop/deployments/blue", {"sku": {"capacity": 3}, "tags": {"scaled": "yes"}})
    assert (answer.status_code, answer.content) == (202, b"")
    assert "/mfeOperationsStatus/od:" in answer.headers["Azure-AsyncOperation"]
    assert "/mfeOperationResults/od:" in answer.headers["Location"]
    while (after := client.online_deployments.get("blue", "shop")).provisioning_state == "Updating":
        time.sleep(0.05)
    assert (after.provisioning_state, after.instance_count, after.tags) == ("Succeeded", 3, {"scaled": "yes"})
    assert (after.model, after.request_settings.request_timeout_ms) == (good, before.request_settings.request_timeout_ms)
    for body_, status in (({"sku": {"capacity": 51}}, 400), ({"sku": {"capacity": 0}}, 400), ({"properties": {}}, 400)):
        assert send_request("PATCH", "shop/deployments/blue", body_).status_code == status
    assert send_request("PATCH", "shop/deployments/nobody", {"tags": {}}).status_code == 404


@pytest.mark.usefixtures("blue")
def test_a_failed_update_leaves_the_old_container_serving(client: MLClient, broken: str, good: str, emulator: Emulator) -> None:
    before = container_processes(emulator, "blue")
    with pytest.raises(HttpResponseError, match="ResourceNotReady"):
        deploy(client, "blue", broken)
    failed = client.online_deployments.get("blue", "shop")
    assert (failed.provisioning_state, failed.model) == ("Failed", good)
    assert container_processes(emulator, "blue") == before
    assert deploy(client, "blue", good).provisioning_state == "Succeeded", "it has been healthy before: it can be updated"


@pytest.mark.usefixtures("blue")
def test_the_instance_type_cant_be_changed(client: MLClient, good: str) -> None:
    with pytest.raises(HttpResponseError, match="instanceType can't be changed"):
        deploy(client, "blue", good, instance_type="Standard_NC12s_v3")


def test_the_log_explains_why_a_model_can_not_be_loaded(client: MLClient, broken: str, good: str, emulator: Emulator) -> None:
    with pytest.raises(HttpResponseError, match="ResourceNotReady: User container has crashed or terminated") as failure:
        deploy(client, "sick", broken)
    assert failure.value.message.startswith("(None) ResourceNotReady: ")
    assert "https://aka.ms/oe-tsg#error-resourcenotready" in failure.value.message
    assert client.online_deployments.get("sick", "shop").provisioning_state == "Failed"
    assert "No module named 'nobody'" in client.online_deployments.get_logs("sick", "shop", lines=500)
    assert container_processes(emulator, "sick") == []
    with pytest.raises(HttpResponseError, match=r"Specified deployment \[sick\] failed during initial provisioning"):
        deploy(client, "sick", good)
    with pytest.raises(HttpResponseError, match="whose provisioning state is Failed"):
        set_traffic(client, {"sick": 100})
    client.online_deployments.begin_delete("sick", "shop").result()
    with pytest.raises(ResourceNotFoundError, match="There is no deployment with name: sick"):
        client.online_deployments.get("sick", "shop")


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("deployment-quota", "OutOfQuota: Not enough cluster CPU quota. The amount of additional CPU quota requested is 12"),
        ("deployment-image", "ImageBuildFailure: "),
        ("deployment-unhealthy", "ResourceNotReady: User container has crashed or terminated: Liveness probe failed"),
    ],
)
def test_injected_faults_fail_the_operation(client: MLClient, good: str, emulator: Emulator, fault: str, message: str) -> None:
    emulator.azure.faults.add(f"{fault}@faulty")
    with pytest.raises(HttpResponseError) as failure:
        deploy(client, "faulty", good, instance_count=2)
    assert failure.value.message.startswith(f"(None) {message}")
    assert client.online_deployments.get("faulty", "shop").provisioning_state == "Failed"
    assert container_processes(emulator, "faulty") == []
    logs = client.online_deployments.get_logs("faulty", "shop", lines=100)
    assert "UserContainerStart: Failed" in logs
    assert ("listening on" in logs) == (fault == "deployment-unhealthy")
    client.online_deployments.begin_delete("faulty", "shop").result()


def _used_cores(client: MLClient) -> int:
    usages = {usage.name["value"]: int(usage.currentValue) for usage in client.compute.list_usage() if "dedicatedCores" in usage.type}
    return usages["standardNCSv3Family"]


def test_a_deployment_uses_quota_with_its_reserve_for_upgrades(
    client: MLClient, good: str, emulator: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    deploy(client, "first", good, instance_count=1)
    # Two instances of 6 cores are reserved for one; deployments of other tests may use some too.
    used = _used_cores(client)
    assert used >= 12
    monkeypatch.setattr(emulator.azure, "options", replace(emulator.azure.options, quota={"standardNCSv3Family": used + 17}))
    message = (
        f"Not enough cluster CPU quota. The amount of additional CPU quota requested is 18, and you are currently using {used}. "
        f"Your amount of maximum quota is {used + 17}."
    )
    with pytest.raises(HttpResponseError, match=re.escape(f"OutOfQuota: {message}")):
        deploy(client, "second", good, instance_count=2)
    # A failed deployment uses nothing.
    assert _used_cores(client) == used
    for name in ("first", "second"):
        client.online_deployments.begin_delete(name, "shop").result()


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        ({"instanceType": "Standard_Potato"}, 400, "Standard_Potato"),
        ({"instanceType": None}, 400, "instanceType is required"),
        ({"model": None}, 400, "must have a model"),
        ({"requestSettings": {"requestTimeout": "90"}}, 400, "requestSettings.requestTimeout"),
        ({"requestSettings": {"requestTimeout": "PT3M1S"}}, 400, "at most 180"),
        ({"requestSettings": {"requestTimeout": "PT0S"}}, 400, "more than 0"),
        ({"requestSettings": {"maxConcurrentRequestsPerInstance": 0}}, 400, "maxConcurrentRequestsPerInstance"),
        ({"livenessProbe": {"initialDelay": "-PT1S"}}, 400, "livenessProbe.initialDelay"),
        ({"livenessProbe": {"colour": "red"}}, 400, "livenessProbe.colour"),
        ({"scaleSettings": {"scaleType": "TargetUtilization"}}, 400, "scaleSettings.scaleType"),
        ({"endpointComputeType": "Kubernetes"}, 400, "endpointComputeType"),
        ({"environmentId": "azureml:mine:1"}, 501, "the environment azureml:mine:1"),
        ({"codeConfiguration": {"scoringScript": "score.py"}}, 400, "must have codeConfiguration.codeId and environmentId"),
        ({"codeConfiguration": {"codeId": "azureml:c:1"}}, 400, "codeConfiguration.scoringScript"),
    ],
)
def test_an_invalid_deployment_is_rejected(send_request: SendRequest, good: str, change: dict[str, Any], status: int, message: str) -> None:
    answer = send_request("PUT", "shop/deployments/rejected", body(good) | {"properties": body(good)["properties"] | change})
    assert answer.status_code == status
    assert message in answer.text
    assert send_request("GET", "shop/deployments/rejected").status_code == 404


def test_a_model_that_cant_be_served_is_rejected(send_request: SendRequest, emulator: Emulator) -> None:
    assert send_request("PUT", "shop/deployments/rejected", body("azureml:nobody:1")).status_code == 404
    folder = blobs.path(emulator.azure, blobs.datastore_container(emulator.azure), "pickles")
    folder.mkdir()
    (folder / "model.pkl").write_bytes(b"1")
    answer = send_request("PUT", "shop/deployments/rejected", body("azureml://datastores/workspaceblobstore/paths/pickles"))
    assert answer.status_code == 400
    assert "is not an MLflow model" in answer.text


def test_the_endpoint_must_exist(send_request: SendRequest, good: str) -> None:
    answer = send_request("PUT", "nowhere/deployments/blue", body(good))
    assert answer.status_code == 404
    assert "There is no endpoint with name: nowhere" in answer.text
    assert send_request("DELETE", "nowhere/deployments/blue").status_code == 204


def test_a_deployment_with_an_operation_in_progress_cant_be_changed(
    send_request: SendRequest, good: str, client: MLClient, emulator: Emulator
) -> None:
    assert send_request("PUT", "shop/deployments/busy", body(good)).status_code == 201
    for method, path in (("PUT", "shop/deployments/busy"), ("DELETE", "shop/deployments/busy"), ("DELETE", "shop")):
        answer = send_request(method, path, body(good) if method == "PUT" else None)
        assert (answer.status_code, answer.json()["error"]["code"]) == (409, "Conflict")
    while (state := client.online_deployments.get("busy", "shop").provisioning_state) != "Succeeded":
        assert state == "Creating"
        time.sleep(0.1)
    client.online_deployments.begin_delete("busy", "shop").result()
    assert container_processes(emulator, "busy") == []


def test_a_model_of_a_newer_transformers_needs_a_newer_serving_image(client: MLClient, emulator: Emulator) -> None:
    folder = blobs.path(emulator.azure, blobs.datastore_container(emulator.azure), "newer")
    shutil.copytree(ECHO, folder)
    with (folder / "MLmodel").open("a") as file:
        file.write("  transformers_version: 5.3.0\n")
    path = "azureml://datastores/workspaceblobstore/paths/newer"
    newer = str(client.models.create_or_update(Model(name="newer", version="1", path=path, type="mlflow_model")).id)
    older_image, image = (
        f"azureml://registries/azureml/environments/foundation-model-inference/versions/{version}" for version in (87, 93)
    )
    for name, environment in (("by-default", None), ("by-an-older", older_image)):
        with pytest.raises(HttpResponseError, match="ResourceNotReady: User container has crashed or terminated"):
            deploy(client, name, newer, environment=environment)
        logs = client.online_deployments.get_logs(name, "shop", lines=100)
        assert "UnreadableCheckpoint: The model was saved by transformers 5.3.0. Its config.json can't be read by transformers 4." in logs
        client.online_deployments.begin_delete(name, "shop").result()
    assert deploy(client, "by-a-newer", newer, environment=image).environment == image
    client.online_deployments.begin_delete("by-a-newer", "shop").result()


def test_a_container_that_exits_is_restarted_once(client: MLClient, good: str, emulator: Emulator) -> None:
    deploy(client, "mortal", good, request_settings=OnlineRequestSettings(request_timeout_ms=90000))
    key = client.online_endpoints.get_keys("shop").primary_key

    def status() -> int:
        payload = {"input_data": {"input_string": [{"role": "user", "content": "hi"}]}}
        headers = {"Authorization": f"Bearer {key}", "azureml-model-deployment": "mortal"}
        return requests.post("https://shop.eastus.inference.ml.azure.com/score", json=payload, headers=headers, timeout=120).status_code

    container = containers.find(emulator.azure, "shop/mortal")
    assert container is not None
    first = container_processes(emulator, "mortal")
    os.kill(first[0], signal.SIGKILL)
    while (second := container_processes(emulator, "mortal")) in ([], first):
        assert not container.has_failed
        time.sleep(0.1)
    assert status() == 200, "a request waits until the container is ready again"
    os.kill(second[0], signal.SIGKILL)
    while not container.has_failed:
        assert container_processes(emulator, "mortal") in ([], second)
        time.sleep(0.1)
    assert container_processes(emulator, "mortal") == []
    assert "exit code 137; restarts left: 0" in client.online_deployments.get_logs("mortal", "shop", lines=500)
    assert status() == 503
    client.online_deployments.begin_delete("mortal", "shop").result()


def test_deleting_the_endpoint_stops_all_containers(client: MLClient, blue: Any, emulator: Emulator) -> None:
    set_traffic(client, {"blue": 100})
    assert container_processes(emulator, "blue")
    client.online_endpoints.begin_delete("shop").result()
    assert container_processes(emulator, "blue") == []
    assert not (emulator.state / "deployments" / "shop" / "blue").exists()
