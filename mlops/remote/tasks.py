"""Tasks: rows with checks that code applies to a generated answer. An answer must pass all checks of its row.

    {"type": "number", "value": 43}                                 the last number, neither denied nor one of several guesses
    {"type": "contains", "any": ["Canberra"], "none": ["Sydney"]}   whole words in any case; a denial such as "not Canberra" doesn't count
    {"type": "equals", "any": ["ready"]}                            the whole answer, apart from case, quotes and a final period
    {"type": "words", "min": 5, "max": 12}
    {"type": "sentences", "min": 2, "max": 2}
    {"type": "list", "items": 3, "marker": "-"}                     every line is an item: "-", "1.", or "," for one line with commas
    {"type": "case", "is": "lower"}                                 every letter; or "upper"
    {"type": "starts", "with": "Once"}
    {"type": "ends", "with": "over"}                                apart from final punctuation
    {"type": "json", "keys": {"age": "integer"}, "values": {"age": 31}}    exactly these keys, of these types
    {"type": "tool_call", "name": "set_timer", "parameters": {...}, "arguments": {...}}    {"name": ..., "arguments": {...}}
    {"type": "refusal"}

``parameters`` is a JSON Schema of an object with ``properties`` (``type``, ``enum``) and ``required``; a call has no other arguments than
those. ``values`` and ``arguments`` are expected values of some of them. JSON may be in a code fence or in ``<tool_call>``.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, zip_longest
from typing import Any

from mlops.remote.refusals import is_refusal
from mlops.remote.rouge import words

__all__ = ["TYPES", "Check", "CheckType", "parse_checks", "passes", "sample"]

Check = Mapping[str, Any]
"""``type``, and the fields of that type."""

_NUMBER = re.compile(r"(?<![\w.^])-?\d+(?:\.\d+)?")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_DECIMAL_COMMA = re.compile(r"(?<![\d,.])(\d+),(\d{1,2})(?![\d,])")
_SEVERAL_GUESSES = re.compile(
    r"\d\W*?(?:[,;/\n]|\b(?:or|oder|ou|o|and|maybe|perhaps|possibly)\b)[^\w=+*/×÷-]*(?:(?:or|maybe|perhaps|possibly) )?$", re.IGNORECASE
)
"""Text before the last of several numbers between which the answer doesn't decide."""
_CALCULATION = re.compile(r"\d\s*[=+*×÷^]|=\s*-?\d|\d\s+[-/x]\s+\d")
_CLAUSE = re.compile(r"[.!?;:,\n()]|\b(?:but|sondern|mais|sino)\b")
_DENIED_BEFORE = re.compile(
    # "I did not pick A" answers another question, so only small words may be in between.
    r"(?:\b(?:not|never|neither|nor|nicht|kein\w*|pas|rather than|instead of|other than)|n't)\b"
    r"(?:\W+(?:the|an?|in|at|by|of|on|from|to|be|called|really|certainly|actually|definitely|city|town|in|der|die|das|de|la|le|à))*\W*$"
)
_DENIED_AFTER = re.compile(
    r"\W{0,2}\s+(?:is|was|are|were)(?:n't|\s+not)\s+(?:the (?:right |correct )?(?:answer|one)|correct|right|true|it)\b"
    r"|\W{0,2}\s+(?:is|are) (?:wrong|incorrect|false)\b"
)
_ALTERNATIVE = re.compile(r",\s*(?:or\s+)?|\s+or\s+")
_SENTENCE = re.compile(r"[^.!?]*\w[^.!?]*(?:[.!?]+|$)")
_WRAPPED = re.compile(r"```(?:json)?\s*(.*?)\s*```|<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
MAX_ALTERNATIVES = 2
_ECHO_WORDS = 4
"""A message with fewer words can be a part of a right answer."""
_QUOTES, _FINAL = "\"'“”‘’`*", ".!? "
_MARKERS = {"-": re.compile(r"[-*•]\s+\S"), "1.": re.compile(r"\d+[.)]\s+\S")}
_JSON_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,), "array": (list,), "object": (dict,),
}  # fmt: skip


