"""Reading the SDK's entities."""

from __future__ import annotations

from enum import Enum
from typing import Any

__all__ = ["word"]


def word(value: Any, default: str = "") -> str:
    """A field as plain text. The SDK gives enum members where it knows the value and text where it doesn't, and ``str`` of a member
    is ``ProvisioningState.SUCCEEDED``, not ``Succeeded``."""
    if isinstance(value, Enum):
        value = value.value
    return default if value in (None, "") else str(value)
