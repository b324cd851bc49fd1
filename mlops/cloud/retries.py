"""Retries of requests to Azure: only if repeating is safe, with a deadline, and with a line that says so.

azure-core's own policy also repeats a POST after 500, 503 or 504, when the service may have executed it, waits as long as Retry-After says,
and is silent. The rest of it stays: the back-off, Retry-After, and which statuses are temporary.
"""

from __future__ import annotations

import functools
import time
from typing import Any
from urllib.parse import urlsplit

from mlops.core import console

__all__ = ["retry_policy", "use_safe_retries"]

DEADLINE_S = 300.0
"""Seconds for a request and its repetitions, including waiting."""
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE"})
"""Methods that can be repeated without further effect (RFC 9110)."""
REPEATABLE = frozenset({"listkeys", "listsecrets", "getlogs", "token", "cancel", "startpendingupload", "rundata", "batchgetresolveduris"})
"""Last part of the path of a POST that changes nothing, or nothing more the second time."""


def use_safe_retries(client: Any) -> None:
    """Give the service clients of an ``MLClient`` the policy. The SDK only takes one instance, which several pipelines can't share."""
    from azure.core.pipeline.policies import RetryPolicy

    for service in vars(client).values():
        pipeline = getattr(getattr(service, "_client", None), "_pipeline", None)
        for policy in getattr(pipeline, "_impl_policies", ()):
            if type(policy) is RetryPolicy:
                policy.__class__ = retry_policy()


@functools.cache
def retry_policy() -> type[Any]:
    """Return the policy. It is defined inside the function because importing azure-core would slow down ``--help``."""
    from azure.core.pipeline.policies import RetryPolicy

    class SafeRetryPolicy(RetryPolicy):  # type: ignore[misc]  # mypy does not follow azure-core
        def configure_retries(self, options: dict[str, Any]) -> dict[str, Any]:
            return {**super().configure_retries(options), "deadline": time.monotonic() + DEADLINE_S}

        def is_retry(self, settings: dict[str, Any], response: Any) -> bool:
            wait_s = self.get_retry_after(response) or 0.0
            return (
                bool(super().is_retry(settings, response))
                and self._is_method_retryable(settings, response.http_request, response.http_response)
                and time.monotonic() + wait_s <= settings["deadline"]
            )

        def sleep(self, settings: dict[str, Any], transport: Any, response: Any = None) -> None:
            wait_s = (self.get_retry_after(response) if response is not None else None) or self.get_backoff_time(settings)
            cause = "no response" if response is None else f"HTTP {response.http_response.status_code}"
            request = settings["history"][-1].http_request
            resource = "/".join(urlsplit(request.url).path.rstrip("/").split("/")[-2:])
            console.info(f"  {request.method} {resource}: {cause}; trying again in {wait_s:.0f} s")
            super().sleep(settings, transport, response=response)

        def _is_method_retryable(self, settings: dict[str, Any], request: Any, response: Any = None) -> bool:  # noqa: ARG002
            is_refused = response is not None and response.status_code == 429  # so it was not executed
            action = urlsplit(request.url).path.rstrip("/").rpartition("/")[2].lower()
            return request.method.upper() in IDEMPOTENT or is_refused or action in REPEATABLE

    return SafeRetryPolicy
