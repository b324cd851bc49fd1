"""The name of the user who runs this process."""

from __future__ import annotations

import getpass
import os

__all__ = ["current_user"]


def current_user() -> str:
    """Return the login name, or ``uid 54321`` for a user without one, as containers often have."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # KeyError before Python 3.13, OSError since
        return f"uid {os.getuid()}"
