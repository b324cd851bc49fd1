"""The conversation schema of ultrachat, and reading it from JSON Lines.

A row has ``prompt`` (the first user turn), ``messages`` (a list of ``role`` and ``content``) and ``prompt_id``. Decoding is typed and
strict: a field that is missing, of another type or unknown inside a message is an error, as are a byte order mark, NaN, invalid UTF-8,
lone surrogates (msgspec refuses these itself) and a key given twice (which every fast JSON reader silently resolves to the last).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

import msgspec

__all__ = [
    "MAX_LINE_BYTES",
    "SPLITS",
    "Conversation",
    "Message",
    "RetentionItem",
    "Unreadable",
    "content_id",
    "convert",
    "decode",
    "encode",
    "hash64",
    "lines",
    "normalise",
    "read_jsonl",
]

SPLITS = ("train_sft", "test_sft", "train_gen", "test_gen")
"""``*_sft`` for supervised fine-tuning, ``*_gen`` for generation; the names are ultrachat_200k's."""

MAX_LINE_BYTES = 1 << 26
"""A longer line is refused, so that memory stays bounded whatever the file."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn. ``role`` is ``system``, ``user`` or ``assistant``; other words are read and left to the checks."""

    role: str
    content: str


class Conversation(msgspec.Struct, frozen=True):
    """A row of a split. Fields that it doesn't know are left out when it is written again."""

    prompt: str
    messages: list[Message]
    prompt_id: str


class RetentionItem(Conversation, frozen=True, forbid_unknown_fields=True):
    """A row of the retention suite: a conversation of a known kind."""

    kind: str


class Unreadable(ValueError):
    """A row that is not a conversation.

    Args:
        rule: which rule it breaks, e.g. ``json.malformed``.
        message: what is wrong with it.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule


R = TypeVar("R", bound=Conversation)

_DECODERS: dict[type[Conversation], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Conversation, RetentionItem)
}
_ENCODER = msgspec.json.Encoder()
# Inside a string a quote is escaped, so these bytes can only be a key, or a value that is exactly this word.
_KEYS_OF_ROW, _KEYS_OF_MESSAGE = (b'"prompt"', b'"messages"', b'"prompt_id"'), (b'"role"', b'"content"')
# An ASCII letter written as an escape: the one way to spell a key differently.
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")
_NOT_TEXT = re.compile(r"[\x00-/:-@\[-`{-\x7f\s\u2000-\u206f\u3000-\u303f]+")
_DELETED = bytes(byte for byte in range(128) if not chr(byte).isalnum())
_LOWER = bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in range(256))


def decode(line: bytes, kind: type[R] = Conversation) -> R:  # type: ignore[assignment]
    """Read one row.

    Raises:
        Unreadable: with rule ``json.bom``, ``json.blank``, ``json.too-long``, ``json.encoding``, ``json.malformed``,
            ``json.duplicate-key`` or ``schema.field``.
    """
    if len(line) > MAX_LINE_BYTES:
        raise Unreadable("json.too-long", f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    if line.startswith(b"\xef\xbb\xbf"):
        raise Unreadable("json.bom", "a byte order mark stands before the JSON; save the file as UTF-8 without BOM")
    if not line.strip():
        raise Unreadable("json.blank", "the line is empty; JSON Lines has one object on every line")
    try:
        row: R = _DECODERS[kind].decode(line)
    except msgspec.ValidationError as problem:
        raise Unreadable("schema.field", str(problem)) from None
    except UnicodeDecodeError as problem:
        raise Unreadable("json.encoding", f"not UTF-8: {problem.reason} at byte {problem.start} of a text") from None
    except msgspec.DecodeError as problem:
        raise Unreadable("json.malformed", str(problem)) from None
    _refuse_duplicate_keys(line, row)
    return row


def convert(row: Any, kind: type[R] = Conversation) -> R:  # type: ignore[assignment]
    """As :func:`decode`, for a row that is already Python data (Parquet, CSV).

    Raises:
        Unreadable: with rule ``schema.field``.
    """
    try:
        return msgspec.convert(row, kind)
    except msgspec.ValidationError as problem:
        raise Unreadable("schema.field", str(problem)) from None


def encode(row: Conversation) -> bytes:
    """One line of JSON, with its newline."""
    return _ENCODER.encode(row) + b"\n"


def lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Every line: its number from 1, its offset in bytes, and its bytes. Holds one line at a time.

    A line longer than :data:`MAX_LINE_BYTES` is given cut after that many bytes, which :func:`decode` refuses.

    Raises:
        OSError: the file can't be opened or read.
    """
    with path.open("rb") as file:
        number = offset = 0
        while line := file.readline(MAX_LINE_BYTES + 1):
            number += 1
            start, offset = offset, offset + len(line)
            yield number, start, line
            while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
                line = file.readline(MAX_LINE_BYTES + 1)
                offset += len(line)


def read_jsonl(path: Path, kind: type[R] = Conversation) -> Iterator[tuple[int, R | Unreadable]]:  # type: ignore[assignment]
    """Every line's number, counted from 1, and its row, or why it can't be read.

    Raises:
        OSError: the file can't be opened or read.
    """
    for number, _, line in lines(path):
        try:
            yield number, decode(line, kind)
        except Unreadable as problem:
            yield number, problem


def normalise(text: str) -> bytes:
    """What is left of a text when case, white space, punctuation and compatibility forms don't count. For comparing, not for showing.

    A text of nothing but these (``":)"``) stays as it is, so that two of them are not taken for equal.
    """
    if text.isascii():
        # The same result as below, ten times as fast.
        bare = text.encode().translate(_LOWER, _DELETED)
    else:
        bare = _NOT_TEXT.sub("", unicodedata.normalize("NFKC", text).casefold()).encode("utf-8", "surrogatepass")
    return bare or text.strip().encode("utf-8", "surrogatepass")


def hash64(*parts: bytes) -> int:
    """64 bits of BLAKE2b over the parts. Of 200,000 different rows two share a hash with a probability of about 1e-9."""
    digest = hashlib.blake2b(digest_size=8)
    for part in parts:
        # The length goes first: ("ab", "c") and ("a", "bc") differ.
        digest.update(len(part).to_bytes(8, "little"))
        digest.update(part)
    return int.from_bytes(digest.digest(), "little")


def content_id(messages: Sequence[Message]) -> str:
    """Hex sha256 of what is said, for sources that have no ``prompt_id`` of their own."""
    return hashlib.sha256(_ENCODER.encode([[message.role, message.content] for message in messages])).hexdigest()


def _refuse_duplicate_keys(line: bytes, row: Conversation) -> None:
    plain = all(line.count(key) == 1 for key in _KEYS_OF_ROW) and all(line.count(key) == len(row.messages) for key in _KEYS_OF_MESSAGE)
    if plain and not _ESCAPED_LETTER.search(line):
        return

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise Unreadable("json.duplicate-key", f"the key {key!r} stands twice in one object")
            seen.add(key)
        return dict(pairs)

    # Slow, and rare: only lines that may hold a key twice come here.
    json.loads(line, object_pairs_hook=unique)
