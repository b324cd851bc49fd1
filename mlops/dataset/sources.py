"""Where conversations come from: the Hugging Face hub, files, or an installed package; each as four splits of rows.

The hub and Parquet go through ``datasets``. The text formats are read here, because a finding has to name file and line, which
``datasets`` doesn't know, and because it takes NaN, byte order marks and changing types in its stride.
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
from mlops.dataset.conversation import SPLITS, Conversation, hash64, normalise
from mlops.dataset.rows import ArrowRows, JsonLinesRows, ListRows, Located, Rows, read_csv, read_json

__all__ = ["SHARES", "ChitchatSource", "FileSource", "FolderSource", "HubSource", "Source", "open_source", "share_out"]

SHARES: Mapping[str, float] = {"train_sft": 0.75, "test_sft": 0.15, "train_gen": 0.05, "test_gen": 0.05}
"""How a source without splits of its own is shared out. The target suite needs rows enough to judge by, the smoke test a handful."""

FORMATS = (".jsonl", ".json", ".csv", ".parquet")


class Source(Protocol):
    """A data set that has been named and found, but not read."""

    name: str
    revision: str
    """What pins it: a commit, a package version, or ``local`` for files, which are pinned by their sha256."""

    def files(self) -> Mapping[str, Path]:
        """Name → local file that the rows are read from; empty for the hub."""

    def splits(self) -> Mapping[str, Rows]:
        """Read it.

        Raises:
            DataError: it can't be had or read, or is not in the schema.
        """


def open_source(data: DataConfig) -> Source:
    """Find what ``data.dataset`` names: ``chitchat``, a file or folder, or an id on the hub, in this order.

    Raises:
        ConfigError: it names nothing, or a hub data set without a commit.
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
            f"data.dataset is {data.dataset!r}: there is no such file or folder here, and it is no id on the hub.",
            f"name `chitchat`, a hub id such as HuggingFaceH4/ultrachat_200k, or a folder or file ({', '.join(FORMATS)})",
        )
    return HubSource(data.dataset, data.revision)


class ChitchatSource:
    """The conversations of an installed package, shared out by :data:`SHARES`."""

    name = "chitchat"

    def __init__(self) -> None:
        self._path = chitchat.locate()
        self.revision = f"chitchat-dataset {chitchat.package_version()}"

    def files(self) -> Mapping[str, Path]:
        """See :class:`Source`."""
        return {self._path.name: self._path}

    def splits(self) -> Mapping[str, Rows]:
        """See :class:`Source`."""
        return share_out(chitchat.read(self._path))


class FileSource:
    """One file, shared out by :data:`SHARES`. Held in memory."""

    revision = "local"

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        if path.suffix not in FORMATS:
            raise ConfigError(f"data.dataset is {path}, whose format isn't known.", f"name a file that ends in {', '.join(FORMATS)}")

    def files(self) -> Mapping[str, Path]:
        """See :class:`Source`."""
        return {self._path.name: self._path}

    def splits(self) -> Mapping[str, Rows]:
        """See :class:`Source`."""
        rows = _read([self._path])
        where = map(rows.where, range(len(rows)))
        return share_out(zip(where, rows.take(range(len(rows))), strict=True))


class FolderSource:
    """A folder with one file for each split (``train_sft.jsonl``), or Parquet shards named as on the hub (``data/train_sft-*.parquet``)."""

    revision = "local"

    def __init__(self, path: Path) -> None:
        self.name, self._path = str(path), path
        self._found = {split: found for split in SPLITS if (found := self._find(split))}

    def files(self) -> Mapping[str, Path]:
        """See :class:`Source`."""
        return {path.relative_to(self._path).as_posix(): path for found in self._found.values() for path in found}

    def splits(self) -> Mapping[str, Rows]:
        """See :class:`Source`."""
        return {split: _read(found) for split, found in self._found.items()}

    def _find(self, split: str) -> list[Path]:
        found = [self._path / f"{split}{suffix}" for suffix in FORMATS if (self._path / f"{split}{suffix}").is_file()]
        shards = [sorted(folder.glob(f"{split}-*.parquet")) for folder in (self._path, self._path / "data")]
        candidates = [*([path] for path in found), *(shard for shard in shards if shard)]
        if len(candidates) > 1:
            names = ", ".join(str(candidate[0]) for candidate in candidates)
            raise ConfigError(f"data.dataset is {self._path}, which has {split} more than once: {names}.", "leave one in the folder")
        return candidates[0] if candidates else []


