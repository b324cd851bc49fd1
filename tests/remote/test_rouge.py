"""ROUGE-L compared with values calculated by hand."""

from __future__ import annotations

import pytest

from mlops.remote.rouge import rouge_l


@pytest.mark.parametrize(
    ("answer", "reference", "expected"),
    [
        ("the cat sat", "the cat sat", 1.0),
        # Lin (2004), sentence 2 and 3 against 1: "police the gunman" has 3 of 4 words in order, "gunman the police" 2.
        ("police kill the gunman", "police killed the gunman", 3 / 4),
        ("the gunman kill police", "police killed the gunman", 2 / 4),
        # Common: "a c e" (3 words); 2 · 3 / (5 + 3).
        ("a b c d e", "a c e", 6 / 8),
        ("The CAT, sat!", "the cat sat", 1.0),
        ("Straße über alles", "STRASSE ÜBER alles", 1.0),
        ("猫 が 座る", "猫 が 座る", 1.0),
        ("dogs bark", "cats purr", 0.0),
        ("", "something", 0.0),
        ("something", "", 0.0),
        ("?!", "?!", 0.0),
    ],
)
def test_rouge_l_equals_values_calculated_by_hand(answer: str, reference: str, expected: float) -> None:
    assert rouge_l(answer, reference) == expected
    assert rouge_l(reference, answer) == expected
