"""Online endpoints through the real SDK: creation, keys and tokens, tags, refusals. Traffic is tested where there are deployments."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest
import requests
from azure.ai.ml.entities import ManagedOnlineEndpoint
from azure.core.exceptions import HttpResponseError, ResourceNotFoundError

from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.server import Emulator

pytestmark = [
    # The SDK leaves its connections to the garbage collector.
    pytest.mark.filterwarnings("ignore:unclosed <ssl.SSLSocket:ResourceWarning"),
]

Ask = Callable[..., requests.Response]


@pytest.fixture
def ask(emulator: Emulator, environment: Mapping[str, str]) -> Ask:
    """A request under ``…/onlineEndpoints``, without the SDK's good manners."""
    token = issue(emulator.azure, MANAGEMENT)

    def send(method: str, path: str, body: Any = None, version: str = "2022-02-01-preview") -> requests.Response:
        url = f"https://management.azure.com{emulator.azure.workspace_id}/onlineEndpoints/{path}"
        headers = {"Authorization": f"Bearer {token}"}
        return requests.request(method, url, params={"api-version": version}, json=body, headers=headers, timeout=60)

    return send


def create(ml: Any, name: str, **more: Any) -> Any:
    return ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, **{"auth_mode": "key", **more})).result()


def body(**properties: Any) -> dict[str, Any]:
    return {"location": "eastus", "properties": {"authMode": "Key", **properties}}


def wait(answer: requests.Response, emulator: Emulator) -> dict[str, Any]:
    """The status of an accepted operation, once it has ended."""
    headers = {"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"}
    while True:
        status: dict[str, Any] = requests.get(answer.headers["Azure-AsyncOperation"], headers=headers, timeout=60).json()
        if status["status"] != "InProgress":
            return status
        time.sleep(0.05)


def test_an_endpoint_is_created_as_asked(ml: Any) -> None:
    made = create(ml, "created", description="ours", tags={"run": "a"})
    assert (made.provisioning_state, made.auth_mode, made.description, made.tags) == ("Succeeded", "key", "ours", {"run": "a"})
    assert made.scoring_uri == "https://created.eastus.inference.ml.azure.com/score"
    assert made.openapi_uri == "https://created.eastus.inference.ml.azure.com/swagger.json"
    assert made.properties["azureml.onlineendpointid"].endswith("/onlineendpoints/created")
    assert made.kind == "Managed"
    found = ml.online_endpoints.get("CREATED")
    assert (found.name, found.traffic, found.identity.type) == ("created", {}, "system_assigned")
    assert "created" in [endpoint.name for endpoint in ml.online_endpoints.list()]


def test_a_new_endpoint_has_no_address_until_it_is_ready(ask: Ask, emulator: Emulator) -> None:
    answer = ask("PUT", "early", body())
    assert answer.status_code == 201
    assert (answer.json()["properties"]["provisioningState"], answer.json()["properties"]["scoringUri"]) == ("Creating", None)
    assert "/mfeOperationsStatus/oe:" in answer.headers["Azure-AsyncOperation"]
    assert wait(answer, emulator)["status"] == "Succeeded"
    assert ask("GET", "early").json()["properties"]["scoringUri"].startswith("https://early.")
    assert ask("PUT", "early", body()).status_code == 200


def test_an_update_changes_what_it_names_and_keeps_the_keys(ml: Any) -> None:
    made = create(ml, "updated", tags={"a": "1"})
    keys = ml.online_endpoints.get_keys("updated")
    made.tags, made.description = {"b": "2"}, "new"
    changed = ml.online_endpoints.begin_create_or_update(made).result()
    assert (changed.tags, changed.description) == ({"b": "2"}, "new")
    assert ml.online_endpoints.get_keys("updated").primary_key == keys.primary_key
    assert ml.online_endpoints.get("updated").properties["createdAt"] == made.properties["createdAt"]


def test_tags_are_patched(ml: Any, ask: Ask) -> None:
    create(ml, "patched", tags={"a": "1"})
    answer = ask("PATCH", "patched", {"tags": {"b": "2"}})
    assert (answer.status_code, answer.json()["tags"]) == (200, {"b": "2"})
    assert ml.online_endpoints.get("patched").tags == {"b": "2"}
    assert ask("PATCH", "patched", {"properties": {"authMode": "AMLToken"}}).status_code == 400