def parse_checks(value: Any) -> tuple[Check, ...]:
    """Return a row's checks; none if it has no field ``checks``.

    Raises:
        ValueError: a check is malformed. The message names it and what is wrong.
    """
    if value is None:
        return ()
    if not isinstance(value, list):
        raise ValueError(f"checks is not a list: {value!r}")
    for number, check in enumerate(value):
        if problem := _find_problem(check):
            raise ValueError(f"checks[{number}] {problem}")
    return tuple(value)


def passes(answer: str, checks: Sequence[Check], prompt: Iterable[str] = ()) -> bool:
    """Return whether an answer passes all checks of its row. A message that it repeats answers nothing, and is not part of what is checked.

    Args:
        answer: the generated text.
        checks: of the row.
        prompt: the texts of the messages before the answer.
    """
    answer = _remove_echo(answer, prompt).strip()
    return bool(answer) and all(TYPES[check["type"]].passes(answer, check) for check in checks)


def _remove_echo(answer: str, prompt: Iterable[str]) -> str:
    """Remove each message that an answer repeats word for word. Nothing remains of one that was cut off while it repeated a message."""
    for message in prompt:
        parts, repeated = message.split(), answer.split()
        if min(len(parts), len(repeated)) < _ECHO_WORDS:
            continue
        if " ".join(parts).casefold().startswith(" ".join(repeated).casefold()):
            return ""
        # Compiling the expression is slow, and an answer with fewer words than the message can't contain it.
        if len(parts) <= len(repeated):
            answer = re.sub(r"\s+".join(map(re.escape, parts)), " ", answer, flags=re.IGNORECASE)
    return answer


def sample(kinds: Sequence[str | None], limit: int) -> list[int]:
    """Choose the tasks to generate answers for, spread as evenly as possible over their kinds: the first of each, then the second, …

    Args:
        kinds: the kind of each row of a suite; None for a row without checks.
        limit: the number of tasks.

    Returns:
        The indices of the rows, in order.
    """
    by_kind: dict[str, list[int]] = defaultdict(list)
    for index, kind in enumerate(kinds):
        if kind is not None:
            by_kind[kind].append(index)
    rounds = (index for index in chain.from_iterable(zip_longest(*by_kind.values())) if index is not None)
    return sorted(islice(rounds, limit))


def _has_last_number(answer: str, check: Check) -> bool:
    text = _DECIMAL_COMMA.sub(r"\1.\2", _THOUSANDS.sub("", answer.replace("−", "-")))
    numbers = list(_NUMBER.finditer(text))
    if not numbers or float(numbers[-1][0]) != float(check["value"]):
        return False
    before = text[: numbers[-1].start()]
    is_undecided = len(numbers) > 1 and not _CALCULATION.search(text) and _SEVERAL_GUESSES.search(before)
    return not is_undecided and not _DENIED_BEFORE.search(_last_clause(before.casefold()))


def _contains(answer: str, check: Check) -> bool:
    spoken, text = _spoken(answer), answer.casefold().replace("’", "'")
    return (
        all(_asserts(text, phrase) for phrase in check.get("all", ()))
        and ("any" not in check or (any(_asserts(text, phrase) for phrase in check["any"]) and not _is_undecided(text, check["any"])))
        and not any(_spoken(phrase) in spoken for phrase in check.get("none", ()))
    )


def _asserts(text: str, phrase: str) -> bool:
    """Return whether a text has a phrase without denying it, as in "not Canberra"."""
    return any(
        not _DENIED_BEFORE.search(_last_clause(text[: place.start()])) and not _DENIED_AFTER.match(text, place.end())
        for place in _find_phrase(text, phrase)
    )


def _find_phrase(text: str, phrase: str) -> Iterator[re.Match[str]]:
    return re.finditer(r"(?<!\w)" + r"\W+".join(words(phrase)) + r"(?!\w)", text)


