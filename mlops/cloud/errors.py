"""What Azure says when it refuses, as errors of ours: code, message and what to do about it.

The management front end of Azure ML puts a class such as ``UserError`` into ``error.code`` and the real code into the nested
``InnerError`` of ``additionalInfo``; Azure Resource Manager itself puts it into ``error.code``. Both forms are read here.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mlops.core.errors import AzureError, CredentialError, MlopsError

__all__ = ["NotFound", "ServiceRefusal", "explain", "translated"]


class NotFound(AzureError):
    """What was asked for does not exist."""


class ServiceRefusal:
    """A service's answer that is not a success: HTTP status, codes from the outermost to the innermost, message.

    Args:
        status: HTTP status, 0 where no answer came.
        body: the parsed body of the answer, if it has one.
        text: what the client library says, for answers without a body of the usual form.
    """

    def __init__(self, status: int, body: Any, text: str) -> None:
        error = body.get("error", body) if isinstance(body, Mapping) else {}
        error = error if isinstance(error, Mapping) else {}
        self.status = status
        self.codes = tuple(_codes(error))
        self.message = "; ".join(_messages(error)) or text.strip().splitlines()[0] if error or text.strip() else "no message"

    def has(self, *codes: str) -> bool:
        """Whether one of the codes was given (case does not count)."""
        wanted = {code.lower() for code in codes}
        return any(code.lower() in wanted for code in self.codes)

    def __str__(self) -> str:
        status = f"HTTP {self.status} " if self.status else ""
        return f"{status}{'/'.join(self.codes) or 'no code'}: {self.message}"


@contextmanager
def translated(doing: str, fix: str = "") -> Iterator[None]:
    """Turn what the Azure libraries raise inside into errors of ours.

    Args:
        doing: what was tried, for the message, e.g. ``"reading compute gpu-cluster"``.
        fix: what to do where the service's code does not tell.

    Raises:
        NotFound: HTTP 404, or a client-side finding that something is absent.
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
        refusal = explain(problem)
        raise CredentialError(
            f"Azure did not accept our identity while {doing}: {refusal}",
            "check AZURE_TENANT_ID and AZURE_CLIENT_ID (or `az login`), and that the identity may use this workspace",
        ) from problem
    except CoreError as problem:
        refusal = explain(problem)
        kind = NotFound if refusal.status == 404 else AzureError
        raise kind(f"Azure refused while {doing}: {refusal}", _advice(refusal) or fix) from problem
    except Exception as problem:
        # The SDK's own exceptions (validation, missing local files, job errors) share no base with azure-core's.
        if not type(problem).__module__.startswith(("azure.", "azureml.", "mlflow.", "marshmallow.", "msrest.", "requests.")):
            raise
        absent = type(problem).__name__ == "ResourceNotFoundError"
        raise (NotFound if absent else AzureError)(f"{type(problem).__name__} while {doing}: {problem}", fix) from problem


def explain(problem: BaseException) -> ServiceRefusal:
    """The codes and message in an azure-core exception (or in what caused it)."""
    response = getattr(problem, "response", None)
    body: Any = None
    if response is not None:
        try:
            body = json.loads(response.text())
        except Exception:  # a body that was not read, or is not JSON, says nothing that the exception doesn't
            body = None
    if body is None and (error := getattr(problem, "error", None)) is not None:
        # A failed long-running operation: azure-core keeps the parsed error, its response is the last poll.
        body = {"error": {"code": getattr(error, "code", None), "message": getattr(error, "message", None)}}
    status = getattr(problem, "status_code", None) or getattr(response, "status_code", None) or 0
    return ServiceRefusal(int(status), body, str(getattr(problem, "message", None) or problem))


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
    found = [str(error["message"])] if error.get("message") else []
    for detail in error.get("details") or ():
        found += [text for text in _messages(detail) if text not in found]
    return found


def _advice(refusal: ServiceRefusal) -> str:
    if refusal.status == 403 or refusal.has("AuthorizationFailed"):
        return "give our identity the role AzureML Data Scientist (or Contributor) on the workspace"
    if refusal.status == 429 or refusal.has("TooManyRequests"):
        return "wait and run the command again; it picks up where it stopped"
    if "quota" in refusal.message.lower() or refusal.has("OutOfQuota", "QuotaExceeded", "JobNodeCountExceedsCoreQuota"):
        return "ask for quota of this VM family in this region (Azure portal, Quotas), or choose another size in pipeline.toml"
    if refusal.status >= 500 or refusal.status == 0:
        return "this looks like trouble at the service or on the way to it; run the command again, it picks up where it stopped"
    return ""
