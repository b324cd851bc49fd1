"""Who we are towards Azure.

In a GitHub workflow it is the job itself (:mod:`mlops.cloud.federated`). Elsewhere the order is the tutorial's:
``DefaultAzureCredential`` (environment, workload identity, managed identity, Azure CLI, …), and where that has nothing, the browser, but
only where a person sits at a terminal: a browser log-in on a runner would wait for ever.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from mlops.cloud.errors import translated
from mlops.cloud.federated import GitHubCredential, in_workflow
from mlops.core.errors import CredentialError

__all__ = ["MANAGEMENT_SCOPE", "checked_credential"]

MANAGEMENT_SCOPE = "https://management.azure.com/.default"
"""What Azure Resource Manager's tokens are asked for with."""


def checked_credential() -> Any:
    """A credential that has just got a token.

    Returns:
        An ``azure.core.credentials.TokenCredential``.

    Raises:
        AzureError: Entra ID can't be reached.
        CredentialError: nothing gave a token; says what was tried and what to set.
    """
    from azure.core.exceptions import ClientAuthenticationError
    from azure.identity import CredentialUnavailableError, DefaultAzureCredential, InteractiveBrowserCredential

    if in_workflow():
        federated = GitHubCredential()
        with translated("signing in to Entra ID"):
            federated.get_token(MANAGEMENT_SCOPE)
        return federated
    credential: Any = DefaultAzureCredential()
    try:
        credential.get_token(MANAGEMENT_SCOPE)
        return credential
    except (ClientAuthenticationError, CredentialUnavailableError) as problem:
        if not _person_present():
            raise CredentialError(f"No identity that Azure accepts. {_tried(problem)}", _WHAT_TO_SET) from problem
        tried = _tried(problem)
    credential = InteractiveBrowserCredential()
    try:
        credential.get_token(MANAGEMENT_SCOPE)
        return credential
    except (ClientAuthenticationError, CredentialUnavailableError) as problem:
        raise CredentialError(
            f"No identity that Azure accepts, and the browser log-in failed: {problem}. {tried}", _WHAT_TO_SET
        ) from problem


_WHAT_TO_SET = (
    "set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET of an app registration that may use the workspace, or run `az login`"
)


def _person_present() -> bool:
    return sys.stdin.isatty() and not os.environ.get("CI")


def _tried(problem: Exception) -> str:
    lines = [line.strip() for line in str(problem).splitlines() if line.strip()]
    return "Tried: " + " ".join(lines)
