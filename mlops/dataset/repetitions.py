"""Finds rows that are equal to others, within a file and across files.

First, rows are compared by a hash of the beginnings and ends of their first message and their answers, which is fast. Rows with equal
hashes are read again and compared as a whole. Two rows are equal if their hashes are equal. Memory: four 64-bit numbers per row and no
text.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from xxhash import xxh3_64_intdigest

from mlops.dataset.conversation import Conversation
from mlops.dataset.hashes import RowEnds, TextHash, hash_conversation, hash_ends, hash_row_ends, hash_text
from mlops.dataset.row_checks import is_blank

if TYPE_CHECKING:
    import numpy as np

__all__ = ["RowHashes", "WholeRow"]

LONG_PROMPT = 40
"""Minimum length, in normalized bytes, of a first prompt that is reported if training and test share it, so that greetings don't count."""

Problem = tuple[str, str, str]
"""Rule, place and description."""


class WholeRow(NamedTuple):
    """Hashes of a row in full."""

    exact: int
    normalized: int
    prompt: int
    """0 for prompts shorter than :data:`LONG_PROMPT`."""

    @classmethod
    def of(cls, row: Conversation, texts: Sequence[TextHash]) -> WholeRow:
        """Hash a row that has messages. ``texts``: the hashes of these."""
        exact = b"\xff".join([part.encode() for message in row.messages for part in (message.role, message.content)])
        prompt = texts[0] if row.prompt == row.messages[0].content else hash_text(row.prompt)
        prompt_value = prompt.value if prompt.size >= LONG_PROMPT else 0
        return cls(xxh3_64_intdigest(exact), hash_conversation(row.messages, texts), prompt_value)


