"""An index of the runs of words of many answers, which finds the answers that share runs with another text.

Runs that follow several different questions, such as the frame of a template, are omitted, because they prove nothing.
"""

from __future__ import annotations

import tempfile
import weakref
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, NamedTuple

from mlops.dataset.filters import BloomFilter, find_changes
from mlops.dataset.screening import RUN_WORDS, filter_grams, find_grams, owners_of
from mlops.dataset.words import CodedLines, code_words, hash_runs

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Codes = npt.NDArray[np.uint8]
    Hashes = npt.NDArray[np.uint64]
    Positions = npt.NDArray[np.intp]

__all__ = ["RUN_WORDS", "STOCK_QUESTIONS", "Answers", "Part", "RunIndex"]

STOCK_QUESTIONS = 4
"""A run that follows this many different questions, in the suites and the training data together, is a stock phrase."""
RUNS_PER_ELEMENT = 4
"""Maximum number of runs per element of the filter, which quickly rules out nearly all runs that are in no suite."""
_PART_BITS = 4
"""To save memory, runs are collected and sorted in parts that share this many of their highest bits."""
_RECORD = [("run", "<u8"), ("owner", "<u4")]
_WAITING = 256
"""Number of answers that are processed at once."""


class Answers(NamedTuple):
    """Answers to index, in a form that another process can prepare."""

    questions: Sequence[int]
    """Hashes of the questions before them."""
    text: bytes
    """All answers in UTF-8, one after another."""
    sizes: Sequence[int]
    """Sizes of the answers in bytes."""
    codes: Codes
    """Codes of all words."""
    words: Positions
    """Answer → its number of words."""

    @classmethod
    def encode(cls, texts: Sequence[str], questions: Sequence[int]) -> Answers:
        """Prepare answers."""
        encoded = [text.encode("utf-8", "surrogatepass") for text in texts]
        return cls(questions, b"".join(encoded), list(map(len, encoded)), *code_words(texts))


class Part(NamedTuple):
    """The runs of words that a text shares with an answer."""

    runs: frozenset[int]
    """Hashes of the runs of words."""
    of: int
    """The number of runs of the answer."""

    @property
    def share(self) -> float:
        """The share of the answer's runs."""
        return len(self.runs) / self.of


@dataclass(frozen=True)
class _Lookup:
    """The runs of words of answers, without stock phrases."""

    runs: Hashes
    """Hashes of the runs, in ascending order."""
    owners: npt.NDArray[np.uint32]
    """The answer that each run belongs to."""
    sizes: npt.NDArray[np.intp]
    """Answer → its number of runs."""
    filter: BloomFilter
    """The runs."""


