"""Runs of words of many answers, and in which of them those of another text occur.

A run that follows several different questions, the frame of a template for example, is left out: it proves nothing.
"""

from __future__ import annotations

import tempfile
import weakref
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops.dataset.words import hash_runs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Hashes = npt.NDArray[np.uint64]

__all__ = ["RUN_WORDS", "STOCK_QUESTIONS", "RunIndex"]

RUN_WORDS = 13
STOCK_QUESTIONS = 4
"""What follows so many different questions, in the suites and the training data together, is a stock phrase."""
RUNS_PER_ELEMENT = 4
"""At most so many runs share an element of the filter, which rules out at once nearly all runs that are in no suite."""
_PART_BITS = 4
"""Runs are collected and sorted in parts that have these highest bits in common, so that little memory is needed."""
_RECORD = [("run", "<u8"), ("owner", "<u4")]
_WAITING = 256
"""How many answers are collected before their runs are hashed."""


@dataclass(frozen=True)
class _Lookup:
    """The runs of words of all answers, without stock phrases."""

    runs: Hashes
    """In ascending order."""
    owners: npt.NDArray[np.uint32]
    """The answer that each run belongs to."""
    sizes: npt.NDArray[np.intp]
    """Answer → its number of runs."""
    filter: Hashes
    """A Bloom filter: two bits for every run, both in the element that its highest bits denote."""

    @classmethod
    def load(cls, folder: Path) -> _Lookup:
        """Map the files into memory, of which all processes share one copy."""
        import numpy as np

        def open_array(name: str, dtype: type[np.generic]) -> Any:
            path = folder / name
            # An empty file can't be mapped.
            return np.memmap(path, dtype, mode="r").view(np.ndarray) if path.stat().st_size else np.empty(0, dtype)

        return cls(
            open_array("runs", np.uint64), open_array("owners", np.uint32), open_array("sizes", np.intp), open_array("filter", np.uint64)
        )


