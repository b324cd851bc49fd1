"""Which commit of the pipeline is at work."""

from __future__ import annotations

import os
import subprocess

__all__ = ["commit"]


def commit() -> str:
    """The commit that is checked out here, ``+changes`` where a person has changed files since; ``unknown`` outside git.

    Git is asked before GITHUB_SHA: that is the commit which started the workflow, and a pipeline that is carried on runs an earlier one.
    """
    try:
        head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changes = subprocess.run(["git", "status", "--porcelain"], capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return os.environ.get("GITHUB_SHA") or "unknown"
    return f"{head}+changes" if changes and "GITHUB_SHA" not in os.environ else head