class RunIndex:
    """An index of the runs of words of answers, numbered from 0. All answers must be added before the first text is looked up.

    Files hold the answers, and the runs of those that may be found (12 bytes each). All processes share one copy in memory.
    """

    def __init__(self) -> None:
        self.questions = array("Q")
        """Answer → hash of its question."""
        self._ends, self._words = array("Q"), array("Q")
        self._expected: list[Codes] | None = None
        folder = tempfile.TemporaryDirectory(prefix="mlops-")
        weakref.finalize(self, folder.cleanup)
        self._folder = Path(folder.name)

    def __getstate__(self) -> dict[str, Any]:
        """Return what another process needs to look up texts. It maps the same files into its memory."""
        if not (self._folder / "grams").exists():
            filter_grams(self._codes).elements.tofile(self._folder / "grams")
        if self._expected is not None and not (self._folder / "runs").exists():
            # Several processes must not write the same files.
            self._write_lookup(self._find_expected())
        state = self.__dict__ | {"_expected": None}
        return {name: value for name, value in state.items() if name not in ("_grams", "_codes", "_lookup")}

    def add(self, answers: Answers) -> None:
        """Add answers."""
        last = self._ends[-1] if self._ends else 0
        self._ends.extend(last + end for end in accumulate(answers.sizes))
        self.questions.extend(answers.questions)
        self._words.extend(answers.words.tolist())
        for name, content in (("text", answers.text), ("codes", answers.codes.tobytes())):
            with (self._folder / name).open("ab") as file:
                file.write(content)

    def screen(self, rows: Sequence[Sequence[str]], block: bytes | None = None) -> tuple[list[int], Codes]:
        """Return the numbers of the rows, as their texts, for which :meth:`find` may find answers, and what to :meth:`expect`.

        Args:
            rows: the texts.
            block: the rows as lines of JSON, perhaps with more texts, which are searched faster.
        """
        import numpy as np

        suspects, others = np.empty(0, np.intp), np.arange(len(rows))
        if block is not None:
            lines = CodedLines(block)
            suspects, others = lines.find(find_grams(lines.codes, self._grams)), lines.others
        if len(others):
            chosen = [rows[row] for row in others.tolist()]
            codes, words = code_words([text for texts in chosen for text in texts])
            owners = np.repeat(others, list(map(len, chosen)))
            suspects = np.concatenate([suspects, owners[owners_of(find_grams(codes, self._grams), words)]])
        numbers: list[int] = np.unique(suspects).tolist()
        return numbers, code_words([text for row in numbers for text in rows[row]])[0]

    def expect(self, codes: Sequence[Codes]) -> None:
        """Announce texts that will be looked up. If all of them are announced, only answers that they may contain are indexed."""
        self.__dict__.pop("_lookup", None)
        (self._folder / "runs").unlink(missing_ok=True)
        self._expected = [*(self._expected or ()), *codes]

    def find(self, rows: Sequence[Sequence[str]]) -> Iterator[Mapping[int, Part]]:
        """Yield for each row, as its texts, the answers with which it has runs in common → these."""
        import numpy as np

        lookup = self._lookup
        runs, begin = hash_runs([text for texts in rows for text in texts], RUN_WORDS)
        begin = begin[np.cumsum([0, *map(len, rows)])]
        candidates = np.flatnonzero(lookup.filter.contains(runs))
        first = np.searchsorted(lookup.runs, runs[candidates])
        hits = np.flatnonzero(lookup.runs[np.minimum(first, len(lookup.runs) - 1)] == runs[candidates]) if len(lookup.runs) else first[:0]
        shared: list[dict[int, set[int]]] = [{} for _ in rows]
        for hit in hits:
            run = runs[candidates[hit]]
            row = int(np.searchsorted(begin, candidates[hit], side="right")) - 1
            for owner in lookup.owners[first[hit] : np.searchsorted(lookup.runs, run, side="right")].tolist():
                shared[row].setdefault(owner, set()).add(int(run))
        for owners in shared:
            yield {owner: Part(frozenset(owners[owner]), int(lookup.sizes[owner])) for owner in sorted(owners)}

    def read(self, answers: Sequence[int]) -> list[str]:
        """Return the texts of answers."""
        texts = []
        with (self._folder / "text").open("rb") as text:
            for answer in answers:
                begin = text.seek(self._ends[answer - 1] if answer else 0)
                texts.append(text.read(self._ends[answer] - begin).decode("utf-8", "surrogatepass"))
        return texts

    @cached_property
    def _codes(self) -> Codes:
        import numpy as np

        codes: Codes = _map_file(self._folder / "codes", np.uint8)
        return codes

    @cached_property
    def _grams(self) -> BloomFilter:
        import numpy as np

        path = self._folder / "grams"
        return BloomFilter(_map_file(path, np.uint64)) if path.exists() else filter_grams(self._codes)

    @cached_property
    def _lookup(self) -> _Lookup:
        import numpy as np

        if not (self._folder / "runs").exists():
            self._write_lookup(self._find_expected())
        runs, owners = _map_file(self._folder / "runs", np.uint64), _map_file(self._folder / "owners", np.uint32)
        sizes, elements = _map_file(self._folder / "sizes", np.intp), _map_file(self._folder / "filter", np.uint64)
        return _Lookup(runs, owners, sizes, BloomFilter(elements))

    def _find_expected(self) -> Sequence[int]:
        """Return the answers of which a run may be in an expected text, and all others that have a run in common with one of those."""
        import numpy as np

        everything = range(len(self.questions))
        if self._expected is None or sum(map(len, self._expected)) > len(self._codes):
            return everything
        words = np.frombuffer(self._words, dtype=np.uint64).astype(np.intp) if self._words else np.empty(0, np.intp)
        codes = [*self._expected, self._codes[:0]]
        # Again, because other answers may make a run of an answer a stock phrase.
        for _ in range(2):
            answers = owners_of(find_grams(self._codes, filter_grams(np.concatenate(codes))), words)
            end = np.cumsum(words)
            codes = [self._codes[end[answer] - words[answer] : end[answer]] for answer in answers] or codes[-1:]
        numbers: list[int] = answers.tolist()
        return numbers

    def _write_lookup(self, answers: Sequence[int]) -> None:
        """Sort the runs of answers, and leave out those that follow :data:`STOCK_QUESTIONS` different questions in the suites."""
        import numpy as np

        with ExitStack() as files:
            parts = [files.enter_context(self._part(number).open("wb")) for number in range(1 << _PART_BITS)]
            count = sum(self._write_runs(answers[start : start + _WAITING], parts) for start in range(0, len(answers), _WAITING))
        questions = np.frombuffer(self.questions, dtype=np.uint64) if self.questions else np.empty(0, dtype=np.uint64)
        sizes = np.zeros(len(questions), dtype=np.intp)
        runs_filter = BloomFilter.create(count, RUNS_PER_ELEMENT)
        with (self._folder / "runs").open("wb") as all_runs, (self._folder / "owners").open("wb") as all_owners:
            for number in range(1 << _PART_BITS):
                records = np.fromfile(self._part(number), dtype=_RECORD)
                self._part(number).unlink()
                runs, owners = _sort_runs(records["run"], records["owner"], questions)
                runs.tofile(all_runs)
                owners.tofile(all_owners)
                sizes += np.bincount(owners, minlength=len(sizes))
                runs_filter.add(runs)
        sizes.tofile(self._folder / "sizes")
        runs_filter.elements.tofile(self._folder / "filter")

    def _write_runs(self, answers: Sequence[int], parts: Sequence[IO[bytes]]) -> int:
        """Write the runs of some answers to files by their highest bits; return their number."""
        import numpy as np

        runs, begins = hash_runs(self.read(answers), RUN_WORDS)
        records = np.empty(len(runs), dtype=_RECORD)
        records["run"], records["owner"] = runs, np.repeat(np.array(answers, np.uint32), np.diff(begins))
        numbers = runs >> np.uint64(64 - _PART_BITS)
        for number, file in enumerate(parts):
            records[numbers == number].tofile(file)
        return len(runs)

    def _part(self, number: int) -> Path:
        return self._folder / f"part-{number}"


def _map_file(path: Path, dtype: type[np.generic]) -> Any:
    """Map a file into memory, of which all processes share one copy."""
    import numpy as np

    # An empty file can't be mapped.
    return np.memmap(path, dtype, mode="r").view(np.ndarray) if path.exists() and path.stat().st_size else np.empty(0, dtype)


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
    first = find_changes(runs)
    sizes = np.diff(np.r_[first, len(runs)])
    kept = np.ones(len(runs), dtype=np.bool_)
    # Few runs occur this often, so a loop is fast enough.
    for start, size in zip(first[sizes >= STOCK_QUESTIONS].tolist(), sizes[sizes >= STOCK_QUESTIONS].tolist(), strict=True):
        if len(np.unique(questions[owners[start : start + size]])) >= STOCK_QUESTIONS:
            kept[start : start + size] = False
    return runs[kept], owners[kept]
