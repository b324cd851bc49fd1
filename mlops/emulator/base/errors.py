"""Azure's error envelopes: those of the management front end, of ARM itself, and of run history.

Shapes follow ARM common-types v3 ``ErrorResponse``. The front end adds ``additionalInfo`` with the real code in a chain of inner errors;
``error.code`` holds only the class of error (``UserError``, ``ServiceError``, ``TransientError``).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from mlops.emulator.base.clock import now

__all__ = ["AzureFault", "not_found", "not_implemented", "user_error"]


class AzureFault(Exception):
    """An error response.

    Args:
        status: HTTP status.
        code: ``error.code`` on the wire, e.g. ``"UserError"``.
        message: the sentence that the user sees.
        inner: the real codes, outermost first, e.g. ``("NotFound", "JobNotFound")``; empty for errors of ARM itself.
        details: (code, message) pairs under ``error.details``.
        headers: extra response headers, e.g. ``Retry-After``.
        body: replaces the envelope, for services with a different one (Entra, blob storage, scoring).
    """

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        inner: Sequence[str] = (),
        details: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.inner = tuple(inner)
        self.details = tuple(details)
        self.headers = dict(headers or {})
        self.body = body

    def envelope(self, location: str) -> Any:
        """Return the response body."""
        if self.body is not None:
            return self.body
        error: dict[str, Any] = {"code": self.code, "message": self.message}
        if self.inner or self.details:
            error["details"] = [{"code": code, "message": message} for code, message in self.details]
        if self.inner:
            chain: dict[str, Any] | None = None
            for code in reversed(self.inner):
                chain = {"code": code, "innerError": chain}
            error["additionalInfo"] = [
                {"type": "ComponentName", "info": {"value": "managementfrontend"}},
                {"type": "Correlation", "info": {"value": {"operation": uuid.uuid4().hex, "request": uuid.uuid4().hex[:16]}}},
                {"type": "Environment", "info": {"value": location}},
                {"type": "Location", "info": {"value": location}},
                {"type": "Time", "info": {"value": now()}},
                {"type": "InnerError", "info": {"value": chain}},
            ]
        return {"error": error}


def user_error(message: str, *inner: str, status: int = 400) -> AzureFault:
    """Return the front end's error for an invalid request."""
    return AzureFault(status, "UserError", message, inner=inner or ("BadArgument", "ArgumentInvalid"))


def not_found(message: str, *inner: str, details: Sequence[tuple[str, str]] = ()) -> AzureFault:
    """Return the front end's error for a resource that doesn't exist."""
    return AzureFault(404, "UserError", message, inner=inner, details=details)


def not_implemented(what: str) -> AzureFault:
    """Return the error for a feature that Azure may have and the emulator doesn't. The emulator never guesses a response."""
    return AzureFault(501, "NotImplementedByEmulator", f"The emulator does not implement {what}.")
