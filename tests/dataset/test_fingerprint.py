"""Fingerprints are equal exactly if the content is equal."""

from __future__ import annotations

import pytest

from mlops.dataset import fingerprint

FILES = {"train_sft": "a" * 64, "test_sft": "b" * 64}


def test_the_order_of_files_does_not_matter() -> None:
    assert fingerprint.of_files(FILES) == fingerprint.of_files(dict(reversed(FILES.items())))


@pytest.mark.parametrize(
    "other",
    [
        {"train_sft": "b" * 64, "test_sft": "a" * 64},
        {"train_sft": "a" * 64},
        {**FILES, "test_gen": "c" * 64},
        {"train": "a" * 64, "test_sft": "b" * 64},
    ],
)
def test_any_other_difference_changes_the_fingerprint(other: dict[str, str]) -> None:
    assert fingerprint.of_files(other) != fingerprint.of_files(FILES)
