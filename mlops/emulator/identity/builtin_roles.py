"""Azure's built-in roles that concern Azure Machine Learning, as listed in "Azure built-in roles" on learn.microsoft.com in August 2026."""

from __future__ import annotations

from typing import Any

__all__ = ["BUILTIN_ROLES"]

_ML = "Microsoft.MachineLearningServices/workspaces"
_CONTAINERS = "Microsoft.Storage/storageAccounts/blobServices/containers"
_DELEGATION_KEY = "Microsoft.Storage/storageAccounts/blobServices/generateUserDelegationKey/action"

BUILTIN_ROLES: tuple[dict[str, Any], ...] = (
    {"Name": "Owner", "Actions": ["*"]},
    {
        "Name": "Contributor",
        "Actions": ["*"],
        "NotActions": [
            "Microsoft.Authorization/*/Delete",
            "Microsoft.Authorization/*/Write",
            "Microsoft.Authorization/elevateAccess/Action",
            "Microsoft.Blueprint/blueprintAssignments/write",
            "Microsoft.Blueprint/blueprintAssignments/delete",
            "Microsoft.Compute/galleries/share/action",
            "Microsoft.Purview/consents/write",
            "Microsoft.Purview/consents/delete",
            "Microsoft.Resources/deploymentStacks/manageDenySetting/action",
            "Microsoft.Subscription/cancel/action",
            "Microsoft.Subscription/enable/action",
        ],
    },
    {"Name": "Reader", "Actions": ["*/read"]},
    {
        "Name": "AzureML Data Scientist",
        "Actions": [f"{_ML}/*/read", f"{_ML}/*/action", f"{_ML}/*/delete", f"{_ML}/*/write"],
        "NotActions": [
            f"{_ML}/delete",
            f"{_ML}/write",
            f"{_ML}/computes/*/write",
            f"{_ML}/computes/*/delete",
            f"{_ML}/computes/listKeys/action",
            f"{_ML}/listKeys/action",
            f"{_ML}/hubs/write",
            f"{_ML}/hubs/delete",
            f"{_ML}/featurestores/write",
            f"{_ML}/featurestores/delete",
        ],
    },
    {"Name": "AzureML Compute Operator", "Actions": [f"{_ML}/computes/*", f"{_ML}/notebooks/vm/*"]},
    {"Name": "AzureML Metrics Writer (preview)", "Actions": [f"{_ML}/metrics/*/write"]},
    {
        "Name": "AzureML Registry User",
        "Actions": ["Microsoft.MachineLearningServices/registries/read", "Microsoft.MachineLearningServices/registries/assets/*"],
    },
    {
        "Name": "Storage Blob Data Owner",
        "Actions": [f"{_CONTAINERS}/*", _DELEGATION_KEY],
        "DataActions": [f"{_CONTAINERS}/blobs/*"],
    },
    {
        "Name": "Storage Blob Data Contributor",
        "Actions": [f"{_CONTAINERS}/delete", f"{_CONTAINERS}/read", f"{_CONTAINERS}/write", _DELEGATION_KEY],
        "DataActions": [f"{_CONTAINERS}/blobs/{name}" for name in ("delete", "read", "write", "move/action", "add/action")],
    },
    {
        "Name": "Storage Blob Data Reader",
        "Actions": [f"{_CONTAINERS}/read", _DELEGATION_KEY],
        "DataActions": [f"{_CONTAINERS}/blobs/read"],
    },
)
