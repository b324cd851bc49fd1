"""The command that grants a permission which Azure has refused."""

from __future__ import annotations

import os
import re

__all__ = ["REFUSAL", "describe_grant", "suggest_grant"]

BUILT_IN = (
    (r"Microsoft\.Storage/.*", "Storage Blob Data Contributor"),
    (r".*/workspaces/computes/(write|delete|.*/action)", "AzureML Compute Operator"),
    (r".*/workspaces/.*", "AzureML Data Scientist"),
    (r".*/read", "Reader"),
)
"""Action → the built-in role that contains it. The first row that matches counts."""
BLOB_REFUSAL = "This request is not authorized to perform this operation using this permission."
"""Storage names neither the action nor the scope."""
REFUSAL = re.compile(r"perform action '(?P<action>[^']+)' over scope '(?P<scope>[^']+)'")


def suggest_grant(message: str) -> str:
    """Return the command that grants what Azure has refused, or nothing if the message is about something else."""
    if BLOB_REFUSAL in message:
        return (
            "give our identity data access to the workspace's storage account: az role assignment create"
            f" --assignee {_client()} --role 'Storage Blob Data Contributor' --scope STORAGE_ACCOUNT_ID"
        )
    match = REFUSAL.search(message)
    return describe_grant(match["action"], match["scope"]) if match else ""


def describe_grant(action: str, scope: str) -> str:
    """Return the sentence that says how to grant an action at a scope."""
    # A role is assigned to the workspace or the subscription, not to a job in it.
    place = re.match(r"(/subscriptions/[^/]+)(/resourceGroups/[^/]+/providers/[^/]+/[^/]+/[^/]+)?", scope, re.IGNORECASE)
    role = next(role for pattern, role in (*BUILT_IN, (".*", "Contributor")) if re.fullmatch(pattern, action, re.IGNORECASE))
    return (
        f"grant {action} at {scope}: az role assignment create --assignee {_client()} --role '{role}' --scope"
        f" {place[0] if place else scope} (or the smallest role that contains it: see `mlops roles`)"
    )


def _client() -> str:
    return os.environ.get("AZURE_CLIENT_ID") or "CLIENT_ID"
