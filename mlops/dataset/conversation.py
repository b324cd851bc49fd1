"""The conversation schema of ultrachat, and a strict reader for JSON Lines.

A row has ``prompt`` (the first user turn), ``messages`` (a list of ``role`` and ``content``) and ``prompt_id``. Decoding is typed and
strict. Errors are: a missing field, a field of another type, an unknown field in a message, a byte order mark, NaN, invalid UTF-8, lone
surrogates (msgspec rejects these itself) and a duplicate key (fast JSON readers silently use its last value).
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, TypeVar

import msgspec

__all__ = [
    "MAX_LINE_BYTES",
    "SPLITS",
    "Conversation",
    "InvalidRow",
    "Message",
    "RetentionItem",
    "convert",
    "decode",
    "decode_any",
    "decode_block",
    "decode_written",
    "encode",
    "lines",
    "lines_of",
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
    """One turn. ``role`` is ``system``, ``user`` or ``assistant``. Other roles are also read, and reported by the checks."""

    role: str
    content: str


class Conversation(msgspec.Struct, frozen=True):
    """A row of a split. Unknown fields are dropped when it is written."""

    prompt: str
    messages: list[Message]
    prompt_id: str


class RetentionItem(Conversation, frozen=True, forbid_unknown_fields=True):
    """A row of the retention suite: a conversation with its kind and, optionally, checks for a generated answer."""

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
        """Return how to recreate it in another process (pickle)."""
        return InvalidRow, (self.rule, str(self))


R = TypeVar("R", bound=Conversation)

_DECODERS: dict[type[Conversation], msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Conversation, RetentionItem)
}
_ENCODER = msgspec.json.Encoder()
# Quotes inside a string are escaped, so these bytes can only be a key, or a value that is exactly this word.
_KEYS_OF_ROW, _KEYS_OF_MESSAGE = (b'"prompt"', b'"messages"', b'"prompt_id"'), (b'"role"', b'"content"')
# An ASCII letter written as an escape sequence, which is the only other way to spell a key.
_ESCAPED_LETTER = re.compile(rb"\\u00[4-7]")


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
    # If a line is what this package would write for its row, no key appears twice. For other lines the keys are counted.
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
    for number, rows, _ in read_batches(path, kind, start, end):
        yield from enumerate(rows, number)


def read_batches(
    path: Path,
    kind: type[R] = Conversation,  # type: ignore[assignment]
    start: int = 0,
    end: int | None = None,
) -> Iterator[tuple[int, Sequence[R | InvalidRow], bytes | None]]:
    """Yield the same as :func:`read_jsonl`, many lines at once: the number of the first one, the rows, and the lines if all are valid.

    Raises:
        OSError: the file can't be opened or read.
    """
    with path.open("rb") as file:
        number = 1
        for begin, last, block in read_blocks(file, start, end):
            rows: Sequence[R | InvalidRow] | None = decode_block(block, kind)
            if rows is None:
                rows = [_try_decode(line, kind) for _, _, line in lines_of(file, begin, last)]
                yield number, rows, None
            else:
                yield number, rows, block
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
