"""Fingerprints: one sha256 that stands for a set of files."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

__all__ = ["of_files", "of_settings"]


def of_files(digests: Mapping[str, str]) -> str:
    """The data fingerprint: hex sha256 over name and hex sha256 of every file, in the order of the names.

    It is equal exactly when the same names hold the same bytes.
    """
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(f"{name} {digests[name]}\n".encode())
    return total.hexdigest()


def of_settings(settings: Mapping[str, Any]) -> str:
    """Hex sha256 over settings, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True, allow_nan=False).encode()).hexdigest()
