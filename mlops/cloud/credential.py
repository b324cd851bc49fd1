"""Signing in to Azure.

A GitHub workflow signs in as the job itself (:mod:`mlops.cloud.federated`). Elsewhere the order is the tutorial's:
``DefaultAzureCredential`` (environment, workload identity, managed identity, Azure CLI, …), and if that finds nothing, the browser, but
only if a person is at the terminal: on a runner a browser login would wait forever.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from mlops.cloud.errors import translate_errors
from mlops.cloud.federated import GitHubCredential, uses_workload_identity
from mlops.core.errors import CredentialError

__all__ = ["MANAGEMENT_SCOPE", "sign_in"]

MANAGEMENT_SCOPE = "https://management.azure.com/.default"
"""The scope of tokens for Azure Resource Manager."""

NO_AUTHORITY = "Unable to get authority configuration"
"""MSAL's only message, whether the tenant doesn't exist or a proxy refuses."""
_FIX = "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET of an app registration with access to the workspace, or run `az login`"
_FIX_TENANT = (
    "check AZURE_TENANT_ID, and that this machine may read https://login.microsoftonline.com/TENANT/v2.0/.well-known/openid-configuration"
)


def sign_in() -> Any:
    """Return a credential that has just obtained a token.

    Returns:
        An ``azure.core.credentials.TokenCredential``.

    Raises:
        AzureError: Entra ID can't be reached.
        CredentialError: nothing yields a token; says what was tried and what to set.
    """
    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import CredentialUnavailableError, DefaultAzureCredential, InteractiveBrowserCredential

    credential: Any
    if uses_workload_identity():
        credential = GitHubCredential()
        with translate_errors("signing in to Entra ID"):
            credential.get_token(MANAGEMENT_SCOPE)
        return credential
    credential = DefaultAzureCredential()
    try:
        credential.get_token(MANAGEMENT_SCOPE)
        return credential
    except (ClientAuthenticationError, CredentialUnavailableError) as problem:
        attempts = _list_attempts(problem)
        if not _is_interactive():
            if NO_AUTHORITY in str(problem):
                raise CredentialError(f"Entra ID returned no configuration for the tenant. {attempts}", _FIX_TENANT) from problem
            raise CredentialError(f"No identity of this process can sign in to Azure. {attempts}", _FIX) from problem
    credential = InteractiveBrowserCredential()
    try:
        credential.get_token(MANAGEMENT_SCOPE)
        return credential
    except (ClientAuthenticationError, CredentialUnavailableError) as problem:
        raise CredentialError(
            f"No identity of this process can sign in to Azure, and the browser login failed: {problem}. {attempts}", _FIX
        ) from problem


def _is_interactive() -> bool:
    return sys.stdin.isatty() and not os.environ.get("CI")


def _list_attempts(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return "Tried: " + " ".join(lines)
