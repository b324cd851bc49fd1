"""What the training data leaks of evaluation suites, in one pass over small files."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from mlops.dataset.conversation import Conversation, InvalidRow, read_jsonl
from mlops.dataset.hashes import hash_text
from mlops.dataset.leak_index import LeakIndex
from mlops.dataset.overlap import Leaks, resolve

__all__ = ["find_leaks"]


def find_leaks(training: Path, suites: Mapping[str, Path]) -> Leaks:
    """Return what the training data leaks: each row of a suite once, in the order of the training data.

    Args:
        training: the training split, JSON Lines.
        suites: name → file, JSON Lines.
    """
    index = LeakIndex()
    rows = {suite: index.add_file(suite, path) for suite, path in suites.items()}
    valid = [(number, row.messages) for number, row in read_jsonl(training, Conversation) if not isinstance(row, InvalidRow)]
    shared = index.find([(messages, [hash_text(message.content) for message in messages]) for _, messages in valid])
    return resolve(index, zip([number for number, _ in valid], shared, strict=True), rows)
