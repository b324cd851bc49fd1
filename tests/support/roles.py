"""The emulator under the roles that `mlops roles` prints."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from mlops.cloud.permissions import SCOPES, make_role
from mlops.emulator.identity.roles import Assignment, Role, Roles
from mlops.emulator.server import Emulator

__all__ = ["restricted"]


@contextmanager
def restricted(emulator: Emulator, environment: str, *without: str, scopes: tuple[str, ...] = SCOPES) -> Iterator[None]:
    """Give the application exactly the roles of an environment inside, without some of the actions."""
    state = emulator.azure.services.get(Roles)
    before = state.assignments
    roles = {scope: make_role(environment, scope, "/") for scope in scopes}
    state.assignments = tuple(
        Assignment(Role(role["Name"], tuple(action for action in role["Actions"] if action not in without)), scope)
        for scope, role in roles.items()
    )
    try:
        yield
    finally:
        state.assignments = before
