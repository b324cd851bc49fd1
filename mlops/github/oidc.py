"""The identity token that GitHub issues to a job, and its claims.

A token is valid for five minutes. Source: docs.github.com, "OpenID Connect reference".
"""

from __future__ import annotations

import base64
import json
import os
from typing import Any
from urllib.parse import quote

from mlops.core import console
from mlops.core.errors import CredentialError

__all__ = ["AUDIENCE", "decode_claims", "request_claims", "request_token"]

AUDIENCE = "api://AzureADTokenExchange"
"""The recipient that the token is issued for: Entra ID."""
ISSUER = "https://token.actions.githubusercontent.com"
RETRIES = 4


def request_claims() -> dict[str, Any]:
    """Return what GitHub says about this job: ``repository``, ``environment`` (if it runs in one), ``run_id``, ``actor``, ….

    The token's signature, issuer, audience and time are checked, because a job can set ``ACTIONS_ID_TOKEN_REQUEST_URL`` and answer there
    itself.

    Raises:
        CredentialError: GitHub issues no token, or it is not GitHub's.
    """
    token = request_token()
    console.mask(token)
    return verify_claims(token)


def verify_claims(token: str) -> dict[str, Any]:
    """Return a token's claims, verified with GitHub's public keys.

    Raises:
        CredentialError: the token is not GitHub's, is for somebody else or has expired; or the keys can't be read.
    """
    import jwt

    try:
        key = jwt.PyJWKSet.from_dict(_get_json(f"{ISSUER}/.well-known/jwks", {}))[jwt.get_unverified_header(token)["kid"]]
        return dict(jwt.decode(token, key, algorithms=["RS256"], issuer=ISSUER, audience=AUDIENCE, leeway=60))
    except (jwt.PyJWTError, KeyError) as problem:
        raise CredentialError(
            f"The identity token of this job is not GitHub's: {type(problem).__name__}: {problem}",
            "run the job on github.com; a job must not set ACTIONS_ID_TOKEN_REQUEST_URL",
        ) from problem


def request_token() -> str:
    """Request a fresh token about this job. The caller must mask it.

    Raises:
        CredentialError: GitHub issues no token.
    """
    url, key = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL"), os.environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    if not url or not key:
        raise CredentialError(
            "GitHub issues no identity token to this job, so it can't sign in to Azure.",
            "give the job `permissions: id-token: write`, and also the job that calls a reusable workflow;"
            " pull requests from forks never get a token",
        )
    answer = _get_json(f"{url}&audience={quote(AUDIENCE, safe='')}", {"Authorization": f"Bearer {key}"})
    if not isinstance(answer.get("value"), str):
        raise CredentialError("GitHub issued no identity token: its response contains none.", "run the failed job again")
    return str(answer["value"])


def decode_claims(token: str) -> dict[str, Any]:
    """Return a token's claims without checking its signature; empty if they can't be read."""
    try:
        payload = token.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (IndexError, ValueError):
        return {}
    return claims if isinstance(claims, dict) else {}


def _get_json(url: str, headers: dict[str, str]) -> dict[str, Any]:
    """Get a JSON object from GitHub. Retries after 408, 429, 5xx and broken connections."""
    from azure.core import PipelineClient
    from azure.core.exceptions import AzureError, HttpResponseError
    from azure.core.pipeline.policies import RetryPolicy
    from azure.core.rest import HttpRequest

    client: Any = PipelineClient(base_url="", policies=[RetryPolicy(retry_total=RETRIES, retry_backoff_factor=0.5)])
    try:
        with client:
            request = HttpRequest("GET", url, headers={**headers, "Accept": "application/json"})
            response = client.send_request(request)
            response.raise_for_status()
            return dict(response.json())
    except HttpResponseError as problem:
        if problem.status_code in (401, 403):
            raise CredentialError(
                f"GitHub refuses to issue an identity token ({problem.status_code}): the job's permission to request one expires about six"
                " hours after its start.",
                "let long trainings run without a runner (training.detach_after_minutes in pipeline.toml), then run the failed job again",
            ) from problem
        raise CredentialError(f"GitHub issued no identity token: HTTP {problem.status_code}.", "run the failed job again") from problem
    except (AzureError, ValueError, KeyError, TypeError) as problem:
        raise CredentialError(
            f"GitHub issued no identity token: {type(problem).__name__}: {problem}",
            "check the runner's connection to GitHub, then run the failed job again",
        ) from problem
