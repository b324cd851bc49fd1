"""Azure role-based access control: role definitions, their assignments, and the refusal of everything else.

Evaluated as Azure does: an action is allowed if a role that is assigned at the scope or above has it in ``actions`` and not in
``notActions`` (``dataActions`` and ``notDataActions`` for data); roles add up. Names are case-insensitive; ``*`` stands for any text, and
``/*/`` for nothing as well, so that ``workspaces/*/read`` contains ``workspaces/read``. Source: "Understand Azure role definitions" on
learn.microsoft.com.
"""

from __future__ import annotations

import dataclasses
import re
import uuid
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from starlette.requests import Request

from mlops.core.console import did_you_mean
from mlops.emulator.base.azure import Azure
from mlops.emulator.base.clock import now
from mlops.emulator.base.errors import AzureFault
from mlops.emulator.identity.builtin_roles import BUILTIN_ROLES
from mlops.emulator.identity.permissions import Permission, find_permissions
from mlops.emulator.wire.app import WS, Answer, Claims, Route

__all__ = ["ROUTES", "Assignment", "Ledger", "Role", "Roles", "RolesError", "authorize", "is_allowed", "load", "startup"]

FIELDS = ("actions", "notActions", "dataActions", "notDataActions")
IGNORED = {"id", "isCustom", "description", "assignableScopes", "type", "roleType", "createdOn", "updatedOn", "createdBy", "updatedBy"}
"""Fields of a role definition that have no effect here."""
SCOPES = {
    "subscription": "/subscriptions/{subscription}",
    "resource-group": "/subscriptions/{subscription}/resourceGroups/{group}",
    "workspace": WS,
    "storage": "/subscriptions/{subscription}/resourceGroups/{group}/providers/Microsoft.Storage/storageAccounts/{account}",
}
"""Names of scopes in a roles file, whose ARM ids are only known when the emulator runs."""


class RolesError(ValueError):
    """A roles file is wrong: which file, where in it, and what to do."""


@dataclasses.dataclass(frozen=True)
class Role:
    """A role definition: patterns of what it allows and of what it doesn't."""

    name: str
    actions: tuple[str, ...] = ()
    not_actions: tuple[str, ...] = ()
    data_actions: tuple[str, ...] = ()
    not_data_actions: tuple[str, ...] = ()

    def allows(self, action: str, *, is_data: bool = False) -> bool:
        """Return whether the role allows an action."""
        allowed, excluded = (self.data_actions, self.not_data_actions) if is_data else (self.actions, self.not_actions)
        return _matches(action, allowed) and not _matches(action, excluded)


@dataclasses.dataclass(frozen=True)
class Assignment:
    """A role that a principal has at a scope, and at everything below it.

    Args:
        role: what is allowed.
        scope: ARM id, or a name of :data:`SCOPES`.
        principal: client id or object id; empty for the emulator's application.
    """

    role: Role
    scope: str
    principal: str = ""

    def applies(self, azure: Azure, claims: Claims, scope: str) -> bool:
        """Return whether the assignment applies to a request of this principal at this scope."""
        own = SCOPES.get(self.scope, self.scope).format(**dataclasses.asdict(azure.identity)).rstrip("/").lower()
        return (self.principal or azure.identity.client).lower() in (claims["appid"], claims["oid"]) and (
            scope.lower() == own or scope.lower().startswith(own + "/")
        )


class Roles:
    """The assignments of one emulator. Without a roles file, everything is allowed."""

    def __init__(self) -> None:
        self.assignments: tuple[Assignment, ...] | None = None

    def find(self, azure: Azure, claims: Claims, scope: str) -> tuple[Role, ...]:
        """Return the roles of a principal at a scope."""
        if self.assignments is None:
            return (Role("everything", ("*",), data_actions=("*",)),)
        return tuple(item.role for item in self.assignments if item.applies(azure, claims, scope))


class Ledger:
    """Every permission that a request of the application has needed, allowed or not."""

    def __init__(self) -> None:
        self.permissions: set[Permission] = set()


async def startup(azure: Azure) -> None:
    """Assign the roles of the options' file."""
    if azure.options.roles is not None:
        azure.services.get(Roles).assignments = load(azure.options.roles)


def authorize(azure: Azure, request: Request, route: Route, claims: Claims) -> None:
    """Refuse a request for which no role is assigned.

    Raises:
        AzureFault: 403, in the form of the service: ARM, the workspace's data plane, or storage.
    """
    # A job's token authorizes requests about its own run, whatever the roles of the user who submitted it.
    needed = () if "run" in claims else find_permissions(azure, route, request)
    for permission in needed:
        if not is_allowed(azure, claims, permission):
            raise _storage_refusal(request) if route.host == "blob" else _refusal(claims, permission, route.host)


def is_allowed(azure: Azure, claims: Claims, permission: Permission) -> bool:
    """Return whether a principal has a permission, and record that it needed it."""
    azure.services.get(Ledger).permissions.add(permission)
    roles = azure.services.get(Roles).find(azure, claims, permission.scope)
    return any(role.allows(permission.action, is_data=permission.is_data) for role in roles)


