"""Runs of words get equal hashes exactly if their words are equal, ignoring case, white space and punctuation."""

from __future__ import annotations

import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.dataset.words import code_words, hash_runs

ALPHABET = "aAbz09 _-.,'\n\x00éßİ—中\u212a\u200b\U0001f44d"
texts = st.lists(st.text(ALPHABET, max_size=60), max_size=5)


def runs_of(text: str, length: int) -> list[tuple[str, ...]]:
    words = re.findall(r"[^\W_中]+|中", text.casefold())
    return [tuple(words[start : start + length]) for start in range(len(words) - length + 1)]


@pytest.mark.parametrize("length", [1, 2, 3, 13])
@given(texts=texts)
def test_hashes_are_those_of_the_words(texts: list[str], length: int) -> None:
    hashes, begin = hash_runs(texts, length)
    expected = [runs_of(text, length) for text in texts]
    assert [end - start for start, end in pairwise(begin)] == [len(runs) for runs in expected]
    runs = [run for each in expected for run in each]
    pairs = set(zip(runs, hashes.tolist(), strict=True))
    assert len(pairs) == len(set(runs)) == len(set(hashes.tolist()))


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("我喜欢茶", ["我", "喜", "欢", "茶"]),
        ("我喜欢USB茶。 Tea茶", ["我", "喜", "欢", "usb", "茶", "tea", "茶"]),
        ("お茶です", ["お", "茶", "で", "す"]),
        ("ชา ดี", ["ช", "า", "ด"]),
        ("한국어 문장", ["한국어", "문장"]),
        ("𠀀𠀁", ["𠀀", "𠀁"]),
    ],
)
def test_letters_are_words_in_scripts_that_do_not_separate_words(text: str, words: list[str]) -> None:
    hashes, _ = hash_runs([text], 1)
    one_by_one = [int(hash_runs([f"{word} x"], 1)[0][0]) for word in words]
    assert hashes.tolist() == one_by_one
    assert len(code_words([text])[0]) == len(words)


@given(length=st.integers(1, 150), place=st.integers(0, 149))
def test_every_letter_of_a_word_counts(length: int, place: int) -> None:
    word = "x" * length
    other = "".join("y" if number == place % length else letter for number, letter in enumerate(word))
    hashes, _ = hash_runs([f"{word} {other} {word}x {word.upper()}"], 1)
    assert len(set(hashes.tolist())) == 3
    assert hashes[0] == hashes[3]


def test_hashes_are_the_same_in_every_process() -> None:
    assert hash_runs(["One two", "three"], 1)[0].tolist() == [8541838107571418882, 4766659463845011628, 12058519348734033639]
