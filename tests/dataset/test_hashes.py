"""Normalized texts and their hashes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlops.dataset.conversation import Message
from mlops.dataset.hashes import content_id, hash64, normalize


@given(st.text())
def test_case_white_space_and_punctuation_are_ignored(value: str) -> None:
    assert normalize(value) == normalize(f"  {value}\n")
    if value.isascii() and any(letter.isalnum() for letter in value):
        assert normalize(value) == normalize(value.upper() + " !?") == normalize(value + "\u2026\u3000")


def test_equivalent_texts_normalize_to_the_same_bytes() -> None:
    assert normalize("Hello, World!") == normalize("hello world") == normalize("ＨＥＬＬＯ\u3000ｗｏｒｌｄ")
    assert normalize("Straße.") == normalize("STRASSE")
    assert normalize(":)") != normalize(":(")
    assert normalize("क") != normalize("कि")
    assert normalize(" ") == b""


def test_hashes_depend_on_the_boundaries_of_parts() -> None:
    assert hash64(b"ab", b"c") != hash64(b"a", b"bc")
    assert hash64(b"a") != hash64(b"a", b"")
    assert 0 <= hash64(b"a") < 2**64


def test_the_content_id_depends_on_texts_and_roles() -> None:
    messages = [Message("user", "Hi"), Message("assistant", "Hello")]
    assert content_id(messages) == content_id([Message("user", "Hi"), Message("assistant", "Hello")])
    assert content_id(messages) != content_id(messages[::-1])
    assert content_id(messages) != content_id([Message("system", "Hi"), Message("assistant", "Hello")])
    assert len(content_id(messages)) == 64
