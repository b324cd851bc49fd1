"""From a conversation to token ids, and which of them the assistant said."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from mlops.remote.suites import Message, Row

__all__ = ["Encoded", "digest", "encode", "render", "tokenise"]


@dataclass(frozen=True)
class Encoded:
    """A token sequence and, per token, whether the assistant said it (only those are scored)."""

    ids: tuple[int, ...]
    labelled: tuple[bool, ...]

    @property
    def tokens(self) -> int:
        """How many tokens are scored."""
        return sum(self.labelled)


def encode(tokenizer: Any, row: Row, max_tokens: int) -> tuple[Encoded, ...]:
    """Tokenise a conversation under the model's own chat template and mark what the assistant said.

    The marks come from rendering the conversation up to each answer, with and without it: they are right for every template, and
    for models whose padding token is also their end token. One sequence per conversation where the template renders a turn alike
    with and without the turns after it; else (templates that drop earlier reasoning, for instance) one per answer.

    Args:
        tokenizer: a Hugging Face tokenizer with a chat template.
        row: the conversation.
        max_tokens: of a sequence; longer ones are cut at the end.

    Raises:
        ValueError: the template can't render the conversation.
    """
    turns = [number for number, message in enumerate(row.messages) if message["role"] == "assistant"]
    try:
        whole = render(tokenizer, row.messages)
        spans = [(render(tokenizer, row.messages[:turn], answer=True), render(tokenizer, row.messages[: turn + 1])) for turn in turns]
    except Exception as problem:  # a chat template is a program of somebody else's and may raise anything
        raise ValueError(f"row {row.id}: the chat template can't render it: {problem}") from problem
    answers = [row.messages[turn]["content"] for turn in turns]
    if all(_stable(whole, before, after, answer) for (before, after), answer in zip(spans, answers, strict=True)):
        return (_mark(tokenizer, whole, spans, max_tokens),)
    return tuple(_mark(tokenizer, after, [(before, after)], max_tokens) for before, after in spans)


def render(tokenizer: Any, messages: Sequence[Message], *, answer: bool = False) -> str:
    """The conversation as text; with ``answer``, up to where the assistant would begin."""
    return str(tokenizer.apply_chat_template([dict(message) for message in messages], tokenize=False, add_generation_prompt=answer))


def tokenise(tokenizer: Any, text: str) -> list[int]:
    """Token ids of rendered text (which holds its special tokens already)."""
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def digest(sequences: Sequence[Encoded]) -> str:
    """16 hex digits over what the model reads and what it is scored on: equal for two models only where both are equal."""
    content = repr([(sequence.ids, sequence.labelled) for sequence in sequences])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _stable(whole: str, before: str, after: str, answer: str) -> bool:
    return whole.startswith(before) and answer.strip() in whole[len(before) : _common(whole, after)]


def _mark(tokenizer: Any, whole: str, spans: Sequence[tuple[str, str]], max_tokens: int) -> Encoded:
    ids = tokenise(tokenizer, whole)
    labelled = [False] * len(ids)
    for before, after in spans:
        # The common prefix, not the length: a token may span the border, and some templates end every text with an end token.
        start = _common(tokenise(tokenizer, before), ids)
        end = _common(tokenise(tokenizer, after), ids)
        labelled[start:end] = [True] * (end - start)
    # Nothing comes before the first token, so nothing predicts it.
    labelled[:1] = [False]
    return Encoded(tuple(ids[:max_tokens]), tuple(labelled[:max_tokens]))


def _common(left: Sequence[object], right: Sequence[object]) -> int:
    """Length of the common prefix."""
    for number, (one, other) in enumerate(zip(left, right, strict=False)):
        if one != other:
            return number
    return min(len(left), len(right))
