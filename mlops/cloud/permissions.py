"""Permissions that the commands need in Azure, the roles that contain them, and which of them our identity lacks.

``permissions.json`` has the actions of each command. It was recorded from the requests of whole runs, failures included
(``python -m tests.support.permissions``).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlops.cloud.errors import translate_errors
from mlops.cloud.grants import describe_grant
from mlops.cloud.session import Session
from mlops.core import console
from mlops.core.errors import AzureError

__all__ = ["ENVIRONMENTS", "FILE", "SCOPES", "check", "find_missing", "make_role", "needed_actions", "role_name"]

FILE = Path(__file__).with_name("permissions.json")

_STAGES = ("prepare", "validate", "train", "evaluate", "gate", "register", "deploy", "smoke-test", "promote", "teardown")
ENVIRONMENTS: dict[str, tuple[str, ...]] = {
    "pr": (*_STAGES, "reap"),
    "prod": (*_STAGES, "rollback", "resume", "reap"),
    "scheduled": ("resume", "reap"),
}
"""Environment → the commands that run in it: a pull request, and the schedule in its workspace; a push to main, with rollback and schedule,
which have the same identity; the schedule alone."""

SCOPES = ("workspace", "subscription")
"""Scopes at which a role must be assigned."""
LOCATIONS = "Microsoft.MachineLearningServices/locations"
OPTIONAL = (
    f"{LOCATIONS}/vmSizes/read",
    f"{LOCATIONS}/usages/read",
    f"{LOCATIONS}/quotas/read",
    f"{LOCATIONS}/computeOperationsStatus/read",
    f"{LOCATIONS}/mfeOperationsStatus/read",
    f"{LOCATIONS}/mfeOperationResults/read",
)
"""Actions at subscription scope only. Without the first three, `validate` checks less; Azure may require the others for polling."""
READ_OWN = "Microsoft.Authorization/permissions/read"
"""Lets an identity read its own permissions. Without it, `validate` can't say what is missing."""
CREATE_CLUSTER = "Microsoft.MachineLearningServices/workspaces/computes/write"
"""Only needed as long as there is no cluster."""
READ_CLUSTER = "Microsoft.MachineLearningServices/workspaces/computes/read"
UNLISTED = {
    "Microsoft.MachineLearningServices/workspaces/codes/versions/startPendingUpload/action": (
        "Microsoft.MachineLearningServices/workspaces/codes/versions/*"
    )
}
"""Actions that a custom role can't name, because the provider doesn't list them as operations → the narrowest pattern for them."""


def needed_actions(environment: str) -> dict[str, tuple[str, ...]]:
    """Return action → the commands of an environment that need it, without the optional ones."""
    needed: dict[str, list[str]] = {}
    for command in ENVIRONMENTS[environment]:
        for action in _load_actions().get(command, ()):
            if not action.startswith(LOCATIONS):
                needed.setdefault(action, []).append(command)
    return {action: tuple(commands) for action, commands in sorted(needed.items())}


def role_name(environment: str, scope: str) -> str:
    """Return the name of an environment's role for a scope."""
    return f"mlops-{environment}" + ("" if scope == "workspace" else "-quota")


def make_role(environment: str, scope: str, assignable: str) -> dict[str, Any]:
    """Return a custom role in the form that ``az role definition create`` takes.

    Args:
        environment: one of :data:`ENVIRONMENTS`.
        scope: one of :data:`SCOPES`, where it will be assigned.
        assignable: ARM id of the subscription or resource group in which it may be assigned.
    """
    if scope == "workspace":
        actions = {UNLISTED.get(action, action) for action in needed_actions(environment)}
        exact = sorted(action for action in actions if not _matches(action, actions - {action}))
        description = f"What the commands {', '.join(ENVIRONMENTS[environment])} of mlops need in a workspace."
    else:
        exact, description = sorted(OPTIONAL), "Read VM sizes, quota and the status of operations, which belong to the subscription."
    return {
        "Name": role_name(environment, scope),
        "IsCustom": True,
        "Description": description,
        "Actions": exact,
        "NotActions": [],
        "DataActions": [],
        "NotDataActions": [],
        "AssignableScopes": [assignable],
    }


def check(session: Session, environment: str, has_cluster: Callable[[], bool]) -> list[str]:
    """Return a sentence about each permission that an environment needs and our identity lacks.

    If our identity may not read its own permissions, nothing is checked, and a line says so.

    Args:
        session: the connection to the workspace.
        environment: one of :data:`ENVIRONMENTS`.
        has_cluster: whether the cluster exists, so that it need not be created.
    """
    try:
        with translate_errors("reading what our identity may do"):
            granted = session.read_arm("/providers/Microsoft.Authorization/permissions", "2022-04-01")["value"]
    except AzureError as problem:
        console.info(f"  not checked: whether our identity has all permissions ({READ_OWN} at {session.arm_id}): {problem.what}")
        return []
    missing = find_missing(granted, environment)
    if CREATE_CLUSTER in missing and READ_CLUSTER not in missing and has_cluster():
        del missing[CREATE_CLUSTER]
    return [
        f"{', '.join(commands)}: our identity may not do this; {describe_grant(action, session.arm_id)}"
        for action, commands in missing.items()
    ]


def find_missing(granted: Iterable[Mapping[str, Any]], environment: str) -> dict[str, tuple[str, ...]]:
    """Return the actions that an environment needs and no role grants → the commands that need them.

    Args:
        granted: for each role that our identity has, ``actions`` and ``notActions``.
        environment: one of :data:`ENVIRONMENTS`.
    """
    roles = list(granted)
    return {
        action: commands
        for action, commands in needed_actions(environment).items()
        if not any(_matches(action, role["actions"]) and not _matches(action, role.get("notActions") or ()) for role in roles)
    }


@functools.cache
def _load_actions() -> Mapping[str, Sequence[str]]:
    content: Mapping[str, Sequence[str]] = json.loads(FILE.read_text(encoding="utf-8"))
    return content


def _matches(action: str, patterns: Iterable[str]) -> bool:
    # As Azure evaluates them: `/*/` stands for nothing as well.
    expressions = (re.escape(pattern).replace(r"/\*/", "/(.*/)?").replace(r"\*", ".*") for pattern in patterns)
    return any(re.fullmatch(expression, action, re.IGNORECASE) for expression in expressions)
