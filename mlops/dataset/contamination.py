"""Evaluation rows of which long passages are in the training data, although the rows as a whole are not.

Two texts that share 13 words in a row hardly do so by chance; GPT-3's contamination analysis used this length (Brown et al., 2020).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlops.core.records import Finding
from mlops.dataset.conversation import Conversation, read_jsonl

if TYPE_CHECKING:
    import numpy as np

    Hashes = np.ndarray[tuple[int], np.dtype[np.uint64]]

__all__ = ["LENGTH", "check_contamination"]

LENGTH = 13
"""In words."""


_WORD = re.compile(r"[^\W_]+")


def check_contamination(suites: Mapping[str, Path], training: Path, locate: Callable[[int], str]) -> list[Finding]:
    """Find evaluation rows that share passages with the training data.

    Args:
        suites: name → JSON Lines. All their passages are in memory, 16 bytes each.
        training: JSON Lines, read once.
        locate: line of the training data → the place to report.

    Returns:
        For each suite at most one warning, with the number of rows and the first one.
    """
    import numpy as np

    owners: list[tuple[str, int]] = []
    hashes: list[Hashes] = []
    indices: list[Hashes] = []
    for name, path in suites.items():
        for number, passages in _passages(path):
            hashes.append(passages)
            indices.append(np.full(len(passages), len(owners), np.uint64))
            owners.append((name, number))
    if not owners:
        return []
    passages_of_suites, owner = np.concatenate(hashes), np.concatenate(indices)
    order = np.argsort(passages_of_suites, kind="stable")
    passages_of_suites, owner = passages_of_suites[order], owner[order]
    # Nearly all passages of the training data are in no suite. A table by their lowest bits rules most of them out at once.
    mask = np.uint64(2**22 - 1)
    possible = np.zeros(2**22, np.bool_)
    possible[passages_of_suites & mask] = True
    first: dict[int, int] = {}
    for number, passages in _passages(training) if len(passages_of_suites) else ():
        passages = passages[possible[passages & mask]]
        places = np.searchsorted(passages_of_suites, passages)
        places[places == len(passages_of_suites)] = 0
        for passage in passages[passages_of_suites[places] == passages]:
            start, end = np.searchsorted(passages_of_suites, passage), np.searchsorted(passages_of_suites, passage, side="right")
            for index in owner[start:end]:
                first.setdefault(int(index), number)
    findings = []
    for name, path in suites.items():
        affected = [index for index in sorted(first) if owners[index][0] == name]
        if affected:
            total = sum(suite == name for suite, _ in owners)
            message = (
                f"{len(affected):,} of {total:,} rows of the {name} suite share {LENGTH} words in a row with the training data, the "
                f"first one with {locate(first[affected[0]])}: its score may show memory instead of ability"
            )
            where = f"{path}:{owners[affected[0]][1]}"
            findings.append(Finding(rule="overlap.passage", severity="warning", where=where, message=message))
    return findings


def _passages(path: Path) -> Iterator[tuple[int, Hashes]]:
    """Yield the line of every conversation with the hashes of its passages of :data:`LENGTH` words, ignoring case and punctuation."""
    import numpy as np

    factors = [pow(0x9E3779B97F4A7C15, power, 2**64) for power in range(1, LENGTH + 1)]
    for number, row in read_jsonl(path):
        if not isinstance(row, Conversation):
            continue
        words: list[str] = []
        for position, message in enumerate(row.messages):
            words += _WORD.findall(message.content.lower())
            words.append(f"{path}:{number}:{position}")  # occurs nowhere else, so no passage spans two messages
        values = np.fromiter((hash(word) & 0xFFFFFFFFFFFFFFFF for word in words), np.uint64, len(words))
        count = max(0, len(values) - LENGTH + 1)
        passages = np.zeros(count, np.uint64)
        for offset, factor in enumerate(factors):
            passages += values[offset : offset + count] * np.uint64(factor)
        yield number, passages
