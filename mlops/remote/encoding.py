"""Conversations as token ids, with a mask of the assistant's tokens."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlops.remote.suites import Message, Row

__all__ = ["EncodedSequence", "digest", "encode", "render", "tokenize"]


@dataclass(frozen=True)
class EncodedSequence:
    """A token sequence and a mask of the assistant's tokens, which are the ones that are scored."""

    ids: tuple[int, ...]
    labeled: tuple[bool, ...]
    cut: bool = False
    """Whether it was longer than the limit, so that its end is missing."""

    @property
    def tokens(self) -> int:
        """The number of scored tokens."""
        return sum(self.labeled)


def encode(tokenizer: Any, row: Row, max_tokens: int) -> tuple[EncodedSequence, ...]:
    """Tokenize a conversation with the model's own chat template and label the assistant's tokens.

    The labels come from rendering the conversation up to each answer, with and without that answer. This works for every template, and
    for models whose padding token is also their end token. The result is one sequence per conversation if the template renders a turn
    the same way with and without the turns after it. Otherwise (some templates drop earlier reasoning) it is one sequence per answer.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        row: the conversation.
        max_tokens: the length limit of a sequence; longer ones are truncated at the end.

    Raises:
        ValueError: the template can't render the conversation.
    """
    turns = [number for number, message in enumerate(row.messages) if message["role"] == "assistant"]
    try:
        whole = render(tokenizer, row.messages)
        spans = [(render(tokenizer, row.messages[:turn], answer=True), render(tokenizer, row.messages[: turn + 1])) for turn in turns]
    except Exception as problem:  # a chat template is third-party code and may raise anything
        raise ValueError(f"row {row.id}: the chat template can't render it: {problem}") from problem
    answers = [row.messages[turn]["content"] for turn in turns]
    if all(_renders_stably(whole, before, after, answer) for (before, after), answer in zip(spans, answers, strict=True)):
        return (_label_answers(tokenizer, whole, spans, max_tokens),)
    return tuple(_label_answers(tokenizer, after, [(before, after)], max_tokens) for before, after in spans)


def render(tokenizer: Any, messages: Sequence[Message], *, answer: bool = False) -> str:
    """Render the conversation as text; with ``answer``, add the prompt that starts the assistant's answer."""
    return str(tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False, add_generation_prompt=answer))


def tokenize(tokenizer: Any, text: str) -> list[int]:
    """Tokenize rendered text, which already contains its special tokens."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def digest(sequences: Sequence[EncodedSequence]) -> str:
    """Hash token ids and labels to 16 hex digits. Two models have equal digests only if they read and are scored on the same tokens."""
    content = repr([(sequence.ids, sequence.labeled) for sequence in sequences])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _renders_stably(whole: str, before: str, after: str, answer: str) -> bool:
    return whole.startswith(before) and answer.strip() in whole[len(before) : _common_prefix_length(whole, after)]


def _label_answers(tokenizer: Any, whole: str, spans: Sequence[tuple[str, str]], max_tokens: int) -> EncodedSequence:
    ids = tokenize(tokenizer, whole)
    labeled = [False] * len(ids)
    for before, after in spans:
        # Use the common prefix, not the length: a token may span the boundary, and some templates end every text with an end token.
        start = _common_prefix_length(tokenize(tokenizer, before), ids)
        end = _common_prefix_length(tokenize(tokenizer, after), ids)
        labeled[start:end] = [True] * (end - start)
    # No token precedes the first one, so nothing predicts it.
    labeled[:1] = [False]
    return EncodedSequence(tuple(ids[:max_tokens]), tuple(labeled[:max_tokens]), cut=len(ids) > max_tokens)


def _common_prefix_length(left: Sequence[object], right: Sequence[object]) -> int:
    """Return the length of the common prefix."""
    for number, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return number
    return min(len(left), len(right))
