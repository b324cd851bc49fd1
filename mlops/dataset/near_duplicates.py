"""Finds conversations that are nearly the same: within a split they count twice, and across splits they leak.

The similarity is that of the sets of three words in a row (Jaccard), estimated with MinHash by the package ``rensa``. Only conversations
that agree in a band of their sketches are compared (locality-sensitive hashing; Leskovec, Rajaraman and Ullman, "Mining of Massive
Datasets", chapter 3).

Memory: a sketch is 512 bytes, and the sketches of the training data and of one other split are in memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from mlops.core.records import Finding
from mlops.dataset.chunks import Chunk, map_chunks
from mlops.dataset.conversation import Conversation, read_batches
from mlops.dataset.hashes import hash_text
from mlops.dataset.processes import keep_processes
from mlops.dataset.words import hash_runs, mix

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = ["THRESHOLD", "check_near_duplicates"]

THRESHOLD = 0.8
"""Conversations are reported from this similarity on."""
SHINGLE_WORDS = 3
MIN_SHINGLES = 12
"""Minimum number of words, because shorter conversations are alike by chance."""
_PERMUTATIONS, _BANDS, _SEED = 128, 16, 42
_BATCH = 32


class _Sketches(NamedTuple):
    """The conversations of a file or a part of one that are long enough, in order."""

    numbers: npt.NDArray[np.intp]
    """Their lines."""
    texts: npt.NDArray[np.uint64]
    """Hashes of their normalized texts."""
    values: npt.NDArray[np.uint32]
    """Their MinHash sketches, one per row."""


@keep_processes()
def check_near_duplicates(files: Mapping[str, Path], training: str, locate: Callable[[str, int], str]) -> list[Finding]:
    """Find conversations that are similar, but not equal, to one of the training data.

    Args:
        files: split → JSON Lines.
        training: the split that all others are compared with, and itself.
        locate: split and line → the place to report.

    Returns:
        For each split at most one warning, with the number of rows and the first pair.
    """
    findings = []
    trained = _sketch_file(files[training])
    for split in (training, *(name for name in files if name != training)):
        sketches = trained if split == training else _sketch_file(files[split])
        pairs = _find_pairs(sketches, trained)
        if not pairs:
            continue
        line, other = pairs[0]
        rule = "duplicate.near" if split == training else "overlap.near"
        message = (
            f"{len(pairs):,} row(s) of {split} are at least {THRESHOLD:.0%} similar to "
            f"{'an earlier' if split == training else 'a training'} row; the first one to {locate(training, other)}"
        )
        findings.append(Finding(rule=rule, severity="warning", where=locate(split, line), message=message))
    return findings


def _find_pairs(sketches: _Sketches, trained: _Sketches) -> list[tuple[int, int]]:
    """Return the line of every similar conversation, and that of the first one that it is like; within a file, an earlier one."""
    import numpy as np

    # Equal rows are reported separately, and one of them is enough to compare with.
    unique = np.sort(np.unique(trained.texts, return_index=True)[1])
    others = _Sketches(trained.numbers[unique], trained.texts[unique], trained.values[unique])
    limits = np.searchsorted(others.numbers, sketches.numbers) if sketches is trained else np.full(len(sketches.numbers), len(unique))
    first: dict[int, int] = {}
    for theirs, ours in zip(_hash_bands(others.values), _hash_bands(sketches.values), strict=True):
        order = np.argsort(theirs, kind="stable")
        theirs = theirs[order]
        begin, end = (np.searchsorted(theirs, ours, side=side) for side in ("left", "right"))
        # The sort is stable, so that the first candidate has the lowest index. Within a file, it may be the row itself.
        lowest = order[np.minimum(begin, len(order) - 1)] if len(order) else begin
        for index in np.flatnonzero((end > begin) & (lowest < limits)).tolist():
            limit = first.get(index, limits[index])
            candidates = order[begin[index] : end[index]]
            for start in range(0, np.searchsorted(candidates, limit), _BATCH):
                block = candidates[start : start + _BATCH]
                similar = np.mean(others.values[block] == sketches.values[index], axis=1) >= THRESHOLD
                similar &= (others.texts[block] != sketches.texts[index]) & (block < limit)
                if similar.any():
                    first[index] = int(block[np.argmax(similar)])
                    break
    return [(int(sketches.numbers[index]), int(others.numbers[other])) for index, other in sorted(first.items())]


def _hash_bands(values: npt.NDArray[np.uint32]) -> Iterator[npt.NDArray[np.uint64]]:
    """Yield for each band a hash of that part of every sketch."""
    import numpy as np

    for band in np.split(values, _BANDS, axis=1):
        hashes = np.zeros(len(values), dtype=np.uint64)
        for column in band.T:
            hashes = mix(hashes ^ column)
        yield hashes


def _sketch_file(path: Path) -> _Sketches:
    import numpy as np

    parts, lines = [], 0
    for part, count in map_chunks(path, _sketch_chunk):
        parts.append(part._replace(numbers=part.numbers + lines))
        lines += count
    empty = _Sketches(np.empty(0, np.intp), np.empty(0, np.uint64), np.empty((0, _PERMUTATIONS), np.uint32))
    return _Sketches(*map(np.concatenate, zip(empty, *parts, strict=True)))


def _sketch_chunk(chunk: Chunk) -> tuple[_Sketches, int]:
    """Return the sketches of a part of a file, with lines counted from its beginning, and its number of lines."""
    import numpy as np
    import rensa

    numbers, texts, values, lines = [], [], [np.empty((0, _PERMUTATIONS), np.uint32)], 0
    for first, rows, _ in read_batches(chunk.path, Conversation, chunk.start, chunk.end):
        lines = first + len(rows) - 1
        valid = [
            (line, "\n".join([message.content for message in row.messages]))
            for line, row in enumerate(rows, first)
            if isinstance(row, Conversation)
        ]
        hashes, begin = hash_runs([text for _, text in valid], SHINGLE_WORDS)
        matrix = rensa.RMinHash.digest_matrix_from_flat_token_hashes(hashes, begin.astype(np.uint64), _PERMUTATIONS, _SEED)
        long = np.flatnonzero(np.diff(begin) >= MIN_SHINGLES)
        values.append(np.array(matrix.to_rows(), dtype=np.uint32).reshape(-1, _PERMUTATIONS)[long])
        numbers += [valid[index][0] for index in long]
        texts += [hash_text(valid[index][1]).value for index in long]
    return _Sketches(np.array(numbers, np.intp), np.array(texts, np.uint64), np.concatenate(values)), lines
