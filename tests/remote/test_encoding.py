"""Labels of the assistant's tokens under several kinds of chat templates."""

from __future__ import annotations

from typing import Any

import pytest

from mlops.remote.encoding import digest, encode
from mlops.remote.suites import Row
from tests.support.tiny import TEMPLATE, make_tokenizer

# The end token follows the last message only, as in Phi-3.
END_TOKEN_LAST = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% else %}{{ '<|im_end|>' }}{% endif %}"
)
# Nothing marks the start of an answer, and content is trimmed, as in older Llama templates.
NO_MARKERS = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + ' <|im_end|>' }}{% endif %}{% endfor %}"
)
# The last turn is rendered with reasoning that is dropped once further turns follow, as in reasoning models.
DROPS_REASONING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' and loop.last %}{{ 'think ' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def row(*contents: str, system: str = "") -> Row:
    messages = [{"role": ("user", "assistant")[number % 2], "content": content} for number, content in enumerate(contents)]
    return Row("row", "", (*([{"role": "system", "content": system}] if system else []), *messages))


def scored_texts(template: str, conversation: Row, max_tokens: int = 1000) -> list[str]:
    """Return the text of each contiguous run of scored tokens."""
    tokenizer = make_tokenizer(template)
    texts: list[str] = []
    for sequence in encode(tokenizer, conversation, max_tokens):
        continues = False
        for token, labeled in zip(sequence.ids, sequence.labeled, strict=True):
            if labeled:
                text = tokenizer.decode([token])
                texts = [*texts[:-1], texts[-1] + text] if continues else [*texts, text]
            continues = labeled
    return texts


@pytest.mark.parametrize(
    ("template", "answers"),
    [
        (TEMPLATE, ["rain in spain<|im_end|>\n", "birds sing<|im_end|>\n"]),
        (END_TOKEN_LAST, ["rain in spain\n", "birds sing\n<|im_end|>"]),
        (NO_MARKERS, [" rain in spain <|im_end|>", " birds sing <|im_end|>"]),
        (DROPS_REASONING, ["think rain in spain<|im_end|>\n", "think birds sing<|im_end|>\n"]),
    ],
    ids=["chatml", "one end token", "no markers", "drops reasoning"],
)
def test_only_the_assistants_tokens_are_scored(template: str, answers: list[str]) -> None:
    assert scored_texts(template, row("what of the rain", "rain in spain", "and the birds", "birds sing")) == answers


def test_a_template_that_drops_reasoning_gives_one_sequence_per_answer() -> None:
    whole = encode(make_tokenizer(TEMPLATE), row("a cat", "sat", "a mat", "and sat"), 1000)
    apart = encode(make_tokenizer(DROPS_REASONING), row("a cat", "sat", "a mat", "and sat"), 1000)
    assert (len(whole), len(apart)) == (1, 2)


def test_the_system_message_is_not_scored() -> None:
    assert scored_texts(TEMPLATE, row("a cat", "the mat", system="said the plain")) == ["the mat<|im_end|>\n"]


def test_an_answer_that_repeats_the_question_is_scored_only_as_the_answer() -> None:
    assert scored_texts(TEMPLATE, row("the cat", "the cat")) == ["the cat<|im_end|>\n"]


def test_the_first_token_is_never_scored_because_nothing_predicts_it() -> None:
    silent = "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}{% endif %}{% endfor %}"
    (sequence,) = encode(make_tokenizer(silent), row("a cat", "the mat and the rain"), 1000)
    assert sequence.labeled == (False, *([True] * (len(sequence.ids) - 1)))


def test_end_tokens_are_scored_even_if_they_are_the_padding_token() -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    (sequence,) = encode(tokenizer, row("a cat", "the mat"), 1000)
    ends = [index for index, token in enumerate(sequence.ids) if token == tokenizer.eos_token_id]
    assert [sequence.labeled[index] for index in ends] == [False, True]


@pytest.mark.parametrize("template", [TEMPLATE, DROPS_REASONING])
def test_long_rows_are_truncated_at_the_end(template: str) -> None:
    conversation = row("a cat", "the mat and the rain", "a bird", "said that")
    for whole, cut in zip(*(encode(make_tokenizer(template), conversation, limit) for limit in (1000, 12)), strict=True):
        assert (cut.ids, cut.labeled) == (whole.ids[:12], whole.labeled[:12])
        assert (whole.cut, cut.cut) == (False, True)


def test_a_row_of_exactly_the_limit_is_whole() -> None:
    tokenizer, conversation = make_tokenizer(), row("a cat", "the mat and the rain")
    (whole,) = encode(tokenizer, conversation, 1000)
    assert [encode(tokenizer, conversation, len(whole.ids) - less)[0].cut for less in (0, 1)] == [False, True]


def test_the_digest_depends_on_tokens_and_labels() -> None:
    tokenizer = make_tokenizer()
    one, other = (encode(tokenizer, conversation, 1000) for conversation in (row("a cat", "sat"), row("a cat", "said")))
    assert digest(one) == digest(encode(tokenizer, row("a cat", "sat"), 1000))
    assert digest(one) != digest(other)
    assert digest(one) != digest(encode(tokenizer, row("a cat", "sat"), 5))


def test_an_error_of_the_template_names_the_row() -> None:
    tokenizer: Any = make_tokenizer("{{ raise_exception('no system role') }}")
    with pytest.raises(ValueError, match="row row: the chat template can't render it: no system role"):
        encode(tokenizer, row("a cat", "sat"), 1000)