class HubSource:
    """A data set on the Hugging Face hub, at one commit."""

    def __init__(self, name: str, revision: str) -> None:
        self.name, self.revision = name, revision
        if not re.fullmatch(r"[0-9a-f]{40}", revision):
            raise ConfigError(
                f"data.revision is {revision!r}, which is not a commit: a branch or tag may move, and the data with it.",
                f"take the 40 digits of a commit from https://huggingface.co/datasets/{name}/commits/main",
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
            # When anything goes wrong, `datasets` takes whatever revision it has in its cache, with a line in the log.
            if builder.hash != self.revision:
                raise DataError(
                    f"The hub can't be reached, and of {self.name} the cache holds another revision ({builder.hash}) than {self.revision}.",
                    "see that huggingface.co can be reached and run the command again, or point data.dataset at a folder with the files",
                )
            self._download(builder)
            if not sys.stderr.isatty():
                datasets.disable_progress_bars()
            builder.download_and_prepare()
            found: Mapping[str, Any] = builder.as_dataset()
        except DatasetNotFoundError as problem:
            raise DataError(
                f"The hub has no {self.name} at {self.revision} that we may read: {problem}",
                "correct data.dataset and data.revision; for a gated data set accept its terms and set HF_TOKEN",
            ) from problem
        except Exception as problem:
            # What the hub's libraries raise shares no base; it changed with the HTTP client that they stand on.
            theirs = type(problem).__module__.split(".")[0] in {"datasets", "huggingface_hub", "httpx", "httpx2", "pyarrow", "fsspec"}
            if not (theirs or isinstance(problem, OSError)):
                raise
            raise DataError(
                f"{self.name} can't be loaded from the hub: {type(problem).__name__}: {problem}",
                "run the command again (files already here are kept), or point data.dataset at a folder with the files",
            ) from problem
        return {split: ArrowRows(rows, f"{self.name}/{split}") for split, rows in found.items() if split in SPLITS}

    def _download(self, builder: Any) -> None:
        """Bring the files into the hub's cache one by one, so that there is a count of them also where bars aren't shown."""
        from huggingface_hub import hf_hub_download

        ours = f"hf://datasets/{self.name}@{self.revision}/"
        # A data set that comes from the cache names no files.
        wanted = [url.removeprefix(ours) for urls in (builder.config.data_files or {}).values() for url in urls if url.startswith(ours)]
        progress = console.Progress("files downloaded", len(wanted))
        for path in wanted:
            hf_hub_download(self.name, path, repo_type="dataset", revision=self.revision)
            progress.advance()
        progress.close()


def share_out(rows: Iterable[Located]) -> Mapping[str, Rows]:
    """Share rows out over the four splits by a hash of what is said.

    The hash is over the normalised messages, so copies of a conversation land in one split. A row's split doesn't depend on the other
    rows: data that grows moves nothing from test to training. Rows that can't be read go to ``train_sft``, where they are reported.
    """
    found: dict[str, list[Located]] = {split: [] for split in SPLITS}
    for where, row in rows:
        found[_split_of(row) if isinstance(row, Conversation) else SPLITS[0]].append((where, row))
    return {split: ListRows(located) for split, located in found.items()}


def _split_of(row: Conversation) -> str:
    point = hash64(b"split", *(normalise(message.content) for message in row.messages)) / 2**64
    for split, share in SHARES.items():
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
        raise DataError(f"{path} can't be read: {problem}", "see that the file is there and may be read") from problem


def _read_parquet(paths: list[Path]) -> Rows:
    import datasets
    import pyarrow

    if not sys.stderr.isatty():
        datasets.disable_progress_bars()
    name = str(paths[0]) if len(paths) == 1 else f"{paths[0].parent}/{paths[0].name.split('-')[0]}-*.parquet"
    try:
        return ArrowRows(datasets.Dataset.from_parquet([str(path) for path in paths]), name)
    except (pyarrow.ArrowException, datasets.exceptions.DatasetGenerationError) as problem:
        raise DataError(f"{name} is not Parquet that can be read: {problem.__cause__ or problem}", "write the file again") from problem
