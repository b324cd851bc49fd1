"""Helpers for reading the SDK's entities."""

from __future__ import annotations

from enum import Enum
from typing import Any

__all__ = ["as_text"]


def as_text(value: Any, default: str = "") -> str:
    """Return a field as plain text.

    The SDK gives enum members for values that it knows and text for others, and ``str`` of a member is ``ProvisioningState.SUCCEEDED``,
    not ``Succeeded``.
    """
    if isinstance(value, Enum):
        value = value.value
    return default if value in (None, "") else str(value)
