"""The sampled rows of a split with all that decides whether they are kept, computed in several processes if there are many."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from mlops.dataset.checks import RULES, check_row
from mlops.dataset.conversation import Conversation, InvalidRow, encode, hash64, hash_conversation, hash_text
from mlops.dataset.overlap import BATCH, LeakIndex, Match
from mlops.dataset.processes import map_items
from mlops.dataset.rows import Rows

__all__ = ["Candidate", "Reader", "sample", "shorten"]

PARALLEL_ROWS = 10_000
"""From this number on, several processes are faster than one."""


class Candidate(NamedTuple):
    """A row that is kept unless something is in the way."""

    number: int
    """Its index among the rows of the split."""
    problem: tuple[str, str] | None
    """Rule and description, if it is not a conversation or must not be trained on."""
    line: bytes = b""
    """The row, shortened, as a line of JSON."""
    characters: int = 0
    key: int = 0
    """Hash of the conversation, ignoring case, white space and punctuation."""
    matches: Sequence[Match] = ()
    """What it gives away of the evaluated rows."""


@dataclass(frozen=True)
class Reader:
    """Reads the sampled rows of a split.

    Attributes:
        rows: all rows of the split.
        split: its name.
        max_messages: see :func:`shorten`.
        finds_errors: whether rows are checked, too. If not, only those that are not conversations have a problem.
        evaluated: the answers that training rows must not give away; None if that doesn't matter.
    """

    rows: Rows
    split: str
    max_messages: int | None
    finds_errors: bool
    evaluated: LeakIndex | None = None

    def read(self, order: Sequence[int], limit: int | None = None) -> Iterator[Candidate]:
        """Yield the rows with these indices, in this order. After about ``limit`` rows there may be no need for more."""
        batches = [order[start : start + BATCH] for start in range(0, len(order), BATCH)]
        parallel = self.rows.is_sendable and min(len(order), limit or len(order)) >= PARALLEL_ROWS
        for candidates in map_items(batches, _read_batch, self, parallel=parallel):
            yield from candidates


def _read_batch(indices: Sequence[int], reader: Reader) -> list[Candidate]:
    short: list[Conversation | InvalidRow] = []
    for row in reader.rows.take(indices):
        short.append(row if isinstance(row, InvalidRow) else shorten(row, reader.max_messages, reader.split))
    messages = [() if isinstance(row, InvalidRow) else row.messages for row in short]
    texts = [[hash_text(message.content) for message in each] for each in messages]
    matches: list[Sequence[Match]] = [()] * len(indices)
    if reader.evaluated is not None:
        matches = [shared.matches for shared in reader.evaluated.find(list(zip(messages, texts, strict=True)))]
    return [
        Candidate(index, (row.rule, str(row)))
        if isinstance(row, InvalidRow)
        else Candidate(
            index,
            _find_error(row, reader.split) if reader.finds_errors else None,
            encode(row),
            sum(len(message.content) for message in row.messages),
            hash_conversation(row.messages, hashes),
            found,
        )
        for index, row, hashes, found in zip(indices, short, texts, matches, strict=True)
    ]


def _find_error(row: Conversation, split: str) -> tuple[str, str] | None:
    """Return the first error of a row that has been read, as `mlops validate` would report it."""
    problems = check_row(row, for_training=not split.endswith("_gen"))
    return next((problem for problem in problems if RULES[problem[0]][0] == "error"), None)


def sample(rows: Rows, percent: float, seed: int) -> Sequence[int]:
    """Return the indices of the rows to keep, ordered by hash: ``percent`` of them, rounded up."""
    salt = seed.to_bytes(8, "little", signed=True)
    keys = [hash64(salt, identity.to_bytes(8, "little")) for identity in rows.ids()]
    # Rows with the same prompt_id share a hash; their order in the source breaks the tie, so the result never depends on the sort.
    order = sorted(range(len(keys)), key=lambda index: (keys[index], index))
    return order[: math.ceil(len(order) * percent / 100)]


def shorten(row: Conversation, max_messages: int | None, split: str) -> Conversation:
    """Cut a conversation to ``max_messages``, not counting a leading system message; for fine-tuning, back to an assistant turn."""
    if max_messages is None:
        return row
    limit = max_messages + (bool(row.messages) and row.messages[0].role == "system")
    if len(row.messages) <= limit:
        return row
    messages = row.messages[:limit]
    while split.endswith("_sft") and messages and messages[-1].role != "assistant":
        messages.pop()
    return Conversation(prompt=row.prompt, messages=messages, prompt_id=row.prompt_id)
