"""The conversation schema of ultrachat, and a strict reader for JSON Lines.

A row has ``prompt`` (the first user turn), ``messages`` (a list of ``role`` and ``content``) and ``prompt_id``. Decoding is typed and
strict. Errors are: a missing field, a field of another type, an unknown field in a message, a byte order mark, NaN, invalid UTF-8, lone
surrogates (msgspec rejects these itself) and a duplicate key (fast JSON readers silently use its last value).
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import IO, Any, NamedTuple, TypeVar

import msgspec
import xxhash

__all__ = [
    "MAX_LINE_BYTES",
    "SPLITS",
    "Conversation",
    "InvalidRow",
    "Message",
    "RetentionItem",
    "TextHash",
    "content_id",
    "convert",
    "decode",
    "decode_any",
    "decode_block",
    "decode_written",
    "encode",
    "hash64",
    "hash_conversation",
    "hash_ends",
    "hash_row_ends",
    "hash_text",
    "lines",
    "lines_of",
    "normalize",
    "read_batches",
    "read_blocks",
    "read_jsonl",
]

SPLITS = ("train_sft", "test_sft", "train_gen", "test_gen")
"""``*_sft`` for supervised fine-tuning, ``*_gen`` for generation; the names are ultrachat_200k's."""

MAX_LINE_BYTES = 1 << 26
"""Longer lines are rejected, so that memory stays bounded for any file."""
_BLOCK_BYTES = 1 << 18
"""Lines are decoded in blocks of about this size, which fit into the processor's cache."""


class Message(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One turn. ``role`` is ``system``, ``user`` or ``assistant``. Other roles are read, too, and reported by the checks."""

    role: str
    content: str


class Conversation(msgspec.Struct, frozen=True):
    """A row of a split. Unknown fields are dropped when it is written."""

    prompt: str
    messages: list[Message]
    prompt_id: str


class RetentionItem(Conversation, frozen=True, forbid_unknown_fields=True):
    """A row of the retention suite: a conversation with its kind, and what a generated answer must pass, if code can check it."""

    kind: str
    checks: list[dict[str, Any]] = []


class InvalidRow(ValueError):
    """A row that is not a conversation.

    Args:
        rule: the rule that it breaks, e.g. ``json.malformed``.
        message: what is wrong.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(message)
        self.rule = rule

    def __reduce__(self) -> tuple[type[InvalidRow], tuple[str, str]]:
        """Return how it is made again in another process."""
        return InvalidRow, (self.rule, str(self))


R = TypeVar("R", bound=Conversation)

_DECODERS: dict[type[Conversation], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Conversation, RetentionItem)
}
_MASK = 2**64 - 1
_ENCODER = msgspec.json.Encoder()
# Quotes inside a string are escaped, so these bytes can only be a key, or a value that is exactly this word.
_KEYS_OF_ROW, _KEYS_OF_MESSAGE = (b'"prompt"', b'"messages"', b'"prompt_id"'), (b'"role"', b'"content"')
# An ASCII letter written as an escape sequence, which is the only other way to spell a key.
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")
_IGNORED_CHARACTERS = re.compile(r"[\x00-/:-@\[-`{-\x7f\s\u2000-\u206f\u3000-\u303f]+")
_IGNORED_BYTES = bytes(byte for byte in range(128) if not chr(byte).isalnum())
_PIECE, _END = 64, 24
"""Of how many characters at the beginning and at the end of a text how many normalized bytes are hashed."""
_TO_LOWER_CASE = bytes(byte + 32 if 65 <= byte <= 90 else byte for byte in range(256))


def decode(line: bytes, kind: type[R] = Conversation) -> R:  # type: ignore[assignment]
    """Parse one row.

    Raises:
        InvalidRow: with rule ``json.bom``, ``json.blank``, ``json.too-long``, ``json.encoding``, ``json.malformed``,
            ``json.duplicate-key`` or ``schema.field``.
    """
    _reject_unreadable(line)
    try:
        row: R = _DECODERS[kind].decode(line)
    except msgspec.ValidationError as problem:
        raise InvalidRow("schema.field", str(problem)) from None
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as problem:
        raise _describe_failure(problem) from None
    # What this package has written is the same if it is written again, so no key is there twice. For other lines the keys are counted.
    if _ENCODER.encode(row) != line[:-1] and not _has_expected_keys(line, [row]):
        _reject_duplicate_keys(line)
    return row


