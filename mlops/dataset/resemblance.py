"""Finds texts that are nearly the same, word for word: most runs of three words remain in a copy with every tenth word changed."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from mlops.dataset.words import hash_runs

__all__ = ["find_similar"]

RUN, MIN_RUNS = 3, 12
"""Minimum number of words, because shorter texts are alike by chance."""
SHARE = 0.5
"""Two different answers to one question have less than a fifth of their runs in common."""


def find_similar(text: str, others: Sequence[str]) -> int | None:
    """Return the index of the first text that shares at least half of its runs of three words with another one."""
    hashes, begin = hash_runs([text, *others], RUN)
    own, *rest = (set(hashes[first:last].tolist()) for first, last in pairwise(begin))
    for index, runs in enumerate(rest):
        if len(runs) >= MIN_RUNS and len(runs & own) >= SHARE * len(runs):
            return index
    return None
