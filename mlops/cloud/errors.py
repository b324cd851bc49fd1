"""Translates errors of the Azure services into our own: code, message and fix.

The management front end of Azure ML puts a class such as ``UserError`` into ``error.code`` and the real code into the nested
``InnerError`` of ``additionalInfo``; Azure Resource Manager itself puts the real code into ``error.code``. Both forms are read here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from mlops.cloud.failures import Kind, classify_request
from mlops.cloud.grants import REFUSAL, suggest_grant
from mlops.core.errors import AzureError, CredentialError, MlopsError

__all__ = ["ErrorDetails", "Forbidden", "NotFound", "find", "parse_error", "read_twice", "translate_errors"]

T = TypeVar("T")


class NotFound(AzureError):
    """The requested resource does not exist."""


class Forbidden(AzureError):
    """Our identity lacks a permission, or our network is refused.

    Args:
        what, fix: as for every error.
        message: Azure's own text, which usually names the missing action and its scope.
        is_network: whether this machine's network is refused, whatever the permissions.
    """

    def __init__(self, what: str, fix: str = "", message: str = "", *, is_network: bool = False) -> None:
        super().__init__(what, fix)
        self.is_network = is_network
        match = REFUSAL.search(message)
        self.permission = f"the action {match['action']} at scope {match['scope']}" if match else "a permission that Azure doesn't name"
        """What is missing, e.g. ``the action Microsoft.MachineLearningServices/locations/vmSizes/read at scope /subscriptions/…``."""


class ErrorDetails:
    """An error of a service: HTTP status, codes from the outermost to the innermost, message.

    Args:
        status: HTTP status, 0 if there was no response.
        body: the parsed body of the response, if it has one.
        text: the client library's message, used if the body has another form.
    """

    def __init__(self, status: int, body: Any, text: str) -> None:
        error = body.get("error", body) if isinstance(body, Mapping) else {}
        error = error if isinstance(error, Mapping) else {}
        self.status = status
        self.codes = tuple(_codes(error))
        self.message = "; ".join(_messages(error)) or text.strip().splitlines()[0] if error or text.strip() else "no message"

    def __str__(self) -> str:
        status = f"HTTP {self.status} " if self.status else ""
        return f"{status}{'/'.join(self.codes) or 'no code'}: {self.message}"


@contextmanager
def translate_errors(action: str, fix: str = "") -> Iterator[None]:
    """Translate what the Azure libraries raise in the block into our own errors.

    Args:
        action: what the block does, for the message, e.g. ``"reading compute gpu-cluster"``.
        fix: what to do if the service's code does not imply a fix.

    Raises:
        NotFound: HTTP 404, or the client library finds that something does not exist.
        Forbidden: HTTP 403.
        CredentialError: HTTP 401, or no token.
        AzureError: anything else that the libraries raise.
    """
    from azure.core.exceptions import AzureError as CoreError
    from azure.core.exceptions import ClientAuthenticationError

    try:
        yield
    except MlopsError:
        raise
    except ClientAuthenticationError as problem:
        raise CredentialError(
            f"Azure did not accept our identity while {action}: {parse_error(problem)}",
            "check AZURE_TENANT_ID and AZURE_CLIENT_ID (or `az login`), and that the identity may use this workspace",
        ) from problem
    except CoreError as problem:
        details = parse_error(problem)
        what, advice = f"Azure refused while {action}: {details}", _suggest_fix(details) or fix
        if details.status == 403:
            failure = classify_request(details.status, details.codes, details.message)
            raise Forbidden(what, advice, details.message, is_network=failure is not None and failure.kind is Kind.NETWORK) from problem
        raise (NotFound if details.status == 404 else AzureError)(what, advice) from problem
    except Exception as problem:
        # The SDK's own exceptions (validation, missing local files, job errors) share no base class with azure-core's.
        if not type(problem).__module__.startswith(("azure.", "azureml.", "mlflow.", "marshmallow.", "msrest.", "requests.")):
            raise
        # The latter is MLflow's.
        is_missing = type(problem).__name__ == "ResourceNotFoundError" or getattr(problem, "error_code", "") == "RESOURCE_DOES_NOT_EXIST"
        kind = NotFound if is_missing else AzureError
        raise kind(f"{type(problem).__name__} while {action}: {problem}", suggest_grant(str(problem)) or fix) from problem


def find(get: Callable[[], T], is_listed: Callable[[], bool]) -> T | None:
    """Return a resource, or None if it can't be read and isn't listed either: a single 404 may be wrong.

    Raises:
        NotFound: it is listed, but can't be read.
    """
    with suppress(NotFound):
        return get()
    try:
        listed = is_listed()
    except NotFound:  # what it would belong to does not exist
        return None
    return get() if listed else None


def read_twice(get: Callable[[], T]) -> T:
    """Return a resource that no list would show cheaply. If it is not there, look once more: a single 404 may be wrong.

    Raises:
        NotFound: it was not there both times.
    """
    with suppress(NotFound):
        return get()
    return get()


def parse_error(problem: BaseException) -> ErrorDetails:
    """Return the codes and the message of an azure-core exception."""
    response = getattr(problem, "response", None)
    body: Any = None
    if response is not None:
        try:
            body = json.loads(response.text())
        except Exception:  # a body that was not read, or is not JSON, adds nothing to the exception
            body = None
    if body is None and (code := getattr(problem, "error_code", None)):
        # Storage answers with XML.
        body = {"error": {"code": getattr(code, "value", code), "message": str(getattr(problem, "message", "")).strip().partition("\n")[0]}}
    if body is None and (error := getattr(problem, "error", None)) is not None:
        # A failed long-running operation: azure-core keeps the parsed error, and its response is the last poll.
        body = {"error": {"code": getattr(error, "code", None), "message": getattr(error, "message", None)}}
    status = getattr(problem, "status_code", None) or getattr(response, "status_code", None) or 0
    return ErrorDetails(int(status), body, str(getattr(problem, "message", None) or problem))


def _codes(error: Mapping[str, Any]) -> Iterator[str]:
    if code := error.get("code"):
        yield str(code)
    for entry in error.get("additionalInfo") or ():
        if entry.get("type") == "InnerError":
            inner = (entry.get("info") or {}).get("value")
            while isinstance(inner, Mapping):
                if code := inner.get("code"):
                    yield str(code)
                inner = inner.get("innerError")
    for detail in error.get("details") or ():
        yield from _codes(detail)


def _messages(error: Mapping[str, Any]) -> list[str]:
    messages = [str(error["message"])] if error.get("message") else []
    for detail in error.get("details") or ():
        messages += [message for message in _messages(detail) if message not in messages]
    return messages


def _suggest_fix(details: ErrorDetails) -> str:
    if command := suggest_grant(details.message):
        return command
    failure = classify_request(details.status, details.codes, details.message)
    return failure.advice if failure is not None else ""
