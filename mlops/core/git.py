"""The pipeline's own commit."""

from __future__ import annotations

import os
import subprocess

__all__ = ["commit"]


def commit() -> str:
    """Return the commit that is checked out, with ``+changes`` if a person has changed files since; ``unknown`` outside git.

    Git comes before GITHUB_SHA: that is the commit that started the workflow, but a resumed pipeline runs at an earlier one.
    """
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GITHUB_SHA") or "unknown"
    return f"{head}+changes" if changes and "GITHUB_SHA" not in os.environ else head
