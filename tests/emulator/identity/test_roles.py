"""Roles: which requests they allow, by Azure's own rules, and how the others are refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from azure.ai.ml import MLClient
from azure.core.exceptions import HttpResponseError
from azure.identity import DefaultAzureCredential
from azure.storage.blob import ContainerClient

from mlops.emulator.base.azure import BLOB_SUFFIX
from mlops.emulator.identity.roles import BUILTIN, Ledger, Role, Roles, RolesError, load
from mlops.emulator.server import Emulator
from mlops.emulator.storage import blobs

ML = "Microsoft.MachineLearningServices/workspaces"


@pytest.fixture
def assign(emulator: Emulator, tmp_path: Path) -> Iterator[Callable[..., None]]:
    """Give the application roles, as a roles file does: ``assign(("Reader", "workspace"), …)``."""
    roles = emulator.azure.services.get(Roles)

    def make(*assignments: tuple[str, str], definitions: object = (), principal: str = "") -> None:
        path = tmp_path / "roles.json"
        entries = [{"role": role, "scope": scope, "principal": principal} for role, scope in assignments]
        path.write_text(json.dumps({"definitions": definitions, "assignments": entries}))
        roles.assignments = load(path)

    yield make
    roles.assignments = None


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(HttpResponseError) as raised:
        call()
    assert raised.value.status_code == 403
    return str(raised.value.message)


@pytest.mark.parametrize(
    ("role", "action", "is_allowed"),
    [
        ("Reader", f"{ML}/jobs/read", True),
        ("Reader", f"{ML}/jobs/write", False),
        ("Owner", "Microsoft.Authorization/roleAssignments/write", True),
        ("Contributor", "Microsoft.Authorization/roleAssignments/write", False),
        ("Contributor", "Microsoft.Authorization/permissions/read", True),
        ("AzureML Data Scientist", f"{ML}/read", True),
        ("AzureML Data Scientist", f"{ML}/write", False),
        ("AzureML Data Scientist", f"{ML}/jobs/write", True),
        ("AzureML Data Scientist", f"{ML}/onlineendpoints/LISTKEYS/action", True),
        ("AzureML Data Scientist", f"{ML}/computes/read", True),
        ("AzureML Data Scientist", f"{ML}/computes/write", False),
        ("AzureML Data Scientist", "Microsoft.MachineLearningServices/locations/vmSizes/read", False),
        ("AzureML Data Scientist", "Microsoft.Authorization/permissions/read", False),
        ("AzureML Compute Operator", f"{ML}/computes/write", True),
        ("AzureML Compute Operator", f"{ML}/jobs/read", False),
    ],
)
def test_built_in_roles(role: str, action: str, is_allowed: bool) -> None:
    assert BUILTIN[role.lower()].allows(action) is is_allowed


def test_actions_and_data_actions_are_apart() -> None:
    read = "Microsoft.Storage/storageAccounts/blobServices/containers/blobs/read"
    assert not BUILTIN["owner"].allows(read, is_data=True)
    assert BUILTIN["storage blob data reader"].allows(read, is_data=True)
    assert not BUILTIN["storage blob data reader"].allows(read)
    assert not Role("r", data_actions=("*",), not_data_actions=("*/blobs/read",)).allows(read, is_data=True)


def test_without_a_file_everything_is_allowed(ml: MLClient) -> None:
    assert list(ml.online_endpoints.list()) == []


def test_actions_that_no_role_allows_are_refused_in_the_words_of_arm(
    emulator: Emulator, assign: Callable[..., None], environment: Any
) -> None:
    assign(("AzureML Compute Operator", "workspace"))
    i = emulator.azure.identity
    with DefaultAzureCredential() as credential:
        token = credential.get_token("https://management.azure.com/.default").token
    response = requests.get(
        f"https://management.azure.com{emulator.azure.workspace_id}/jobs/one",
        params={"api-version": "2024-01-01-preview"},
        headers={"Authorization": f"Bearer {token}"},
        timeout=30,
    )
    assert response.status_code == 403
    error = response.json()["error"]
    assert set(error) == {"code", "message"}
    assert error["code"] == "AuthorizationFailed"
    start, _, rest = error["message"].partition(" with object id '")
    assert start == f"The client '{i.client}'"
    assert rest.partition("' ")[2] == (
        f"does not have authorization to perform action '{ML}/jobs/read' over scope '{emulator.azure.workspace_id}/jobs/one'"
        " or the scope is invalid. If access was recently granted, please refresh your credentials."
    )


def test_roles_add_up_and_one_roles_exclusion_is_not_anothers(ml: MLClient, assign: Callable[..., None]) -> None:
    assign(("AzureML Data Scientist", "workspace"))
    compute = "cpu"
    assert f"{ML}/computes/write" in refusal(lambda: create_compute(ml, compute))
    assign(("AzureML Data Scientist", "workspace"), ("AzureML Compute Operator", "workspace"))
    create_compute(ml, compute)
    assert ml.compute.get(compute).name == compute


def create_compute(ml: MLClient, name: str) -> None:
    from azure.ai.ml.entities import AmlCompute

    ml.compute.begin_create_or_update(AmlCompute(name=name, size="Standard_DS3_v2", min_instances=0, max_instances=1)).result()


@pytest.mark.parametrize("scope", ["subscription", "resource-group", "workspace"])
def test_a_role_counts_at_its_scope_and_below(emulator: Emulator, ml: MLClient, assign: Callable[..., None], scope: str) -> None:
    assign(("Reader", scope))
    assert list(ml.online_endpoints.list()) == []
    if scope == "subscription":
        assert list(ml.compute.list_sizes())
    else:
        location = f"/subscriptions/{emulator.azure.identity.subscription}/providers/Microsoft.MachineLearningServices/locations/eastus"
        message = refusal(lambda: list(ml.compute.list_sizes()))
        assert f"'Microsoft.MachineLearningServices/locations/vmSizes/read' over scope '{location}'" in message


def test_a_role_of_another_principal_or_of_a_longer_name_does_not_count(
    emulator: Emulator, ml: MLClient, assign: Callable[..., None]
) -> None:
    assign(("Owner", "workspace"), principal="00000000-0000-0000-0000-000000000001")
    refusal(lambda: list(ml.online_endpoints.list()))
    assign(("Owner", emulator.azure.workspace_id + "-other"))
    refusal(lambda: list(ml.online_endpoints.list()))
    assign(("Owner", "workspace"), principal=emulator.azure.identity.client)
    assert list(ml.online_endpoints.list()) == []


def test_the_data_plane_is_refused_too(emulator: Emulator, environment: Any, assign: Callable[..., None]) -> None:
    assign(("AzureML Compute Operator", "workspace"))
    with DefaultAzureCredential() as credential:
        token = credential.get_token("https://management.azure.com/.default").token
    url = f"https://eastus.api.azureml.ms/history/v1.0{emulator.azure.workspace_id}/experiments/e/runs/r"
    response = requests.get(url, headers={"Authorization": f"Bearer {token}"}, timeout=30)
    assert response.status_code == 403
    assert f"'{ML}/experiments/runs/read' over scope '{emulator.azure.workspace_id}'" in response.json()["error"]["message"]


def test_submitting_a_job_needs_what_the_service_does_for_it(emulator: Emulator, credential: Any, assign: Callable[..., None]) -> None:
    """As documented, it also builds environments and writes artifacts in the name of the user."""
    definition = {"Name": "Mine", "Actions": [f"{ML}/jobs/*", f"{ML}/environments/*"]}
    assign(("Mine", "workspace"), definitions=[definition])
    response = requests.put(
        f"https://management.azure.com{emulator.azure.workspace_id}/jobs/one",
        params={"api-version": "2024-01-01-preview"},
        headers={"Authorization": f"Bearer {credential.get_token('https://management.azure.com/.default').token}"},
        json={},
        timeout=30,
    )
    assert response.status_code == 403
    message = response.json()["error"]["message"]
    assert f"'{ML}/metadata/artifacts/write' over scope '{emulator.azure.workspace_id}' or" in message


def test_blobs_take_an_identity_with_data_actions(emulator: Emulator, credential: Any, assign: Callable[..., None]) -> None:
    azure = emulator.azure
    with ContainerClient(f"https://{azure.identity.account}.{BLOB_SUFFIX}", blobs.ARTIFACTS, credential) as container:
        assign(("Owner", "subscription"))
        with pytest.raises(HttpResponseError) as raised:
            container.upload_blob("by-identity.txt", b"1")
        assert (raised.value.status_code, raised.value.error_code) == (403, "AuthorizationPermissionMismatch")
        assert "not authorized to perform this operation using this permission" in str(raised.value)
        assign(("Storage Blob Data Contributor", "storage"))
        container.upload_blob("by-identity.txt", b"1")
        assign(("Storage Blob Data Reader", "storage"))
        assert container.download_blob("by-identity.txt").readall() == b"1"
        assert [blob.name for blob in container.list_blobs("by-identity")] == ["by-identity.txt"]
        with pytest.raises(HttpResponseError, match="not authorized"):
            container.delete_blob("by-identity.txt")


def test_a_principal_can_read_what_it_may_do(emulator: Emulator, credential: Any, assign: Callable[..., None]) -> None:
    definition = {"Name": "Mine", "Actions": ["Microsoft.Authorization/permissions/read"], "NotActions": ["*/delete"]}
    assign(("Mine", "workspace"), ("AzureML Compute Operator", "resource-group"), definitions=[definition])
    url = f"https://management.azure.com{emulator.azure.workspace_id}/providers/Microsoft.Authorization/permissions"
    headers = {"Authorization": f"Bearer {credential.get_token('https://management.azure.com/.default').token}"}
    response = requests.get(url, params={"api-version": "2022-04-01"}, headers=headers, timeout=30)
    assert response.status_code == 200, response.text
    value = response.json()["value"]
    assert [(entry["actions"][0], entry["notActions"]) for entry in value] == [
        ("Microsoft.Authorization/permissions/read", ["*/delete"]),
        (f"{ML}/computes/*", []),
    ]


def test_the_ledger_has_every_request_that_was_made(emulator: Emulator, ml: MLClient) -> None:
    ledger = emulator.azure.services.get(Ledger)
    ledger.permissions.clear()
    list(ml.online_endpoints.list())
    assert {(item.action, item.scope) for item in ledger.permissions} == {(f"{ML}/onlineEndpoints/read", emulator.azure.workspace_id)}


def test_definitions_in_the_forms_of_the_azure_cli(tmp_path: Path) -> None:
    path = tmp_path / "roles.yaml"
    path.write_text(
        """
