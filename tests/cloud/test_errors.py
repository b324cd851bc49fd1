from __future__ import annotations

import json

import pytest
from azure.core.exceptions import ClientAuthenticationError, HttpResponseError, ResourceNotFoundError, ServiceRequestError

from mlops.cloud.errors import NotFound, ServiceRefusal, translated
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


class Response:
    """What azure-core's exceptions carry: the answer of the service."""

    def __init__(self, status: int, body: object) -> None:
        self.status_code = status
        self.reason = "reason"
        self._body = body

    def text(self, encoding: str | None = None) -> str:
        return self._body if isinstance(self._body, str) else json.dumps(self._body)

    def body(self) -> bytes:
        return self.text().encode()


def test_codes_are_read_from_the_outermost_to_the_innermost() -> None:
    refusal = ServiceRefusal(404, JOB_NOT_FOUND, "")
    assert refusal.codes == ("UserError", "NotFound", "JobNotFound")
    assert refusal.message == "Job j not found."
    assert refusal.has("jobnotfound")
    assert not refusal.has("OutOfQuota")


def test_details_are_told_too() -> None:
    refusal = ServiceRefusal(404, MODEL_NOT_FOUND, "")
    assert refusal.codes == ("UserError", "ModelNotFound")
    assert refusal.message == "The specified resource was not found.; Model container with name: m not found."


@pytest.mark.parametrize("body", [None, "<html>", [], {"error": "text"}, {}])
def test_an_answer_of_another_form_still_says_something(body: object) -> None:
    assert str(ServiceRefusal(502, body, "Bad gateway\nmore")) == "HTTP 502 no code: Bad gateway"


def test_404_becomes_not_found_with_codes() -> None:
    with (
        pytest.raises(NotFound, match=r"while reading job j: HTTP 404 UserError/NotFound/JobNotFound: Job j not found\."),
        translated("reading job j"),
    ):
        raise ResourceNotFoundError(response=Response(404, JOB_NOT_FOUND))


def test_a_refused_identity_becomes_a_credential_error() -> None:
    with pytest.raises(CredentialError), translated("x"):
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
def test_a_refusal_says_what_to_do(problem: Exception, fix: str) -> None:
    with pytest.raises(AzureError) as caught, translated("x"):
        raise problem
    assert fix in caught.value.fix
    assert not isinstance(caught.value, NotFound)


def test_our_own_errors_pass_through() -> None:
    with pytest.raises(ConfigError), translated("x"):
        raise ConfigError("mine")


def test_what_is_not_azures_passes_through() -> None:
    with pytest.raises(ZeroDivisionError), translated("x"):
        print(1 / 0)
