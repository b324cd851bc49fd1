from __future__ import annotations

import json

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError, ServiceRequestError

from mlops.cloud.errors import ErrorDetails, Forbidden, NotFound, find, translate_errors
from mlops.core.errors import AzureError, ConfigError, CredentialError

JOB_NOT_FOUND = {
    "error": {
        "code": "UserError",
        "message": "Job j not found.",
        "details": [],
        "additionalInfo": [
            {"type": "ComponentName", "info": {"value": "managementfrontend"}},
            {"type": "InnerError", "info": {"value": {"code": "NotFound", "innerError": {"code": "JobNotFound", "innerError": None}}}},
        ],
    }
}
MODEL_NOT_FOUND = {
    "error": {
        "code": "UserError",
        "message": "The specified resource was not found.",
        "details": [{"code": "ModelNotFound", "message": "Model container with name: m not found."}],
    }
}


WORKSPACE = "/subscriptions/s/resourceGroups/g/providers/Microsoft.MachineLearningServices/workspaces/w"


class Response:
    """The service's response, as azure-core's exceptions carry it."""

    def __init__(self, status: int, body: object) -> None:
        self.status_code = status
        self.reason = "reason"
        self._body = body

    def text(self, encoding: str | None = None) -> str:
        return self._body if isinstance(self._body, str) else json.dumps(self._body)

    def body(self) -> bytes:
        return self.text().encode()


def test_codes_are_read_from_the_outermost_to_the_innermost() -> None:
    details = ErrorDetails(404, JOB_NOT_FOUND, "")
    assert details.codes == ("UserError", "NotFound", "JobNotFound")
    assert details.message == "Job j not found."


def test_the_message_includes_details() -> None:
    details = ErrorDetails(404, MODEL_NOT_FOUND, "")
    assert details.codes == ("UserError", "ModelNotFound")
    assert details.message == "The specified resource was not found.; Model container with name: m not found."


@pytest.mark.parametrize("body", [None, "<html>", [], {"error": "text"}, {}])
def test_a_body_of_another_form_falls_back_to_the_status_and_text(body: object) -> None:
    assert str(ErrorDetails(502, body, "Bad gateway\nmore")) == "HTTP 502 no code: Bad gateway"


def test_404_becomes_not_found_with_codes() -> None:
    with (
        pytest.raises(NotFound, match=r"while reading job j: HTTP 404 UserError/NotFound/JobNotFound: Job j not found\."),
        translate_errors("reading job j"),
    ):
        raise ResourceNotFoundError(response=Response(404, JOB_NOT_FOUND))


def test_401_becomes_a_credential_error() -> None:
    with pytest.raises(CredentialError), translate_errors("x"):
        raise ClientAuthenticationError(message="no", response=Response(401, {}))


@pytest.mark.parametrize(
    ("problem", "fix"),
    [
        (HttpResponseError(response=Response(403, {"error": {"code": "AuthorizationFailed", "message": "no"}})), "role"),
        (HttpResponseError(response=Response(400, {"error": {"code": "OutOfQuota", "message": "no"}})), "quota"),
        (HttpResponseError(response=Response(500, {"error": {"code": "ServiceError", "message": "no"}})), "run the command again"),
        (ServiceRequestError("connection refused"), "run the command again"),
    ],
)
def test_an_error_suggests_a_fix(problem: Exception, fix: str) -> None:
    with pytest.raises(AzureError) as caught, translate_errors("x"):
        raise problem
    assert fix in caught.value.fix
    assert not isinstance(caught.value, NotFound)


@pytest.mark.parametrize(
    ("action", "scope", "role", "place"),
    [
        ("Microsoft.MachineLearningServices/workspaces/jobs/write", "/jobs/one", "AzureML Data Scientist", WORKSPACE),
        ("Microsoft.MachineLearningServices/workspaces/computes/write", "/computes/gpu", "AzureML Compute Operator", WORKSPACE),
        ("Microsoft.MachineLearningServices/workspaces/computes/read", "/computes/gpu", "AzureML Data Scientist", WORKSPACE),
        ("Microsoft.MachineLearningServices/locations/vmSizes/read", None, "Reader", "/subscriptions/s"),
    ],
)
def test_a_refusal_names_action_scope_and_the_command_that_grants_it(
    action: str, scope: str | None, role: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AZURE_CLIENT_ID", "c-1")
    where = "/subscriptions/s/providers/Microsoft.MachineLearningServices/locations/eastus" if scope is None else WORKSPACE + scope
    message = (
        f"The client 'c-1' with object id 'o' does not have authorization to perform action '{action}' over scope '{where}' or the scope"
    )
    with pytest.raises(AzureError) as caught, translate_errors("x"):
        raise HttpResponseError(response=Response(403, {"error": {"code": "AuthorizationFailed", "message": message}}))
    assert f"grant {action} at {where}: az role assignment create --assignee c-1 --role '{role}' --scope {place} " in caught.value.fix


def test_refused_data_access_names_the_role_for_blobs() -> None:
    message = "This request is not authorized to perform this operation using this permission.\nRequestId:1\nTime:2026-11-26T18:00:00Z"
    with pytest.raises(AzureError) as caught, translate_errors("x"):
        raise HttpResponseError(message)
    assert "Storage Blob Data Contributor" in caught.value.fix


def test_our_own_errors_pass_through() -> None:
    with pytest.raises(ConfigError), translate_errors("x"):
        raise ConfigError("mine")


def test_exceptions_from_elsewhere_pass_through() -> None:
    with pytest.raises(ZeroDivisionError), translate_errors("x"):
        print(1 / 0)


@pytest.mark.parametrize(
    ("message", "permission"),
    [
        ("… authorization to perform action 'A/b/read' over scope '/s/1' or the scope is invalid.", "the action A/b/read at scope /s/1"),
        ("Forbidden", "a permission that Azure doesn't name"),
    ],
)
def test_a_refusal_for_lack_of_a_permission_names_it(message: str, permission: str) -> None:
    body = {"error": {"code": "AuthorizationFailed", "message": message}}
    with pytest.raises(Forbidden) as caught, translate_errors("reading"):
        raise HttpResponseError(response=Response(403, body))
    assert caught.value.permission == permission


def test_a_resource_that_is_listed_but_can_not_be_read_is_an_error() -> None:
    def get() -> str:
        raise NotFound("HTTP 404")

    assert find(get, lambda: False) is None
    with pytest.raises(NotFound):
        find(get, lambda: True)