def test_keys_are_two_and_regenerated_one_by_one(ml: Any) -> None:
    create(ml, "keyed")
    before = ml.online_endpoints.get_keys("keyed")
    assert before.primary_key != before.secondary_key
    ml.online_endpoints.begin_regenerate_keys("keyed", key_type="secondary").result()
    after = ml.online_endpoints.get_keys("keyed")
    assert after.primary_key == before.primary_key
    assert after.secondary_key != before.secondary_key


def test_an_endpoint_of_tokens_has_no_keys(ml: Any, ask: Ask) -> None:
    create(ml, "tokened", auth_mode="aml_token")
    token = ml.online_endpoints.get_keys("tokened")
    assert token.access_token.count(".") == 2
    assert time.time() < token.refresh_after_time_utc < token.expiry_time_utc
    refused = ask("POST", "tokened/listKeys")
    assert refused.status_code == 400
    assert "authMode AMLToken" in refused.text


def test_deleting_takes_the_name_out_of_the_list(ml: Any, ask: Ask) -> None:
    create(ml, "deleted")
    ml.online_endpoints.begin_delete("deleted").result()
    with pytest.raises(ResourceNotFoundError, match="There is no endpoint with name: deleted"):
        ml.online_endpoints.get("deleted")
    assert ask("DELETE", "deleted").status_code == 204
    create(ml, "deleted")


def test_a_deletions_location_leads_to_its_result(ml: Any, ask: Ask, emulator: Emulator) -> None:
    create(ml, "located")
    answer = ask("DELETE", "located")
    assert (answer.status_code, answer.content) == (202, b"")
    assert wait(answer, emulator)["status"] == "Succeeded"
    headers = {"Authorization": f"Bearer {issue(emulator.azure, MANAGEMENT)}"}
    assert "/mfeOperationResults/oe:" in answer.headers["Location"]
    assert requests.get(answer.headers["Location"], headers=headers, timeout=60).status_code == 204


@pytest.mark.parametrize("name", ["ab", "1abc", "abc-", "a_bc", "a" * 33])
def test_names_are_checked(ask: Ask, name: str) -> None:
    answer = ask("PUT", name, body())
    assert answer.status_code == 400
    assert "3 to 32" in answer.json()["error"]["details"][0]["message"]


@pytest.mark.parametrize(
    ("content", "status", "said"),
    [
        ({"properties": {"authMode": "Key"}}, 400, "location"),
        ({"location": "eastus"}, 400, "properties"),
        (body() | {"location": "westeurope"}, 400, "westeurope"),
        (body(authMode="Password"), 400, "authMode"),
        (body(colour="red"), 400, "colour"),
        (body(traffic={"demo": 101}), 400, "traffic.demo"),
        (body(traffic={"demo": "100"}), 400, "traffic.demo"),
        (body(traffic={"demo": 100}), 400, "does not exist"),
        (body(mirrorTraffic={"demo": 10}), 501, "mirrored traffic"),
        (body(compute="aks"), 501, "not managed"),
        (body() | {"identity": {"type": "UserAssigned"}}, 501, "UserAssigned"),
    ],
)
def test_what_azure_would_not_take_is_refused(ask: Ask, content: dict[str, Any], status: int, said: str) -> None:
    answer = ask("PUT", "refused", content)
    assert answer.status_code == status
    assert said in answer.text
    assert ask("GET", "refused").status_code == 404


def test_an_unknown_api_version_is_refused(ask: Ask) -> None:
    assert ask("GET", "created", version="2030-01-01").json()["error"]["code"] == "InvalidApiVersionParameter"


def test_an_endpoint_that_failed_must_be_made_again(ml: Any, emulator: Emulator) -> None:
    emulator.azure.faults.order("endpoint-failed@ruin")
    with pytest.raises(HttpResponseError, match="Provisioning of endpoint ruin failed"):
        create(ml, "ruin")
    assert ml.online_endpoints.get("ruin").provisioning_state == "Failed"
    with pytest.raises(HttpResponseError, match="Please recreate the endpoint"):
        create(ml, "ruin")
    ml.online_endpoints.begin_delete("ruin").result()
    assert create(ml, "ruin").provisioning_state == "Succeeded"
