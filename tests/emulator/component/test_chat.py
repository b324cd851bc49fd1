"""Encoding of conversations: only what the assistant says carries loss."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from mlops.emulator.component.chat import IGNORED, check_messages, encode
from mlops.emulator.component.failures import UserError

# No special tokens, no end of turn, and a different rendering of the prompt: the hardest kind.
PLAIN = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
# Drops the system message.
NO_SYSTEM = "{% for m in messages if m['role'] != 'system' %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
# Refuses it.
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system role') }}{% endif %}" + NO_SYSTEM
PROMPT = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def labeled_texts(tokenizer: Any, messages: Sequence[dict[str, str]]) -> list[str]:
    """Decode each labeled sequence."""
    ids, labels = encode(tokenizer, messages)
    assert len(ids) == len(labels)
    assert all(label in (IGNORED, token) for token, label in zip(ids, labels, strict=True))
    sequences: list[list[int]] = [[]]
    for label in labels:
        if label != IGNORED:
            sequences[-1].append(label)
        elif sequences[-1]:
            sequences.append([])
    return [tokenizer.decode(sequence) for sequence in sequences if sequence]


@pytest.mark.parametrize(("kind", "end"), [("tiny-llama", "<|im_end|>"), ("tiny-phi3", "<|end|>"), ("tiny-phi4", "<|im_end|>")])
def test_only_assistant_tokens_and_their_end_of_turn_are_labeled(
    kind: str, end: str, tokenizer: Callable[[str], Any], conversations: Sequence[Any]
) -> None:
    for messages in conversations:
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        closing = "\n<|endoftext|>" if kind == "tiny-phi3" else ""
        assert labeled_texts(tokenizer(kind), messages) == [*(text + end for text in answers[:-1]), answers[-1] + end + closing]


def test_the_pad_token_is_the_eos_token_and_still_carries_loss(tokenizer: Callable[[str], Any], conversations: Sequence[Any]) -> None:
    llama = tokenizer("tiny-llama")
    assert llama.pad_token_id == llama.eos_token_id
    _, labels = encode(llama, conversations[0])
    assert labels.count(llama.eos_token_id) == 2


def test_a_template_without_special_tokens_is_labeled(tokenizer: Callable[[str], Any], conversations: Sequence[Any]) -> None:
    llama = tokenizer("tiny-llama")
    llama.chat_template = PLAIN
    for messages in conversations:
        # The header's last space is part of the first word's token.
        answers = [message["content"] for message in messages if message["role"] == "assistant"]
        assert [text.strip() for text in labeled_texts(llama, messages)] == answers


@pytest.mark.parametrize("template", [NO_SYSTEM, REFUSES])
def test_an_unsupported_system_message_moves_into_the_first_user_message(
    template: str, tokenizer: Callable[[str], Any], conversations: Sequence[Any]
) -> None:
    llama = tokenizer("tiny-llama")
    llama.chat_template = template + PROMPT
    messages = conversations[1]
    assert messages[0] == {"role": "system", "content": "Be brief."}
    ids, _ = encode(llama, messages)
    assert llama.decode(ids).startswith("<|im_start|>user\nBe brief.\n\nwhat do you think")
    assert len(labeled_texts(llama, messages)) == 2


def test_the_assistant_may_open_a_conversation(tokenizer: Callable[[str], Any]) -> None:
    messages = [
        {"role": "assistant", "content": "a question"},
        {"role": "user", "content": "what?"},
        {"role": "assistant", "content": "it is late"},
    ]
    assert labeled_texts(tokenizer("tiny-llama"), messages) == ["a question<|im_end|>", "it is late<|im_end|>"]


def test_a_template_that_renders_prefixes_differently_is_refused(tokenizer: Callable[[str], Any], conversations: Sequence[Any]) -> None:
    llama = tokenizer("tiny-llama")
    llama.chat_template = "{{ messages | length }} messages: " + NO_SYSTEM + PROMPT
    with pytest.raises(UserError, match="does not render the beginning"):
        encode(llama, conversations[0])


SYSTEM, USER, ASSISTANT = ({"role": role, "content": "x"} for role in ("system", "user", "assistant"))


@pytest.mark.parametrize(
    ("messages", "problem"),
    [
        ([USER, SYSTEM, ASSISTANT], "Only one system role should be present and should be at the beginning of messages"),
        ([SYSTEM, SYSTEM, USER], "Only one system role should be present and should be at the beginning of messages"),
        ([SYSTEM, ASSISTANT], "messages should contain user role to process system message"),
        ([], "messages should be a list with at least one message"),
        ("text", "messages should be a list with at least one message"),
        ([{"role": "tool", "content": "x"}], "each message should have a role (system, user, assistant) and a text as content"),
        ([{"role": "user", "content": None}], "each message should have a role (system, user, assistant) and a text as content"),
        (["x"], "each message should have a role (system, user, assistant) and a text as content"),
        ([SYSTEM, USER, ASSISTANT], ""),
        ([USER, ASSISTANT, USER], ""),
    ],
)
def test_check_messages_names_the_problem(messages: Any, problem: str) -> None:
    assert check_messages(messages) == problem
