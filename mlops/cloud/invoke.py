"""Requests to an online endpoint.

The SDK's ``invoke`` is not used, because it keeps the deployment header of one call for all later ones, and turns a timeout of the
container (408) into a TypeError.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlops.cloud.answers import Answer, parse_answer
from mlops.cloud.errors import translate_errors
from mlops.cloud.rest import Rest
from mlops.cloud.session import Session
from mlops.core import console

__all__ = ["EndpointClient", "ScoringResponse", "build_payload"]

DEPLOYMENT_HEADER = "azureml-model-deployment"
"""Request header: the deployment to use, whatever the traffic. Response header: the deployment that answered."""


@dataclass(frozen=True, kw_only=True)
class ScoringResponse:
    """An endpoint's response to a request."""

    status: int
    """HTTP status; 0 if there was no response."""
    content: bytes
    """The body as received."""
    deployment: str
    """The deployment that answered, if the service says so."""
    reason: str
    """Why the request failed; empty with status 200."""
    latency_ms: float

    def answer(self) -> Answer:
        """Return the generated text and its shape.

        Raises:
            ForeignAnswer: the body has none of the known shapes. Call this only with status 200.
        """
        return parse_answer(self.content)


def build_payload(messages: Sequence[Mapping[str, str]], max_new_tokens: int) -> dict[str, Any]:
    """Build a request in the form that the fine-tuned MLflow model takes: a flat list of messages that ends with the user's turn.

    Decoding is greedy, so that a model always gives the same answer.
    """
    return {
        "input_data": {
            "input_string": [{"role": message["role"], "content": message["content"]} for message in messages],
            "parameters": {"do_sample": False, "max_new_tokens": max_new_tokens},
        }
    }


class EndpointClient:
    """Sends requests to an endpoint, authenticated by its key.

    Args:
        session: with the workspace that the endpoint belongs to.
        endpoint: its name.
        uri: its scoring URI.
        timeout_s: for one response.
    """

    def __init__(self, session: Session, endpoint: str, uri: str, timeout_s: float) -> None:
        self._session = session
        self._endpoint = endpoint
        self._uri = uri
        self._timeout_s = timeout_s
        # A retry would hide failures from callers that count them.
        self._rest = Rest(None, retries=0)

    def invoke(self, body: Mapping[str, Any], deployment: str | None = None) -> ScoringResponse:
        """Send one request, to a deployment or according to the traffic. Never raises because of the endpoint's response."""
        from azure.core.exceptions import AzureError as CoreError

        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        if deployment is not None:
            headers[DEPLOYMENT_HEADER] = deployment
        start = time.monotonic()
        try:
            response = self._rest.post(self._uri, json=dict(body), headers=headers, timeout_s=self._timeout_s)
        except CoreError as problem:
            latency_ms = (time.monotonic() - start) * 1000
            return ScoringResponse(status=0, content=b"", deployment="", reason=f"no response: {problem}", latency_ms=latency_ms)
        latency_ms = (time.monotonic() - start) * 1000
        return ScoringResponse(
            status=response.status_code,
            content=response.content,
            deployment=response.headers.get(DEPLOYMENT_HEADER, ""),
            reason="" if response.status_code == 200 else _reason(response),
            latency_ms=latency_ms,
        )

    @cached_property
    def _key(self) -> str:
        with translate_errors(f"reading the key of endpoint {self._endpoint}"):
            key = str(self._session.ml.online_endpoints.get_keys(self._endpoint).primary_key)
        console.mask(key)
        return key


_MEANINGS = {
    401: "the endpoint did not accept the key",
    404: "no deployment serves this request: wrong name, or no traffic",
    408: "the container took longer than request_timeout_ms",
    424: "the container failed",
    429: "too many concurrent requests for the instances",
}


def _reason(response: Any) -> str:
    status = response.status_code
    model_status = response.headers.get("ms-azureml-model-error-statuscode", "")
    model_reason = response.headers.get("ms-azureml-model-error-reason", "")
    details = " ".join(part for part in (model_status, model_reason, response.text()[:300].strip()) if part)
    return f"HTTP {status}: {_MEANINGS.get(status, 'not a success')}{': ' + details if details else ''}"
