"""Sources of conversations: the Hugging Face hub, files, or an installed package. Each provides four splits of rows.

``datasets`` reads the hub and Parquet. The text formats are read by this package, because findings name file and line, which
``datasets`` doesn't provide, and because ``datasets`` silently accepts NaN, byte order marks and changing types.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from mlops.core import console
from mlops.core.config import DataConfig
from mlops.core.errors import ConfigError, DataError
from mlops.dataset import chitchat
from mlops.dataset.conversation import SPLITS, Conversation, hash64, normalize
from mlops.dataset.rows import ArrowRows, JsonLinesRows, ListRows, LocatedRow, Rows, read_csv, read_json

__all__ = ["SPLIT_SHARES", "ChitchatSource", "FileSource", "FolderSource", "HubSource", "Source", "assign_splits", "find_source"]

SPLIT_SHARES: Mapping[str, float] = {"train_sft": 0.75, "test_sft": 0.15, "train_gen": 0.05, "test_gen": 0.05}
"""Share of rows per split for sources without splits. The target suite needs enough rows for the gate, the smoke test only a few."""

FORMATS = (".jsonl", ".json", ".csv", ".parquet")


class Source(Protocol):
    """A data set that has been located but not read."""

    name: str
    revision: str
    """The pinned version: a commit, a package version, or ``local`` for files, which are identified by their sha256."""

    def files(self) -> Mapping[str, Path]:
        """Return name → local file for the files that rows are read from; empty for the hub."""

    def splits(self) -> Mapping[str, Rows]:
        """Read the splits.

        Raises:
            DataError: the data set can't be loaded, or does not match the schema.
        """


def find_source(data: DataConfig) -> Source:
    """Find the source that ``data.dataset`` names: ``chitchat``, a file or folder, or an id on the hub, in this order.

    Raises:
        ConfigError: there is no such source, or a hub data set has no commit.
    """
    if data.dataset == "chitchat":
        return ChitchatSource()
    path = Path(data.dataset)
    if path.is_dir():
        return FolderSource(path)
    if path.is_file():
        return FileSource(path)
    if path.suffix in FORMATS or not re.fullmatch(r"[\w.-]+/[\w.-]+", data.dataset) or data.dataset.startswith("."):
        raise ConfigError(
            f"data.dataset is {data.dataset!r}: there is no such file or folder, and it is not a valid hub id.",
            f"use `chitchat`, a hub id such as HuggingFaceH4/ultrachat_200k, or a folder or file ({', '.join(FORMATS)})",
        )
    return HubSource(data.dataset, data.revision)


class ChitchatSource:
    """The conversations of an installed package, split by :data:`SPLIT_SHARES`."""

    name = "chitchat"

    def __init__(self) -> None:
        self._path = chitchat.find_data_file()
        self.revision = f"chitchat-dataset {chitchat.package_version()}"

    def files(self) -> Mapping[str, Path]:
        """See :class:`Source`."""
        return {self._path.name: self._path}

    def splits(self) -> Mapping[str, Rows]:
        """See :class:`Source`."""
        return assign_splits(chitchat.read_conversations(self._path))


class FileSource:
    """One file, split by :data:`SPLIT_SHARES` and kept in memory."""

    revision = "local"

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        if path.suffix not in FORMATS:
            raise ConfigError(f"data.dataset is {path}, which has an unsupported format.", f"use a file that ends in {', '.join(FORMATS)}")

    def files(self) -> Mapping[str, Path]:
        """See :class:`Source`."""
        return {self._path.name: self._path}

    def splits(self) -> Mapping[str, Rows]:
        """See :class:`Source`."""
        rows = _read([self._path])
        where = map(rows.where, range(len(rows)))
        return assign_splits(zip(where, rows.take(range(len(rows))), strict=True))


class FolderSource:
    """A folder with one file for each split (``train_sft.jsonl``), or Parquet shards named as on the hub (``data/train_sft-*.parquet``)."""

    revision = "local"

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        self._paths = {split: paths for split in SPLITS if (paths := self._find_files(split))}

    def files(self) -> Mapping[str, Path]:
        """See :class:`Source`."""
        return {path.relative_to(self._path).as_posix(): path for paths in self._paths.values() for path in paths}

    def splits(self) -> Mapping[str, Rows]:
        """See :class:`Source`."""
        return {split: _read(paths) for split, paths in self._paths.items()}

    def _find_files(self, split: str) -> list[Path]:
        files = [self._path / f"{split}{suffix}" for suffix in FORMATS if (self._path / f"{split}{suffix}").is_file()]
        shards = [sorted(folder.glob(f"{split}-*.parquet")) for folder in (self._path, self._path / "data")]
        candidates = [*([path] for path in files), *(paths for paths in shards if paths)]
        if len(candidates) > 1:
            names = ", ".join(str(candidate[0]) for candidate in candidates)
            raise ConfigError(f"data.dataset is {self._path}, which contains {split} more than once: {names}.", "keep only one of them")
        return candidates[0] if candidates else []


class HubSource:
    """A data set on the Hugging Face hub, at one commit."""

    def __init__(self, name: str, revision: str) -> None:
        self.name, self.revision = name, revision
        if not re.fullmatch(r"[0-9a-f]{40}", revision):
            raise ConfigError(
                f"data.revision is {revision!r}, which is not a commit. A branch or tag may move, and the data would change with it.",
                f"set it to the 40 digits of a commit from https://huggingface.co/datasets/{name}/commits/main",
            )

    def files(self) -> Mapping[str, Path]:
        """See :class:`Source`."""
        return {}

    def splits(self) -> Mapping[str, Rows]:
        """See :class:`Source`."""
        import datasets
        from datasets.exceptions import DatasetNotFoundError

        try:
            builder = datasets.load_dataset_builder(self.name, revision=self.revision)
            # After a failure, `datasets` falls back to any revision in its cache and only logs it.
            if builder.hash != self.revision:
                raise DataError(
                    f"The hub can't be reached, and the cache contains revision {builder.hash} of {self.name}, not {self.revision}.",
                    "check the connection to huggingface.co and run the command again, or point data.dataset at a folder with the files",
                )
            self._download(builder)
            if not sys.stderr.isatty():
                datasets.disable_progress_bars()
            builder.download_and_prepare()
            splits: Mapping[str, Any] = builder.as_dataset()
        except DatasetNotFoundError as problem:
            raise DataError(
                f"The hub has no {self.name} at {self.revision}, or you don't have access to it: {problem}",
                "correct data.dataset and data.revision; for a gated data set, accept its terms and set HF_TOKEN",
            ) from problem
        except Exception as problem:
            # The exceptions of the hub's libraries have no common base class, and they changed with the HTTP client.
            is_from_hub = type(problem).__module__.split(".")[0] in {"datasets", "huggingface_hub", "httpx", "httpx2", "pyarrow", "fsspec"}
            if not (is_from_hub or isinstance(problem, OSError)):
                raise
            raise DataError(
                f"{self.name} can't be loaded from the hub: {type(problem).__name__}: {problem}",
                "run the command again (downloaded files are kept), or point data.dataset at a folder with the files",
            ) from problem
        return {split: ArrowRows(rows, f"{self.name}/{split}") for split, rows in splits.items() if split in SPLITS}

    def _download(self, builder: Any) -> None:
        """Download the files into the hub's cache one by one, so that progress is visible even without progress bars."""
        from huggingface_hub import hf_hub_download

        prefix = f"hf://datasets/{self.name}@{self.revision}/"
        # A data set from the cache lists no files.
        urls = [url for urls in (builder.config.data_files or {}).values() for url in urls if url.startswith(prefix)]
        progress = console.Progress("files downloaded", len(urls))
        for url in urls:
            hf_hub_download(self.name, url.removeprefix(prefix), repo_type="dataset", revision=self.revision)
            progress.advance()
        progress.close()


