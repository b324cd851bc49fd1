"""Finds prompts that don't fit into the base model's context, from whose conversations fine-tuning would learn nothing.

The component ``chat_completion_pipeline`` cuts every conversation at the context length. It drops conversations whose first answer begins
later, and fails if none remains, after the cluster has been paid for. Tokens of the texts are counted if ``model.tokenizer`` is set.
Otherwise a lower bound is estimated: hardly any tokenizer needs fewer. The few tokens that the chat template adds to each message aren't
counted.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path

from mlops.core.records import Finding
from mlops.dataset.conversation import Conversation, InvalidRow, decode, lines

__all__ = ["check_prompt_lengths", "estimate_tokens"]

_PIECE = re.compile(r"[A-Za-z]{1,12}|[0-9]{1,3}|[!-/:-@\[-`{-~]+")


def estimate_tokens(text: str) -> int:
    """Estimate a lower bound of the tokens: words (long ones in pieces), numbers, punctuation, and a third of all other letters."""
    others = 0 if text.isascii() else sum(letter > "\x7f" for letter in text)
    return sum(1 for _ in _PIECE.finditer(text)) + others // 3


def check_prompt_lengths(
    files: Mapping[str, Path], locate: Callable[[str, int], str], count: Callable[[str], int] | None, limit: int, source: str
) -> list[Finding]:
    """Find conversations whose first answer begins after the context length.

    Args:
        files: split → JSON Lines.
        locate: split and line → the place to report.
        count: counts the tokens of a text; None to estimate them.
        limit: in tokens.
        source: where the limit comes from, for the message.

    Returns:
        For each split at most one finding: an error if all of its conversations are affected, else a warning with their number.
    """
    findings = []
    for split, path in files.items():
        long, total = [], 0
        for number, _, line in lines(path):
            total += 1
            # A token has at least one byte.
            if len(line) > limit and _is_too_long(line, limit, count or estimate_tokens):
                long.append(number)
        if not long:
            continue
        everything = len(long) == total
        how = (
            "estimated; set model.tokenizer to count the tokens"
            if count is None
            else "counted by model.tokenizer, without the chat template"
        )
        how_many = f"all {total:,}" if everything else f"{len(long):,} of {total:,}"
        message = (
            f"{how_many} prompts of {split} are longer than {limit:,} tokens ({source}), so nothing can be learned from them; "
            f"this is the first one. The length is {how}. Shorten these prompts, set data.max_characters, "
            "or choose a model with a longer context"
        )
        findings.append(
            Finding(rule="prompt.length", severity="error" if everything else "warning", where=locate(split, long[0]), message=message)
        )
    return findings


def _is_too_long(line: bytes, limit: int, count: Callable[[str], int]) -> bool:
    try:
        row: Conversation = decode(line)
    except InvalidRow:
        return False
    tokens = 0
    for message in row.messages:
        if message.role == "assistant":
            break
        tokens += count(message.content) if len(message.content) > 8 else 1
    return tokens >= limit
