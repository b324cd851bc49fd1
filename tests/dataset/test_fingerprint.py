"""Equal content, equal fingerprint; and only then."""

from __future__ import annotations

import pytest

from mlops.dataset import fingerprint

FILES = {"train_sft": "a" * 64, "test_sft": "b" * 64}


def test_order_does_not_count() -> None:
    assert fingerprint.of_files(FILES) == fingerprint.of_files(dict(reversed(FILES.items())))
    assert fingerprint.of_settings({"a": 1, "b": {"c": 2, "d": None}}) == fingerprint.of_settings({"b": {"d": None, "c": 2}, "a": 1})


@pytest.mark.parametrize(
    "other",
    [
        {"train_sft": "b" * 64, "test_sft": "a" * 64},
        {"train_sft": "a" * 64},
        {**FILES, "test_gen": "c" * 64},
        {"train": "a" * 64, "test_sft": "b" * 64},
    ],
)
def test_anything_else_does(other: dict[str, str]) -> None:
    assert fingerprint.of_files(other) != fingerprint.of_files(FILES)


def test_settings_that_differ_differ() -> None:
    assert fingerprint.of_settings({"percent": 5}) != fingerprint.of_settings({"percent": 50})
    with pytest.raises(ValueError, match="JSON"):
        fingerprint.of_settings({"percent": float("nan")})
