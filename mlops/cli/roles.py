"""Print the smallest custom Azure roles that the commands need.

mlops roles --environment prod > role.json          a role for az role definition create --role-definition @role.json
mlops roles --environment prod --format commands    the commands that create and assign both roles
mlops roles --environment prod --format file        a file for python -m mlops.emulator --roles FILE

The role for the workspace is enough. The role for the subscription only reads VM sizes, quota and the status of operations, which no role
at a workspace or resource group can include; without it, `mlops validate` checks less.
"""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Sequence
from typing import Any

from mlops.cli import stage
from mlops.cloud.permissions import ENVIRONMENTS, SCOPES, make_role
from mlops.core.errors import UsageError
from mlops.core.settings import COORDINATES

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    parser = stage.bare_parser(__doc__ or "", prog="mlops roles")
    parser.add_argument(
        "--environment",
        choices=ENVIRONMENTS,
        default="prod",
        help="pr: pull requests; prod: pushes, with rollback; scheduled: the schedule",
    )
    parser.add_argument("--scope", choices=SCOPES, default="workspace", help="where the role is assigned (default: workspace)")
    parser.add_argument("--format", choices=("json", "commands", "file"), default="json", help="what to print (default: json)")
    for name, (option, help_text) in OPTIONS.items():
        variable = VARIABLES[name]
        parser.add_argument(f"--{option}", dest=name, default=os.environ.get(variable, ""), help=f"{help_text} (default: {variable})")
    options = parser.parse_args(argv)

    return stage.finish(lambda: FORMATS[options.format](options), as_json=options.json)


def _role(options: Any) -> stage.Answer:
    role = make_role(options.environment, options.scope, _assignable(options, options.scope))
    return stage.Answer(role, _to_json(role))


def _commands(options: Any) -> stage.Answer:
    lines = []
    for scope in SCOPES:
        role = make_role(options.environment, scope, _assignable(options, scope))
        purpose = "what the commands need" if scope == "workspace" else "optional: VM sizes, quota and operations, for more checks"
        name, assignee, place = (shlex.quote(text) for text in (role["Name"], _require(options, "client"), _place(options, scope)))
        lines += [
            f"# Role '{role['Name']}', to be assigned to the {scope}: {purpose}",
            f"az role definition create --role-definition {shlex.quote(_to_json(role))}",
            f"az role assignment create --assignee {assignee} --role {name} --scope {place}",
        ]
    return stage.Answer(lines, "\n".join(lines))


def _file(options: Any) -> stage.Answer:
    roles = {scope: make_role(options.environment, scope, "/") for scope in SCOPES}
    assignments = [{"role": role["Name"], "scope": scope} for scope, role in roles.items()]
    content = {"definitions": list(roles.values()), "assignments": assignments}
    return stage.Answer(content, _to_json(content))


def _assignable(options: Any, scope: str) -> str:
    subscription = f"/subscriptions/{_require(options, 'subscription_id')}"
    return subscription if scope == "subscription" else f"{subscription}/resourceGroups/{_require(options, 'resource_group')}"


def _place(options: Any, scope: str) -> str:
    base = _assignable(options, scope)
    if scope == "subscription":
        return base
    return f"{base}/providers/Microsoft.MachineLearningServices/workspaces/{_require(options, 'name')}"


def _require(options: Any, name: str) -> str:
    value: str = getattr(options, name)
    if not value:
        raise UsageError(f"The {OPTIONS[name][1]} is not specified.", f"add --{OPTIONS[name][0]}, or set {VARIABLES[name]}")
    return value


def _to_json(content: Any) -> str:
    return json.dumps(content, indent=2)


OPTIONS = {
    "subscription_id": ("subscription", "subscription's id"),
    "resource_group": ("resource-group", "resource group's name"),
    "name": ("workspace", "workspace's name"),
    "client": ("assignee", "client id of the identity"),
}
"""Argument → the name of its option, and what it is."""
VARIABLES = {**COORDINATES, "client": "AZURE_CLIENT_ID"}
"""Argument → the environment variable that is its default."""
FORMATS = {"json": _role, "commands": _commands, "file": _file}
