"""Bring the conversations here: load the data set at its pinned revision, keep the wanted part of each split, fingerprint it.

    python -m mlops.prepare --target local

Writes ``run/data/{split}.jsonl``. Run again with the same settings and source it changes nothing, and doesn't read the source.
"""

from __future__ import annotations

import math
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from mlops.cli import stage
from mlops.core import console
from mlops.core.config import Config, DataConfig
from mlops.core.errors import DataError, ValidationFailed
from mlops.core.records import Prepared
from mlops.core.run import Run, file_sha256
from mlops.dataset import fingerprint
from mlops.dataset.conversation import SPLITS, Conversation, Unreadable, encode, hash64, normalise
from mlops.dataset.rows import Rows
from mlops.dataset.sources import Source, open_source

__all__ = ["main", "prepare", "sample", "shorten"]

VERSION = 1
"""Raise it when the code below makes something else of the same source, so that older results are not taken for its own."""

ORDER = ("test_sft", "test_gen", "train_sft", "train_gen")
"""Test splits come first: what they hold is then left out of the training splits, not the other way round."""

SHOWN = 20
"""So many unreadable rows are named in an error; the rest is counted."""


def prepare(config: Config, run: Run) -> Prepared:
    """Load the data set and keep the wanted part of it.

    Of each split the rows with the lowest hash of (seed, ``prompt_id``) are kept, ``percent`` of them and at most ``max_rows``, and
    written in the order of that hash. The tutorial takes the first rows instead (``split[0%:5%]``), which is as deterministic but keeps
    whatever the source was sorted by. Two things follow: a larger percentage keeps what a smaller one kept, and the first rows of a
    file are a fair sample of it.

    Raises:
        ConfigError: ``data.dataset`` names nothing.
        DataError: it can't be had, or a split is missing or empty.
        ValidationFailed: rows that are not conversations, with file, line and rule.
    """
    source = open_source(config.data)
    settings = fingerprint.of_settings({"version": VERSION, "name": source.name, "revision": source.revision, **_deciding(config.data)})
    if (done := _unchanged(run, source, settings)) is not None:
        console.info(f"  nothing to do: run/data holds {_counted(done)} of {done.dataset}, data fingerprint {done.fingerprint[:12]}")
        return done

    console.info(f"  reading {source.name} ({source.revision})")
    seen = {name: _seen(path) for name, path in source.files().items()}
    digests = {name: file_sha256(path) for name, path in source.files().items()}
    splits = source.splits()
    _refuse_incomplete(source, splits)

    dropped: dict[str, Counter[str]] = {}
    said: set[int] = set()
    written = {split: _write(run, split, splits[split], config.data, said, dropped.setdefault(split, Counter())) for split in ORDER}
    for split, (temporary, _) in written.items():
        temporary.replace(run.path("data", f"{split}.jsonl"))
    files = {split: run.keep(run.path("data", f"{split}.jsonl"), rows=written[split][1]) for split in SPLITS}
    record = Prepared(
        dataset=source.name,
        revision=source.revision,
        percent=config.data.percent,
        seed=config.data.seed,
        fingerprint=fingerprint.of_files({split: file.sha256 for split, file in files.items()}),
        files=files,
        settings=settings,
        source=digests,
        source_seen=seen,
        dropped={split: dict(sorted(reasons.items())) for split, reasons in dropped.items() if reasons},
    )
    console.info(f"  kept {_counted(record)}; data fingerprint {record.fingerprint[:12]}")
    return run.write(record)


def sample(rows: Rows, percent: float, seed: int) -> Sequence[int]:
    """Indices of the rows to keep, in the order of their hash: ``percent`` of them, rounded up."""
    salt = seed.to_bytes(8, "little", signed=True)
    keys = [hash64(salt, identity.to_bytes(8, "little")) for identity in rows.ids()]
    # Rows of one prompt_id share a key; their order in the source decides, so that the result never depends on the sort.
    order = sorted(range(len(keys)), key=lambda index: (keys[index], index))
    return order[: math.ceil(len(order) * percent / 100)]


def shorten(row: Conversation, max_messages: int | None, split: str) -> Conversation:
    """The first ``max_messages`` messages, a leading system message not counted; for fine-tuning, cut back to an assistant's turn."""
    if max_messages is None:
        return row
    limit = max_messages + (bool(row.messages) and row.messages[0].role == "system")
    if len(row.messages) <= limit:
        return row
    kept = row.messages[:limit]
    while split.endswith("_sft") and kept and kept[-1].role != "assistant":
        kept.pop()
    return Conversation(prompt=row.prompt, messages=kept, prompt_id=row.prompt_id)


