"""How Azure says no: the error envelopes of the management front end, of ARM itself, and of run history.

Shapes follow ARM common-types v3 ``ErrorResponse``; the front end adds ``additionalInfo``, where the real code hides in a chain of
inner errors while ``error.code`` only tells the class of error (``UserError``, ``ServiceError``, ``TransientError``).
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

__all__ = ["AzureFault", "not_found", "not_implemented", "user_error"]


class AzureFault(Exception):
    """An answer that is an error.

    Args:
        status: HTTP status.
        code: ``error.code`` on the wire, e.g. ``"UserError"``.
        message: the sentence a user sees.
        inner: the real codes, outermost first, e.g. ``("NotFound", "JobNotFound")``; empty for errors of ARM itself.
        details: (code, message) pairs under ``error.details``.
        headers: extra response headers, e.g. ``Retry-After``.
        body: replaces the envelope altogether, for services that have another one (Entra, blob storage, scoring).
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
        """The body on the wire."""
        if self.body is not None:
            return self.body
        error: dict[str, Any] = {
            "code": self.code,
            "message": self.message,
            "details": [{"code": code, "message": message} for code, message in self.details],
        }
        if self.inner:
            chain: dict[str, Any] | None = None
            for code in reversed(self.inner):
                chain = {"code": code, "innerError": chain}
            error["additionalInfo"] = [
                {"type": "ComponentName", "info": {"value": "managementfrontend"}},
                {"type": "Correlation", "info": {"value": {"operation": uuid.uuid4().hex, "request": uuid.uuid4().hex[:16]}}},
                {"type": "Environment", "info": {"value": location}},
                {"type": "Location", "info": {"value": location}},
                {"type": "Time", "info": {"value": datetime.now(UTC).isoformat()}},
                {"type": "InnerError", "info": {"value": chain}},
            ]
        return {"error": error}


def user_error(message: str, *inner: str, status: int = 400) -> AzureFault:
    """A request that the front end refuses."""
    return AzureFault(status, "UserError", message, inner=inner or ("BadArgument", "ArgumentInvalid"))


def not_found(message: str, *inner: str, details: Sequence[tuple[str, str]] = ()) -> AzureFault:
    """A resource that is not there."""
    return AzureFault(404, "UserError", message, inner=inner, details=details)


def not_implemented(what: str) -> AzureFault:
    """Something that Azure may know and this emulator does not. Never guess an answer."""
    return AzureFault(501, "NotImplementedByEmulator", f"The emulator does not implement {what}.")
