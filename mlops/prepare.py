"""Prepare the data: load the data set at its pinned revision, sample and filter each split, and fingerprint the result.

    mlops prepare --target local

Writes ``run/data/{split}.jsonl``. Running it again with the same settings and source changes nothing and doesn't read the source.
"""

from __future__ import annotations

import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from mlops.cli import stage
from mlops.core import console
from mlops.core.errors import DataError, ValidationFailed
from mlops.core.records import Prepared
from mlops.core.reuse import reuse_key
from mlops.core.run import Run, file_sha256
from mlops.core.settings import Config, DataConfig
from mlops.dataset import fingerprint
from mlops.dataset.candidates import Candidate, Reader, sample
from mlops.dataset.checks import RETENTION, TARGET_SPLIT, TRAINING_SPLIT
from mlops.dataset.conversation import SPLITS, decode
from mlops.dataset.leak_index import LeakIndex
from mlops.dataset.overlap import Screen
from mlops.dataset.processes import keep_processes
from mlops.dataset.rows import Rows, SelectedRows
from mlops.dataset.sources import Source, find_source

__all__ = ["EXCLUDED", "main", "prepare", "settings_key"]

VERSION = 4
"""Increase it when the code below produces different rows from the same source, so that older results are not reused."""

EXCLUDED = {
    "data.dataset": "the source contributes its own name",
    "data.revision": "the source contributes its revision; local files have none and ignore the setting",
}
"""Settings that don't affect which rows are kept, and why."""

ORDER = ("test_sft", "test_gen", "train_sft", "train_gen")
"""Test splits come first: a conversation that is in both is then dropped from the training split, not from the test split."""

QUARANTINE = "quarantine.jsonl"
"""The file in run/data that lists the rows with errors that were dropped, each with its place in the source."""

BAD, LEAK = "with errors", "with an answer of an evaluation row"

MAX_LISTED = 20
"""An error lists at most this many invalid rows, and counts the others."""


@keep_processes()
def prepare(config: Config, run: Run) -> Prepared:
    """Load the data set and keep the configured part of it.

    Of each split, the rows with the lowest hash of (seed, ``prompt_id``) are kept: ``percent`` of them and at most ``max_rows``, written in
    the order of that hash. The tutorial takes the first rows instead (``split[0%:5%]``), which is equally deterministic but preserves
    whatever the source was sorted by. Two things follow: a larger percentage keeps everything that a smaller one kept, and the first rows
    of a file are a fair sample of it.

    Raises:
        ConfigError: there is no data set ``data.dataset``.
        DataError: it can't be loaded, or a split is missing or empty.
        ValidationFailed: some rows are not conversations; with file, line and rule.
    """
    source = find_source(config.data)
    retention = Path(config.evaluation.retention_suite)
    key = settings_key(config.data, source, file_sha256(retention) if retention.is_file() else "")
    if (earlier := _find_unchanged(run, source, key)) is not None:
        console.info(
            f"  nothing to do: run/data holds {_row_counts(earlier)} of {earlier.dataset}, data fingerprint {earlier.fingerprint[:12]}"
        )
        return earlier

    console.info(f"  reading {source.name} ({source.revision})")
    stats = {name: _size_and_mtime(path) for name, path in source.files().items()}
    digests = {name: file_sha256(path) for name, path in source.files().items()}
    splits = source.splits()
    for split, rows in splits.items():
        console.info(f"    {split}: {rows.title}, {len(rows):,} rows")
    bad = BadRows(config.data.on_bad_row)
    bad.add_unreadable(splits)
    _check_splits(source, splits)

    dropped: dict[str, Counter[str]] = {split: Counter() for split in ORDER}
    seen = SeenConversations()
    evaluated = LeakIndex()
    if retention.is_file():
        evaluated.add_file(RETENTION, retention)
    with _removed_on_failure(run) as temporary:
        written = {
            split: _write(run, split, splits[split], config.data, seen, evaluated, dropped[split], bad, temporary) for split in ORDER
        }
        bad.write(run, temporary)
        bad.stop()
        for path in temporary:
            path.replace(path.with_name(path.name.removeprefix(".").removesuffix(".new")))
    files = {split: run.describe_file(run.path("data", f"{split}.jsonl"), rows=written[split]) for split in SPLITS}
    origins = {f"origin.{split}": run.describe_file(run.path("data", f"{split}.origin.txt")) for split in SPLITS}
    quarantine = {"quarantine": run.describe_file(run.path("data", QUARANTINE), rows=len(bad))} if len(bad) else {}
    record = Prepared(
        dataset=source.name,
        revision=source.revision,
        percent=config.data.percent,
        seed=config.data.seed,
        fingerprint=fingerprint.of_files({split: file.sha256 for split, file in files.items()}),
        files={**files, **origins, **quarantine},
        settings=key,
        source=digests,
        source_stats=stats,
        dropped={split: dict(sorted(reasons.items())) for split, reasons in dropped.items() if reasons},
        formats={split: splits[split].title for split in SPLITS},
        notes=dict(sorted(merge_notes(splits).items())),
    )
    for note, count in record.notes.items():
        console.warning(f"{count:,} row(s) have {note}.")
    console.info(f"  kept {_row_counts(record)}; data fingerprint {record.fingerprint[:12]}")
    return run.write(record)


