"""The time, as Azure writes it."""

from __future__ import annotations

from datetime import UTC, datetime

__all__ = ["now"]


def now() -> str:
    """Return the current time in UTC in ISO 8601, as in ``systemData``."""
    return datetime.now(UTC).isoformat()
