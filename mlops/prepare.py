"""Prepare the data: load the data set at its pinned revision, sample and filter each split, and fingerprint the result.

    python -m mlops.prepare --target local

Writes ``run/data/{split}.jsonl``. Running it again with the same settings and source changes nothing and doesn't read the source.
"""

from __future__ import annotations

import math
import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mlops.cli import stage
from mlops.core import console
from mlops.core.config import Config, DataConfig
from mlops.core.errors import DataError, ValidationFailed
from mlops.core.records import Prepared
from mlops.core.reuse import reuse_key
from mlops.core.run import Run, file_sha256
from mlops.dataset import fingerprint
from mlops.dataset.conversation import SPLITS, Conversation, InvalidRow, encode, hash64, normalize
from mlops.dataset.rows import Rows
from mlops.dataset.sources import Source, find_source

__all__ = ["EXCLUDED", "main", "prepare", "sample", "settings_key", "shorten"]

VERSION = 1
"""Increase it when the code below produces different rows from the same source, so that older results are not reused."""

EXCLUDED = {
    "data.dataset": "the source reports its own name",
    "data.revision": "the source reports its revision; a local file has none and ignores the setting",
}
"""Settings that do not decide which rows are kept, and why."""

ORDER = ("test_sft", "test_gen", "train_sft", "train_gen")
"""Test splits come first: a conversation that is in both is then dropped from the training split, not from the test split."""

MAX_LISTED = 20
"""How many invalid rows an error lists; the others are only counted."""


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
    key = settings_key(config.data, source)
    if (earlier := _find_unchanged(run, source, key)) is not None:
        console.info(
            f"  nothing to do: run/data holds {_row_counts(earlier)} of {earlier.dataset}, data fingerprint {earlier.fingerprint[:12]}"
        )
        return earlier

    console.info(f"  reading {source.name} ({source.revision})")
    stats = {name: _size_and_mtime(path) for name, path in source.files().items()}
    digests = {name: file_sha256(path) for name, path in source.files().items()}
    splits = source.splits()
    _check_splits(source, splits)

    dropped: dict[str, Counter[str]] = {}
    hashes: set[int] = set()
    written = {split: _write(run, split, splits[split], config.data, hashes, dropped.setdefault(split, Counter())) for split in ORDER}
    for split, (temporary, _) in written.items():
        temporary.replace(run.path("data", f"{split}.jsonl"))
    files = {split: run.describe_file(run.path("data", f"{split}.jsonl"), rows=written[split][1]) for split in SPLITS}
    record = Prepared(
        dataset=source.name,
        revision=source.revision,
        percent=config.data.percent,
        seed=config.data.seed,
        fingerprint=fingerprint.of_files({split: file.sha256 for split, file in files.items()}),
        files=files,
        settings=key,
        source=digests,
        source_stats=stats,
        dropped={split: dict(sorted(reasons.items())) for split, reasons in dropped.items() if reasons},
    )
    console.info(f"  kept {_row_counts(record)}; data fingerprint {record.fingerprint[:12]}")
    return run.write(record)


def settings_key(data: DataConfig, source: Source) -> str:
    """Return the sha256 over everything but the source's files that decides which rows are kept."""
    return reuse_key({"data": data}, EXCLUDED, version=VERSION, name=source.name, revision=source.revision)


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


def _select(
    split: str, rows: Rows, data: DataConfig, hashes: set[int], dropped: Counter[str], problems: list[tuple[str, InvalidRow]]
) -> Iterator[Conversation]:
    """Yield the rows of a split that pass the limits, ordered by hash.

    Args:
        split: its name.
        rows: all of its rows.
        data: percentage and limits.
        hashes: of the conversations kept so far, in any split; is added to.
        dropped: reason → number of dropped rows; is added to.
        problems: invalid rows and where they are; is added to.
    """
    order = sample(rows, data.percent, data.seed)
    for index, row in zip(order, rows.take(order), strict=True):
        if isinstance(row, InvalidRow):
            problems.append((rows.where(index), row))
            continue
        short = shorten(row, data.max_messages, split)
        if data.max_characters is not None and sum(len(message.content) for message in short.messages) > data.max_characters:
            dropped["longer than max_characters"] += 1
            continue
        if data.deduplicate:
            # After the cut, because it can make two conversations equal.
            key = hash64(*(part for message in short.messages for part in (message.role.encode(), normalize(message.content))))
            if key in hashes:
                dropped["repeated"] += 1
                continue
            hashes.add(key)
        yield short


def _write(run: Run, split: str, rows: Rows, data: DataConfig, hashes: set[int], dropped: Counter[str]) -> tuple[Path, int]:
    """Write a split to a temporary file; return its path and its number of rows."""
    problems = rows.invalid_rows()
    limit = data.max_rows.get(split)
    temporary = run.path("data", f".{split}.jsonl.new")
    progress = console.Progress(f"rows of {split}")
    with temporary.open("wb") as file:
        for row in _select(split, rows, data, hashes, dropped, problems) if not problems else ():
            if progress.done == limit:
                break
            file.write(encode(row))
            progress.advance()
        file.flush()
        os.fsync(file.fileno())
    if problems:
        temporary.unlink()
        raise _invalid_rows_error(problems)
    progress.close()
    for reason, count in sorted(dropped.items()):
        console.info(f"    dropped: {count} {reason}")
    if not progress.done:
        temporary.unlink()
        raise DataError(
            f"No rows of {split} remain: of its {len(rows)} rows {data.percent:g} % were sampled, and none of those passes the limits.",
            "raise data.percent, data.max_characters or data.max_rows in pipeline.toml",
        )
    return temporary, progress.done


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
    for split in SPLITS:
        if split not in splits:
            raise DataError(
                f"{source.name} has no split {split}; it has {', '.join(splits) or 'none of the four'}.",
                f"a data set needs {', '.join(SPLITS)}: in a folder, one file each, for example {split}.jsonl",
            )
        if not len(splits[split]):
            raise DataError(f"The split {split} of {source.name} is empty.", "use a data set with rows in each of the four splits")


def _invalid_rows_error(problems: Sequence[tuple[str, InvalidRow]]) -> ValidationFailed:
    listed = [f"{where}: {problem.rule}: {problem}" for where, problem in problems[:MAX_LISTED]]
    if len(problems) > MAX_LISTED:
        listed.append(f"… and {len(problems) - MAX_LISTED} more")
    return ValidationFailed(
        f"{len(problems)} row(s) are not conversations in the ultrachat schema:\n" + "\n".join(listed), "fix or remove these rows"
    )


main = stage.command(prepare)


if __name__ == "__main__":
    sys.exit(main())
