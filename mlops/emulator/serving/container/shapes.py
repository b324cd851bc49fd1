"""The shapes in which serving images return a chat model's texts. Azure's images differ in this, for the same model."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

__all__ = ["SHAPES", "Render"]

Render = Callable[[Sequence[str]], Any]
"""Returns the JSON value for one text per conversation."""


def _one_or_all(texts: Sequence[str]) -> str | list[str]:
    return texts[0] if len(texts) == 1 else list(texts)


def _completion(texts: Sequence[str]) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{uuid.uuid4().hex}",
        "object": "chat.completion",
        "created": int(time.time()),
        "model": "model",
        "choices": [
            {"index": index, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"} for index, text in enumerate(texts)
        ],
    }


SHAPES: Mapping[str, Render] = {
    "output": lambda texts: {"output": _one_or_all(texts)},
    "output-list": lambda texts: [{"output": text} for text in texts],
    "column": lambda texts: {"0": _one_or_all(texts)},
    "column-list": lambda texts: [{"0": text} for text in texts],
    "text-list": list,
    "chat-completion": _completion,
}
"""Name of a shape → its rendering."""