class RunIndex:
    """The runs of words of answers, which are numbered from 0. Every run takes 14 bytes, in files.

    All answers are added before the first text is looked up.
    """

    def __init__(self) -> None:
        self.questions = array("Q")
        """Answer → hash of its question."""
        self._waiting: list[str] = []
        self._count = 0
        self._lookup: _Lookup | None = None
        folder = tempfile.TemporaryDirectory(prefix="mlops-")
        weakref.finalize(self, folder.cleanup)
        self._folder = Path(folder.name)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to look texts up. It maps the same files into its memory."""
        self._open_lookup()
        return self.__dict__ | {"_lookup": None}

    def add(self, answer: str, question: int) -> None:
        """Add an answer and the hash of its question."""
        self.questions.append(question)
        self._waiting.append(answer)
        if len(self._waiting) >= _WAITING:
            self._hash_waiting()

    def find(self, rows: Sequence[Sequence[str]]) -> Iterator[Mapping[int, float]]:
        """Yield for each row, as its texts, the answers with which it has runs in common → the share of the answer's runs."""
        import numpy as np

        lookup = self._open_lookup()
        runs, begin = hash_runs([text for texts in rows for text in texts], RUN_WORDS)
        begin = begin[np.cumsum([0, *map(len, rows)])]
        bits = _filter_bits(runs)
        candidates = np.flatnonzero(lookup.filter[_filter_place(runs, len(lookup.filter))] & bits == bits)
        first = np.searchsorted(lookup.runs, runs[candidates])
        hits = np.flatnonzero(lookup.runs[np.minimum(first, len(lookup.runs) - 1)] == runs[candidates]) if len(lookup.runs) else first
        found: list[dict[int, set[int]]] = [{} for _ in rows]
        for hit in hits:
            run = runs[candidates[hit]]
            row = int(np.searchsorted(begin, candidates[hit], side="right")) - 1
            for owner in lookup.owners[first[hit] : np.searchsorted(lookup.runs, run, side="right")].tolist():
                found[row].setdefault(owner, set()).add(int(run))
        for owners in found:
            yield {owner: len(owners[owner]) / int(lookup.sizes[owner]) for owner in sorted(owners)}

    def _hash_waiting(self) -> None:
        import numpy as np

        runs, begin = hash_runs(self._waiting, RUN_WORDS)
        records = np.empty(len(runs), dtype=_RECORD)
        records["run"] = runs
        records["owner"] = np.repeat(np.arange(len(self.questions) - len(self._waiting), len(self.questions)), np.diff(begin))
        parts = runs >> np.uint64(64 - _PART_BITS)
        for part in range(1 << _PART_BITS):
            with self._path(part).open("ab") as file:
                records[parts == part].tofile(file)
        self._count += len(runs)
        self._waiting = []

    def _path(self, part: int) -> Path:
        return self._folder / f"part-{part}"

    def _open_lookup(self) -> _Lookup:
        if not (self._folder / "runs").exists():
            self._hash_waiting()
            self._write_lookup()
        if self._lookup is None:
            self._lookup = _Lookup.load(self._folder)
        return self._lookup

    def _write_lookup(self) -> None:
        """Sort the runs, and leave out those that follow :data:`STOCK_QUESTIONS` different questions in the suites."""
        import numpy as np

        questions = np.frombuffer(self.questions, dtype=np.uint64) if self.questions else np.empty(0, dtype=np.uint64)
        sizes = np.zeros(len(questions), dtype=np.intp)
        elements = np.zeros(1 << (self._count // RUNS_PER_ELEMENT).bit_length(), dtype=np.uint64)
        with (self._folder / "runs").open("wb") as all_runs, (self._folder / "owners").open("wb") as all_owners:
            for part in range(1 << _PART_BITS):
                records = np.fromfile(self._path(part), dtype=_RECORD)
                self._path(part).unlink()
                runs, owners = _sort_runs(records["run"], records["owner"], questions)
                runs.tofile(all_runs)
                owners.tofile(all_owners)
                sizes += np.bincount(owners, minlength=len(sizes))
                _add_to_filter(elements, runs)
        sizes.tofile(self._folder / "sizes")
        elements.tofile(self._folder / "filter")


def _sort_runs(runs: Hashes, owners: npt.NDArray[np.uint32], questions: Hashes) -> tuple[Hashes, npt.NDArray[np.uint32]]:
    """Sort runs and their owners, each pair once, without the runs that follow many different questions.

    Args:
        runs: unsorted.
        owners: the answer of each run.
        questions: answer → its question.
    """
    import numpy as np

    order = np.lexsort((owners, runs))
    runs, owners = runs[order], owners[order]
    kept = np.ones(len(runs), dtype=np.bool_)
    kept[1:] = (runs[1:] != runs[:-1]) | (owners[1:] != owners[:-1])
    runs, owners = runs[kept], owners[kept]
    first = _find_changes(runs)
    sizes = np.diff(np.r_[first, len(runs)])
    kept = np.ones(len(runs), dtype=np.bool_)
    # Few runs occur so often, so a loop is good enough.
    for start, size in zip(first[sizes >= STOCK_QUESTIONS].tolist(), sizes[sizes >= STOCK_QUESTIONS].tolist(), strict=True):
        if len(np.unique(questions[owners[start : start + size]])) >= STOCK_QUESTIONS:
            kept[start : start + size] = False
    return runs[kept], owners[kept]


def _add_to_filter(elements: Hashes, runs: Hashes) -> None:
    """Add sorted runs to a Bloom filter."""
    import numpy as np

    places = _filter_place(runs, len(elements))
    first = _find_changes(places)
    if len(first):
        elements[places[first]] |= np.bitwise_or.reduceat(_filter_bits(runs), first)


def _filter_place(runs: Hashes, size: int) -> Hashes:
    import numpy as np

    # In two steps, because a shift by 64 bits has no defined result.
    return runs >> np.uint64(32) >> np.uint64(33 - size.bit_length())


def _filter_bits(runs: Hashes) -> Hashes:
    import numpy as np

    one, lowest = np.uint64(1), np.uint64(63)
    return one << (runs & lowest) | one << (runs >> np.uint64(6) & lowest)


def _find_changes(values: Hashes) -> npt.NDArray[np.intp]:
    """Return where each group of equal values begins."""
    import numpy as np

    return np.flatnonzero(np.r_[True, values[1:] != values[:-1]][: len(values)])
