"""Finds likely secrets and personal data in conversations, which a fine-tuned model may repeat to anybody."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path

from mlops.core.records import Finding
from mlops.dataset.chunks import Chunk, map_chunks
from mlops.dataset.conversation import Conversation, read_batches
from mlops.dataset.processes import keep_processes

__all__ = ["check_privacy", "find_kinds", "possible_kinds"]


def _is_card(text: str) -> bool:
    """Check the digit that ends a card number (Luhn)."""
    digits = [int(letter) for letter in text if letter.isdigit()]
    doubled = [sum(divmod(digit * 2, 10)) for digit in digits[-2::-2]]
    return 13 <= len(digits) <= 19 and len(set(digits)) > 1 and (sum(digits[-1::-2]) + sum(doubled)) % 10 == 0


def _is_iban(text: str) -> bool:
    """Check the digits that follow the country (ISO 7064)."""
    bare = text.replace(" ", "")
    return len(bare) >= 15 and int("".join(str(int(letter, 36)) for letter in bare[4:] + bare[:4])) % 97 == 1


Pattern = tuple[str, str, str, Callable[[str], bool]]
_ANY: Callable[[str], bool] = bool
PATTERNS: tuple[Pattern, ...] = (
    ("secret", "private key", r"-----BEGIN (?:[A-Z]+ ){0,2}PRIVATE KEY-----", _ANY),
    ("secret", "AWS access key", r"\b(?:AKIA|ASIA)[0-9A-Z]{16}\b", _ANY),
    ("secret", "GitHub token", r"\b(?:gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{60})", _ANY),
    ("secret", "API key", r"\bsk-(?:proj-|ant-)?[A-Za-z0-9_-]{32}", _ANY),
    ("secret", "Slack token", r"\bxox[baprs]-[0-9A-Za-z-]{10}", _ANY),
    ("secret", "Hugging Face token", r"\bhf_[A-Za-z0-9]{30}", _ANY),
    ("secret", "Google API key", r"\bAIza[0-9A-Za-z_-]{35}", _ANY),
    ("secret", "Azure storage key", r"AccountKey=[A-Za-z0-9+/]{86}==", _ANY),
    ("secret", "JSON web token", r"\beyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}", _ANY),
    ("personal", "e-mail address", r"\b[\w.+-]{1,64}@[A-Za-z0-9-]{1,63}(?:\.[A-Za-z0-9-]{1,63})*\.[A-Za-z]{2,}\b", _ANY),
    ("personal", "telephone number", r"(?<![\w+])\+[1-9][0-9](?:[ ().-]{0,2}[0-9]){7,13}(?!\w)", _ANY),
    ("personal", "card number", r"(?<![\w.-])[0-9](?:[ -]?[0-9]){12,18}(?![\w.-])", _is_card),
    ("personal", "bank account (IBAN)", r"\b[A-Z]{2}[0-9]{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b", _is_iban),
    ("personal", "social security number", r"(?<![\w-])(?!000|666|9)[0-9]{3}-(?!00)[0-9]{2}-(?!0000)[0-9]{4}(?![\w-])", _ANY),
)
"""Rule, kind, regular expression, and a check that a match must pass."""

HINTS: Mapping[str, tuple[bytes, ...]] = {
    "private key": (b"-----BEGIN",), "GitHub token": (b"_", b"g"), "API key": (b"-", b"sk-"), "Slack token": (b"-", b"xox"),
    "Hugging Face token": (b"_", b"hf_"), "Google API key": (b"AIza",), "Azure storage key": (b"=", b"AccountKey="),
    "JSON web token": (b"eyJ",), "e-mail address": (b"@",),
}  # fmt: skip
"""Kind → what every match contains. Looking for that first is much faster than the regular expressions."""
SHAPES: Mapping[str, tuple[int, bytes, bytes]] = {
    "AWS access key": (0, b"AAAA", b""), "telephone number": (9, b"+00", b""), "card number": (13, b"0" * 13, b" -"),
    "bank account (IBAN)": (2, b"AA00", b""), "social security number": (9, b"000-00-0000", b""),
}  # fmt: skip
"""Kind → how many digits a match has at least, and what it contains, with 0 for any digit and A for any capital letter, after the bytes
that come last have been removed."""
_TO_SHAPE = bytes.maketrans(b"123456789BCDEFGHIJKLMNOPQRSTUVWXYZ", b"0" * 9 + b"A" * 25)

_COMPILED = tuple((rule, kind, re.compile(pattern), confirm) for rule, kind, pattern, confirm in PATTERNS)
EXAMPLE_HOSTS = re.compile(r"@(?:[\w-]+\.)*(?:example\.(?:com|org|net)|[\w-]+\.(?:example|test|invalid)|localhost)$", re.IGNORECASE)
"""Addresses that belong to nobody (RFC 2606)."""


def find_kinds(text: str, kinds: Collection[str] | None = None) -> Iterator[tuple[str, str]]:
    """Yield the rule and kind of each likely secret in a text, each kind once. Never return the text itself.

    Args:
        text: to be searched.
        kinds: the kinds that are possible; all if None.
    """
    possible = possible_kinds(text, kinds)
    for rule, kind, pattern, confirm in _COMPILED:
        if kind not in possible:
            continue
        for match in pattern.finditer(text):
            if confirm(match[0]) and not EXAMPLE_HOSTS.search(match[0]):
                yield rule, kind
                break


def possible_kinds(text: str, kinds: Collection[str] | None = None) -> set[str]:
    """Return those of the kinds for which a text must be searched; a superset of what any part of the text needs."""
    raw = text.encode("utf-8", "surrogatepass")
    hints = HINTS if kinds is None else HINTS.keys() & kinds
    possible = {kind for kind in hints if all(hint in raw for hint in HINTS[kind])}
    shapes = SHAPES if kinds is None else SHAPES.keys() & kinds
    if shapes:
        shape = raw.translate(_TO_SHAPE)
        digits = shape.count(b"0")
        for kind in shapes:
            count, part, ignored = SHAPES[kind]
            if digits >= count and part in shape.translate(None, ignored):
                possible.add(kind)
    return possible


@keep_processes()
def check_privacy(files: Mapping[str, Path], locate: Callable[[str, int], str]) -> list[Finding]:
    """Find likely secrets and personal data.

    Args:
        files: split → JSON Lines.
        locate: split and line → the place to report.

    Returns:
        A warning for each kind in each split, with the number of rows and the place of the first one.
    """
    findings = []
    for split, path in files.items():
        lines_by_kind: dict[tuple[str, str], list[int]] = {}
        lines = 0
        for part, count in map_chunks(path, _search_chunk):
            for key, numbers in part.items():
                lines_by_kind.setdefault(key, []).extend(lines + number for number in numbers)
            lines += count
        for (rule, kind), numbers in lines_by_kind.items():
            message = (
                f"{len(numbers):,} row(s) of {split} may contain this: {kind}; this is the first one. The model may repeat it to anybody"
            )
            findings.append(Finding(rule=f"privacy.{rule}", severity="warning", where=locate(split, numbers[0]), message=message))
    return findings


def _search_chunk(chunk: Chunk) -> tuple[dict[tuple[str, str], list[int]], int]:
    """Return rule and kind → lines, counted from the beginning of a part of a file, and its number of lines."""
    lines_by_kind: dict[tuple[str, str], list[int]] = {}
    lines = 0
    for first, rows, _ in read_batches(chunk.path, Conversation, chunk.start, chunk.end):
        lines = first + len(rows) - 1
        valid = [(line, row.messages) for line, row in enumerate(rows, first) if isinstance(row, Conversation)]
        texts = ["\n".join([message.content for message in messages]) for _, messages in valid]
        # Most kinds occur in none of the rows, which is quick to see.
        kinds = possible_kinds("\n".join(texts))
        for (line, _), text in zip(valid, texts if kinds else [], strict=False):
            for key in find_kinds(text, kinds):
                lines_by_kind.setdefault(key, []).append(line)
    return lines_by_kind, lines
