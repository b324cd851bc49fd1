"""Layouts of conversations: what the fields of a row contain, and how a row becomes a :class:`Conversation`.

Four layouts are recognized by the names of the fields:

* ``ultrachat``: ``prompt``, ``messages`` and ``prompt_id``
* ``messages``: OpenAI's ``messages`` (https://platform.openai.com/docs/guides/supervised-fine-tuning)
* ``sharegpt``: ``conversations`` with ``from`` and ``value``
* ``pairs``: a prompt and a response, as in CSV files; also Alpaca's ``instruction``, ``input`` and ``output``

Null is treated like a missing field, because Arrow adds null fields to rows that had none. Fields that no layout uses are ignored.
Chat templates of most base models only have the roles system, user and assistant. Tool calls and their results therefore become text in
the form that Hermes models introduced: ``<tool_call>`` in the assistant's message, ``<tool_response>`` in a user's.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from mlops.core.console import did_you_mean
from mlops.core.errors import DataError
from mlops.core.settings import DataConfig
from mlops.dataset.conversation import Conversation, InvalidRow, Message
from mlops.dataset.hashes import content_id

__all__ = ["FIELDS", "Layout", "recognize"]

FIELDS = ("prompt", "messages", "prompt_id")
"""The fields of ultrachat, which is also the layout of the files that are written."""

TITLES = {"ultrachat": "ultrachat", "messages": "OpenAI messages", "sharegpt": "ShareGPT", "pairs": "prompt and response"}

CANDIDATES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "messages": {"messages": ("messages", "conversation", "conversations", "dialog", "dialogue", "chat"), "tools": ("tools", "functions")},
    "sharegpt": {"messages": ("conversations", "conversation", "messages"), "system": ("system",), "tools": ("tools",)},
    "pairs": {
        "prompt": ("prompt", "instruction", "question", "query", "user", "input"),
        "response": ("response", "completion", "output", "answer", "assistant", "reply", "target"),
        "input": ("input", "context"),
        "system": ("system", "system_prompt"),
    },
}
"""Layout → needed content → names of fields that may contain it, in order of preference."""

REQUIRED = {"messages": ("messages",), "sharegpt": ("messages",), "pairs": ("prompt", "response")}

ROLES = {
    "messages": {"developer": "system", "function": "tool"},
    "sharegpt": {
        "human": "user", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant", "bard": "assistant", "model": "assistant",
        "function_call": "call", "observation": "tool", "function_response": "tool", "function": "tool",
    },
}  # fmt: skip
"""Names of roles that differ from ours. Names that are neither here nor ours are kept, and reported by the checks."""

KEYS = {
    "messages": {"role", "content", "name", "weight", "tool_calls", "tool_call_id", "function_call"},
    "sharegpt": {"from", "value", "weight"},
}
"""Fields that a message may have. ``name`` and ``tool_call_id`` are ignored: no chat template shows them to the model."""


@dataclass
class Layout:
    """A layout, which converts rows.

    Attributes:
        kind: a key of :data:`TITLES`.
        columns: needed content → the name of its field.
        notes: what was ignored or changed → number of rows. Counted by :meth:`convert`.
    """

    kind: str
    columns: Mapping[str, str]
    notes: Counter[str] = field(default_factory=Counter)

    @property
    def title(self) -> str:
        """Display name, e.g. ``ShareGPT``."""
        own = {"messages": "messages", "sharegpt": "conversations"}.get(self.kind)
        names = [name for need, name in self.columns.items() if need != "prompt_id"]
        unusual = self.kind == "pairs" or (own is not None and self.columns["messages"] != own)
        return TITLES[self.kind] + (f" (fields {', '.join(names)})" if unusual else "")

    @property
    def names(self) -> list[str]:
        """The fields that are read."""
        return list(dict.fromkeys(self.columns.values()))

    def convert(self, row: Any) -> Conversation:
        """Convert a row that has been decoded to plain Python data.

        Raises:
            InvalidRow: with rule ``schema.field``, ``content.type``, ``message.weight`` or ``messages.empty``.
        """
        if not isinstance(row, Mapping):
            raise InvalidRow("schema.field", f"expected an object with {_join(self.names)}, got {_type(row)}")
        values = {need: row.get(name) for need, name in self.columns.items()}
        messages = self._read_pair(values) if self.kind == "pairs" else self._read_messages(values)
        if tools := _parse(values.get("tools")):
            messages = _add_tools(messages, tools)
        first = next((message.content for message in messages if message.role == "user"), "")
        prompt, prompt_id = (None if self.kind == "pairs" else values.get("prompt")), values.get("prompt_id")
        for need, value in (("prompt", prompt), ("prompt_id", prompt_id)):
            if not (value is None or isinstance(value, str) or (need == "prompt_id" and type(value) is int)):
                raise InvalidRow("schema.field", f"{self.columns[need]} must be text, got {_type(value)}")
        return Conversation(
            prompt=first if prompt is None else prompt,
            messages=messages,
            prompt_id=content_id(messages) if prompt_id is None else str(prompt_id),
        )

    def _read_pair(self, values: Mapping[str, Any]) -> list[Message]:
        prompt, response = values["prompt"], values["response"]
        if isinstance(prompt, list) and isinstance(response, list):  # TRL's conversational prompt and completion
            return self._convert_messages([*prompt, *response], "messages")
        messages = []
        for need, role in (("system", "system"), ("prompt", "user"), ("response", "assistant")):
            value = values.get(need)
            if need == "system" and (value is None or value == ""):
                continue
            if not isinstance(value, str):
                raise InvalidRow("schema.field", f"{self.columns[need]} {_problem(value, 'text')}")
            if need == "prompt" and isinstance(more := values.get("input"), str) and more.strip():
                value = f"{value}\n\n{more}"
            messages.append(Message(role, value))
        return messages

    def _read_messages(self, values: Mapping[str, Any]) -> list[Message]:
        name, turns = self.columns["messages"], _parse(values["messages"])
        if isinstance(turns, str):
            hint = "; this is how Python prints a list: write it with json.dumps" if "{'" in turns[:200] else ""
            raise InvalidRow("schema.field", f"{name} must be a list of messages, got text{hint}")
        if isinstance(turns, Mapping) and turns and all(isinstance(column, list) for column in turns.values()):
            turns = [dict(zip(turns, turn, strict=False)) for turn in zip(*turns.values(), strict=False)]  # a table of turns
        if not isinstance(turns, list):
            raise InvalidRow("schema.field", f"{name} {_problem(turns, 'a list of messages')}")
        messages = self._convert_messages(turns, self.kind)
        system = values.get("system")
        if isinstance(system, str) and system.strip() and (not messages or messages[0].role != "system"):
            messages.insert(0, Message("system", system))
        return messages

    def _convert_messages(self, turns: Sequence[Any], kind: str) -> list[Message]:
        style = "sharegpt" if kind == "sharegpt" else "messages"
        role_key, text_key = ("from", "value") if style == "sharegpt" else ("role", "content")
        name = self.columns.get("messages", "messages")
        messages: list[tuple[Message, bool]] = []
        for position, turn in enumerate(turns):
            where = f"{name}[{position}]"
            if not isinstance(turn, Mapping):
                raise InvalidRow("schema.field", f"{where} must be an object with {role_key} and {text_key}, got {_type(turn)}")
            turn = {key: value for key, value in turn.items() if value is not None}
            # Clients that dump a whole API response also write empty lists.
            if unknown := sorted(str(key) for key, value in turn.items() if key not in KEYS[style] and value not in ([], {}, "")):
                raise InvalidRow("schema.field", f"{where} has an unknown field {unknown[0]!r}{did_you_mean(unknown[0], KEYS[style])}")
            role = turn.get(role_key)
            if not isinstance(role, str):
                raise InvalidRow("schema.field", f"{where}.{role_key} {_problem(role, 'text')}")
            role = ROLES[style].get(role, role)
            text = _render_calls(turn, where) if style == "messages" and {"tool_calls", "function_call"} & turn.keys() else None
            content = _join_parts(turn.get(text_key), f"{where}.{text_key}", optional=text is not None)
            text = "\n".join(part for part in (content, text) if part) if text is not None else content
            if role == "call":
                role, text = "assistant", f"<tool_call>\n{text}\n</tool_call>"
            elif role == "tool":
                role, text = "user", f"<tool_response>\n{text}\n</tool_response>"
                if messages and messages[-1][0].role == "user" and messages[-1][0].content.startswith("<tool_response>"):
                    messages[-1] = Message("user", f"{messages[-1][0].content}\n{text}"), True
                    continue
            messages.append((Message(role, text), _weight(turn.get("weight"), where) > 0))
        return self._apply_weights(messages)

    def _apply_weights(self, messages: list[tuple[Message, bool]]) -> list[Message]:
        """Cut off trailing messages with weight 0. Earlier messages with weight 0 remain, as context, and are counted."""
        answers = [position for position, (message, _) in enumerate(messages) if message.role == "assistant"]
        learned = [position for position in answers if messages[position][1]]
        if len(learned) == len(answers):
            return [message for message, _ in messages]
        if not learned:
            raise InvalidRow("message.weight", "every assistant message has weight 0, so there is nothing to learn")
        kept = messages[: learned[-1] + 1]
        if any(position < learned[-1] and position not in learned for position in answers):
            self.notes["an assistant message with weight 0 before the last answer, which is learned anyway"] += 1
        return [message for message, _ in kept]


def recognize(rows: Sequence[Any], data: DataConfig, name: str) -> Layout:
    """Choose the layout that fits the first rows of a file.

    Args:
        rows: decoded rows, or one mapping with the columns of a table as keys.
        data: ``format`` and ``columns`` overrule.
        name: of the file, for messages.

    Raises:
        DataError: no layout fits, or a column of ``data.columns`` does not exist.
    """
    objects = [row for row in rows if isinstance(row, Mapping)]
    fields = list(dict.fromkeys(str(key) for row in objects for key in row))
    if missing := [column for column in data.columns.values() if objects and column not in fields]:
        raise DataError(
            f"{name} has no field {missing[0]!r}, which data.columns names{did_you_mean(missing[0], fields)}.",
            f"its fields are {_join(fields)}; correct data.columns",
        )
    if data.format == "auto" and not data.columns and _is_ultrachat(objects, fields):
        return Layout("ultrachat", {need: need for need in FIELDS})
    kinds = ("messages", "sharegpt", "pairs") if data.format == "auto" else (data.format,)
    by_lower = {column.strip().lower(): column for column in fields}
    for kind in kinds:
        columns = {
            need: next((by_lower[candidate] for candidate in candidates if candidate in by_lower), "")
            for need, candidates in CANDIDATES[kind].items()
        }
        columns = {need: column for need, column in columns.items() if column} | dict(data.columns)
        if columns.get("input") == columns.get("prompt"):
            columns.pop("input", None)
        if all(need in columns for need in REQUIRED[kind]) and (data.format != "auto" or _fits(kind, columns, objects)):
            columns |= {need: by_lower[need] for need in ("prompt", "prompt_id") if need in by_lower and need not in columns}
            return Layout(kind, columns)
    if not objects and data.format == "auto":
        return Layout("ultrachat", {need: need for need in FIELDS})
    expected = "messages, conversations, or a prompt and a response" if data.format == "auto" else _join(REQUIRED[data.format])
    raise DataError(
        f"The rows of {name} are not conversations: their fields are {_join(fields) or 'none'}, but {expected} is expected.",
        'name the fields in pipeline.toml, for example data.columns = { prompt = "question", response = "answer" } or '
        '{ messages = "dialog" }; data/README.md shows every format',
    )


def _is_ultrachat(rows: Iterable[Mapping[str, Any]], fields: Sequence[str]) -> bool:
    return set(FIELDS) <= set(fields) and not any(_has_key(row.get("messages"), "from") for row in rows)


def _fits(kind: str, columns: Mapping[str, str], rows: Sequence[Mapping[str, Any]]) -> bool:
    if kind == "pairs":
        return True
    values = [value for row in rows if (value := row.get(columns["messages"])) not in (None, "", [])]
    key = "from" if kind == "sharegpt" else "role"
    # A table's columns are known before its rows, and a field with the right name but invalid rows is reported row by row.
    return any(_has_key(value, key) for value in values) or (
        not any(_has_key(value, "from") for value in values)
        and (kind == "sharegpt") == (columns["messages"].lower() == "conversations")
        and columns["messages"].lower() in ("messages", "conversations")
    )


def _has_key(value: Any, key: str) -> bool:
    turns = _parse(value)
    return isinstance(turns, list) and any(isinstance(turn, Mapping) and key in turn for turn in turns[:3])


def _parse(value: Any) -> Any:
    """Decode JSON text, as CSV cells contain it; anything else stays as it is."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        return msgspec.json.decode(value)
    except (msgspec.DecodeError, RecursionError):
        return value


