"""Statistics of a split for the report: lengths of prompts and answers, and numbers of messages."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from mlops.core.records import SplitStatistics
from mlops.dataset.conversation import Conversation, InvalidRow, decode, lines

__all__ = ["summarize"]

MAX_ROWS = 2_000
"""Number of rows that are examined, at equal distances: more would hardly change a plot, but take seconds for a large split."""


def summarize(path: Path, rows: int) -> SplitStatistics:
    """Count prompts and answers by their number of words, and conversations by their number of messages.

    Args:
        path: JSON Lines. Rows with errors are skipped.
        rows: their number.

    Returns:
        Words are separated by white space. The bins double: 0, 1, 2 to 3, 4 to 7 and so on, each under its smallest number.
    """
    step = -(-rows // MAX_ROWS) or 1
    prompts, answers, messages = Counter[int](), Counter[int](), Counter[int]()
    for number, _, line in lines(path):
        if (number - 1) % step:
            continue
        try:
            row: Conversation = decode(line)
        except InvalidRow:
            continue
        prompts[_bin(row.prompt)] += 1
        answers.update(_bin(message.content) for message in row.messages if message.role == "assistant")
        messages[len(row.messages)] += 1
    return SplitStatistics(
        rows=rows,
        sampled=messages.total(),
        prompt_words=_sort_by_key(prompts),
        answer_words=_sort_by_key(answers),
        messages=_sort_by_key(messages),
    )


def _bin(text: str) -> int:
    """Return the largest power of two that is not larger than the number of words, or 0."""
    return 1 << (len(text.split()).bit_length() - 1) if text.strip() else 0


def _sort_by_key(counts: Counter[int]) -> dict[int, int]:
    return dict(sorted(counts.items()))
