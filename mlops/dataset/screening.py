"""A quick search for texts that may share a run of words with others, so that only these need the much more expensive exact search.

Words are reduced to codes of one byte, and the codes of eight words in a row are one 64-bit number, a gram. All grams of the indexed texts
are in a Bloom filter. Of the texts to search, only every sixth gram is looked up, because any run of 13 words contains one of those. When a
gram matches, its neighbors are checked, because a run of 13 words has six grams in a row. So no run is missed, and there are hardly any
false matches.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from mlops.dataset.filters import BloomFilter
from mlops.dataset.words import mix

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Codes = npt.NDArray[np.uint8]
    Positions = npt.NDArray[np.intp]

__all__ = ["RUN_WORDS", "filter_grams", "find_grams", "owners_of"]

RUN_WORDS = 13
_GRAM = 8
"""Length of a gram in words, each of which takes one byte of a 64-bit number."""
_STRIDE = RUN_WORDS - _GRAM + 1
"""Distance between the grams that are looked up, and the number of grams in a run."""
_PER_ELEMENT = 4
_PART = 1 << 18


def filter_grams(codes: Codes) -> BloomFilter:
    """Return a filter with all grams of some texts. It also contains grams that span two texts, which do no harm."""
    import numpy as np

    grams = BloomFilter.create(len(codes), _PER_ELEMENT)
    for start in range(0, len(codes), _PART):
        grams.add(np.sort(mix(_grams(codes[start : start + _PART + _GRAM - 1], 1))))
    return grams


def find_grams(codes: Codes, grams: BloomFilter) -> Positions:
    """Return positions of words, at least one in every run that the texts of the filter contain, in ascending order."""
    import numpy as np

    # In parts that overlap by one run, for the processor's cache.
    parts = [start + _find_grams(codes[start : start + _PART + RUN_WORDS - 1], grams) for start in range(0, len(codes), _PART)]
    return np.unique(np.concatenate(parts)) if len(parts) > 1 else parts[0] if parts else np.empty(0, np.intp)


def _find_grams(codes: Codes, grams: BloomFilter) -> Positions:
    import numpy as np

    hits = np.flatnonzero(grams.contains(mix(_grams(codes, _STRIDE)))) * _STRIDE
    if not len(hits):
        return hits
    every = _grams(codes, 1)
    # Nearly all hits are coincidences, and most of these have no neighbor.
    is_near = np.zeros(len(hits), dtype=np.bool_)
    for neighbor in (hits - 1, hits + 1):
        inside = (neighbor >= 0) & (neighbor < len(every))
        is_near |= grams.contains(mix(every[np.where(inside, neighbor, 0)])) & inside
    hits = hits[is_near]
    if not len(hits):
        return hits
    around = hits[:, None] + np.arange(1 - _STRIDE, _STRIDE)
    inside = (around >= 0) & (around < len(every))
    is_match = grams.contains(mix(every[np.where(inside, around, 0)])) & inside
    before, after = is_match[:, _STRIDE - 1 :: -1], is_match[:, _STRIDE - 1 :]
    # Number of consecutive matches to the left and to the right of the hit, which counts twice.
    in_a_row = np.cumprod(before, axis=1).sum(axis=1) + np.cumprod(after, axis=1).sum(axis=1) - 1
    runs: Positions = hits[in_a_row >= _STRIDE]
    return runs


def owners_of(positions: Positions, counts: Positions) -> Positions:
    """Return the numbers of the texts, each once, in which words with these positions are. ``counts``: text → its number of words."""
    import numpy as np

    return np.unique(np.searchsorted(np.cumsum(counts), positions, side="right"))


def _grams(codes: Codes, stride: int) -> npt.NDArray[np.uint64]:
    """Return the grams that begin at every ``stride``-th word."""
    import numpy as np

    count = max(0, (len(codes) - _GRAM) // stride + 1)
    return np.ndarray((count,), "<u8", buffer=codes, strides=(stride,)) if count else np.empty(0, np.uint64)