definitions:
  - {Name: created, IsCustom: true, Description: d, Actions: [a/read], NotActions: [], DataActions: [b/read], AssignableScopes: [/]}
  - name: 7d9f9b0e-0000-0000-0000-000000000000
    roleName: listed
    permissions: [{actions: [c/*], notActions: [c/delete], dataActions: [], notDataActions: []}]
assignments:
  - {role: created, scope: workspace}
  - {role: Listed, scope: /subscriptions/x, principal: y}
"""
    )
    created, listed = load(path)
    assert created.role == Role("created", ("a/read",), data_actions=("b/read",))
    assert listed.role == Role("listed", ("c/*",), ("c/delete",))
    assert (listed.scope, listed.principal) == ("/subscriptions/x", "y")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("{", "neither YAML nor JSON"),
        ("[]", "'assignments'"),
        ("{definitions: []}", "'assignments'"),
        ("{assignments: {}}", None),
        ("{assignments: [1]}", "assignments is not a list of objects"),
        ("{assignments: [{role: Readr, scope: workspace}]}", r"assignments\[0\]: there is no role 'Readr' \(did you mean 'Reader'\?\)"),
        ("{assignments: [{role: Reader, scope: here}]}", "the scope 'here' is neither an ARM id nor subscription"),
        ("{assignments: [{role: Reader}]}", "an assignment has a role, a scope"),
        ("{definitions: [{Actions: [a]}], assignments: []}", r"definitions\[0\] has no Name"),
        (
            "{definitions: [{Name: a, Actons: [a]}], assignments: []}",
            r"no field 'actons' in a role definition \(did you mean 'actions'\?\)",
        ),
        ("{definitions: [{Name: a, Actions: a}], assignments: []}", "actions is not a list of texts"),
    ],
)
def test_a_wrong_file_is_explained(tmp_path: Path, text: str, says: str | None) -> None:
    path = tmp_path / "roles.yaml"
    path.write_text(text)
    if says is None:
        assert load(path) == ()
        return
    with pytest.raises(RolesError, match=says) as raised:
        load(path)
    assert str(path) in str(raised.value)


def test_a_missing_file_is_explained(tmp_path: Path) -> None:
    with pytest.raises(RolesError, match="can't be read"):
        load(tmp_path / "roles.yaml")


def test_scoring_with_an_identity_needs_its_action(ml: MLClient, credential: Any, assign: Callable[..., None]) -> None:
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name="by-identity", auth_mode="aad_token")).result()
    headers = {"Authorization": f"Bearer {credential.get_token('https://ml.azure.com/.default').token}"}

    def score() -> int:
        url = "https://by-identity.eastus.inference.ml.azure.com/score"
        return requests.post(url, json={}, headers=headers, timeout=30).status_code

    assign(("Reader", "workspace"))
    assert score() == 401
    assign(("AzureML Data Scientist", "workspace"))
    assert score() == 404  # allowed, but the endpoint has no deployment