def decode_any(line: bytes) -> Any:
    """Parse one JSON value of any schema, as strictly as :func:`decode`.

    Raises:
        InvalidRow: as :func:`decode`, except ``schema.field``.
    """
    _reject_unreadable(line)
    try:
        value = msgspec.json.decode(line)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError) as problem:
        raise _describe_failure(problem) from None
    _reject_duplicate_keys(line)
    return value


def convert(row: Any, kind: type[R] = Conversation) -> R:  # type: ignore[assignment]
    """Convert a row that is already Python data (Parquet, CSV), as strictly as :func:`decode`.

    Raises:
        InvalidRow: with rule ``schema.field``.
    """
    try:
        return msgspec.convert(row, kind)
    except msgspec.ValidationError as problem:
        raise InvalidRow("schema.field", str(problem)) from None


def encode(row: Conversation) -> bytes:
    """Encode a row as one line of JSON with a newline."""
    return _ENCODER.encode(row) + b"\n"


def lines(path: Path, start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, bytes]]:
    """Yield every line as its number, counted from 1, its byte offset and its bytes. Only one line is in memory at a time.

    With ``start`` and ``end``, only the lines that begin in this range of bytes, numbered from the first of them.

    A line longer than :data:`MAX_LINE_BYTES` is truncated to one byte more than that, which :func:`decode` rejects.

    Raises:
        OSError: the file can't be opened or read.
    """
    with path.open("rb") as file:
        yield from lines_of(file, start, end)


def lines_of(file: IO[bytes], start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, bytes]]:
    """Yield the lines of a file that is open; see :func:`lines`."""
    number, offset = 0, file.seek(start)
    while (end is None or offset < end) and (line := file.readline(MAX_LINE_BYTES + 1)):
        number += 1
        begin, offset = offset, offset + len(line)
        yield number, begin, line
        while len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            line = file.readline(MAX_LINE_BYTES + 1)
            offset += len(line)


def read_jsonl(
    path: Path,
    kind: type[R] = Conversation,  # type: ignore[assignment]
    start: int = 0,
    end: int | None = None,
) -> Iterator[tuple[int, R | InvalidRow]]:
    """Yield the number of every line, counted from 1, and its row or the reason why it is invalid; see :func:`lines`.

    Raises:
        OSError: the file can't be opened or read.
    """
    for number, rows in read_batches(path, kind, start, end):
        yield from enumerate(rows, number)


def read_batches(
    path: Path,
    kind: type[R] = Conversation,  # type: ignore[assignment]
    start: int = 0,
    end: int | None = None,
) -> Iterator[tuple[int, Sequence[R | InvalidRow]]]:
    """Yield the same as :func:`read_jsonl`, many lines at once, each time with the number of the first one.

    Raises:
        OSError: the file can't be opened or read.
    """
    with path.open("rb") as file:
        number = 1
        for begin, last, block in read_blocks(file, start, end):
            rows: Sequence[R | InvalidRow] | None = decode_block(block, kind)
            if rows is None:
                rows = [_try_decode(line, kind) for _, _, line in lines_of(file, begin, last)]
            yield number, rows
            number += len(rows)


def read_blocks(file: IO[bytes], start: int = 0, end: int | None = None) -> Iterator[tuple[int, int, bytes]]:
    """Yield whole lines of a file that is open: the range of bytes in which they begin, and the lines. See :func:`lines_of`."""
    begin = file.seek(start)
    while block := file.read(_BLOCK_BYTES if end is None else min(_BLOCK_BYTES, end - begin)):
        last = begin + len(block)
        after = last
        while not block.endswith(b"\n") and (piece := file.readline(MAX_LINE_BYTES + 1)):
            after += len(piece)
            # The rest of a line that is too long anyway is skipped.
            block = block + piece if len(block) <= MAX_LINE_BYTES else block[:-1] + piece[-1:]
        yield begin, last, block
        begin = file.seek(after)


def decode_block(block: bytes, kind: type[R] = Conversation) -> list[R] | None:  # type: ignore[assignment]
    """Decode whole lines at once, with the same result as :func:`decode` for each; None if one of them may be invalid."""
    if len(block) > MAX_LINE_BYTES:
        return None
    if (written := decode_written(block, kind)) is not None:
        return written
    decoder = _DECODERS[kind]
    try:
        rows: list[R] = [decoder.decode(line) for line in block.removesuffix(b"\n").split(b"\n")]
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    # Every row has the expected keys, so there is no other if there are as many as expected.
    return rows if kind is Conversation and _has_expected_keys(block, rows) else None