def settings_key(data: DataConfig, source: Source, retention: str = "") -> str:
    """Return the sha256 over everything but the source's files that decides which rows are kept; ``retention``: sha256 of that suite."""
    return reuse_key({"data": data}, EXCLUDED, version=VERSION, name=source.name, revision=source.revision, retention=retention)


def merge_notes(splits: Mapping[str, Rows]) -> Mapping[str, int]:
    """Merge the notes of all splits. Splits that were made from the same rows have the same notes, which count once."""
    merged: dict[str, int] = {}
    for rows in splits.values():
        for note, count in rows.notes().items():
            merged[note] = max(merged.get(note, 0), count)
    return merged


class BadRows:
    """Rows with errors, which are collected to be listed together, or dropped.

    Args:
        policy: ``stop`` or ``drop``.
    """

    def __init__(self, policy: str) -> None:
        self.drop = policy == "drop"
        self._rows: dict[str, tuple[str, str, str]] = {}
        self._total = 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, split: str, where: str, rule: str, message: str) -> None:
        """Add a row, unless it has been added already."""
        self._rows.setdefault(where, (split, rule, message))

    def add_unreadable(self, splits: Mapping[str, Rows]) -> None:
        """Add the rows that are known to be unreadable, and stop if such rows must be listed."""
        self._total = sum(map(len, splits.values()))
        for split, rows in splits.items():
            for index, problem in sorted(rows.invalid_rows().items()):
                self.add(split, rows.where(index), problem.rule, str(problem))
        if self._total and len(self) == self._total:
            self.drop = False
        self.stop()

    def stop(self) -> None:
        """Raise if there are rows with errors that must not be dropped.

        Raises:
            ValidationFailed: lists them.
        """
        if not self._rows or self.drop:
            return
        listed = [f"{where}: {rule}: {message}" for where, (_, rule, message) in self._rows.items()]
        if len(listed) > MAX_LISTED:
            listed[MAX_LISTED:] = [f"… and {len(listed) - MAX_LISTED} more"]
        if len(self) == self._total:
            what, fix = f"None of the {self._total:,} row(s) is a conversation", "fix the file; data/README.md shows every format"
        else:
            what = f"{len(self):,} row(s) are not valid conversations"
            fix = 'fix these rows, or drop them with data.on_bad_row = "drop"'
        raise ValidationFailed(f"{what}:\n" + "\n".join(listed), fix)

    def write(self, run: Run, temporary: list[Path]) -> None:
        """Write the list of dropped rows, and print their number."""
        if not self._rows or not self.drop:
            return
        path = run.path("data", f".{QUARANTINE}.new")
        temporary.append(path)
        rows = ({"where": where, "split": split, "rule": rule, "message": text} for where, (split, rule, text) in self._rows.items())
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8", errors="backslashreplace")
        console.warning(f"{len(self):,} row(s) with errors are dropped (data.on_bad_row). They are listed in run/data/{QUARANTINE}.")


class SeenConversations:
    """Recognizes repeated conversations, in any split. Most have a unique key; the others are compared as a whole."""

    def __init__(self) -> None:
        self._readers: list[Reader] = []
        self._first: dict[int, int] = {}
        """Key → the first row: its index, times the number of splits, plus that of the split."""
        self._whole: dict[int, set[int]] = {}
        """Key → the hashes of all rows with this key, if there are several."""

    def contains(self, candidate: Candidate, reader: Reader) -> bool:
        """Return whether the conversation has been added before, and add it."""
        if not self._readers or self._readers[-1] is not reader:
            self._readers.append(reader)
        place = candidate.number * len(SPLITS) + len(self._readers) - 1
        first = self._first.setdefault(candidate.key, place)
        if first == place:
            return False
        if candidate.key not in self._whole:
            index, split = divmod(first, len(SPLITS))
            self._whole[candidate.key] = {self._readers[split].find_key(index)}
        whole = reader.find_key(candidate.number)
        is_repeated = whole in self._whole[candidate.key]
        self._whole[candidate.key].add(whole)
        return is_repeated


@contextmanager
def _removed_on_failure(run: Run) -> Iterator[list[Path]]:
    """Collect temporary files, which are removed if they are not moved into place. Remove the list of an earlier run, too."""
    temporary: list[Path] = []
    run.path("data", QUARANTINE).unlink(missing_ok=True)
    try:
        yield temporary
    finally:
        for path in temporary:
            path.unlink(missing_ok=True)


