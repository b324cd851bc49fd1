"""Normalized texts and their hashes, which define when two texts, or two conversations, are equal.

Hashes are the same in every process. Equal texts have equal hashes; the chance that different ones have is about 1e-9 for 200,000 rows.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import msgspec
import xxhash

from mlops.dataset.conversation import Message

__all__ = [
    "RowEnds",
    "TextHash",
    "content_id",
    "hash64",
    "hash_conversation",
    "hash_ends",
    "hash_row_ends",
    "hash_text",
    "normalize",
]

_MASK = 2**64 - 1
_IGNORED_CHARACTERS = re.compile(r"[\x00-/:-@\[-`{-\x7f\s\u2000-\u206f\u3000-\u303f]+")
_IGNORED_BYTES = bytes(byte for byte in range(128) if not chr(byte).isalnum())
_PIECE, _END = 64, 24
"""Number of characters at each end of a text, and how many normalized bytes of these are hashed."""
_TO_LOWER_CASE = bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in range(256))


def normalize(text: str) -> bytes:
    """Remove differences in case, white space, punctuation and compatibility forms. The result is for comparison only.

    A text that consists of nothing else (``":)"``) stays as it is, so that two such texts are not considered equal.
    """
    if text.isascii():
        # The same result as below, but ten times as fast.
        bare = text.encode().translate(_TO_LOWER_CASE, _IGNORED_BYTES)
    else:
        bare = _IGNORED_CHARACTERS.sub("", unicodedata.normalize("NFKC", text).casefold()).encode("utf-8", "surrogatepass")
    return bare or text.strip().encode("utf-8", "surrogatepass")


def hash64(*parts: bytes) -> int:
    """Hash the parts to 64 bits with BLAKE2b. The probability of a collision among 200,000 different rows is about 1e-9."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        # Include the length, so that ("ab", "c") and ("a", "bc") differ.
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return int.from_bytes(digest.digest(), "little")


class TextHash(NamedTuple):
    """The hash of a normalized text, the same in every process, and its size in bytes."""

    value: int
    size: int


def hash_text(text: str) -> TextHash:
    """Hash a text, normalized."""
    normalized = normalize(text)
    return TextHash(xxhash.xxh3_64_intdigest(normalized), len(normalized))


class RowEnds(NamedTuple):
    """Hashes of the beginnings and ends of the texts of a row."""

    key: int
    """Hash of all of them, and of the roles. Rows with different keys are different."""
    values: Sequence[int]
    """Hashes of the first message and of each assistant message."""
    first_size: int
    """See :func:`hash_ends`."""


def hash_ends(texts: Sequence[str]) -> tuple[list[int], list[int]]:
    """Hash the beginning and the end of normalized texts: texts whose hashes differ are different. Much faster than :func:`hash_text`.

    Returns:
        The hashes, the same in every process, and the sizes of what was hashed: that of the normalized text if it is below 48 bytes.
    """
    # All pieces at once, because each call of `translate` prepares a table.
    whole = 2 * _PIECE
    plain = texts if "".join(texts).isascii() else [text if text.isascii() else "" for text in texts]
    pieces = "\0".join([text if len(text) <= whole else text[:_PIECE] + text[-_PIECE:] for text in plain])
    bare = pieces.encode().translate(_TO_LOWER_CASE, _IGNORED_BYTES.replace(b"\0", b"")).split(b"\0")
    ends: list[bytes] = []
    for text, both in zip(texts, bare if len(bare) == len(texts) else [b""] * len(texts), strict=True):
        # Of a long text, so much that either piece has an end.
        if len(both) >= _PIECE + _END:
            ends.append(both[:_END] + both[-_END:])
            continue
        normalized = both if both and len(text) <= whole else normalize(text)
        ends.append(normalized if len(normalized) < 2 * _END else normalized[:_END] + normalized[-_END:])
    return list(map(xxhash.xxh3_64_intdigest, ends)), list(map(len, ends))


def hash_row_ends(rows: Sequence[Sequence[Message]]) -> list[RowEnds]:
    """Hash the beginnings and ends of the first messages and the answers of rows."""
    texts = [[message.content for place, message in enumerate(row) if place == 0 or message.role == "assistant"] for row in rows]
    hashes, sizes = hash_ends([text for own in texts for text in own])
    ends: list[RowEnds] = []
    begin = 0
    for row, own in zip(rows, texts, strict=True):
        values = hashes[begin : begin + len(own)]
        key = hash((_hash_roles(tuple([message.role for message in row])), *values)) & _MASK
        ends.append(RowEnds(key, values, sizes[begin] if own else 0))
        begin += len(own)
    return ends


@lru_cache(maxsize=1024)
def _hash_roles(roles: tuple[str, ...]) -> int:
    return xxhash.xxh3_64_intdigest("\n".join(roles).encode())


def hash_conversation(messages: Sequence[Message], texts: Sequence[TextHash]) -> int:
    """Hash roles and normalized texts to 64 bits, the same in every process.

    Args:
        messages: some messages.
        texts: the hashes of their texts.
    """
    # Python's hashes of integers, unlike those of texts, don't differ from process to process.
    return hash((*[int.from_bytes(message.role.encode()) for message in messages], *texts)) & _MASK


def content_id(messages: Sequence[Message]) -> str:
    """Return the hex sha256 of the messages, for sources without a ``prompt_id``."""
    return hashlib.sha256(msgspec.json.encode([[message.role, message.content] for message in messages])).hexdigest()
