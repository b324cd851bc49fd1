"""ROUGE-L F1 (Lin 2004): the longest common subsequence of words, relative to the length of both texts."""

from __future__ import annotations

import re
from collections.abc import Sequence

__all__ = ["rouge_l", "words"]

_WORD = re.compile(r"\w+")


def words(text: str) -> list[str]:
    """Split text into case-folded runs of letters and digits of any script (the original keeps only a–z and 0–9)."""
    return _WORD.findall(text.casefold())


def rouge_l(answer: str, reference: str) -> float:
    """Compute the F1 score of the longest common subsequence of words, in [0, 1]; 0 if either text has no words."""
    left, right = words(answer), words(reference)
    if not left or not right:
        return 0.0
    return 2 * _longest_common_subsequence(left, right) / (len(left) + len(right))


def _longest_common_subsequence(left: Sequence[str], right: Sequence[str]) -> int:
    previous = [0] * (len(right) + 1)
    for word in left:
        current = [0]
        for column, other in enumerate(right):
            current.append(previous[column] + 1 if word == other else max(current[column], previous[column + 1]))
        previous = current
    return previous[-1]