def load(path: Path) -> tuple[Assignment, ...]:
    """Read a roles file (YAML or JSON).

    ``definitions`` is a list of role definitions, in the form that ``az role definition create`` takes or ``az role definition list``
    prints. ``assignments`` is a list of ``{role, scope, principal}``: the name of a definition or of one of Azure's built-in roles; an ARM
    id, ``subscription``, ``resource-group``, ``workspace`` or ``storage``; a client id or object id, by default the emulator's application.

    Raises:
        RolesError: the file can't be read or isn't of this form.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as problem:
        raise RolesError(f"{path} can't be read: {problem}") from None
    except yaml.YAMLError as problem:
        raise RolesError(f"{path} is neither YAML nor JSON: {problem}") from None
    if not isinstance(content, Mapping) or set(content) - {"definitions", "assignments"} or "assignments" not in content:
        raise RolesError(f"{path}: a roles file has 'assignments', and 'definitions' for roles that aren't built in; nothing else.")
    roles = dict(BUILTIN)
    for where, item in _items(path, content, "definitions"):
        role = _read_role(where, item)
        roles[role.name.lower()] = role
    return tuple(_read_assignment(where, item, roles) for where, item in _items(path, content, "assignments"))


async def list_permissions(azure: Azure, request: Request) -> Answer:
    """Return what the caller may do in the workspace, one entry for each role."""
    scope = request.url.path[: request.url.path.lower().rindex("/providers/microsoft.authorization")]
    roles = azure.services.get(Roles).find(azure, request.state.claims, scope)
    return {"value": [{field: list(getattr(role, _snake(field))) for field in FIELDS} for role in roles]}


def _items(path: Path, content: Mapping[str, Any], name: str) -> Iterable[tuple[str, Mapping[str, Any]]]:
    items = content.get(name) or []
    if not isinstance(items, list) or not all(isinstance(item, Mapping) for item in items):
        raise RolesError(f"{path}: {name} is not a list of objects.")
    return [(f"{path}: {name}[{index}]", item) for index, item in enumerate(items)]


def _read_role(where: str, item: Mapping[str, Any]) -> Role:
    keys = {str(key).lower(): value for key, value in item.items()}
    name = keys.pop("rolename", None) or keys.pop("name", None)
    keys.pop("name", None)  # if there is also a roleName, it is a GUID
    if not isinstance(name, str):
        raise RolesError(f"{where} has no Name.")
    sources = keys.pop("permissions", None) or [keys]
    patterns = {field: [pattern for source in sources for pattern in _read_patterns(where, source, field)] for field in FIELDS}
    unknown = set(keys) - {field.lower() for field in (*FIELDS, *IGNORED)}
    if unknown:
        key = min(unknown)
        raise RolesError(f"{where}: there is no field {key!r} in a role definition{did_you_mean(key, FIELDS)}.")
    return Role(name, *(tuple(patterns[field]) for field in FIELDS))


def _read_patterns(where: str, source: Mapping[str, Any], field: str) -> list[str]:
    patterns = {str(key).lower(): value for key, value in source.items()}.get(field.lower()) or []
    if not isinstance(patterns, list) or not all(isinstance(pattern, str) for pattern in patterns):
        raise RolesError(f"{where}: {field} is not a list of texts.")
    return patterns


def _read_assignment(where: str, item: Mapping[str, Any], roles: Mapping[str, Role]) -> Assignment:
    if set(item) - {"role", "scope", "principal"} or not all(isinstance(item.get(name), str) for name in ("role", "scope")):
        raise RolesError(f"{where}: an assignment has a role, a scope, and a principal if it isn't the emulator's application.")
    role = roles.get(item["role"].lower())
    if role is None:
        names = [role.name for role in roles.values()]
        raise RolesError(f"{where}: there is no role {item['role']!r}{did_you_mean(item['role'], names)}; define it in 'definitions'.")
    if item["scope"] not in SCOPES and not item["scope"].startswith("/"):
        raise RolesError(f"{where}: the scope {item['scope']!r} is neither an ARM id nor {', '.join(SCOPES)}.")
    return Assignment(role, item["scope"], item.get("principal") or "")


def _matches(action: str, patterns: Iterable[str]) -> bool:
    return any(re.fullmatch(_regex(pattern), action, re.IGNORECASE) for pattern in patterns)


def _regex(pattern: str) -> str:
    return re.escape(pattern).replace(r"/\*/", "/(.*/)?").replace(r"\*", ".*")


def _snake(field: str) -> str:
    return re.sub(r"([A-Z])", r"_\1", field).lower()


def _refusal(claims: Claims, permission: Permission, host: str) -> AzureFault:
    message = (
        f"The client '{claims['appid']}' with object id '{claims['oid']}' does not have authorization to perform action"
        f" '{permission.action}' over scope '{permission.scope}' or the scope is invalid. If access was recently granted, please refresh"
        " your credentials."
    )
    if host == "arm":
        return AzureFault(403, "AuthorizationFailed", message, body={"error": {"code": "AuthorizationFailed", "message": message}})
    return AzureFault(403, "UserError", message, inner=("Forbidden", "AuthorizationFailed"))


def _storage_refusal(request: Request) -> AzureFault:
    code, identifier = "AuthorizationPermissionMismatch", str(uuid.uuid4())
    message = "This request is not authorized to perform this operation using this permission."
    text = f"{message}\nRequestId:{identifier}\nTime:{now()}"
    version = request.headers.get("x-ms-version", "")
    headers = {"x-ms-error-code": code, "x-ms-request-id": identifier, "x-ms-version": version, "content-type": "application/xml"}
    return AzureFault(
        403,
        code,
        message,
        headers=headers,
        body=f'<?xml version="1.0" encoding="utf-8"?><Error><Code>{code}</Code><Message>{text}</Message></Error>',
    )


BUILTIN = {role["Name"].lower(): _read_role("built-in roles", role) for role in BUILTIN_ROLES}
ROUTES = [
    Route(
        "arm", "GET", WS + "/providers/Microsoft.Authorization/permissions", list_permissions, {"2015-07-01", "2018-07-01", "2022-04-01"}
    ),
]
