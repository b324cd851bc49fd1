"""Signing in from a GitHub workflow without a secret: GitHub vouches for the job, Entra ID believes it (workload identity federation).

GitHub's token lives five minutes, an access token about an hour, a job up to six. Whoever fetches one token at the beginning and keeps it
fails later with AADSTS700024; so here a fresh one is fetched whenever Entra is asked. Sources: docs.github.com, "OpenID Connect reference";
learn.microsoft.com, "Workload identity federation".
"""

from __future__ import annotations

import base64
import json
import os
import re
from typing import Any

from mlops.core import console
from mlops.core.errors import CredentialError

__all__ = ["AUDIENCE", "GitHubCredential", "identity_claims", "in_workflow"]

AUDIENCE = "api://AzureADTokenExchange"
"""Whom GitHub's token is for."""
RETRIES = 4


def in_workflow() -> bool:
    """Whether this is a GitHub job that names a tenant and a client, and brings no secret of its own."""
    named = os.environ.get("AZURE_TENANT_ID") and os.environ.get("AZURE_CLIENT_ID")
    return console.in_github() and bool(named) and not os.environ.get("AZURE_CLIENT_SECRET")


class GitHubCredential:
    """An ``azure.core.credentials.TokenCredential`` for the application in AZURE_CLIENT_ID, for every client of the SDKs alike."""

    def __init__(self) -> None:
        from azure.identity import ClientAssertionCredential

        self._tenant = os.environ["AZURE_TENANT_ID"]
        self._client = os.environ["AZURE_CLIENT_ID"]
        self._claims: dict[str, Any] = {}
        self._masked: set[str] = set()
        self._inner: Any = ClientAssertionCredential(self._tenant, self._client, self._assertion)

    def get_token(self, *scopes: str, **options: Any) -> Any:
        """An access token; from the cache while it is good, else by presenting a fresh token of GitHub's.

        Raises:
            CredentialError: GitHub gives no token, or Entra does not accept it; with the subject and what to set up.
        """
        from azure.core.exceptions import ClientAuthenticationError

        for last in (False, True):
            try:
                token = self._inner.get_token(*scopes, **options)
            except ClientAuthenticationError as problem:
                # Refused as expired though it was fetched this moment: it was slow on its way, or a clock is off. Once more, then tell.
                if "AADSTS700024" in str(problem) and not last:
                    continue
                raise self._explained(str(problem)) from problem
            self._mask(token.token)
            return token
        raise AssertionError("unreachable")

    def _assertion(self) -> str:
        """A fresh token of GitHub's about this job."""
        token = _fresh()
        self._mask(token)
        self._claims = _claims(token)
        return token

    def _mask(self, secret: str) -> None:
        if secret not in self._masked:
            self._masked.add(secret)
            console.mask(secret)

    def _explained(self, told: str) -> CredentialError:
        """What Entra said, and what to do about it."""
        found = re.search(r"AADSTS(\d+)", told)
        code = found[1] if found else ""
        said = " ".join(told.split("Trace ID")[0].split())
        subject, issuer = self._claims.get("sub", "unknown"), self._claims.get("iss", "unknown")
        if code in ("700213", "7002138", "700211", "700212", "70021"):
            credential = {
                "name": re.sub(r"[^A-Za-z0-9]+", "-", f"github-{str(subject).removeprefix('repo:')}").strip("-")[:120],
                "issuer": issuer,
                "subject": subject,
                "audiences": [AUDIENCE],
            }
            return CredentialError(
                f"Entra ID does not trust this job. GitHub says that it is {subject!r} (issuer {issuer}). {said}",
                "create this federated credential on the application (matched to the letter; at most 20 per application):\n"
                f"  az ad app federated-credential create --id {self._client} --parameters '{json.dumps(credential)}'",
            )
        if code == "700016":
            return CredentialError(
                f"Entra ID knows no application {self._client} in tenant {self._tenant}. {said}",
                "set the repository's variables AZURE_CLIENT_ID and AZURE_TENANT_ID to those of the app registration",
            )
        if code in ("90002", "900023"):
            return CredentialError(f"There is no tenant {self._tenant}. {said}", "set the repository's variable AZURE_TENANT_ID")
        if code == "700024":
            return CredentialError(
                f"Entra ID finds GitHub's token out of date, though it was fetched this moment, twice. {said}",
                "a clock is off: on a self-hosted runner set its clock by NTP; on GitHub's own run the job again",
            )
        return CredentialError(
            f"Entra ID gives no access token to {subject!r}. {said}", "look the AADSTS code up at https://login.microsoftonline.com/error"
        )


def identity_claims() -> dict[str, Any]:
    """What GitHub says about this job at this moment: ``repository``, ``environment`` (if it is in one), ``run_id``, ``actor``, ….

    Read as GitHub sent it over TLS, its signature unchecked: it tells this process where it is, and proves nothing to anybody else.

    Raises:
        CredentialError: GitHub gives no token.
    """
    token = _fresh()
    console.mask(token)
    return _claims(token)


def _fresh() -> str:
    """A token of GitHub's about this job, made now and not yet masked."""
    url, key = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL"), os.environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    if not url or not key:
        raise CredentialError(
            "GitHub gives this job no identity token, so nobody can be signed in to Azure.",
            "give the job `permissions: id-token: write`, and the job that calls a reusable workflow, too;"
            " pull requests from forks never get one",
        )
    return _fetch(f"{url}&audience={AUDIENCE.replace(':', '%3A').replace('/', '%2F')}", key)


def _fetch(url: str, key: str) -> str:
    """Ask GitHub for a token; 408, 429, 5xx and broken connections are tried again."""
    from azure.core import PipelineClient
    from azure.core.exceptions import AzureError, HttpResponseError
    from azure.core.pipeline.policies import RetryPolicy
    from azure.core.rest import HttpRequest

    client: Any = PipelineClient(base_url="", policies=[RetryPolicy(retry_total=RETRIES, retry_backoff_factor=0.5)])
    try:
        with client:
            answer = client.send_request(HttpRequest("GET", url, headers={"Authorization": f"Bearer {key}", "Accept": "application/json"}))
            answer.raise_for_status()
            token = answer.json()["value"]
    except HttpResponseError as problem:
        if problem.status_code in (401, 403):
            raise CredentialError(
                f"GitHub refuses an identity token ({problem.status_code}): the job's right to ask for one has expired, about six hours"
                " after it began.",
                "let long trainings go on without a runner (training.detach_after_minutes in pipeline.toml); then run the failed job again",
            ) from problem
        raise CredentialError(f"GitHub gave no identity token: HTTP {problem.status_code}.", "run the failed job again") from problem
    except (AzureError, ValueError, KeyError, TypeError) as problem:
        raise CredentialError(
            f"GitHub gave no identity token: {type(problem).__name__}: {problem}",
            "check the runner's way to GitHub; run the failed job again",
        ) from problem
    return str(token)


def _claims(token: str) -> dict[str, Any]:
    """What the token says, unchecked: for messages only."""
    try:
        part = token.split(".")[1]
        found = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    except (IndexError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
