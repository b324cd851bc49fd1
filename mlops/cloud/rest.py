"""The few requests that the SDK has no public method for, sent through azure-core as the SDK sends its own.

These are run history (details, children, outputs and their URIs), the raw form of a registry's model (the SDK drops ``isArchived`` and
``systemMetadata``) and scoring (the SDK's ``invoke`` keeps the deployment header of one call for all later ones).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mlops.cloud.credential import MANAGEMENT_SCOPE
from mlops.cloud.retries import retry_policy

__all__ = ["Rest"]


class Rest:
    """HTTPS requests with JSON responses. Proxy and certificates come from the environment, as for every Azure client.

    Args:
        credential: a token credential, or None for requests that carry their own key.
        retries: how often a request that is safe to repeat is retried after 408, 429, 5xx or a broken connection.
        scope: of the credential's tokens.
    """

    def __init__(self, credential: Any | None, retries: int = 5, scope: str = MANAGEMENT_SCOPE) -> None:
        from azure.core import PipelineClient
        from azure.core.pipeline.policies import BearerTokenCredentialPolicy, UserAgentPolicy

        policies: list[Any] = [UserAgentPolicy(base_user_agent="azureml-chat-mlops"), retry_policy()(retry_total=retries)]
        if credential is not None:
            policies.append(BearerTokenCredentialPolicy(credential, scope))
        self._client: Any = PipelineClient(base_url="", policies=policies)

    def get(self, url: str, **query: str) -> Any:
        """GET a JSON document.

        Raises:
            azure.core.exceptions.HttpResponseError: any status other than 2xx (see :func:`mlops.cloud.errors.translate_errors`).
        """
        return self._send("GET", url, params=query).json()

    def query(self, url: str, json: Any) -> Any:
        """POST a question that changes nothing, and return the JSON document. Raises as :meth:`get`."""
        return self._send("POST", url, json=json).json()

    def post(self, url: str, *, json: Any, headers: Mapping[str, str], timeout_s: float) -> Any:
        """POST a JSON document and return the response, whatever its status."""
        from azure.core.rest import HttpRequest

        request = HttpRequest("POST", url, json=json, headers=dict(headers))
        return self._client.send_request(request, read_timeout=timeout_s, connection_timeout=min(timeout_s, 30.0))

    def _send(self, method: str, url: str, **options: Any) -> Any:
        from azure.core.rest import HttpRequest

        response = self._client.send_request(HttpRequest(method, url, headers={"Accept": "application/json"}, **options))
        response.raise_for_status()
        return response
