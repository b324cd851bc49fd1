"""Conversations that are nearly the same: within a split they count twice, and across splits they leak.

The similarity is that of the sets of three words in a row (Jaccard), estimated with MinHash by the package ``rensa``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from mlops.core.records import Finding
from mlops.dataset.conversation import Conversation, hash64, normalize, read_jsonl

__all__ = ["THRESHOLD", "check_near_duplicates"]

THRESHOLD = 0.8
"""Similarity from which two conversations are reported."""
MIN_SHINGLES = 12
"""Shorter conversations are alike by chance."""
_PERMUTATIONS, _BANDS, _SEED = 128, 16, 42
_WORD = re.compile(r"[^\W_]+")


def check_near_duplicates(files: Mapping[str, Path], training: str, locate: Callable[[str, int], str]) -> list[Finding]:
    """Find conversations that are similar, but not equal, to one of the training data.

    Args:
        files: split → JSON Lines.
        training: the split that all others are compared with, and itself.
        locate: split and line → the place to report.

    Returns:
        For each split at most one warning, with the number of rows and the first pair.
    """
    import rensa

    index = rensa.RMinHashLSH(threshold=THRESHOLD, num_perm=_PERMUTATIONS, num_bands=_BANDS)
    sketches: dict[int, tuple[Any, int]] = {}
    pairs: dict[str, list[tuple[int, int]]] = {}
    for split in (training, *(name for name in files if name != training)):
        for number, key, shingles in _read(files[split]):
            sketch = rensa.RMinHash(num_perm=_PERMUTATIONS, seed=_SEED)
            sketch.update(shingles)
            for other in sorted(index.query(sketch)):
                theirs, equal = sketches[other]
                # Equal rows have findings of their own.
                if equal != key and sketch.jaccard(theirs) >= THRESHOLD:
                    pairs.setdefault(split, []).append((number, other))
                    break
            if split == training:
                index.insert(number, sketch)
                sketches[number] = sketch, key
    findings = []
    for split, similar in pairs.items():
        line, other = similar[0]
        rule = "duplicate.near" if split == training else "overlap.near"
        message = (
            f"{len(similar):,} row(s) of {split} are at least {THRESHOLD:.0%} like {'an earlier' if split == training else 'a training'} "
            f"row; the first one like {locate(training, other)}"
        )
        findings.append(Finding(rule=rule, severity="warning", where=locate(split, line), message=message))
    return findings


def _read(path: Path) -> Iterator[tuple[int, int, list[str]]]:
    """Yield line, hash of the normalized text, and shingles of every conversation that is long enough."""
    for number, row in read_jsonl(path):
        if isinstance(row, Conversation):
            text = "\n".join(message.content for message in row.messages)
            words = _WORD.findall(text.lower())
            if len(words) >= MIN_SHINGLES + 2:
                shingles = {" ".join(words[start : start + 3]) for start in range(len(words) - 2)}
                yield number, hash64(normalize(text)), sorted(shingles)