@dataclass
class RowHashes:
    """Line numbers and hashes of a file's rows."""

    path: Path
    places: Sequence[str] = ()
    """Line number - 1 → place in the source, if known."""
    numbers: array[int] = field(default_factory=lambda: array("Q"))
    ids: array[int] = field(default_factory=lambda: array("Q"))
    keys: array[int] = field(default_factory=lambda: array("Q"))
    """Hashes of the roles, and of both ends of the first message and of the answers. Rows with different keys are different."""
    prompts: array[int] = field(default_factory=lambda: array("Q"))
    """Hashes of the beginning and end of the first prompt; 0 for prompts shorter than :data:`LONG_PROMPT`."""
    whole: dict[int, WholeRow] = field(default_factory=dict)
    """Index → the hashes of the whole row, if its key or prompt isn't unique."""

    def where(self, number: int) -> str:
        """Return the place of a line, in the source if known."""
        return self.places[number - 1] if number <= len(self.places) else f"{self.path}:{number}"

    def add(self, rows: Sequence[tuple[int, Conversation]], unique: int) -> list[RowEnds]:
        """Add rows, and return the hashes of their ends.

        Args:
            rows: line and row.
            unique: a number that no other part of the file has.
        """
        ends = hash_row_ends([row.messages for _, row in rows])
        # A row without an id or without messages has already been reported. A number of its own keeps it from also being a duplicate.
        alone = [unique + number for number, _ in rows]
        ids = [row.prompt_id for _, row in rows]
        self.numbers.extend([number for number, _ in rows])
        self.ids.extend([own if is_blank(text) else xxh3_64_intdigest(text.encode()) for text, own in zip(ids, alone, strict=True)])
        self.keys.extend([own.key if own.values else number for own, number in zip(ends, alone, strict=True)])
        for (_, row), own in zip(rows, ends, strict=True):
            if row.messages and row.prompt == row.messages[0].content:
                prompt, size = own.values[0], own.first_size
            else:
                (prompt,), (size,) = hash_ends([row.prompt])
            self.prompts.append(prompt if size >= LONG_PROMPT else 0)
        return ends

    def extend(self, other: RowHashes, lines_before: int) -> None:
        """Add the rows of a part of the file, which begins after ``lines_before`` lines."""
        self.numbers.extend(number + lines_before for number in other.numbers)
        self.ids += other.ids
        self.keys += other.keys
        self.prompts += other.prompts

    def find_repeated(self) -> set[int]:
        """Return the lines whose keys appear more than once."""
        import numpy as np

        keys = _as_numpy(self.keys)
        ordered = np.sort(keys)
        return self._lines(np.isin(keys, ordered[1:][ordered[1:] == ordered[:-1]]))

    def find_common(self, other: RowHashes) -> set[int]:
        """Return the lines whose key or prompt is also in another file."""
        import numpy as np

        prompts = _as_numpy(self.prompts)
        same = np.isin(_as_numpy(self.keys), _as_numpy(other.keys))
        return self._lines(same | ((prompts != 0) & np.isin(prompts, _as_numpy(other.prompts))))

    def replace(self, rows: Iterable[tuple[int, WholeRow]]) -> None:
        """Keep the hashes of rows in full: line and hashes."""
        for number, row in rows:
            index = bisect_left(self.numbers, number)
            self.whole[index] = row
            self.prompts[index] = row.prompt

    def duplicates(self) -> Iterator[Problem]:
        """Yield rows that repeat an earlier row, under the strictest rule that applies, and different rows with the same id."""
        exact, normalized, ids = map(_find_repetitions, (self._exact(), self._normalized(), self.ids))
        for index in sorted({*exact, *normalized, *ids}):
            if (same := exact.get(index)) is not None:
                yield self._problem("duplicate.exact", index, f"repeats {self._line(same)}")
            elif (same := normalized.get(index)) is not None:
                yield self._problem("duplicate.normalized", index, f"is nearly the same as {self._line(same)}")
            else:
                yield self._problem(
                    "id.duplicate", index, f"has the prompt_id of {self._line(ids[index])}, which is a different conversation"
                )

    def overlaps(self, training: RowHashes) -> Iterator[Problem]:
        """Yield rows that are also in the training data, under the strictest rule that applies."""
        exact, normalized = _find_matches(self._exact(), training._exact()), _find_matches(self._normalized(), training._normalized())
        prompts = _find_matches(self.prompts, training.prompts)
        for index in sorted({*exact, *normalized, *prompts}):
            if (same := exact.get(index)) is not None:
                yield self._problem("overlap.exact", index, f"is in the training data: {training._place(same)}")
            elif (same := normalized.get(index)) is not None:
                yield self._problem("overlap.normalized", index, f"is nearly the same as a training row: {training._place(same)}")
            elif self.prompts[index]:
                place = training._place(prompts[index])
                yield self._problem("overlap.prompt", index, f"has the same first prompt as the training row {place}")

    def _exact(self) -> array[int]:
        return _replace(self.keys, {index: row.exact for index, row in self.whole.items()})

    def _normalized(self) -> array[int]:
        return _replace(self.keys, {index: row.normalized for index, row in self.whole.items()})

    def _lines(self, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> set[int]:
        return {*_as_numpy(self.numbers)[chosen].tolist()}

    def _problem(self, rule: str, index: int, message: str) -> Problem:
        return rule, self._place(index), message

    def _place(self, index: int) -> str:
        return self.where(self.numbers[index])

    def _line(self, index: int) -> str:
        return self._place(index) if self.places else f"line {self.numbers[index]}"


def _replace(keys: array[int], values: Mapping[int, int]) -> array[int]:
    replaced = keys[:]
    for index, value in values.items():
        replaced[index] = value
    return replaced


def _find_repetitions(hashes: array[int]) -> dict[int, int]:
    """Map the index of each repeated hash to the index of its first occurrence."""
    import numpy as np

    values = _as_numpy(hashes)
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    origin = first[inverse]
    return {int(index): int(origin[index]) for index in np.flatnonzero(origin != np.arange(len(values)))}


def _find_matches(hashes: array[int], others: array[int]) -> dict[int, int]:
    """Map the index of each hash that is also in ``others`` to the index of its first occurrence there."""
    import numpy as np

    values, other_values = _as_numpy(hashes), _as_numpy(others)
    unique, first = np.unique(other_values, return_index=True)
    common = np.flatnonzero(np.isin(values, unique))
    return {int(index): int(first[np.searchsorted(unique, values[index])]) for index in common}


def _as_numpy(hashes: array[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    import numpy as np

    return np.frombuffer(hashes, dtype=np.uint64) if hashes else np.empty(0, dtype=np.uint64)