def _kept(
    split: str, rows: Rows, data: DataConfig, said: set[int], dropped: Counter[str], problems: list[tuple[str, Unreadable]]
) -> Iterator[Conversation]:
    """The rows of a split that pass the limits, in the order of their hash.

    Args:
        split: its name.
        rows: all of its rows.
        data: percentage and limits.
        said: hashes of the conversations that were kept so far, in any split; grows.
        dropped: counts what was left out, by reason; grows.
        problems: where rows that can't be read are put; grows.
    """
    order = sample(rows, data.percent, data.seed)
    for index, row in zip(order, rows.take(order), strict=True):
        if isinstance(row, Unreadable):
            problems.append((rows.where(index), row))
            continue
        short = shorten(row, data.max_messages, split)
        if data.max_characters is not None and sum(len(message.content) for message in short.messages) > data.max_characters:
            dropped["longer than max_characters"] += 1
            continue
        if data.deduplicate:
            # After the cut: it can make two conversations equal.
            key = hash64(*(part for message in short.messages for part in (message.role.encode(), normalise(message.content))))
            if key in said:
                dropped["repeated"] += 1
                continue
            said.add(key)
        yield short


def _write(run: Run, split: str, rows: Rows, data: DataConfig, said: set[int], dropped: Counter[str]) -> tuple[Path, int]:
    """Write a split beside its place; return the temporary file and how many rows it has."""
    problems = rows.unreadable()
    limit = data.max_rows.get(split)
    temporary = run.path("data", f".{split}.jsonl.new")
    progress = console.Progress(f"rows of {split}")
    with temporary.open("wb") as file:
        for row in _kept(split, rows, data, said, dropped, problems) if not problems else ():
            if progress.done == limit:
                break
            file.write(encode(row))
            progress.advance()
        file.flush()
        os.fsync(file.fileno())
    if problems:
        temporary.unlink()
        _refuse_unreadable(problems)
    progress.close()
    for reason, count in sorted(dropped.items()):
        console.info(f"    left out: {count} {reason}")
    if not progress.done:
        temporary.unlink()
        raise DataError(
            f"Nothing is left of {split}: {len(rows)} rows, of which {data.percent:g} % were looked at and none fits the limits.",
            "raise data.percent, data.max_characters or data.max_rows in pipeline.toml",
        )
    return temporary, progress.done


def _deciding(data: DataConfig) -> dict[str, object]:
    return data.model_dump(include={"percent", "max_rows", "max_messages", "max_characters", "seed", "deduplicate"})


def _unchanged(run: Run, source: Source, settings: str) -> Prepared | None:
    """The record of an earlier run that had the same settings and source, with its files still in place."""
    done = run.find(Prepared)
    if done is None or done.settings != settings or set(done.source) != set(source.files()):
        return None
    for name, path in source.files().items():
        # Size and time say enough; only where they differ (a fresh checkout) is the file read, for its hash.
        if tuple(done.source_seen[name]) != _seen(path) and done.source[name] != file_sha256(path):
            return None
    return done


def _seen(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def _counted(record: Prepared) -> str:
    return ", ".join(f"{split} {record.files[split].rows:,}" for split in SPLITS)


def _refuse_incomplete(source: Source, splits: Mapping[str, Rows]) -> None:
    for split in SPLITS:
        if split not in splits:
            raise DataError(
                f"{source.name} has no split {split}; it has {', '.join(splits) or 'none of the four'}.",
                f"a data set needs {', '.join(SPLITS)}: in a folder one file each, named for example {split}.jsonl",
            )
        if not len(splits[split]):
            raise DataError(f"The split {split} of {source.name} is empty.", "take a data set with rows in each of the four splits")


def _refuse_unreadable(problems: Sequence[tuple[str, Unreadable]]) -> None:
    listed = [f"{where}: {problem.rule}: {problem}" for where, problem in problems[:SHOWN]]
    if len(problems) > SHOWN:
        listed.append(f"… and {len(problems) - SHOWN} more")
    raise ValidationFailed(
        f"{len(problems)} row(s) are not conversations in the ultrachat schema:\n" + "\n".join(listed), "mend or remove these rows"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """The command."""
    return stage.run(prepare, argv)


if __name__ == "__main__":
    raise SystemExit(main())