def _is_undecided(text: str, phrases: Sequence[str]) -> bool:
    """Return whether the text leaves the choice between three or more short alternatives, of which most are not among the phrases."""
    for sentence in re.split(r"[.!?\n:]", text):
        alternatives = _ALTERNATIVE.split(sentence) if " or " in sentence else []
        right = sum(any(True for _ in _find_phrase(each, phrase)) for each in alternatives for phrase in phrases)
        if (
            len(alternatives) > MAX_ALTERNATIVES
            and 0 < right < len(alternatives) / 2
            and max(len(words(each)) for each in alternatives[1:]) <= 3
        ):
            return True
    return False


def _last_clause(text: str) -> str:
    return _CLAUSE.split(text)[-1]


def _spoken(text: str) -> str:
    """Return the words between spaces, so that phrases can be searched for as strings."""
    return f" {' '.join(words(text))} " if text else ""


def _equals(answer: str, check: Check) -> bool:
    return _bare(answer) in [_bare(value) for value in check["any"]]


def _bare(text: str) -> str:
    return " ".join(text.strip().strip(_QUOTES + _FINAL).casefold().split())


def _is_between(count: int, check: Check) -> bool:
    return bool(check.get("min", 1) <= count <= check.get("max", count))


def _is_list(answer: str, check: Check) -> bool:
    lines = [line.strip() for line in answer.splitlines() if line.strip()]
    if check["marker"] == ",":
        return len(lines) == 1 and [bool(words(item)) for item in lines[0].split(",")] == [True] * check["items"]
    return len(lines) == check["items"] and all(_MARKERS[check["marker"]].match(line) for line in lines)


def _has_case(answer: str, check: Check) -> bool:
    return answer.islower() if check["is"] == "lower" else answer.isupper()


def _starts(answer: str, check: Check) -> bool:
    return answer.lstrip(_QUOTES).casefold().startswith(check["with"].casefold())


def _ends(answer: str, check: Check) -> bool:
    return _bare(answer).endswith(_bare(check["with"]))


def _is_json(answer: str, check: Check) -> bool:
    value, keys = _parse_json(answer), check["keys"]
    return (
        isinstance(value, dict)
        and value.keys() == keys.keys()
        and all(_has_type(value[key], name) for key, name in keys.items())
        and _are_equal(value, check.get("values", {}))
    )


def _is_tool_call(answer: str, check: Check) -> bool:
    call, parameters = _parse_json(answer), check["parameters"]
    if not isinstance(call, dict) or call.keys() != {"name", "arguments"} or call["name"] != check["name"]:
        return False
    arguments, properties = call["arguments"], parameters["properties"]
    return (
        isinstance(arguments, dict)
        and set(parameters.get("required", ())) <= arguments.keys() <= properties.keys()
        and all(_fits(value, properties[name]) for name, value in arguments.items())
        and _are_equal(arguments, check.get("arguments", {}))
    )


def _fits(value: Any, schema: Mapping[str, Any]) -> bool:
    return _has_type(value, schema["type"]) and ("enum" not in schema or value in schema["enum"])


def _has_type(value: Any, name: str) -> bool:
    # In Python, true is an integer.
    return isinstance(value, _JSON_TYPES[name]) and (name == "boolean" or not isinstance(value, bool))


def _are_equal(values: Mapping[str, Any], expected: Mapping[str, Any]) -> bool:
    def normalize(value: Any) -> Any:
        return _bare(value) if isinstance(value, str) else [normalize(each) for each in value] if isinstance(value, list) else value

    return all(name in values and normalize(values[name]) == normalize(value) for name, value in expected.items())


def _parse_json(answer: str) -> Any:
    """Parse an answer that is one JSON value; None if it is not, or has a key twice, or NaN."""
    wrapped = _WRAPPED.fullmatch(answer)
    try:
        return json.loads(
            next(filter(None, wrapped.groups()), "") if wrapped else answer, object_pairs_hook=_unique, parse_constant=_refuse
        )
    except (ValueError, RecursionError):
        return None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise ValueError("a key appears twice")
    return dict(pairs)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not JSON")


@dataclass(frozen=True)
class CheckType:
    """A type of check: its constructor, and its fields with their requirements."""

    passes: Callable[[str, Check], bool]
    required: Mapping[str, Callable[[Any], bool]]
    optional: Mapping[str, Callable[[Any], bool]]


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(words(value))


