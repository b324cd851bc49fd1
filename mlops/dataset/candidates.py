"""The sampled rows of a split, with everything that decides whether they are kept. Many rows are processed in several processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from mlops.dataset.checks import RULES
from mlops.dataset.conversation import Conversation, InvalidRow, decode_written, encode
from mlops.dataset.hashes import hash64, hash_conversation, hash_row_ends, hash_text
from mlops.dataset.leak_index import BATCH, LeakIndex, Match
from mlops.dataset.processes import map_items
from mlops.dataset.row_checks import check_row, is_clean
from mlops.dataset.rows import Rows

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Codes = npt.NDArray[np.uint8]

__all__ = ["Candidate", "Reader", "sample", "shorten"]

PARALLEL_ROWS = 10_000
"""From this number of rows on, several processes are faster than one."""
_BATCH = 64
"""Number of rows that are read at once."""
_WAITING_LIMIT = 1 << 15
"""Number of rows that may wait before some of them are looked up."""


class Candidate(NamedTuple):
    """A sampled row, which is kept unless something speaks against it."""

    number: int
    """Its index among the rows of the split."""
    problem: tuple[str, str] | None
    """Rule and description, if it is not a conversation or must not be trained on."""
    line: bytes | None = None
    """The row, shortened, as a line of JSON; None if that is its line in the source."""
    characters: int = 0
    key: int = 0
    """See :class:`mlops.dataset.conversation.RowEnds`: conversations whose keys differ are different."""
    matches: Sequence[Match] = ()
    """Its matches with evaluation rows, which it would leak."""
    is_suspect: bool = False
    """Whether it may leak something, so that it has to be looked up."""


@dataclass(frozen=True)
class Reader:
    """Reads the sampled rows of a split.

    Attributes:
        rows: all rows of the split.
        split: its name.
        max_messages: see :func:`shorten`.
        finds_errors: whether rows are also checked. If not, only rows that aren't conversations have a problem.
        evaluated: the answers that training rows must not leak; None if that doesn't matter.
    """

    rows: Rows
    split: str
    max_messages: int | None
    finds_errors: bool
    evaluated: LeakIndex | None = None

    def read(self, order: Sequence[int], limit: int | None = None) -> Iterator[Candidate]:
        """Yield the rows with these indices, in this order. After about ``limit`` rows there may be no need for more."""
        batches = [order[start : start + _BATCH] for start in range(0, len(order), _BATCH)]
        parallel = self.rows.is_sendable and min(len(order), limit or len(order)) >= PARALLEL_ROWS
        waiting: list[Candidate] = []
        expected: list[Codes] = []
        for candidates, codes in map_items(batches, _read_batch, self, parallel=parallel):
            waiting += candidates
            expected += codes
            # Once there is a suspect, many are collected, because each look-up needs an index of what they may contain.
            if len(waiting) >= min(_WAITING_LIMIT, limit or _WAITING_LIMIT) or not any(candidate.is_suspect for candidate in waiting):
                yield from self._look_up(waiting, expected)
                waiting, expected = [], []
        yield from self._look_up(waiting, expected)

    def find_key(self, index: int) -> int:
        """Return the hash of a conversation as a whole, ignoring case, white space and punctuation."""
        row = self._take(index)
        return hash_conversation(row.messages, [hash_text(message.content) for message in row.messages])

    def _take(self, index: int) -> Conversation:
        row = next(self.rows.take([index]))
        assert not isinstance(row, InvalidRow)
        return shorten(row, self.max_messages, self.split)

    def _look_up(self, candidates: list[Candidate], expected: Sequence[Codes]) -> Iterator[Candidate]:
        suspects = [place for place, candidate in enumerate(candidates) if candidate.is_suspect]
        if suspects and self.evaluated is not None:
            self.evaluated.expect(expected)
            for start in range(0, len(suspects), BATCH):
                places = suspects[start : start + BATCH]
                messages = [self._take(candidates[place].number).messages for place in places]
                texts = [[hash_text(message.content) for message in each] for each in messages]
                for place, shared in zip(places, self.evaluated.find(list(zip(messages, texts, strict=True))), strict=True):
                    candidates[place] = candidates[place]._replace(matches=shared.matches)
        yield from candidates


def _read_batch(indices: Sequence[int], reader: Reader) -> tuple[list[Candidate], list[Codes]]:
    """Return rows without what they leak, and what to expect of the suspects among them."""
    lines = list(reader.rows.lines(indices))
    block = None if None in lines else b"".join(line for line in lines if line is not None)
    written: list[Conversation] | None = None if block is None else decode_written(block)
    rows: Sequence[Conversation | InvalidRow] = list(reader.rows.take(indices)) if written is None else written
    short = [row if isinstance(row, InvalidRow) else shorten(row, reader.max_messages, reader.split) for row in rows]
    messages = [() if isinstance(row, InvalidRow) else row.messages for row in short]
    ends = hash_row_ends(messages)
    suspects: list[int] = []
    codes: list[Codes] = []
    if reader.evaluated is not None:
        texts = [[message.content for message in each] for each in messages]
        suspects, expected = reader.evaluated.screen(texts, [own.values for own in ends], None if written is None else block)
        codes = [expected] if len(expected) else []
    candidates = [
        Candidate(index, (row.rule, str(row)))
        if isinstance(row, InvalidRow)
        else Candidate(
            index,
            _find_error(row, reader.split) if reader.finds_errors else None,
            None if written is not None and row is original else encode(row),
            sum([len(message.content) for message in row.messages]),
            own.key,
        )
        for index, row, original, own in zip(indices, short, rows, ends, strict=True)
    ]
    for suspect in suspects:
        candidates[suspect] = candidates[suspect]._replace(is_suspect=True)
    return candidates, codes


def _find_error(row: Conversation, split: str) -> tuple[str, str] | None:
    """Return the first error of a row that has been read, as `mlops validate` would report it."""
    for_training = not split.endswith("_gen")
    problems = () if is_clean(row, for_training=for_training) else check_row(row, for_training=for_training)
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