def assign_splits(rows: Iterable[LocatedRow]) -> Mapping[str, Rows]:
    """Assign rows to the four splits by a hash of their messages.

    The hash uses the normalized messages, so copies of a conversation end up in the same split. A row's split doesn't depend on other
    rows, so growing data moves no row from test to training. Invalid rows are assigned to ``train_sft``, where they are reported.
    """
    splits: dict[str, list[LocatedRow]] = {split: [] for split in SPLITS}
    for where, row in rows:
        splits[_choose_split(row) if isinstance(row, Conversation) else SPLITS[0]].append((where, row))
    return {split: ListRows(located) for split, located in splits.items()}


def _choose_split(row: Conversation) -> str:
    point = hash64(b"split", *(normalize(message.content) for message in row.messages)) / 2**64
    for split, share in SPLIT_SHARES.items():
        if point < share:
            return split
        point -= share
    return SPLITS[-1]


def _read(paths: list[Path]) -> Rows:
    path = paths[0]
    try:
        if path.suffix == ".jsonl":
            return JsonLinesRows(path)
        if path.suffix == ".json":
            return ListRows(read_json(path))
        if path.suffix == ".csv":
            return ListRows(read_csv(path))
        return _read_parquet(paths)
    except OSError as problem:
        raise DataError(f"{path} can't be read: {problem}", "check that the file exists and is readable") from problem


def _read_parquet(paths: list[Path]) -> Rows:
    import datasets
    import pyarrow

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0].parent}/{paths[0].name.split('-')[0]}-*.parquet"
    try:
        return ArrowRows(datasets.Dataset.from_parquet([str(path) for path in paths]), name)
    except (pyarrow.ArrowException, datasets.exceptions.DatasetGenerationError) as problem:
        raise DataError(f"{name} is not a readable Parquet file: {problem.__cause__ or problem}", "write the file again") from problem