def _is_count(value: Any) -> bool:
    return _has_type(value, "integer") and value > 0


def _is_number(value: Any) -> bool:
    return _has_type(value, "number")


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and value != [] and all(_is_text(each) for each in value)


def _are_keys(value: Any) -> bool:
    return isinstance(value, dict) and value != {} and all(isinstance(name, str) and name in _JSON_TYPES for name in value.values())


def _is_object(value: Any) -> bool:
    return isinstance(value, dict)


def _is_schema(value: Any) -> bool:
    if not isinstance(value, dict) or not value.keys() <= {"type", "properties", "required"} or value.get("type", "object") != "object":
        return False
    properties, required = value.get("properties"), value.get("required", [])
    return (
        isinstance(properties, dict)
        and isinstance(required, list)
        and all(isinstance(name, str) and name in properties for name in required)
        and all(_is_property(schema) for schema in properties.values())
    )


def _is_property(schema: Any) -> bool:
    return (
        isinstance(schema, dict)
        and schema.keys() <= {"type", "enum", "description"}
        and str(schema.get("type")) in _JSON_TYPES
        and isinstance(schema.get("enum", []), list)
    )


_LIMITS: Mapping[str, Callable[[Any], bool]] = {"min": _is_count, "max": _is_count}
TYPES: Mapping[str, CheckType] = {
    "number": CheckType(_has_last_number, {"value": _is_number}, {}),
    "contains": CheckType(_contains, {}, {"any": _are_texts, "all": _are_texts, "none": _are_texts}),
    "equals": CheckType(_equals, {"any": _are_texts}, {}),
    "words": CheckType(lambda answer, check: _is_between(len(answer.split()), check), {}, _LIMITS),
    "sentences": CheckType(lambda answer, check: _is_between(len(_SENTENCE.findall(answer)), check), {}, _LIMITS),
    "list": CheckType(_is_list, {"items": _is_count, "marker": lambda value: value in ("-", "1.", ",")}, {}),
    "case": CheckType(_has_case, {"is": lambda value: value in ("lower", "upper")}, {}),
    "starts": CheckType(_starts, {"with": _is_text}, {}),
    "ends": CheckType(_ends, {"with": _is_text}, {}),
    "json": CheckType(_is_json, {"keys": _are_keys}, {"values": _is_object}),
    "tool_call": CheckType(_is_tool_call, {"name": _is_text, "parameters": _is_schema}, {"arguments": _is_object}),
    "refusal": CheckType(lambda answer, _: is_refusal(answer), {}, {}),
}


def _find_problem(check: Any) -> str:
    """Return what is wrong with a check; empty if nothing is."""
    if not isinstance(check, dict) or str(check.get("type")) not in TYPES:
        return f"has no type of {', '.join(TYPES)}: {json.dumps(check)}"
    kind = TYPES[check["type"]]
    fields = {**kind.required, **kind.optional}
    present = check.keys() - {"type"}
    if unknown := sorted(present - fields.keys()):
        return f"of type {check['type']} has an unknown field {unknown[0]!r}; its fields are {', '.join(fields) or 'none'}"
    if missing := sorted(kind.required.keys() - present):
        return f"of type {check['type']} has no {missing[0]!r}"
    if fields and not present:
        return f"of type {check['type']} requires nothing: give {' or '.join(fields)}"
    if wrong := [name for name in sorted(present) if not fields[name](check[name])]:
        return f"of type {check['type']} has an invalid {wrong[0]!r}: {json.dumps(check[wrong[0]])}"
    if present >= {"min", "max"} and check["min"] > check["max"]:
        return f"of type {check['type']} has a min above its max"
    for name, value in (check.get("values") or check.get("arguments") or {}).items():
        if not _fits_declaration(check, name, value):
            return f"of type {check['type']} expects a {name!r} that its own declaration excludes: {json.dumps(value)}"
    return ""


def _fits_declaration(check: Check, name: str, value: Any) -> bool:
    if check["type"] == "json":
        return name in check["keys"] and _has_type(value, check["keys"][name])
    properties = check["parameters"]["properties"]
    return name in properties and _fits(value, properties[name])
