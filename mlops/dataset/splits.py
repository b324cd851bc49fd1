"""Assignment of rows to the four splits, for data that has none, or only train and test."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import accumulate

from mlops.core import console
from mlops.core.errors import DataError
from mlops.dataset.conversation import SPLITS, Conversation, InvalidRow
from mlops.dataset.hashes import hash64, normalize
from mlops.dataset.rows import ChainedRows, Rows, SelectedRows

__all__ = ["SPLIT_SHARES", "TEST_NAMES", "arrange", "assign_splits"]

SPLIT_SHARES: Mapping[str, float] = {"train_sft": 0.75, "test_sft": 0.15, "train_gen": 0.05, "test_gen": 0.05}
"""Share of rows per split for sources without splits. The target suite needs enough rows for the gate, the smoke test only a few."""

TEST_NAMES = ("test", "validation", "valid", "val", "dev", "eval")
"""Names of a test split, in order of preference."""


def arrange(groups: Mapping[str, Rows], name: str) -> Mapping[str, Rows]:
    """Map splits of any names to the four splits.

    Args:
        groups: the split's name in the source (empty if it has none) → its rows.
        name: of the source, for messages.

    Returns:
        The splits of the source that have our names. If there is none of them: its train and test splits, each divided into the two of
        ours; if there is no test split, all rows divided into four.

    Raises:
        DataError: there are too few rows to divide them.
    """
    if ours := {split: groups[split] for split in SPLITS if split in groups}:
        _print_unused(groups, ours)
        return ours
    test = next((groups[other] for other in TEST_NAMES if other in groups), None)
    if "train" in groups:
        _print_unused(groups, {"train", next((other for other in TEST_NAMES if other in groups), "")})
    if "train" in groups and test is not None:
        parts = {
            **_divide(groups["train"], ("train_sft", "train_gen")),
            **_divide(test, ("test_sft", "test_gen")),
        }
        return {split: parts[split] for split in SPLITS}
    if test is not None and len(groups) == 1:
        raise DataError(
            f"{name} has a test split, but no training data; it has {', '.join(groups)}.", "add train.jsonl, or data without splits"
        )
    return assign_splits(groups.get("train") or ChainedRows(list(groups.values())))


def _print_unused(groups: Mapping[str, Rows], used: Collection[str]) -> None:
    if unused := [f"{split} ({len(rows):,} rows)" for split, rows in groups.items() if split not in used]:
        console.info(f"  not used: {', '.join(unused)}")


def assign_splits(rows: Rows) -> Mapping[str, Rows]:
    """Assign rows to the four splits by a hash of their first prompt.

    Conversations with the same first prompt, ignoring case, white space and punctuation, end up in the same split. A row's split doesn't
    depend on other rows, so growing data moves no row from test to training. Invalid rows are assigned to ``train_sft``.
    """
    return {split: SelectedRows(rows, indices) for split, indices in _assign(rows, SPLIT_SHARES).items()}


def _divide(rows: Rows, splits: tuple[str, str]) -> Mapping[str, Rows]:
    """Divide rows into a ``*_sft`` split and a small ``*_gen`` split, which gets at least one row."""
    if not len(rows):
        return dict.fromkeys(splits, rows)
    shares = {split: SPLIT_SHARES[split] for split in splits}
    parts = _assign(rows, shares)
    sft, gen = splits
    if not parts[gen] and parts[sft]:
        # By content, so that the choice doesn't depend on the order of the rows.
        points = list(_points(rows))
        top = max((point for index in parts[sft] if (point := points[index]) is not None), default=None)
        moved = [index for index in parts[sft] if points[index] == top]
        if top is not None and len(moved) < len(parts[sft]):
            parts = {sft: [index for index in parts[sft] if index not in set(moved)], gen: moved}
    return {split: SelectedRows(rows, indices) for split, indices in parts.items()}


def _assign(rows: Rows, shares: Mapping[str, float]) -> dict[str, Sequence[int]]:
    splits, limits = list(shares), list(accumulate(shares.values()))
    total = limits[-1]
    indices: list[list[int]] = [[] for _ in splits]
    for index, point in enumerate(_points(rows)):
        number = sum((point or 0.0) * total >= limit for limit in limits)
        indices[min(number, len(splits) - 1)].append(index)
    return dict(zip(splits, indices, strict=True))


def _points(rows: Rows) -> list[float | None]:
    """Return a number in [0, 1) for every row that depends on its first prompt only; None for invalid rows."""
    return [_point(row) for row in rows.take(range(len(rows)))]


def _point(row: Conversation | InvalidRow) -> float | None:
    if isinstance(row, InvalidRow):
        return None
    first = next((message.content for message in row.messages if message.role == "user"), row.prompt)
    return hash64(b"split", normalize(first)) / 2**64
