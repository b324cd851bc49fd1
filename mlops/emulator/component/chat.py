"""Conversations as token ids and labels: only what the assistant says is labeled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlops.emulator.component.failures import UserError

__all__ = ["IGNORED", "ROLES", "check_messages", "encode"]

IGNORED = -100
"""The label of a token that carries no loss, as in PyTorch and Hugging Face."""

ROLES = ("system", "user", "assistant")

Message = Mapping[str, str]


def check_messages(messages: Any) -> str:
    """Return what is wrong with a conversation, or an empty string."""
    if not isinstance(messages, (list, tuple)) or not messages:
        return "messages should be a list with at least one message"
    for message in messages:
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str) or message.get("role") not in ROLES:
            return f"each message should have a role ({', '.join(ROLES)}) and a text as content"
    roles = [message["role"] for message in messages]
    if "system" in roles[1:]:
        return "Only one system role should be present and should be at the beginning of messages"
    if roles[0] == "system" and "user" not in roles:
        return "messages should contain user role to process system message"
    return ""


def encode(tokenizer: Any, messages: Sequence[Message]) -> tuple[list[int], list[int]]:
    """Return the token ids of a conversation, and labels: the id where the assistant speaks, :data:`IGNORED` elsewhere.

    Works for any template, even without ``{% generation %}`` marks: to find a message's tokens, tokenize the conversation before and
    after it and compare the ids. Ids, not text, because ``<|end|>`` and ``<|endoftext|>`` start with the same characters. The header of
    the assistant's turn carries no loss, its end-of-turn token does, and anything after that does not.

    Padding plays no part: a pad id that equals eos would mask the end of turn.

    Raises:
        UserError: the template refuses the conversation, or renders a prefix of it differently.
    """
    messages = _fold_system(tokenizer, messages)
    ids = _render(tokenizer, messages, add_prompt=False)
    labels = [IGNORED] * len(ids)
    special = set(tokenizer.all_special_ids)
    for index, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        start = _common_length(ids, _ids_before_answer(tokenizer, messages, index))
        end = _common_length(ids, _render(tokenizer, messages[: index + 1], add_prompt=False))
        closing = next((at for at in range(end - 1, start - 1, -1) if ids[at] in special), end - 1)
        if start >= end or any(label != IGNORED for label in labels[start:]):
            raise UserError("The chat template does not render the beginning of a conversation as it renders the whole of it.")
        labels[start : closing + 1] = ids[start : closing + 1]
    return ids, labels


def _ids_before_answer(tokenizer: Any, messages: Sequence[Message], index: int) -> list[int]:
    """Return the ids before the content of the assistant's message ``index``."""
    if index:
        return _render(tokenizer, messages[:index], add_prompt=True)
    # No template prompts for an answer to nothing. A turn with another first letter has the same header.
    other = "b" if messages[0]["content"].startswith("a") else "a"
    return _render(tokenizer, [{"role": "assistant", "content": other}], add_prompt=False)


def _render(tokenizer: Any, messages: Sequence[Message], add_prompt: bool) -> list[int]:
    try:
        text = tokenizer.apply_chat_template(list(messages), tokenize=False, add_generation_prompt=add_prompt)
    except Exception as problem:
        raise UserError(f"The chat template refuses the conversation: {problem}") from problem
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _fold_system(tokenizer: Any, messages: Sequence[Message]) -> Sequence[Message]:
    """Move a system message that the template drops or refuses to the beginning of the first user message."""
    if messages[0]["role"] != "system":
        return messages
    text = messages[0]["content"]
    try:
        is_rendered = text.strip() in tokenizer.apply_chat_template(list(messages), tokenize=False)
    except Exception:
        is_rendered = False
    if is_rendered:
        return messages
    first = next(index for index, message in enumerate(messages) if message["role"] == "user")
    folded = [dict(message) for message in messages[1:]]
    folded[first - 1]["content"] = f"{text}\n\n{folded[first - 1]['content']}"
    return folded


def _common_length(left: Sequence[int], right: Sequence[int]) -> int:
    """Return how many ids two sequences share at their beginning."""
    return next((index for index, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right)))
