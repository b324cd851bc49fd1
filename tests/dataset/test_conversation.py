"""Reading conversations: valid rows, and the rule under which an invalid row is rejected."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.dataset import conversation as module
from mlops.dataset.conversation import Conversation, InvalidRow, Message, RetentionItem, convert, decode, encode, lines, read_jsonl

ROW = {
    "prompt": "Hi",
    "messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}],
    "prompt_id": "1",
}
text = st.text(st.characters(codec="utf-8"))


def line(**changes: Any) -> bytes:
    return json.dumps({**ROW, **changes}).encode()


def rule_of(raw: bytes, kind: type[Conversation] = Conversation) -> str:
    with pytest.raises(InvalidRow) as caught:
        decode(raw, kind)
    assert str(caught.value)
    return caught.value.rule


@given(prompt=text, contents=st.lists(text), roles=st.lists(text), prompt_id=text)
def test_a_written_row_can_be_read(prompt: str, contents: list[str], roles: list[str], prompt_id: str) -> None:
    messages = [Message(role, content) for role, content in zip(roles, contents, strict=False)]
    row = Conversation(prompt=prompt, messages=messages, prompt_id=prompt_id)
    assert decode(encode(row)) == row


@pytest.mark.parametrize(
    ("raw", "rule"),
    [
        pytest.param(b"\xef\xbb\xbf" + line(), "json.bom", id="byte order mark"),
        pytest.param(b"\n", "json.blank", id="blank line"),
        pytest.param(line()[:-1], "json.malformed", id="cut off"),
        pytest.param(line() + line(), "json.malformed", id="two objects"),
        pytest.param(line(score=float("nan")), "json.malformed", id="NaN"),
        pytest.param(line(prompt="\ud800"), "json.malformed", id="lone surrogate, escaped"),
        pytest.param(line().replace(b"Hello", "\ud800".encode("utf-8", "surrogatepass")), "json.encoding", id="lone surrogate, raw"),
        pytest.param(line().replace(b"Hello", b"Gr\xfc\xdfe"), "json.encoding", id="Latin-1"),
        pytest.param(b"[]", "schema.field", id="not an object"),
        pytest.param(json.dumps({"prompt": "Hi", "messages": []}).encode(), "schema.field", id="field missing"),
        pytest.param(line(prompt=3), "schema.field", id="number for text"),
        pytest.param(line(prompt_id=None), "schema.field", id="null for text"),
        pytest.param(line(messages="Hi"), "schema.field", id="text for a list"),
        pytest.param(line(messages=[{"role": "user"}]), "schema.field", id="content missing"),
        pytest.param(line(messages=[{"role": "user", "content": "Hi", "name": "Bo"}]), "schema.field", id="unknown field of a message"),
        pytest.param(b'{"prompt":"No",' + line()[1:], "json.duplicate-key", id="key of the row twice"),
        pytest.param(
            line().replace(b'"role": "user"', b'"role":"system","role":"user"'), "json.duplicate-key", id="key of a message twice"
        ),
        pytest.param(
            line().replace(b'"role": "user"', b'"r\\u006fle":"system","role":"user"'),
            "json.duplicate-key",
            id="key of a message twice, with an escape sequence",
        ),
    ],
)
def test_an_invalid_row_is_rejected(raw: bytes, rule: str) -> None:
    assert rule_of(raw) == rule


def test_a_text_may_contain_the_name_of_a_key() -> None:
    messages = [{"role": "user", "content": "role"}, {"role": "assistant", "content": 'say "prompt": "prompt_id"'}]
    assert decode(line(prompt="messages", messages=messages, prompt_id="content")).messages[0].content == "role"
    assert decode(line(prompt="\u0041")).prompt == "A"


def test_unknown_fields_are_dropped_but_rejected_in_the_retention_suite() -> None:
    assert encode(decode(line(source="web"))) == encode(decode(line()))
    assert decode(line(kind="fact"), RetentionItem).kind == "fact"
    assert decode(line(kind="fact", checks=[{"type": "refusal"}]), RetentionItem).checks == [{"type": "refusal"}]
    assert rule_of(line(kind="fact", checks={"type": "refusal"}), RetentionItem) == "schema.field"
    assert rule_of(line(), RetentionItem) == "schema.field"
    assert rule_of(line(kind="fact", source="web"), RetentionItem) == "schema.field"


def test_python_data_is_checked_by_the_same_schema() -> None:
    assert convert(ROW) == decode(line())
    with pytest.raises(InvalidRow, match=r"messages\[0\]") as caught:
        convert({**ROW, "messages": [{"role": "user", "content": None}]})
    assert caught.value.rule == "schema.field"


def test_lines_are_numbered_and_a_bad_line_does_not_stop_reading(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line() + b"\r\nnonsense\n" + line(prompt="Last"))
    rows = list(read_jsonl(path))
    assert [number for number, _ in rows] == [1, 2, 3]
    assert isinstance(rows[1][1], InvalidRow)
    assert isinstance(rows[2][1], Conversation)
    assert rows[2][1].prompt == "Last"
    offsets = [offset for _, offset, _ in lines(path)]
    assert [path.read_bytes()[offset:][:5] for offset in offsets] == [b'{"pro', b"nonse", b'{"pro']


def test_a_line_that_exceeds_the_limit_is_rejected_and_the_next_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_LINE_BYTES", 200)
    path = tmp_path / "rows.jsonl"
    path.write_bytes(line(prompt="x" * 1000) + b"\n" + line() + b"\n")
    (first, long), (second, fine) = read_jsonl(path)
    assert (first, second) == (1, 2)
    assert isinstance(long, InvalidRow)
    assert long.rule == "json.too-long"
    assert fine == decode(line())


def test_very_long_numbers_and_deep_nesting_elsewhere_do_not_matter_or_are_findings() -> None:
    # A second "role" makes the reader look for duplicate keys, with a decoder that refuses such numbers by default.
    row = line(extra={"role": "x"})[:-1] + b', "number": ' + b"9" * 5000 + b"}"
    assert decode(row).prompt == "Hi"
    assert rule_of(b'{"x": ' + b"[" * 100_000) == "json.malformed"


KINDS_OF_LINE = [
    encode(convert(ROW)), encode(convert({**ROW, "prompt_id": "é\n"})), line() + b"\n", line(extra={"role": 1}) + b"\n", line() + b"\r\n",
    b"\n", b" \n", b"null\n", line() + line() + b"\n", line()[:20] + b"\n", line()[20:] + b"\n", b"\xef\xbb\xbf" + line() + b"\n",
    b'{"prompt":"No",' + line()[1:] + b"\n", line(prompt="\u2028") + b"\n", b"x" * 300 + b"\n", line(messages=[]) + b"\n",
    line().replace(b"Hello", b"\xff") + b"\n", line().replace(b'"prompt_id"', b'"prompt_i\\u0064": "2", "prompt_id"') + b"\n",
]  # fmt: skip


@given(
    chosen=st.lists(st.just(KINDS_OF_LINE[0]) | st.sampled_from(KINDS_OF_LINE)),
    block=st.sampled_from([1, 100, 300, 5000]),
    limit=st.sampled_from([250, 1 << 26]),
    is_whole=st.booleans(),
)
def test_lines_are_the_same_in_blocks_as_one_by_one(
    chosen: list[bytes], block: int, limit: int, is_whole: bool, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "blocks.jsonl"
    content = b"".join(chosen)
    path.write_bytes(content if is_whole else content.removesuffix(b"\n"))

    def describe(row: Conversation | InvalidRow) -> object:
        return (row.rule, str(row)) if isinstance(row, InvalidRow) else row

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "MAX_LINE_BYTES", limit)
        expected = []
        for number, _, raw in lines(path):
            try:
                expected.append((number, describe(decode(raw))))
            except InvalidRow as problem:
                expected.append((number, describe(problem)))
        patch.setattr(module, "_BLOCK_BYTES", block)
        assert [(number, describe(row)) for number, row in read_jsonl(path)] == expected
