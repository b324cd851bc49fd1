"""Runs of words, as hashes. Texts that share a run of words have a passage in common, whatever is around it.

A word is a run of letters and digits; case, white space and punctuation don't count. All words of many texts are hashed at once with
numpy, eight bytes at a time, because a Python object for each word would take ten times as long.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Codes = npt.NDArray[np.uint8]
    Hashes = npt.NDArray[np.uint64]
    Positions = npt.NDArray[np.intp]

__all__ = ["code_words", "hash_runs", "mix"]

_SEPARATOR = re.compile(r"[^\x00-\x7f\w]")
"""Beyond ASCII, what is not part of a word."""
_TO_WORDS = bytes(byte if byte >= 0x80 or chr(byte).isalnum() else 32 for byte in range(256)).lower()
_FACTOR = 0x9E3779B97F4A7C15
_LONG_WORD = 64
"""In bytes. Longer ones are hashed one by one."""


def hash_runs(texts: Sequence[str], length: int) -> tuple[Hashes, Positions]:
    """Hash all runs of ``length`` words within each text, in their order. Equal runs have equal hashes, in any process.

    Returns:
        The hashes, and where those of each text begin: the ones of text ``i`` are ``hashes[begin[i]:begin[i + 1]]``.
    """
    import numpy as np

    joined, text_ends = _join(texts)
    is_letter = np.frombuffer(joined, dtype=np.uint8) != 32
    edges = np.flatnonzero(is_letter[1:] != is_letter[:-1]) + 1
    starts, ends = edges[::2], edges[1::2]
    last = np.searchsorted(starts, text_ends, side="right")
    counts = np.maximum(np.diff(last, prepend=0) - length + 1, 0)
    begin = np.concatenate([np.zeros(1, dtype=np.intp), np.cumsum(counts)])
    if not begin[-1]:
        return np.empty(0, dtype=np.uint64), begin
    runs = _combine(_hash_words(joined, starts, ends - starts), length)
    inside = np.ones(len(runs), dtype=np.bool_)
    # A run that begins less than its length before the end of a text reaches into the next one.
    across = (last[:-1, None] - np.arange(1, length)).ravel()
    inside[across[(across >= 0) & (across < len(runs))]] = False
    return runs[inside], begin


def code_words(texts: Sequence[str]) -> tuple[Codes, Positions]:
    """Reduce every word to a byte that depends on its first two letters: ten times as fast as a hash, and enough to rule words out.

    Returns:
        The codes of all words, and for each text the number of its words.
    """
    import numpy as np

    joined, text_ends = _join(texts)
    letters = np.frombuffer(joined, dtype=np.uint8)
    is_letter = letters != 32
    is_start = is_letter[1:] > is_letter[:-1]
    starts = np.flatnonzero(is_start)
    # After the single letter of a word there is always the same separator.
    codes = np.take(letters[1:-1] * np.uint8(8) ^ letters[2:], starts)
    return codes, np.diff(np.searchsorted(starts, text_ends - 1), prepend=0)


def mix(hashes: Hashes) -> Hashes:
    """Spread every bit of the hashes over all bits."""
    import numpy as np

    hashes = (hashes ^ (hashes >> np.uint64(32))) * np.uint64(_FACTOR)
    return hashes ^ (hashes >> np.uint64(29))


def _join(texts: Sequence[str]) -> tuple[bytes, Positions]:
    """Return the words of texts in lower case, with a space for each other character, and where each text ends."""
    import numpy as np

    joined = " ".join(texts)
    if joined.isascii():
        text, sizes = joined.encode(), [len(text) + 1 for text in texts]
    else:
        parts = [text if text.isascii() else _SEPARATOR.sub(" ", text.casefold()) for text in texts]
        encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
        text, sizes = b" ".join(encoded), [len(part) + 1 for part in encoded]
    return b" %b        " % text.translate(_TO_WORDS), np.cumsum(np.array(sizes, dtype=np.intp))


def _hash_words(text: bytes, starts: Positions, lengths: Positions) -> Hashes:
    import numpy as np

    # Every position of the text as an integer of the eight bytes that begin there.
    eights = np.ndarray((len(text) - 7,), dtype="<u8", buffer=text, strides=(1,))
    masks = np.array([(1 << 8 * size) - 1 for size in range(9)], dtype=np.uint64)
    mask: Hashes = np.take(masks, lengths, mode="clip")
    hashes = mix(eights[starts] & mask)
    beyond = np.flatnonzero(lengths > 8)
    rest, offset = beyond[lengths[beyond] <= _LONG_WORD], 8
    while len(rest):
        mask = np.take(masks, lengths[rest] - offset, mode="clip")
        hashes[rest] = mix(hashes[rest] * np.uint64(_FACTOR) + (eights[starts[rest] + offset] & mask))
        offset += 8
        rest = rest[lengths[rest] > offset]
    for word in beyond[lengths[beyond] > _LONG_WORD]:
        hashes[word] = xxhash.xxh3_64_intdigest(text[starts[word] : starts[word] + lengths[word]])
    return hashes


def _combine(words: Hashes, length: int) -> Hashes:
    """Return the hash of each run: that of the run without its last word, times a factor, plus that of the word. Runs are doubled."""
    import numpy as np

    runs, size = words, 1
    for bit in bin(length)[3:]:
        runs = runs[:-size] * np.uint64(pow(_FACTOR, size, 1 << 64)) + runs[size:]
        size *= 2
        if bit == "1":
            runs = runs[:-1] * np.uint64(_FACTOR) + words[size:]
            size += 1
    return runs
