"""The text and the shape of an answer, from its bytes."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.cloud.answers import SHAPES, Answer, ForeignAnswer, parse_answer

TEXTS = st.text(st.characters(exclude_categories=["Cs"]))
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["output", "0", "choices", "message", "content", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


def build(shape: str, text: Any) -> Any:
    """Return a value of a shape, written down independently of the parser."""
    return {
        "output": {"output": text},
        "output-list": [{"output": text}],
        "column": {"0": text},
        "column-list": [{"0": text}],
        "text-list": [text],
        "chat-completion": {
            "id": "1",
            "object": "chat.completion",
            "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}],
        },
    }[shape]


@pytest.mark.parametrize(
    ("content", "text", "shape"),
    [
        (b'{"output": "Paris."}', "Paris.", "output"),
        (b'\n[ {"output":""} ]', "", "output-list"),
        (b'{"0": "Z\xc3\xbcrich"}', "Zürich", "column"),
        (rb'[{"0": "Z\u00fcrich\n"}]', "Zürich\n", "column-list"),
        (rb'["\ud83d\ude00"]', "😀", "text-list"),
        (b'{"choices":[{"message":{"role":"assistant","content":"Hi"},"finish_reason":"stop"}],"usage":{}}', "Hi", "chat-completion"),
        # Azure's no-code server wraps the JSON text of a response in a JSON string.
        (rb'"{\"output\": \"Paris.\"}"', "Paris.", "output"),
        (rb'"[{\"0\": \"Paris.\"}]"', "Paris.", "column-list"),
        # The wrapping is removed once: this text is a model's answer about JSON.
        (rb'["{\"output\": 1}"]', '{"output": 1}', "text-list"),
    ],
)
def test_the_text_and_the_shape(content: bytes, text: str, shape: str) -> None:
    assert parse_answer(content) == Answer(text, shape)


@pytest.mark.parametrize(
    "content",
    [
        b"", b"Paris.", b'"Paris."', b"null", b"7", b"[]", b"{}", b"[[]]", b'["a", "b"]', b'[{"output": "a"}, {"output": "b"}]',
        b'{"output": 7}', b'{"output": ["a"]}', b'{"output": null}', b'{"output": "a", "0": "b"}', b'{"1": "a"}', b'{"result": "a"}',
        b'{"error": "the model is out of memory"}', b'[{"output": {"output": "a"}}]', b'{"choices": []}', b'{"choices": "a"}',
        b'{"choices": [{"message": {"content": null}}]}', b'{"choices": [{"text": "a"}]}', b'{"choices": {"0": "a"}}',
        b'{"choices": ["a"]}',         b'{"choices": [{"message": {"content": "a"}}, {"message": {"content": "b"}}]}',
        b"\xff\xfe", b'{"output": "\xff"}', rb'{"output": "\ud800"}', b"[" * 100_000,
    ],
    ids=lambda content: content[:40].decode("latin-1"),
)  # fmt: skip
def test_anything_else_is_foreign_and_its_beginning_is_shown(content: bytes) -> None:
    with pytest.raises(ForeignAnswer) as caught:
        parse_answer(content)
    message = str(caught.value)
    assert message.endswith(content.decode("utf-8", "backslashreplace")[:300] or "(nothing)")
    assert all(shape in message for shape in SHAPES.values())


def test_a_long_foreign_answer_is_cut_after_300_characters() -> None:
    with pytest.raises(ForeignAnswer) as caught:
        parse_answer("ü".encode() * 1000)
    assert str(caught.value).count("ü") == 300


@given(TEXTS, st.sampled_from(sorted(SHAPES)))
def test_every_text_is_read_in_every_shape(text: str, shape: str) -> None:
    assert parse_answer(json.dumps(build(shape, text)).encode()) == Answer(text, shape)
    assert parse_answer(json.dumps(build(shape, text), ensure_ascii=False).encode()) == Answer(text, shape)


@pytest.mark.slow
@given(st.binary() | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_bytes_are_an_answer_or_foreign(content: bytes) -> None:
    try:
        answer = parse_answer(content)
    except ForeignAnswer:
        return
    value = json.loads(content)
    value = json.loads(value) if isinstance(value, str) else value
    kept = value if answer.shape != "chat-completion" else build(answer.shape, value["choices"][0]["message"]["content"])
    assert kept == build(answer.shape, answer.text)
    assert answer.text.encode().decode() == answer.text