def decode_written(block: bytes, kind: type[R] = Conversation) -> list[R] | None:  # type: ignore[assignment]
    """Decode whole lines at once if all of them are what :func:`encode` makes of their rows; else return None."""
    decoder = _DECODERS[kind]
    first = block[: block.find(b"\n") + 1]
    try:
        if not first or _ENCODER.encode(decoder.decode(first)) != first[:-1]:
            return None
        # The decoder is lenient about line breaks, but the encoder is not.
        rows: list[R] = decoder.decode_lines(block)
    except (UnicodeDecodeError, msgspec.DecodeError, RecursionError):
        return None
    return rows if _ENCODER.encode_lines(rows) == block else None


def _try_decode(line: bytes, kind: type[R]) -> R | InvalidRow:
    try:
        return decode(line, kind)
    except InvalidRow as problem:
        return problem


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
    """Of all of them, and the roles. Rows whose keys differ are different."""
    values: Sequence[int]
    """Of the first message, and of each other that is the assistant's."""
    first_size: int
    """See :func:`hash_ends`."""


def hash_ends(texts: Sequence[str]) -> tuple[list[int], list[int]]:
    """Hash the beginning and the end of normalized texts: texts whose hashes differ are different. Much faster than :func:`hash_text`.

    Returns:
        The hashes, the same in every process, and the sizes of what was hashed: that of the normalized text if it is below 48 bytes.
    """
    # All pieces at once, because each call of `translate` prepares a table.
    pieces = "\0".join([text[:_PIECE] + text[-_PIECE:] if len(text) > 2 * _PIECE and text.isascii() else "" for text in texts])
    bare = pieces.encode().translate(_TO_LOWER_CASE, _IGNORED_BYTES.replace(b"\0", b"")).split(b"\0")
    ends: list[bytes] = []
    for text, both in zip(texts, bare if len(bare) == len(texts) else [b""] * len(texts), strict=True):
        # So much of it that either piece has an end.
        if len(both) >= _PIECE + _END:
            ends.append(both[:_END] + both[-_END:])
            continue
        normalized = normalize(text)
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
    return hashlib.sha256(_ENCODER.encode([[message.role, message.content] for message in messages])).hexdigest()


def _reject_unreadable(line: bytes) -> None:
    if len(line) > MAX_LINE_BYTES:
        raise InvalidRow("json.too-long", f"the line is longer than {MAX_LINE_BYTES:,} bytes")
    if line.startswith(b"\xef\xbb\xbf"):
        raise InvalidRow("json.bom", "a byte order mark precedes the JSON; save the file as UTF-8 without BOM")
    if not line.strip():
        raise InvalidRow("json.blank", "the line is empty; JSON Lines has one object on every line")


def _describe_failure(problem: UnicodeDecodeError | msgspec.DecodeError | RecursionError) -> InvalidRow:
    if isinstance(problem, UnicodeDecodeError):
        return InvalidRow("json.encoding", f"not UTF-8: {problem.reason} at byte {problem.start} of a text")
    return InvalidRow("json.malformed", "nested too deeply" if isinstance(problem, RecursionError) else str(problem))


def _has_expected_keys(text: bytes, rows: Sequence[Conversation]) -> bool:
    messages = sum(len(row.messages) for row in rows)
    return (
        all(text.count(key) == len(rows) for key in _KEYS_OF_ROW)
        and all(text.count(key) == messages for key in _KEYS_OF_MESSAGE)
        and not _ESCAPED_LETTER.search(text)
    )


def _reject_duplicate_keys(line: bytes) -> None:
    """Look for duplicate keys. This is slow, so :func:`decode` calls it only for lines that may contain one."""

    def reject_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys: set[str] = set()
        for key, _ in pairs:
            if key in keys:
                raise InvalidRow("json.duplicate-key", f"the key {key!r} appears twice in one object")
            keys.add(key)
        return dict(pairs)

    try:
        # Numbers stay text: Python refuses to convert very long ones.
        json.loads(line, object_pairs_hook=reject_duplicates, parse_int=str, parse_float=str)
    except RecursionError as problem:
        raise _describe_failure(problem) from None
