"""Requests to an online endpoint.

The SDK's ``invoke`` is not used, because it keeps the deployment header of one call for all later ones, and turns a timeout of the
container (408) into a TypeError.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from mlops.cloud.errors import translate_errors
from mlops.cloud.rest import Rest
from mlops.cloud.session import Session
from mlops.core import console

__all__ = ["EndpointClient", "ScoringResponse", "build_payload"]

DEPLOYMENT_HEADER = "azureml-model-deployment"
"""In a request: the deployment to use, whatever the traffic. In a response: the deployment that answered."""


@dataclass(frozen=True, kw_only=True)
class ScoringResponse:
    """An endpoint's response to a request."""

    status: int
    """HTTP status; 0 if there was no response."""
    body: Any
    """Parsed JSON, or the text if it is not JSON."""
    deployment: str
    """The deployment that answered, if the service says so."""
    reason: str
    """Why the request failed; empty with status 200."""
    latency_ms: float

    @property
    def text(self) -> str | None:
        """The generated text of ``{"output": "…"}`` (or a list with one of these) and status 200; None for anything else."""
        body = self.body[0] if isinstance(self.body, list) and len(self.body) == 1 else self.body
        output = body.get("output") if self.status == 200 and isinstance(body, Mapping) else None
        return output if isinstance(output, str) else None


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
            return ScoringResponse(status=0, body=None, deployment="", reason=f"no response: {problem}", latency_ms=latency_ms)
        latency_ms = (time.monotonic() - start) * 1000
        return ScoringResponse(
            status=response.status_code,
            body=_body(response),
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


def _body(response: Any) -> Any:
    try:
        body = response.json()
        # Azure's no-code server wraps the JSON text of a response in a JSON string.
        return json.loads(body) if isinstance(body, str) and body[:1] in "[{" else body
    except ValueError:
        return response.text()


_MEANINGS = {
    401: "the key was not accepted",
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
