"""Headers of the control plane: every answer of ARM carries them, and those of the workspace's services carry some.

Names and values follow recorded traffic. The remaining requests count down from Azure's hourly limits for a subscription; the limits are
not enforced.
"""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime

from starlette.requests import Request
from starlette.responses import Response

from mlops.emulator.base.azure import LOCATION, Azure

__all__ = ["add_headers"]

JSON = "application/json"
LIMITS = {"GET": ("reads", 12000), "HEAD": ("reads", 12000), "DELETE": ("deletes", 15000)}
"""Method → kind of request and Azure's limit for an hour; every other method is a write."""
WRITES = ("writes", 1200)
ALWAYS = {
    "arm": {
        "cache-control": "no-cache",
        "pragma": "no-cache",
        "expires": "-1",
        "strict-transport-security": "max-age=31536000; includeSubDomains",
    },
    "api": {"strict-transport-security": "max-age=15724800; includeSubDomains; preload"},
}
"""Service → headers of all of its responses, whatever their status."""


class RequestBudget:
    """Counts the requests of the current hour."""

    def __init__(self) -> None:
        self._hour = 0
        self._used: dict[str, int] = {}

    def count(self, kind: str, limit: int) -> int:
        """Count a request and return how many remain."""
        hour = int(time.time() // 3600)
        if hour != self._hour:
            self._hour, self._used = hour, {}
        self._used[kind] = self._used.get(kind, 0) + 1
        return max(limit - self._used[kind], 0)


def add_headers(azure: Azure, request: Request, host: str, response: Response, seconds: float) -> None:
    """Add the headers of the service ``host`` (``arm`` or ``api``; others have none) to a response that took so many seconds."""
    if host not in ("arm", "api"):
        return
    if response.headers.get("content-type") == JSON:
        response.headers["content-type"] = f"{JSON}; charset=utf-8"
    response.headers.update(ALWAYS[host] | {"x-content-type-options": "nosniff", "x-request-time": f"{seconds:.3f}"})
    # A missing resource that is reported without a body, such as a compute, is not an error.
    is_error = response.status_code >= 400 and response.headers.get("content-length") != "0"
    response.headers.setdefault("x-ms-response-type", "error" if is_error else "standard")
    if host == "arm":
        kind, limit = LIMITS.get(request.method, WRITES)
        correlation = request.headers.get("x-ms-correlation-request-id") or str(uuid.uuid4())
        remaining = azure.services.get(RequestBudget).count(kind, limit)
        response.headers["x-ms-correlation-request-id"] = correlation
        response.headers["x-ms-routing-request-id"] = f"{LOCATION.upper()}:{datetime.now(UTC):%Y%m%dT%H%M%SZ}:{correlation}"
        response.headers[f"x-ms-ratelimit-remaining-subscription-{kind}"] = str(remaining)
