"""The answer of a chat model behind an endpoint: its text, and the shape that the serving image gave it.

The shape depends on the serving image, not on the model: :data:`SHAPES` lists the known ones. Anything else is a
:class:`ForeignAnswer`, because a guess at its text could pass a model that answers with an error message.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["SHAPES", "Answer", "ForeignAnswer", "parse_answer"]

SHAPES: Mapping[str, str] = {
    "output": '{"output": "…"}',
    "output-list": '[{"output": "…"}]',
    "column": '{"0": "…"}',
    "column-list": '[{"0": "…"}]',
    "text-list": '["…"]',
    "chat-completion": '{"choices": [{"message": {"content": "…"}}]}',
}
"""Name of a shape → what it looks like. ``output`` comes from the vLLM image; ``output-list``, the two of a column and ``text-list`` from
MLflow's no-code image, ``chat-completion`` from images with OpenAI's protocol."""

EXCERPT = 300
"""A foreign answer is shown up to this many characters."""

_KEYS = {"output": "output", "0": "column"}


@dataclass(frozen=True)
class Answer:
    """The text of an answer, and the name of its shape in :data:`SHAPES`."""

    text: str
    shape: str


class ForeignAnswer(ValueError):
    """The answer has none of the known shapes. The message shows its beginning."""


def parse_answer(content: bytes) -> Answer:
    """Read the body of a successful response.

    Args:
        content: as received, JSON in UTF-8. Azure's no-code server may wrap the JSON text once more in a JSON string.

    Raises:
        ForeignAnswer: it has none of the shapes, or its text is not valid Unicode.
    """
    try:
        value = json.loads(content)
        answer = _match(json.loads(value) if isinstance(value, str) and value[:1] in ("[", "{") else value)
        if answer is not None:
            answer.text.encode()
            return answer
    except (ValueError, RecursionError):
        pass
    excerpt = content.decode("utf-8", "backslashreplace")[:EXCERPT]
    raise ForeignAnswer(f"the answer has none of the shapes {', '.join(SHAPES.values())}; it begins with: {excerpt or '(nothing)'}")


def _match(value: Any) -> Answer | None:
    if isinstance(value, list):
        if len(value) != 1:
            return None
        if isinstance(value[0], str):
            return Answer(value[0], "text-list")
        row = _match_row(value[0])
        return None if row is None else Answer(row.text, f"{row.shape}-list")
    if isinstance(value, dict) and "choices" in value:
        return _match_completion(value)
    return _match_row(value)


def _match_row(value: Any) -> Answer | None:
    if isinstance(value, dict) and len(value) == 1:
        [(key, text)] = value.items()
        if key in _KEYS and isinstance(text, str):
            return Answer(text, _KEYS[key])
    return None


def _match_completion(value: dict[str, Any]) -> Answer | None:
    try:
        [choice] = value["choices"]
        text = choice["message"]["content"]
    except (KeyError, TypeError, ValueError):
        return None
    return Answer(text, "chat-completion") if isinstance(text, str) else None
