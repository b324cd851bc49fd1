"""Online endpoints through the real SDK: creation, keys and tokens, tags, invalid requests. Traffic is tested with the deployments."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import requests
from azure.ai.ml.entities import ManagedOnlineEndpoint
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.server import Emulator

pytestmark = [
    # The SDK does not close its connections.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

SendRequest = Callable[..., requests.Response]


@pytest.fixture
def send_request(emulator: Emulator, environment: Mapping[str, str]) -> SendRequest:
    """Send a request below ``…/onlineEndpoints`` that the SDK would not send."""
    token = issue(emulator.azure, MANAGEMENT)

    def send(method: str, path: str, body: Any = None, version: str = "2022-02-01-preview") -> requests.Response:
        url = f"https://management.azure.com{emulator.azure.workspace_id}/onlineEndpoints/{path}"
        headers = {"Authorization": f"Bearer {token}"}
        return requests.request(method, url, params={"api-version": version}, json=body, headers=headers, timeout=60)

    return send


def create(ml: Any, name: str, **options: Any) -> Any:
    return ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, **{"auth_mode": "key", **options})).result()


def body(**properties: Any) -> dict[str, Any]:
    return {"location": "eastus", "properties": {"authMode": "Key", **properties}}


def wait_for_operation(answer: requests.Response, emulator: Emulator) -> dict[str, Any]:
    """Poll an operation until it has ended, and return its status."""
    headers = {"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"}
    while True:
        status: dict[str, Any] = requests.get(answer.headers["Azure-AsyncOperation"], headers=headers, timeout=60).json()
        if status["status"] != "InProgress":
            return status
        time.sleep(0.05)


def test_an_endpoint_is_created_as_requested(ml: Any) -> None:
    created = create(ml, "created", description="a test", tags={"run": "a"})
    assert (created.provisioning_state, created.auth_mode) == ("Succeeded", "key")
    assert (created.description, created.tags) == ("a test", {"run": "a"})
    assert created.scoring_uri == "https://created.eastus.inference.ml.azure.com/score"
    assert created.openapi_uri == "https://created.eastus.inference.ml.azure.com/swagger.json"
    assert created.properties["azureml.onlineendpointid"].endswith("/onlineendpoints/created")
    assert created.kind == "Managed"
    stored = ml.online_endpoints.get("CREATED")
    assert (stored.name, stored.traffic, stored.identity.type) == ("created", {}, "system_assigned")
    assert "created" in [endpoint.name for endpoint in ml.online_endpoints.list()]


def test_a_new_endpoint_has_no_address_until_it_is_ready(send_request: SendRequest, emulator: Emulator) -> None:
    answer = send_request("PUT", "early", body())
    assert answer.status_code == 201
    assert (answer.json()["properties"]["provisioningState"], answer.json()["properties"]["scoringUri"]) == ("Creating", None)
    assert "/mfeOperationsStatus/oe:" in answer.headers["Azure-AsyncOperation"]
    assert wait_for_operation(answer, emulator)["status"] == "Succeeded"
    assert send_request("GET", "early").json()["properties"]["scoringUri"].startswith("https://early.")
    update = send_request("PUT", "early", body(description="new"))
    assert (update.status_code, update.json()["properties"]["description"]) == (201, "new"), "an update, too; with the new values at once"
    assert update.headers["x-ms-async-operation-timeout"] == "PT30M"
    assert wait_for_operation(update, emulator)["status"] == "Succeeded"
    again = send_request("PUT", "early", send_request("GET", "early").json())
    assert again.status_code == 201, f"what was read can be sent back: {again.text}"


def test_an_update_keeps_the_keys(ml: Any) -> None:
    created = create(ml, "updated", tags={"a": "1"})
    keys = ml.online_endpoints.get_keys("updated")
    created.tags, created.description = {"b": "2"}, "new"
    changed = ml.online_endpoints.begin_create_or_update(created).result()
    assert (changed.tags, changed.description) == ({"b": "2"}, "new")
    assert ml.online_endpoints.get_keys("updated").primary_key == keys.primary_key
    assert ml.online_endpoints.get("updated").properties["createdAt"] == created.properties["createdAt"]


def test_tags_are_patched(ml: Any, send_request: SendRequest) -> None:
    create(ml, "patched", tags={"a": "1"})
    answer = send_request("PATCH", "patched", {"tags": {"b": "2"}})
    assert (answer.status_code, answer.json()["tags"]) == (200, {"b": "2"})
    assert ml.online_endpoints.get("patched").tags == {"b": "2"}
    assert send_request("PATCH", "patched", {"properties": {"authMode": "AMLToken"}}).status_code == 400
    # MLflow's deployment client sends the location along.
    answers = [send_request("PATCH", "patched", {"location": location, "tags": {"c": "3"}}) for location in ("East US", "westus")]
    assert [answer.status_code for answer in answers] == [200, 400]


def test_each_key_is_regenerated_separately(ml: Any) -> None:
    create(ml, "keyed")
    before = ml.online_endpoints.get_keys("keyed")
    assert before.primary_key != before.secondary_key
    ml.online_endpoints.begin_regenerate_keys("keyed", key_type="secondary").result()
    after = ml.online_endpoints.get_keys("keyed")
    assert after.primary_key == before.primary_key
    assert after.secondary_key != before.secondary_key


def test_an_endpoint_with_tokens_has_no_keys(ml: Any, send_request: SendRequest) -> None:
    create(ml, "tokened", auth_mode="aml_token")
    token = ml.online_endpoints.get_keys("tokened")
    assert token.access_token.count(".") == 2
    assert time.time() < token.refresh_after_time_utc < token.expiry_time_utc
    response = send_request("POST", "tokened/listKeys")
    assert response.status_code == 400
    assert "authMode AMLToken" in response.text


def test_a_deleted_endpoint_can_be_created_again(ml: Any, send_request: SendRequest) -> None:
    create(ml, "deleted")
    ml.online_endpoints.begin_delete("deleted").result()
    with pytest.raises(ResourceNotFoundError, match="There is no endpoint with name: deleted"):
        ml.online_endpoints.get("deleted")
    assert send_request("DELETE", "deleted").status_code == 204
    create(ml, "deleted")


def test_the_location_of_a_deletion_leads_to_its_result(ml: Any, send_request: SendRequest, emulator: Emulator) -> None:
    create(ml, "located")
    answer = send_request("DELETE", "located")
    assert (answer.status_code, answer.content) == (202, b"")
    assert wait_for_operation(answer, emulator)["status"] == "Succeeded"
    headers = {"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"}
    assert "/mfeOperationResults/oe:" in answer.headers["Location"]
    assert requests.get(answer.headers["Location"], headers=headers, timeout=60).status_code == 200


@pytest.mark.parametrize("name", ["ab", "1abc", "abc-", "a_bc", "a" * 33])
def test_an_invalid_name_is_rejected(send_request: SendRequest, name: str) -> None:
    answer = send_request("PUT", name, body())
    assert answer.status_code == 400
    assert "3 to 32" in answer.json()["error"]["details"][0]["message"]


@pytest.mark.parametrize(
    ("content", "status", "message"),
    [
        ({"properties": {"authMode": "Key"}}, 400, "location"),
        ({"location": "eastus"}, 400, "properties"),
        (body() | {"location": "westeurope"}, 400, "westeurope"),
        (body(authMode="Password"), 400, "authMode"),
        (body(colour="red"), 400, "colour"),
        (body(traffic={"demo": 101}), 400, "traffic.demo"),
        (body(traffic={"demo": "100"}), 400, "traffic.demo"),
        (body(traffic={"demo": 100}), 400, "does not exist"),
        (body(mirrorTraffic={"demo": 10}), 400, "does not exist in endpoint"),
        (body(compute="aks"), 501, "not managed"),
        (body() | {"identity": {"type": "UserAssigned"}}, 501, "UserAssigned"),
    ],
)
def test_an_invalid_endpoint_is_rejected(send_request: SendRequest, content: dict[str, Any], status: int, message: str) -> None:
    answer = send_request("PUT", "rejected", content)
    assert answer.status_code == status
    assert message in answer.text
    assert send_request("GET", "rejected").status_code == 404


def test_an_unknown_api_version_is_rejected(send_request: SendRequest) -> None:
    assert send_request("GET", "created", version="2030-01-01").json()["error"]["code"] == "InvalidApiVersionParameter"


def test_an_endpoint_that_failed_must_be_recreated(ml: Any, emulator: Emulator) -> None:
    emulator.azure.faults.add("endpoint-failed@failing")
    with pytest.raises(HttpResponseError, match="Provisioning of endpoint failing failed"):
        create(ml, "failing")
    assert ml.online_endpoints.get("failing").provisioning_state == "Failed"
    with pytest.raises(HttpResponseError, match="Please recreate the endpoint"):
        create(ml, "failing")
    ml.online_endpoints.begin_delete("failing").result()
    assert create(ml, "failing").provisioning_state == "Succeeded"


@pytest.mark.parametrize(("fault", "state"), [("operation-failed", "Failed"), ("operation-canceled", "Canceled")])
def test_an_operation_that_fails_leaves_the_endpoint_as_it_was(ml: Any, emulator: Emulator, fault: str, state: str) -> None:
    create(ml, "unlucky")
    entity = ml.online_endpoints.get("unlucky")
    entity.tags = {"new": "yes"}
    endpoints = ml.online_endpoints
    for change in (partial(endpoints.begin_create_or_update, entity), partial(endpoints.begin_delete, "unlucky")):
        emulator.azure.faults.add(f"{fault}@unlucky")
        with pytest.raises(HttpResponseError, match="The operation on unlucky"):
            change().result()
        after = ml.online_endpoints.get("unlucky")
        assert (after.provisioning_state, "new" in after.tags) == (state, False)
    assert ml.online_endpoints.begin_create_or_update(entity).result().tags == {"new": "yes"}
    ml.online_endpoints.begin_delete("unlucky").result()
    # A creation that was canceled can only be deleted, like one that failed.
    emulator.azure.faults.add(f"{fault}@unlucky")
    with pytest.raises(HttpResponseError, match="The operation on unlucky"):
        create(ml, "unlucky")
    with pytest.raises(HttpResponseError, match="Please recreate the endpoint"):
        create(ml, "unlucky")
    ml.online_endpoints.begin_delete("unlucky").result()


def test_an_operation_that_fails_after_its_work_has_changed_the_endpoint(ml: Any, emulator: Emulator) -> None:
    create(ml, "too-late")
    entity = ml.online_endpoints.get("too-late")
    entity.tags = {"new": "yes"}
    emulator.azure.faults.add("operation-applied@too-late x2")
    with pytest.raises(HttpResponseError, match="The operation on too-late has failed"):
        ml.online_endpoints.begin_create_or_update(entity).result()
    after = ml.online_endpoints.get("too-late")
    assert (after.provisioning_state, after.tags) == ("Succeeded", {"new": "yes"})
    with pytest.raises(HttpResponseError, match="The operation on too-late has failed"):
        ml.online_endpoints.begin_delete("too-late").result()
    with pytest.raises(ResourceNotFoundError):
        ml.online_endpoints.get("too-late")


def test_a_name_that_another_user_of_the_region_has_is_refused(ml: Any, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    create(ml, "mine-already")
    monkeypatch.setattr(emulator.azure, "options", replace(emulator.azure.options, endpoints_taken=("Popular", "mine-already")))
    with pytest.raises(HttpResponseError, match="Endpoint name needs to be unique within a region"):
        create(ml, "popular")
    with pytest.raises(ResourceNotFoundError):
        ml.online_endpoints.get("popular")
    assert create(ml, "mine-already", tags={"changed": "yes"}).tags == {"changed": "yes"}, "an update is no new name"


def test_mlflows_deployment_client_manages_endpoints(emulator: Emulator, environment: Mapping[str, str]) -> None:
    """It sends api-versions that azure-ai-ml does not send."""
    from mlflow.deployments import get_deploy_client

    client = get_deploy_client(emulator.azure.tracking_uri)
    assert client.create_endpoint("by-mlflow")["name"] == "by-mlflow"
    assert "by-mlflow" in [endpoint["name"] for endpoint in client.list_endpoints()]
    assert client.get_endpoint("by-mlflow")["name"] == "by-mlflow"
    client.delete_endpoint("by-mlflow")
    assert "by-mlflow" not in [endpoint["name"] for endpoint in client.list_endpoints()]