def _select(
    split: str, rows: Rows, data: DataConfig, seen: SeenConversations, evaluated: LeakIndex, dropped: Counter[str], bad: BadRows
) -> Iterator[tuple[int, bytes]]:
    """Yield the rows of a split that pass the limits, ordered by hash, each as its index and a line of JSON.

    Args:
        split: its name.
        rows: all of its rows.
        data: percentage and limits.
        seen: the conversations kept so far, in any split; is added to.
        evaluated: the answers of the rows that models are evaluated on; is added to.
        dropped: reason → number of dropped rows; is added to.
        bad: rows with errors; is added to.
    """
    order = sample(rows, data.percent, data.seed)
    screens = data.deduplicate and split == TRAINING_SPLIT
    screen: Screen[tuple[int, bytes | None]] = Screen(evaluated)
    reader = Reader(rows, split, data.max_messages, bad.drop, evaluated if screens else None)
    for candidate in reader.read(order, data.max_rows.get(split)):  # type: ignore[call-overload]
        index, line = candidate.number, candidate.line
        if candidate.problem is not None:
            bad.add(split, rows.where(index), *candidate.problem)
            dropped[BAD] += 1
            continue
        if data.max_characters is not None and candidate.characters > data.max_characters:
            dropped["longer than max_characters"] += 1
            continue
        # After the cut, because it can make two conversations equal.
        if data.deduplicate and seen.contains(candidate, reader):
            dropped["repeated"] += 1
            continue
        if screens:
            released = screen.put((index, line), candidate.matches)
            # Negative, because a row that was held back is used after all.
            dropped[LEAK] += 1 - len(released)
            yield from ((number, text if text is not None else _line(rows, number)) for number, text in released)
            continue
        text = line if line is not None else _line(rows, index)
        if split == TARGET_SPLIT:
            evaluated.add(split, index, decode(text).messages)
        yield index, text


def _line(rows: Rows, index: int) -> bytes:
    (line,) = rows.lines([index])
    assert line is not None
    return line


def _write(
    run: Run,
    split: str,
    rows: Rows,
    data: DataConfig,
    seen: SeenConversations,
    evaluated: LeakIndex,
    dropped: Counter[str],
    bad: BadRows,
    temporary: list[Path],
) -> int:
    """Write a split and the origin of its rows to temporary files; return its number of rows."""
    limit = data.max_rows.get(split)  # type: ignore[call-overload]
    paths = [run.path("data", f".{split}{suffix}.new") for suffix in (".jsonl", ".origin.txt")]
    temporary += paths
    with (
        console.Progress(f"rows of {split}") as progress,
        paths[0].open("wb") as file,
        paths[1].open("w", encoding="utf-8", errors="backslashreplace") as origins,
    ):
        for index, line in _select(split, rows, data, seen, evaluated, dropped, bad):
            if progress.done == limit:
                break
            file.write(line)
            origins.write(rows.where(index).replace("\n", " ") + "\n")
            progress.advance()
        file.flush()
        os.fsync(file.fileno())
    dropped += Counter()  # without reasons that apply to no row
    for reason, count in sorted(dropped.items()):
        console.info(f"    dropped: {count} {reason}")
    if not progress.done:
        bad.stop()
        reasons = "; ".join(f"{count:,} {reason}" for reason, count in sorted(dropped.items()))
        raise DataError(
            f"No rows of {split} remain: of its {len(rows):,} rows {data.percent:g} % were sampled, and none of those passes the limits"
            + (f" ({reasons})." if reasons else "."),
            "use training and test rows with different answers: see overlap.answer in data/README.md"
            if max(dropped, key=lambda reason: dropped[reason], default="") == LEAK
            else "raise data.percent, data.max_characters or data.max_rows in pipeline.toml",
        )
    return progress.done


def _find_unchanged(run: Run, source: Source, key: str) -> Prepared | None:
    """Return the record of an earlier run with the same settings and source, if its files are still in place."""
    earlier = run.find(Prepared)
    if earlier is None or earlier.settings != key or set(earlier.source) != set(source.files()):
        return None
    for name, path in source.files().items():
        # A file is hashed only if its size or time differs, as after a fresh checkout.
        if tuple(earlier.source_stats[name]) != _size_and_mtime(path) and earlier.source[name] != file_sha256(path):
            return None
    return earlier


def _size_and_mtime(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _row_counts(record: Prepared) -> str:
    return ", ".join(f"{split} {record.files[split].rows:,}" for split in SPLITS)


def _check_splits(source: Source, splits: Mapping[str, Rows]) -> None:
    if splits and not any(map(len, splits.values())):
        raise DataError(f"{source.name} is empty: it has no rows.", "use data with conversations")
    counts = ", ".join(f"{split} {len(rows):,}" for split, rows in splits.items())
    for split in SPLITS:
        if split not in splits:
            raise DataError(
                f"{source.name} has no split {split}; it has {', '.join(splits) or 'none of the four'}.",
                f"a data set has {', '.join(SPLITS)}, or train and test, in files with these names; a single file is divided",
            )
        if not len(splits[split]) and all(isinstance(rows, SelectedRows) for rows in splits.values()):
            raise DataError(
                f"{source.name} has too few conversations to divide them into the four splits: {counts}.",
                "add conversations (100 are enough), or use a folder with one file per split",
            )
        if not len(splits[split]):
            raise DataError(f"The split {split} of {source.name} is empty.", "use a data set with rows in each of the four splits")


main = stage.command(prepare)


if __name__ == "__main__":
    sys.exit(main())
