"""Sources of conversations: the Hugging Face hub, files, or an installed package. Each provides four splits of rows.

``datasets`` reads the hub. Files are read by this package, because findings name file and line, which ``datasets`` doesn't provide, and
because ``datasets`` silently accepts NaN, byte order marks and changing types.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from mlops.core import console
from mlops.core.console import did_you_mean
from mlops.core.errors import ConfigError, DataError
from mlops.core.settings import DataConfig
from mlops.dataset import chitchat
from mlops.dataset.contents import COMPRESSIONS
from mlops.dataset.conversation import SPLITS
from mlops.dataset.files import SAVED, SPLIT_NAMES, count_shards, find_files, group_by_split
from mlops.dataset.readers import FORMATS, is_data_file, read_file, read_saved
from mlops.dataset.rows import ArrowRows, ChainedRows, ListRows, Rows
from mlops.dataset.splits import arrange, assign_splits

__all__ = ["ChitchatSource", "FileSource", "HubSource", "Source", "find_source", "is_hub_failure"]


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
    """Find the source that ``data.dataset`` names: ``chitchat``, a file, folder or pattern, or an id on the hub, in this order.

    Raises:
        ConfigError: there is no such source, or a hub data set has no commit.
        DataError: files are missing.
    """
    name = data.dataset
    if not name.strip():
        raise ConfigError(
            "data.dataset is empty.", "set it to `chitchat`, a hub id such as HuggingFaceH4/ultrachat_200k, a file or a folder"
        )
    if name == "chitchat":
        return ChitchatSource()
    path = Path(name)
    try:
        path = path.expanduser()
        if path.is_dir():
            return FileSource(path, find_files(path), data)
        if path.is_file():
            return FileSource(path, [path], data)
        if re.search(r"[*?\[]", name):
            return FileSource(path, _match(path), data)
        if path.exists() or path.is_symlink():
            what = "neither a file nor a folder" if path.exists() else "a link to a file that doesn't exist"
            raise ConfigError(f"data.dataset is {name!r}, which is {what}.", "use a file with the data")
    except (OSError, RuntimeError, ValueError) as problem:  # a home folder that is not known; a pattern such as **.jsonl
        reason = problem.strerror if isinstance(problem, OSError) and problem.strerror else problem
        raise ConfigError(f"data.dataset is {name!r}, which can't be read: {reason}", "correct the path or its permissions") from None
    if is_data_file(path) or not re.fullmatch(r"[\w.-]+/[\w.-]+", name) or name.startswith("."):
        near = did_you_mean(path.name, _names_in(path.parent))
        raise ConfigError(
            f"data.dataset is {name!r}: there is no such file or folder{near}, and it is not a valid hub id.",
            f"use `chitchat`, a hub id such as HuggingFaceH4/ultrachat_200k, or a folder, file or pattern ({', '.join(FORMATS)})",
        )
    return HubSource(name, data)


def is_hub_failure(problem: Exception) -> bool:
    """Whether loading from the hub failed. The exceptions of its libraries have no common base class, and changed with the HTTP client."""
    libraries = {"datasets", "huggingface_hub", "httpx", "httpx2", "pyarrow", "fsspec"}
    return isinstance(problem, OSError) or type(problem).__module__.split(".")[0] in libraries


def _match(pattern: Path) -> list[Path]:
    root = Path(pattern.anchor) if pattern.is_absolute() else Path()
    matches = root.glob(str(pattern.relative_to(pattern.anchor) if pattern.is_absolute() else pattern))
    files = sorted(file for match in matches for file in (find_files(match) if match.is_dir() else [match]))
    # A pattern such as ** matches folders as well as their files, and a README beside the data.
    unique = list({file.resolve(): file for file in reversed(files)}.values())[::-1]
    return [file for file in unique if file.is_dir() or is_data_file(file)] or unique


def _as_text(path: Path) -> str:
    """Return a path as text that can be written to a file even if its name is not UTF-8."""
    return path.as_posix().encode("utf-8", "backslashreplace").decode("utf-8")


def _names_in(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir()] if folder.is_dir() else []


class ChitchatSource:
    """The conversations of an installed package, split by :data:`mlops.dataset.splits.SPLIT_SHARES`."""

    name = "chitchat"

    def __init__(self) -> None:
        self._path = chitchat.find_data_file()
        self.revision = f"chitchat-dataset {chitchat.package_version()}"

    def files(self) -> Mapping[str, Path]:
        """See :class:`Source`."""
        return {self._path.name: self._path}

    def splits(self) -> Mapping[str, Rows]:
        """See :class:`Source`."""
        return assign_splits(ListRows(chitchat.read_conversations(self._path), "chitchat"))


class FileSource:
    """Files: one, or all of a folder or pattern, with or without splits in their names.

    Args:
        path: the file, folder or pattern.
        paths: the data files, and folders of ``save_to_disk``.
        data: the settings.

    Raises:
        ConfigError: there are no files, or one has an unsupported format.
        DataError: a shard is missing.
    """

    revision = "local"

    def __init__(self, path: Path, paths: list[Path], data: DataConfig) -> None:
        self.name, self._path, self._data = _as_text(path), path, data
        formats = f"{', '.join(FORMATS)}, each also with {', '.join(COMPRESSIONS)}"
        if not paths:
            names = ", ".join(sorted(_names_in(path))[:8])
            inside = f"it contains {names}" if names else "it is empty" if path.is_dir() else "nothing matches it"
            raise ConfigError(f"data.dataset is {path}, which has no data files: {inside}.", f"use files that end in {formats}")
        if other := [file for file in paths if file.is_file() and not is_data_file(file)]:
            raise ConfigError(f"data.dataset is {other[0]}, which has an unsupported format.", f"use a file that ends in {formats}")
        self._root = (
            path if path.is_dir() else Path(*path.parts[: next((n for n, p in enumerate(path.parts) if re.search(r"[*?\[]", p)), -1)])
        )
        groups = group_by_split(self._root, paths) if paths != [path] or path.is_dir() else {"": paths}
        # If some files have a split in their name, the others aren't data.
        self._ignored = groups.pop("", []) if len(groups) > 1 else []
        self._groups = groups

    def files(self) -> Mapping[str, Path]:
        """See :class:`Source`."""
        paths = [path for group in self._groups.values() for path in group]
        files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
        return {_as_text(file.relative_to(self._root) if file.is_relative_to(self._root) else file): file for file in files}

    def splits(self) -> Mapping[str, Rows]:
        """See :class:`Source`."""
        if self._ignored:
            console.info(f"  not read, because no split is in the name: {', '.join(path.name for path in self._ignored[:5])}")
        if "" in self._groups and len(self._groups[""]) == 1 and (total := count_shards(self._groups[""][0])) > 1:
            console.warning(f"{self.name} is one of {total:,} shards; the others are not read.")
        read = {split: [self._read(path) for path in paths] for split, paths in self._groups.items()}
        return arrange({split: parts[0] if len(parts) == 1 else ChainedRows(parts) for split, parts in read.items()}, self.name)

    def _read(self, path: Path) -> Rows:
        return read_saved(path, self._data) if path.is_dir() and (path / SAVED).is_file() else read_file(path, self._data)


class HubSource:
    """A data set on the Hugging Face hub, at one commit."""

    def __init__(self, name: str, data: DataConfig) -> None:
        self.name, self.revision, self._data = name, data.revision, data
        revision = data.revision
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
            if not is_hub_failure(problem):
                raise
            raise DataError(
                f"{self.name} can't be loaded from the hub: {type(problem).__name__}: {problem}",
                "run the command again (downloaded files are kept), or point data.dataset at a folder with the files",
            ) from problem
        used = {split for split in splits if split in SPLITS} or {split for split in splits if split in SPLIT_NAMES} or set(splits)
        if len(used) > 1 and not used & {*SPLIT_NAMES}:
            # Merging them might mix training and test.
            raise DataError(
                f"{self.name} has the splits {', '.join(sorted(used))}, none of which is called train or {', '.join(SPLITS)}.",
                "download the split to train on, and point data.dataset at its file",
            )
        groups: dict[str, Rows] = {
            split: ArrowRows(rows.data.table.to_batches(), f"{self.name}/{split}", self._data, rows.column_names)
            for split, rows in splits.items()
            if split in used
        }
        return arrange(groups, self.name)

    def _download(self, builder: Any) -> None:
        """Download the files into the hub's cache one by one, so that progress is visible even without progress bars."""
        from huggingface_hub import hf_hub_download

        prefix = f"hf://datasets/{self.name}@{self.revision}/"
        # A data set from the cache lists no files.
        urls = [url for urls in (builder.config.data_files or {}).values() for url in urls if url.startswith(prefix)]
        with console.Progress("files downloaded", len(urls)) as progress:
            for url in urls:
                hf_hub_download(self.name, url.removeprefix(prefix), repo_type="dataset", revision=self.revision)
                progress.advance()
