"""Layouts: what is recognized, what becomes of a row, and which rows are refused."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from mlops.core.errors import DataError
from mlops.core.settings import DataConfig
from mlops.dataset.conversation import Conversation, InvalidRow
from mlops.dataset.hashes import content_id
from mlops.dataset.layouts import Layout, recognize

U, A, S = "user", "assistant", "system"
AUTO = DataConfig()


def messages(*turns: tuple[str, Any], **extra: Any) -> list[dict[str, Any]]:
    return [{"role": role, "content": content, **extra} for role, content in turns]


def convert(row: dict[str, Any], data: DataConfig = AUTO) -> Conversation:
    return recognize([row], data, "chats").convert(row)


def turns(row: dict[str, Any], data: DataConfig = AUTO) -> list[tuple[str, str]]:
    return [(message.role, message.content) for message in convert(row, data).messages]


PLAIN = [(U, "Hi"), (A, "Hello")]
CALL = {"id": "1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Bern"}'}}


@pytest.mark.parametrize(
    ("row", "title", "expected"),
    [
        ({"prompt": "Hi", "messages": messages(*PLAIN), "prompt_id": "1"}, "ultrachat", PLAIN),
        ({"messages": messages(*PLAIN)}, "OpenAI messages", PLAIN),
        ({"messages": messages((S, "Be kind."), *PLAIN), "lang": "en", "score": 3}, "OpenAI messages", [(S, "Be kind."), *PLAIN]),
        ({"messages": messages(("developer", "Be kind."), *PLAIN)}, "OpenAI messages", [(S, "Be kind."), *PLAIN]),
        ({"conversations": messages(*PLAIN)}, "OpenAI messages (fields conversations)", PLAIN),
        ({"messages": messages(*PLAIN, name=None, tool_calls=None)}, "OpenAI messages", PLAIN),
        (
            {"messages": messages((U, [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]), (A, "Hello"))},
            "OpenAI messages",
            PLAIN,
        ),
        ({"messages": {"role": [U, A], "content": ["Hi", "Hello"]}}, "OpenAI messages", PLAIN),
        ({"messages": '[{"role":"user","content":"Hi"},{"role":"assistant","content":"Hello"}]'}, "OpenAI messages", PLAIN),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, "ShareGPT", PLAIN),
        (
            {"id": "x", "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "Be kind."},
            "ShareGPT",
            [(S, "Be kind."), *PLAIN],
        ),
        ({"messages": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, "ShareGPT (fields messages)", PLAIN),
        ({"prompt": "Hi", "response": "Hello"}, "prompt and response (fields prompt, response)", PLAIN),
        ({"Question": "Hi", "Answer": "Hello", "id": 4}, "prompt and response (fields Question, Answer)", PLAIN),
        (
            {"instruction": "Add", "input": "1, 2", "output": "3"},
            "prompt and response (fields instruction, output, input)",
            [(U, "Add\n\n1, 2"), (A, "3")],
        ),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, "prompt and response (fields instruction, output, input)", PLAIN),
        ({"prompt": messages((U, "Hi")), "completion": messages((A, "Hello"))}, "prompt and response (fields prompt, completion)", PLAIN),
    ],
)
def test_a_layout_is_recognized_by_its_fields(row: dict[str, Any], title: str, expected: list[tuple[str, str]]) -> None:
    assert recognize([row], AUTO, "chats").title == title
    conversation = convert(row)
    assert [(message.role, message.content) for message in conversation.messages] == expected
    assert conversation.prompt == next(content for role, content in expected if role == U)
    assert conversation.prompt_id == ("1" if title == "ultrachat" else content_id(conversation.messages))


def test_tool_calls_and_results_become_text() -> None:
    row = {
        "messages": [
            {"role": U, "content": "Weather?"},
            {"role": A, "content": None, "tool_calls": [CALL]},
            {"role": "tool", "content": "sunny", "tool_call_id": "1"},
            {"role": "tool", "content": "20 °C", "tool_call_id": "2"},
            {"role": A, "content": "Sunny, 20 °C."},
        ],
        "tools": [{"type": "function", "function": {"name": "weather"}}],
    }
    converted = turns(row)
    assert [role for role, _ in converted] == [S, U, A, U, A], "roles alternate, as chat templates need it"
    assert '"name": "weather"' in converted[0][1]
    assert converted[2][1] == '<tool_call>\n{"name": "weather", "arguments": {"city": "Bern"}}\n</tool_call>'
    assert converted[3][1] == "<tool_response>\nsunny\n</tool_response>\n<tool_response>\n20 °C\n</tool_response>"


def test_tools_of_sharegpt_become_the_same_text() -> None:
    parts = [("human", "Weather?"), ("function_call", '{"name": "weather"}'), ("observation", "sunny"), ("gpt", "Sunny.")]
    converted = turns({"conversations": [{"from": who, "value": text} for who, text in parts]})
    assert converted[1:3] == [(A, '<tool_call>\n{"name": "weather"}\n</tool_call>'), (U, "<tool_response>\nsunny\n</tool_response>")]


def weighted(*weights: int) -> dict[str, Any]:
    pairs = [[{"role": U, "content": f"q{n}"}, {"role": A, "content": f"a{n}", "weight": w}] for n, w in enumerate(weights)]
    return {"messages": [message for pair in pairs for message in pair]}


def test_messages_with_weight_0_at_the_end_are_cut_off_and_earlier_ones_counted() -> None:
    layout = recognize([weighted(1)], AUTO, "chats")
    assert [message.content for message in layout.convert(weighted(1, 0)).messages] == ["q0", "a0"]
    assert not layout.notes
    assert [message.content for message in layout.convert(weighted(0, 1)).messages] == ["q0", "a0", "q1", "a1"]
    assert sum(layout.notes.values()) == 1


def test_empty_fields_of_an_answer_of_the_api_are_ignored() -> None:
    answer: dict[str, Any] = {"role": "assistant", "content": "b", "refusal": None, "annotations": [], "audio": {}}
    row = {"messages": [{"role": "user", "content": "a"}, answer]}
    assert recognize([row], DataConfig(dataset="x"), "a").convert(row).messages[1].content == "b"
    answer["annotations"] = [{"type": "url_citation"}]
    with pytest.raises(InvalidRow, match="unknown field 'annotations'"):
        recognize([row], DataConfig(dataset="x"), "a").convert(row)


@pytest.mark.parametrize("field", ["tools", "tool_calls"])
def test_functions_that_are_nested_too_deeply_are_refused(field: str) -> None:
    deep: Any = 1
    for _ in range(3000):
        deep = [deep]
    row: dict[str, Any] = {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}
    if field == "tools":
        row["tools"] = deep
    else:
        row["messages"][1][field] = [{"function": {"name": "f", "arguments": deep}}]
    with pytest.raises(InvalidRow, match=f"{field} is nested too deeply"):
        recognize([row], DataConfig(dataset="x"), "a").convert(row)


def test_format_and_columns_overrule() -> None:
    row = {"frage": "Hi", "antwort": "Hello", "messages": messages((U, "x"), (A, "y")), "nr": 7}
    columns = {"prompt": "frage", "response": "antwort", "prompt_id": "nr"}
    data = DataConfig.model_validate({"format": "pairs", "columns": columns})
    assert turns(row, data) == PLAIN
    assert convert(row, data).prompt_id == "7"
    assert turns({"talk": messages(*PLAIN)}, DataConfig.model_validate({"columns": {"messages": "talk"}})) == PLAIN


@pytest.mark.parametrize(
    ("rows", "data", "message"),
    [
        ([{"text": "x", "label": 1}], {}, "their fields are text, label"),
        ([{"prompt": "x"}], {}, "their fields are prompt"),
        ([{"prompt": "x", "text": "y"}], {"columns": {"response": "txt"}}, r"no field 'txt', .*did you mean 'text'"),
        ([{"prompt": "x", "response": "y"}], {"format": "sharegpt"}, "but messages is expected"),
        ([], {"format": "pairs"}, "their fields are none"),
    ],
)
def test_rows_that_fit_no_layout_are_refused_with_their_fields(rows: list[Any], data: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        recognize(rows, DataConfig.model_validate(data), "chats")


BAD_MESSAGES: list[tuple[Any, str, str]] = [
    (None, "schema.field", "messages is missing or null"),
    (3, "schema.field", "must be a list of messages, got a number"),
    ("Hi", "schema.field", "must be a list of messages, got text"),
    ("[{'role': 'user', 'content': 'Hi'}]", "schema.field", "how Python prints a list"),
    ([1], "schema.field", r"messages\[0\] must be an object"),
    ([{"role": U}], "schema.field", r"messages\[0\]\.content is missing or null"),
    ([{"content": "Hi"}], "schema.field", r"messages\[0\]\.role is missing or null"),
    ([{"role": 1, "content": "Hi"}], "schema.field", r"role must be text, got a number"),
    ([{"role": U, "content": 1}], "schema.field", r"content must be text, got a number"),
    ([{"role": U, "content": {"text": "Hi"}}], "schema.field", r"content must be text, got an object"),
    ([{"role": U, "content": "Hi", "contnet": "x"}], "schema.field", r"unknown field 'contnet' \(did you mean 'content'\?\)"),
    ([{"role": U, "content": [{"type": "image_url", "image_url": {}}]}], "content.type", "image_url"),
    ([{"role": U, "content": [3]}], "content.type", "a number"),
    ([{"role": U, "content": "Hi"}, {"role": A, "tool_calls": [{"id": 1}]}], "schema.field", "tool_calls must be"),
    ([{"role": U, "content": "Hi"}, {"role": A, "content": "x", "weight": 0}], "message.weight", "nothing to learn"),
    ([{"role": U, "content": "Hi"}, {"role": A, "content": "x", "weight": 0.5}], "message.weight", "must be 0 or 1"),
    ([{"role": U, "content": "Hi"}, {"role": A, "content": "x", "weight": True}], "message.weight", "must be 0 or 1"),
]


@pytest.mark.parametrize(("value", "rule", "message"), BAD_MESSAGES)
def test_a_row_that_does_not_fit_its_layout_is_refused(value: Any, rule: str, message: str) -> None:
    layout = Layout("messages", {"messages": "messages"})
    assert layout.convert({"messages": messages(*PLAIN)})
    with pytest.raises(InvalidRow, match=message) as caught:
        layout.convert({"messages": value})
    assert caught.value.rule == rule


@pytest.mark.parametrize("row", [{"prompt": "Hi"}, {"prompt": None, "response": "x"}, {"prompt": 3, "response": "x"}, [], "Hi", None])
def test_a_pair_that_is_not_two_texts_is_refused(row: Any) -> None:
    with pytest.raises(InvalidRow) as caught:
        Layout("pairs", {"prompt": "prompt", "response": "response"}).convert(row)
    assert caught.value.rule == "schema.field"


def test_the_rows_in_the_documentation_are_read_as_it_says() -> None:
    text = (Path(__file__).parents[2] / "data" / "README.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- layouts:[^\n]*-->\n```json\n(.*?)```", text, re.DOTALL)
    assert block
    rows = [json.loads(line) for line in block[1].splitlines()]
    assert [recognize([row], AUTO, "chats").kind for row in rows] == ["ultrachat", "messages", "sharegpt", "pairs", "pairs"]
    assert all(turns(row) == PLAIN for row in rows)
