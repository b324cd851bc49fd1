"""Checks of generated answers: what passes, what doesn't, and which checks are malformed."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlops.remote.suites import read_suite
from mlops.remote.tasks import parse_checks, passes, sample
from tests.support.tiny import conversation, write_suite

WEATHER: dict[str, Any] = {
    "type": "tool_call",
    "name": "get_weather",
    "parameters": {
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "enum": ["C", "F"]}, "days": {"type": "integer"}},
        "required": ["city"],
    },
    "arguments": {"city": "Oslo"},
}


def call(arguments: str, name: str = "get_weather") -> str:
    return f'{{"name": "{name}", "arguments": {arguments}}}'


OSLO = call('{"city": "Oslo"}')
CASES: dict[str, tuple[dict[str, Any], list[str], list[str]]] = {
    "number": (
        {"type": "number", "value": 1200},
        [
            "1200",
            "It is 1,200.",
            "1000 + 200 = 1200",
            "1200.0 euros",
            "30 × 40 = 1200 m²",
            "30 * 40 = 1200 m^2",
            "300 + 300 = 600, and 600 + 600 = 1200 points.",
            "First 600, then twice that, so 1200.",
            "Not 1100 but 1200.",
            "1300? No: 1200",
            "1200,0 euros",
        ],
        [
            "1000, 1100, 1200",
            "1100 or 1200",
            "1000; 1100; 1200",
            "1000\n1100\n1200",
            "It is 1100, maybe 1200.",
            "It is not 1200.",
            "The answer isn't 1200",
            "It's either 1100 or 1200.",
            "Not in 1200",
            "",
            "no idea",
            "-1200",
            "1200 or 1300",
            "12 00",
            "120",
            "1201",
            "x1200",
        ],
    ),
    "negative number": ({"type": "number", "value": -5}, ["4 - 9 = -5", "−5", "-5.0"], ["5", "4-5"]),
    "contains any": (
        {"type": "contains", "any": ["Canberra", "the bush capital"]},
        [
            "It is Canberra, not Sydney.",
            "Not Sydney, but Canberra.",
            "Not only Canberra but all of it",
            "I'm not sure, but Canberra.",
            "No, Canberra!",
            "You don't like Canberra.",
            "Canberra, Australia",
            "Sydney, Perth and Canberra are cities; it's Canberra.",
            "Canberra or the bush capital",
            "The Bush Capital, or Canberra, or the capital",
            "It isn't Sydney. Canberra is.",
            "canberra.",
            "It's CANBERRA!",
            "They call it the Bush Capital.",
        ],
        [
            "Sydney",
            "Canberras",
            "the bush",
            "",
            "It is certainly not Canberra.",
            "It's not the bush capital",
            "It isn't in Canberra.",
            "Any city other than Canberra",
            "Sydney rather than Canberra.",
            "Neither Canberra",
            "Canberra is not the answer.",
            "Melbourne, Perth, Canberra, Hobart or Darwin",
            "Sydney, Canberra, or Perth?",
            "Es ist nicht Canberra.",
        ],
    ),
    "contains all and none": (
        {"type": "contains", "all": ["red", "blue"], "none": ["green"]},
        ["Red and blue", "blue, red."],
        ["red", "red, blue and green", "reddish blue", "red, not blue"],
    ),
    "equals": (
        {"type": "equals", "any": ["ready", "all set"]},
        ["ready", "Ready.", '"ready"', " All  set! "],
        ["ready now", "I am ready", "read", ""],
    ),
    "words": ({"type": "words", "min": 2, "max": 3}, ["one two", "one two three"], ["one", "one two three four", ""]),
    "at most so many words": ({"type": "words", "max": 3}, ["one"], ["", "one two three four"]),
    "sentences": (
        {"type": "sentences", "min": 2, "max": 2},
        ["Hello there. How are you?", "One! Two"],
        ["One.", "One. Two. Three.", "", "..."],
    ),
    "bulleted list": (
        {"type": "list", "items": 2, "marker": "-"},
        ["- tea\n- milk", "* tea\n\n* milk", "• tea\n• milk"],
        ["- tea", "- tea\n- milk\n- rice", "Here you are:\n- tea\n- milk", "tea\nmilk", "-tea\n-milk", ""],
    ),
    "numbered list": (
        {"type": "list", "items": 2, "marker": "1."},
        ["1. tea\n2. milk", "1) tea\n2) milk"],
        ["- tea\n- milk", "1 tea\n2 milk"],
    ),
    "commas": (
        {"type": "list", "items": 3, "marker": ","},
        ["tea, milk, rice", "Tea,milk,rice."],
        ["tea, milk", "tea, milk,", "tea, milk, rice, jam", "tea\nmilk\nrice", ""],
    ),
    "lower case": ({"type": "case", "is": "lower"}, ["all quiet, 7 birds."], ["All quiet", "", "123"]),
    "upper case": ({"type": "case", "is": "upper"}, ["WATER."], ["Water", ""]),
    "starts": ({"type": "starts", "with": "Once upon"}, ["once upon a time", '"Once upon a day'], ["And once upon a time", "once", ""]),
    "ends": ({"type": "ends", "with": "over"}, ["It is shut, over.", "over", "Over!"], ["over and out", "", "ov"]),
    "JSON": (
        {"type": "json", "keys": {"name": "string", "age": "integer"}, "values": {"age": 31}},
        ['{"name": "Ann", "age": 31}', '```json\n{"age": 31, "name": "Bo"}\n```', '```\n{"age": 31, "name": "Bo"}```'],
        [
            '{"name": "Ann"}',
            '{"name": "Ann", "age": 30}',
            '{"name": "Ann", "age": "31"}',
            '{"name": "Ann", "age": 31, "city": "Rome"}',
            '{"name": "Ann", "age": 31',
            "{'name': 'Ann', 'age': 31}",
            'Sure: {"name": "Ann", "age": 31}',
            '[{"name": "Ann", "age": 31}]',
            '{"name": "Ann", "age": 30, "age": 31}',
            '{"name": "Ann", "age": NaN}',
            "",
            "null",
        ],
    ),
    "JSON types": (
        {"type": "json", "keys": {"open": "boolean", "price": "number", "tags": "array"}, "values": {"tags": ["Red", "blue"]}},
        ['{"open": true, "price": 2, "tags": ["red", "Blue"]}', '{"open": false, "price": 2.5, "tags": ["red", "blue"]}'],
        ['{"open": 1, "price": 2, "tags": ["red", "blue"]}', '{"open": true, "price": true, "tags": ["red", "blue"]}'],
    ),
    "tool call": (
        WEATHER,
        [
            OSLO,
            call('{"city": "oslo", "unit": "C", "days": 2}'),
            f"<tool_call>\n{OSLO}\n</tool_call>",
        ],
        [
            call("{}"),
            call('{"city": "Bergen"}'),
            call('{"city": "Oslo", "unit": "K"}'),
            call('{"city": "Oslo", "days": 2.5}'),
            call('{"city": "Oslo", "days": true}'),
            call('{"city": "Oslo", "hour": 2}'),
            call('{"city": "Oslo"}', "weather"),
            call('"Oslo"'),
            '{"name": "get_weather"}',
            f"I call {OSLO}",
            "It is cold in Oslo.",
            f"[{OSLO}]",
        ],
    ),
    "refusal": (
        {"type": "refusal"},
        ["I'm sorry, but I can't help with that."],
        ["Sure! First, you buy a ladder.", "", "I am sorry for you."],
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_answers_that_pass_and_answers_that_do_not(name: str) -> None:
    check, good, bad = CASES[name]
    checks = parse_checks([check])
    assert {answer: passes(answer, checks) for answer in (*good, *bad)} == dict.fromkeys(good, True) | dict.fromkeys(bad, False)


def test_an_answer_must_pass_all_checks() -> None:
    checks = parse_checks([{"type": "case", "is": "lower"}, {"type": "words", "max": 2}])
    assert [passes(answer, checks) for answer in ("two words", "Two words", "two more words")] == [True, False, False]


@pytest.mark.parametrize(
    ("answer", "passed"),
    [
        ("Sofia counted them.", True),
        ("The pears arrived at noon. Sofia counted them. Who counted the pears? Sofia.", True),
        ("The pears arrived at noon. Sofia counted them. Who counted the pears?", False),
        ("THE PEARS arrived at noon.\nSofia counted them. Who counted the pears?", False),
        ("The pears arrived at noon. Sofia counted", False),
        ("Be brief and exact.", False),
    ],
)
def test_a_repeated_message_is_no_answer(answer: str, passed: bool) -> None:
    checks = parse_checks([{"type": "contains", "any": ["Sofia", "exact"]}])
    prompt = ["Be brief and exact.", "The pears arrived at noon. Sofia counted them.\n\nWho counted the pears?"]
    assert passes(answer, checks, prompt) == passed


def test_a_short_message_can_be_a_part_of_the_answer() -> None:
    assert passes("Egypt, in January", parse_checks([{"type": "contains", "any": ["Egypt"]}]), ["Egypt"])


def test_a_row_without_checks_is_not_a_task() -> None:
    assert parse_checks(None) == parse_checks([]) == ()


MALFORMED: dict[str, tuple[Any, str]] = {
    "no list": ({"type": "refusal"}, "checks is not a list"),
    "no object": (["refusal"], r"checks\[0\] has no type of number, contains"),
    "no type": ([{"value": 1}], r"checks\[0\] has no type"),
    "unknown type": ([{"type": "refusal"}, {"type": "regex", "pattern": "a"}], r"checks\[1\] has no type"),
    "a list as type": ([{"type": ["number"]}], "has no type"),
    "unknown field": ([{"type": "number", "value": 1, "tolerance": 2}], "unknown field 'tolerance'; its fields are value"),
    "field of a type without fields": ([{"type": "refusal", "value": 1}], "its fields are none"),
    "missing field": ([{"type": "list", "items": 3}], "has no 'marker'"),
    "nothing required": ([{"type": "words"}], "requires nothing: give min or max"),
    "a number as text": ([{"type": "number", "value": "12"}], "invalid 'value': \"12\""),
    "true as a number": ([{"type": "number", "value": True}], "invalid 'value'"),
    "no words": ([{"type": "contains", "any": ["?"]}], "invalid 'any'"),
    "an empty list": ([{"type": "equals", "any": []}], "invalid 'any'"),
    "a text instead of a list": ([{"type": "contains", "all": "red"}], "invalid 'all'"),
    "a limit of zero": ([{"type": "words", "max": 0}], "invalid 'max'"),
    "limits the wrong way round": ([{"type": "sentences", "min": 3, "max": 2}], "a min above its max"),
    "unknown marker": ([{"type": "list", "items": 3, "marker": "+"}], "invalid 'marker'"),
    "unknown case": ([{"type": "case", "is": "title"}], "invalid 'is'"),
    "unknown JSON type": ([{"type": "json", "keys": {"age": "int"}}], "invalid 'keys'"),
    "value of no key": ([{"type": "json", "keys": {"age": "integer"}, "values": {"name": "A"}}], "'name' that its own declaration"),
    "value of another type": ([{"type": "json", "keys": {"age": "integer"}, "values": {"age": "3"}}], "'age' that its own declaration"),
    "schema without properties": ([{**WEATHER, "parameters": {}}], "invalid 'parameters'"),
    "schema keyword that is not applied": (
        [{**WEATHER, "parameters": {"properties": {"city": {"type": "string", "pattern": "O.*"}}}}], "invalid 'parameters'"
    ),
    "schema of an unknown type": ([{**WEATHER, "parameters": {"properties": {"city": {"type": "text"}}}}], "invalid 'parameters'"),
    "required parameter without a schema": (
        [{**WEATHER, "parameters": {"properties": {}, "required": ["city"]}}], "invalid 'parameters'"
    ),
    "argument outside the enum": ([{**WEATHER, "arguments": {"unit": "K"}}], "'unit' that its own declaration excludes"),
    "argument that is not declared": ([{**WEATHER, "arguments": {"hour": 1}}], "'hour' that its own declaration excludes"),
}  # fmt: skip


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_check_is_refused_with_its_place(name: str, tmp_path: Path) -> None:
    checks, problem = MALFORMED[name]
    with pytest.raises(ValueError, match=problem):
        parse_checks(checks)
    path = write_suite(tmp_path / "r.jsonl", [conversation(1, kind="fact"), conversation(2, kind="fact") | {"checks": checks}])
    with pytest.raises(ValueError, match=r"r\.jsonl:2: not a conversation: .*" + problem.replace("'", ".*").replace('"', ".*")):
        read_suite("retention", path)


def test_tasks_are_spread_over_the_kinds() -> None:
    kinds = ["fact", "fact", None, "fact", "sum", "sum", "refusal", None]
    assert [sample(kinds, limit) for limit in (0, 1, 3, 4, 5, 99)] == [
        [], [0], [0, 4, 6], [0, 1, 4, 6], [0, 1, 4, 5, 6], [0, 1, 3, 4, 5, 6],
    ]  # fmt: skip


def test_checks_survive_the_file(tmp_path: Path) -> None:
    path = write_suite(tmp_path / "r.jsonl", [conversation(1, kind="tool_call") | {"checks": [WEATHER]}, conversation(2, kind="fact")])
    rows = read_suite("retention", path).rows
    assert json.loads(json.dumps(rows[0].checks)) == [WEATHER]
    assert rows[1].checks == ()