def _join_parts(value: Any, where: str, *, optional: bool) -> str:
    if value is None and optional:
        return ""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise InvalidRow("schema.field", f"{where} {_problem(value, 'text')}")
    texts = []
    for number, part in enumerate(value):
        kind = part.get("type") if isinstance(part, Mapping) else None
        if not isinstance(part, Mapping) or kind not in ("text", None) or not isinstance(part.get("text"), str):
            raise InvalidRow("content.type", f"{where}[{number}] is {kind or _type(part)}; only parts of type text can be learned")
        texts.append(part["text"])
    return "".join(texts)


def _render_calls(turn: Mapping[str, Any], where: str) -> str:
    calls = turn.get("tool_calls") or ([{"function": turn["function_call"]}] if "function_call" in turn else [])
    lines = []
    for call in calls if isinstance(calls, list) else [calls]:
        function = call.get("function") if isinstance(call, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
            raise InvalidRow("schema.field", f"{where}.tool_calls must be a list of objects with function.name and function.arguments")
        arguments = _parse(function.get("arguments") or {})
        body = _dump({"name": function["name"], "arguments": arguments}, f"{where}.tool_calls")
        lines.append(f"<tool_call>\n{body}\n</tool_call>")
    return "\n".join(lines)


def _add_tools(messages: list[Message], tools: Any) -> list[Message]:
    text = tools if isinstance(tools, str) else _dump(tools, "tools")
    description = f"You may call these functions:\n<tools>\n{text}\n</tools>"
    if messages and messages[0].role == "system":
        return [Message("system", f"{messages[0].content}\n\n{description}"), *messages[1:]]
    return [Message("system", description), *messages]


def _dump(value: Any, where: str) -> str:
    try:
        return json.dumps(value, ensure_ascii=False)
    except RecursionError:
        raise InvalidRow("json.malformed", f"{where} is nested too deeply") from None


def _weight(value: Any, where: str) -> float:
    if value is None:
        return 1.0
    if isinstance(value, bool) or not isinstance(value, int | float) or value not in (0, 1):
        raise InvalidRow("message.weight", f"{where}.weight must be 0 or 1, got {value!r}")
    return float(value)


def _problem(value: Any, expected: str) -> str:
    return f"is missing or null; it must be {expected}" if value is None else f"must be {expected}, got {_type(value)}"


def _type(value: Any) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number", type(None): "null"}
    return names.get(type(value), type(value).__name__)


def _join(names: Iterable[str]) -> str:
    shown = list(names)
    return ", ".join(shown[:12]) + (f" and {len(shown) - 12} more" if len(shown) > 12 else "")
