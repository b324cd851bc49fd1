"""Hashes of runs of words. Texts that share a run of words have a passage in common, whatever its context.

A word is a run of letters and digits; case, white space and punctuation don't count. In scripts that don't separate words (Chinese,
Japanese, Thai, …), every letter counts as one. All words of many texts are hashed at once with numpy, eight bytes at a time, because a
Python object for each word would take ten times as long.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Bytes = npt.NDArray[np.uint8]
    Codes = npt.NDArray[np.uint8]
    Hashes = npt.NDArray[np.uint64]
    Positions = npt.NDArray[np.intp]

__all__ = ["CodedLines", "code_words", "hash_runs", "mix"]

_SEPARATOR = re.compile(r"[^\x00-\x7f\w]")
"""Non-ASCII characters that aren't part of a word."""
_UNSEPARATED = re.compile(
    "[\u0e00-\u0eff\u0f00-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]"
)
"""Letters of Thai, Lao, Tibetan, Burmese, Khmer, Japanese and Chinese."""
_TO_WORDS = bytes(byte if byte >= 0x80 or chr(byte).isalnum() else 32 for byte in range(256)).lower()
_FACTOR = 0x9E3779B97F4A7C15
_LONG_WORD = 64
"""Maximum length in bytes of words that are hashed together; longer ones are hashed one by one."""
_PART = 1 << 16
"""Bytes of a text that fit into the processor's cache several times."""


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
    """Reduce every word to a byte that depends on its first two letters: much faster than a hash, and enough to rule words out.

    Returns:
        The codes of all words, and for each text the number of its words.
    """
    import numpy as np

    joined, text_ends = _join(texts)
    codes, places = map(np.concatenate, zip(*_code(np.frombuffer(joined, dtype=np.uint8)), strict=True))
    return codes, np.diff(np.searchsorted(places, text_ends), prepend=0)


class CodedLines:
    """The codes of the words in lines of JSON, see :func:`code_words`. Keys and roles also count as words.

    Attributes:
        codes: of all words.
        others: the lines, from 0, that have words beyond ASCII, whose codes differ.
    """

    def __init__(self, block: bytes) -> None:
        import numpy as np

        raw = np.frombuffer(b"\n%b\n\n" % block, dtype=np.uint8)
        blank, others = _find_escapes(raw)
        if not block.isascii():
            beyond = np.flatnonzero(raw >= 0x80)
            # Quotation marks, dashes and ellipses, which aren't words, have three bytes each.
            first = beyond[raw[beyond] == 0xE2]
            first = first[(raw[first + 1] == 0x80) & (raw[first + 2] >= 0x90) & (raw[first + 2] <= 0xA6)]
            signs = np.concatenate([first, first + 1, first + 2])
            blank = np.concatenate([blank, signs])
            others = np.concatenate([others, np.setdiff1d(beyond, signs, assume_unique=True)])
        if len(blank):
            raw = raw.copy()
            raw[blank] = ord(" ")
        self._text = raw
        parts = [codes for codes, _ in _code(raw)]
        self._ends = np.cumsum(list(map(len, parts)))
        self.codes: Codes = np.concatenate(parts)
        self.others = np.unique(self._lines_of(others)) if len(others) else others

    def find(self, words: Positions) -> Positions:
        """Return the lines of some words, each once."""
        import numpy as np

        parts = np.searchsorted(self._ends, words, side="right")
        locations = []
        for part in np.unique(parts).tolist():
            before = self._ends[part - 1] if part else 0
            text = self._text[part * _PART : (part + 1) * _PART + 2]
            ((_, places),) = _code(text)
            locations.append(places[words[parts == part] - before] + part * _PART)
        return np.unique(self._lines_of(np.concatenate(locations))) if locations else words

    def _lines_of(self, places: Positions) -> Positions:
        import numpy as np

        return np.searchsorted(np.flatnonzero(self._text[1:] == ord("\n")) + 1, places)


def _find_escapes(raw: Bytes) -> tuple[Positions, Positions]:
    """Return where the second characters of escape sequences are, and those of them that are followed by the number of a character."""
    import numpy as np

    backslashes = np.flatnonzero(raw == ord("\\"))
    if not len(backslashes):
        return backslashes, backslashes
    numbers = np.arange(len(backslashes))
    runs = np.maximum.accumulate(np.where(np.diff(backslashes, prepend=-2) != 1, numbers, 0))
    # Of several in a row, every second one begins an escape sequence.
    escaped = backslashes[(numbers - runs) % 2 == 0] + 1
    return escaped, escaped[raw[escaped] == ord("u")]


def _code(text: Bytes) -> Iterator[tuple[Codes, Positions]]:
    """Yield the codes of words, in parts of the text, and where each begins, or one byte before.

    A separator is before the text, and two are behind it.
    """
    import numpy as np

    # New memory for every step would take longer than the steps themselves.
    memory = np.empty((4, _PART + 2), dtype=np.uint8)
    for start in range(0, len(text) - 2, _PART):
        part = text[start : start + _PART + 2]
        size = (len(part) - 2) // 2 * 2
        letters, is_letter, code, is_start = memory[:, : len(part)]
        np.bitwise_or(part, 32, out=letters)
        np.less(np.subtract(letters, 97, out=code), 26, out=is_letter.view(np.bool_))
        np.less(np.subtract(letters, 48, out=code), 10, out=code.view(np.bool_))
        is_letter |= code
        is_letter |= np.greater_equal(letters, 128, out=code.view(np.bool_)).view(np.uint8)
        # After the single letter of a word there is always the same separator.
        letters *= is_letter
        is_start, code = is_start[:size], code[:size]
        np.greater(is_letter[1 : size + 1], is_letter[:size], out=is_start.view(np.bool_))
        np.multiply(letters[1 : size + 1], 8, out=code)
        code ^= letters[2 : size + 2]
        code *= is_start
        # Of two neighbors, only one can begin a word, so they are looked at together.
        pairs = np.flatnonzero(is_start.view(np.uint16) != 0)
        both = code.view(np.uint16)[pairs]
        yield (both | both >> np.uint16(8)).astype(np.uint8), pairs * 2 + (start + 1)


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
        parts = [text if text.isascii() else _separate(text) for text in texts]
        encoded = [part.encode("utf-8", "surrogatepass") for part in parts]
        text, sizes = b" ".join(encoded), [len(part) + 1 for part in encoded]
    return b" %b        " % text.translate(_TO_WORDS), np.cumsum(np.array(sizes, dtype=np.intp))


def _separate(text: str) -> str:
    return _UNSEPARATED.sub(r" \g<0> ", _SEPARATOR.sub(" ", text.casefold()))


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
