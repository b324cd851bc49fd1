"""Data fingerprints: one sha256 for a set of files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

__all__ = ["of_files"]


def of_files(digests: Mapping[str, str]) -> str:
    """Compute the data fingerprint: the hex sha256 over the sorted names and hex sha256 digests of the files.

    Two fingerprints are equal exactly if the same names have the same content.
    """
    total = hashlib.sha256()
    for name in sorted(digests):
        total.update(f"{name} {digests[name]}\n".encode())
    return total.hexdigest()
