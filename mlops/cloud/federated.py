"""Signing in from a GitHub workflow without a secret: Entra ID trusts the identity token that GitHub issues (workload identity federation).

GitHub's token is valid for five minutes, an access token for about an hour, and a job runs for up to six hours. A token that is fetched
once at the start fails later with AADSTS700024, so a fresh one is fetched for each request to Entra. Source: learn.microsoft.com,
"Workload identity federation".
"""

from __future__ import annotations

import json
import os
import re
import shlex
from typing import Any

from mlops.core import console
from mlops.core.errors import CredentialError
from mlops.github import oidc

__all__ = ["GitHubCredential", "uses_workload_identity"]


def uses_workload_identity() -> bool:
    """Return whether this is a GitHub job that names a tenant and a client but has no client secret."""
    names_application = os.environ.get("AZURE_TENANT_ID") and os.environ.get("AZURE_CLIENT_ID")
    return console.in_github() and bool(names_application) and not os.environ.get("AZURE_CLIENT_SECRET")


class GitHubCredential:
    """An ``azure.core.credentials.TokenCredential`` for the application in AZURE_CLIENT_ID, usable by every client of the SDKs."""

    def __init__(self) -> None:
        from azure.identity import ClientAssertionCredential

        self._tenant = os.environ["AZURE_TENANT_ID"]
        self._client = os.environ["AZURE_CLIENT_ID"]
        self._claims: dict[str, Any] = {}
        self._masked: set[str] = set()
        self._credential: Any = ClientAssertionCredential(self._tenant, self._client, self._request_assertion)

    def get_token(self, *scopes: str, **options: Any) -> Any:
        """Return an access token from the cache while it is valid, otherwise in exchange for a fresh token of GitHub's.

        Raises:
            CredentialError: GitHub issues no token, or Entra does not accept it; names the subject, and what to set up.
        """
        from azure.core.exceptions import ClientAuthenticationError

        for is_last_attempt in (False, True):
            try:
                token = self._credential.get_token(*scopes, **options)
            except ClientAuthenticationError as problem:
                # A fresh token was refused as expired: it was delayed on its way, or a clock is wrong. Retry once before reporting it.
                if "AADSTS700024" in str(problem) and not is_last_attempt:
                    continue
                raise self._explain_refusal(str(problem)) from problem
            self._mask(token.token)
            return token
        raise AssertionError("unreachable")

    def _request_assertion(self) -> str:
        token = oidc.request_token()
        self._mask(token)
        self._claims = oidc.decode_claims(token)
        return token

    def _mask(self, secret: str) -> None:
        if secret not in self._masked:
            self._masked.add(secret)
            console.mask(secret)

    def _explain_refusal(self, message: str) -> CredentialError:
        """Turn Entra's error message into an error with a fix."""
        match = re.search(r"AADSTS(\d+)", message)
        code = match[1] if match else ""
        reason = " ".join(message.split("Trace ID")[0].split())
        subject, issuer = self._claims.get("sub", "unknown"), self._claims.get("iss", "unknown")
        if code in ("700213", "7002138", "700211", "700212", "70021"):
            credential = {
                "name": re.sub(r"[^A-Za-z0-9]+", "-", f"github-{str(subject).removeprefix('repo:')}").strip("-")[:120],
                "issuer": issuer,
                "subject": subject,
                "audiences": [oidc.AUDIENCE],
            }
            return CredentialError(
                f"Entra ID does not trust this job. GitHub identifies it as {subject!r} (issuer {issuer}). {reason}",
                "create this federated credential on the application (it must match exactly; at most 20 per application):\n"
                f"  az ad app federated-credential create --id {self._client} --parameters {shlex.quote(json.dumps(credential))}",
            )
        if code == "700016":
            return CredentialError(
                f"Entra ID has no application {self._client} in tenant {self._tenant}. {reason}",
                "set the repository's variables AZURE_CLIENT_ID and AZURE_TENANT_ID to those of the app registration",
            )
        if code in ("90002", "900023"):
            return CredentialError(f"There is no tenant {self._tenant}. {reason}", "set the repository's variable AZURE_TENANT_ID")
        if code == "700024":
            return CredentialError(
                f"Entra ID refused two fresh tokens of GitHub's as expired. {reason}",
                "a clock is wrong: on a self-hosted runner, synchronize it by NTP; on a GitHub-hosted runner, run the job again",
            )
        return CredentialError(
            f"Entra ID issues no access token to {subject!r}. {reason}",
            "look up the AADSTS code at https://login.microsoftonline.com/error",
        )
