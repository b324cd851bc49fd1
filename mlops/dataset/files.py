"""Assigns the files of a folder or pattern to splits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import msgspec

from mlops.core.errors import ConfigError, DataError
from mlops.dataset.contents import suffixes
from mlops.dataset.readers import is_data_file

__all__ = ["SAVED", "SPLIT_NAMES", "count_shards", "find_files", "group_by_split", "split_of"]

SPLIT_NAMES = ("train_sft", "test_sft", "train_gen", "test_gen", "train", "test", "validation", "valid", "val", "dev", "eval")
"""Split names that the name of a file or folder may begin with."""

SAVED = "state.json"
"""A file that marks a folder of ``Dataset.save_to_disk``, which is listed itself instead of its files."""

METADATA = {"dataset_dict.json", "dataset_info.json", "dataset_infos.json", "package.json", "config.json"}
"""Files that describe a data set or a repository, although their format is one of data files."""

_SPLIT = re.compile(rf"({'|'.join(SPLIT_NAMES)})(?:[-_.\s]?(?:\d.*|part.*|split.*|data.*|set.*)?)?", re.IGNORECASE)
_SHARD = re.compile(r"(.*?)[-_.]?(\d+)-of-(\d+)(.*)", re.DOTALL)


def split_of(name: str) -> str:
    """Return the split that the name of a file or folder denotes, in lower case, or an empty string."""
    match = _SPLIT.fullmatch(name)
    return match[1].lower() if match else ""


def find_files(root: Path) -> list[Path]:
    """Find the data files in a folder, up to three levels deep; names that begin with a dot or underscore are skipped, as in Spark.

    Raises:
        DataError: a write to the folder has not finished, or a link leads to nothing.
    """
    _check_saved_splits(root)
    files: list[Path] = []
    visited = {root.resolve()}  # links may lead back
    folders = [(root, 0)]
    while folders:
        folder, depth = folders.pop()
        if (folder / SAVED).is_file():
            files.append(folder)
            continue
        for path in sorted(folder.iterdir()):
            if path.name == "_temporary":
                raise DataError(
                    f"{folder} has a folder _temporary: a Spark job has not finished writing it.", "wait for the job, or run it again"
                )
            if path.name.startswith((".", "_")):
                continue
            if path.is_dir() and depth < 3 and path.resolve() not in visited:
                visited.add(path.resolve())
                folders.append((path, depth + 1))
            elif is_data_file(path) and path.name not in METADATA:
                if path.is_symlink() and not path.exists():
                    raise DataError(
                        f"{path} is a link to a file that doesn't exist.", "download the file (git annex get, dvc pull), or remove the link"
                    )
                if path.is_file():
                    files.append(path)
    return sorted(files)


def group_by_split(root: Path, files: Iterable[Path]) -> dict[str, list[Path]]:
    """Group files by the split that their name, or else that of a folder, denotes; under an empty string if neither does.

    Raises:
        ConfigError: a split is there in two forms.
        DataError: a shard is missing.
    """
    groups: dict[str, list[Path]] = {}
    for path in files:
        stem = path.name
        for suffix in suffixes(path):
            stem = stem[: len(stem) - len(suffix)] if suffix else stem
        stem = re.sub(r"\.(snappy|gz|zstd|lz4|c\d+)$", "", stem)
        parents = list(path.relative_to(root).parts[:-1][::-1]) if path.is_relative_to(root) else []
        split = next((split for name in (stem, *parents) if (split := split_of(name))), "")
        groups.setdefault(split, []).append(path)
    for split, paths in groups.items():
        _check_shards(paths)
        if split:
            _refuse_copies(root, split, paths)
    return groups


def count_shards(path: Path) -> int:
    """Return the total number of shards that the file's name states; 1 if it isn't a shard."""
    match = _SHARD.fullmatch(path.name)
    return int(match[3]) if match else 1


def _check_saved_splits(root: Path) -> None:
    """Refuse a folder of ``DatasetDict.save_to_disk`` that lacks one of the splits that it lists."""
    listing = root / "dataset_dict.json"
    if not listing.is_file():
        return
    try:
        splits = msgspec.json.decode(listing.read_bytes(), type=dict[str, list[str]])["splits"]
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError) as problem:
        raise DataError(f"{listing} can't be read: {problem}", "save or copy the folder again") from None
    if missing := [split for split in splits if not (root / split / SAVED).is_file()]:
        raise DataError(f"{root} lacks {', '.join(missing)}, which its dataset_dict.json lists.", "save or copy the folder again")


def _refuse_copies(root: Path, split: str, paths: Sequence[Path]) -> None:
    whole = [path for path in paths if not re.search(r"\d", path.name.lower().replace(split, "", 1)) and split_of(path.name.split(".")[0])]
    if len(whole) > 1 or (whole and len(paths) > 1):
        names = ", ".join(str(path) for path in paths[:4])
        raise ConfigError(f"data.dataset is {root}, which contains {split} more than once: {names}.", "keep only one of them")


def _check_shards(paths: Sequence[Path]) -> None:
    """Refuse a set of shards (``…-00000-of-00003…``) of which one is missing."""
    shards: dict[tuple[Path, str], Mapping[int, Path]] = {}
    totals: dict[tuple[Path, str], set[int]] = {}
    for path in paths:
        if match := _SHARD.fullmatch(path.name):
            key = path.parent, match[1]
            shards[key] = {**shards.get(key, {}), int(match[2]): path}
            totals.setdefault(key, set()).add(int(match[3]))
    for key, members in shards.items():
        if len(totals[key]) > 1:
            numbers = " and ".join(f"{total:,}" for total in sorted(totals[key]))
            raise DataError(f"{key[0]} contains two sets of shards of {key[1]}, of {numbers} files.", "remove the older set")
        (total,) = totals[key]
        # Some tools count from 0, others from 1.
        first = 1 if 0 not in members and total in members else 0
        if missing := [number for number in range(first, first + total) if number not in members]:
            example = next(iter(members.values()))
            match = _SHARD.fullmatch(example.name)
            assert match is not None
            names = [example.name.replace(f"{match[2]}-of", f"{number:0{len(match[2])}}-of") for number in missing]
            raise DataError(
                f"{key[0]} lacks {len(missing)} of {total} shards: {', '.join(names[:5])}{' …' if len(names) > 5 else ''}.",
                "download the missing files, so that training doesn't silently use only part of the data",
            )
