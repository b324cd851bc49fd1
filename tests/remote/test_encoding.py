"""Which tokens the assistant said, under templates of several makes."""

from __future__ import annotations

from typing import Any

import pytest

from mlops.remote.encoding import digest, encode
from mlops.remote.suites import Row
from tests.support.tiny import TEMPLATE, make_tokenizer

# The end token after the last message only, as Phi-3 has it.
ENDING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% else %}{{ '<|im_end|>' }}{% endif %}"
)
# Nothing marks where the assistant begins, and content is trimmed, as in older Llama templates.
BARE = (
    "{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] | trim + ' <|im_end|>' }}{% endif %}{% endfor %}"
)
# An earlier turn is rendered shorter than it was when it was the last, as reasoning models have it.
FORGETTING = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}{% if m['role'] == 'assistant' and loop.last %}{{ 'think ' }}{% endif %}"
    "{{ m['content'] + '<|im_end|>\n' }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


def row(*contents: str, system: str = "") -> Row:
    messages = [{"role": ("user", "assistant")[number % 2], "content": content} for number, content in enumerate(contents)]
    return Row("row", "", (*([{"role": "system", "content": system}] if system else []), *messages))


def scored(template: str, conversation: Row, max_tokens: int = 1000) -> list[str]:
    """The text of each run of scored tokens."""
    tokenizer = make_tokenizer(template)
    found: list[str] = []
    for sequence in encode(tokenizer, conversation, max_tokens):
        before = False
        for token, labelled in zip(sequence.ids, sequence.labelled, strict=True):
            if labelled:
                text = tokenizer.decode([token])
                found = [*found[:-1], found[-1] + text] if before else [*found, text]
            before = labelled
    return found


@pytest.mark.parametrize(
    ("template", "said"),
    [
        (TEMPLATE, ["rain in spain<|im_end|>\n", "birds sing<|im_end|>\n"]),
        (ENDING, ["rain in spain\n", "birds sing\n<|im_end|>"]),
        (BARE, [" rain in spain <|im_end|>", " birds sing <|im_end|>"]),
        (FORGETTING, ["think rain in spain<|im_end|>\n", "think birds sing<|im_end|>\n"]),
    ],
    ids=["chatml", "one end token", "bare", "forgetting"],
)
def test_only_what_the_assistant_said_is_scored(template: str, said: list[str]) -> None:
    assert scored(template, row("what of the rain", "rain in spain", "and the birds", "birds sing")) == said


def test_a_template_that_forgets_is_scored_answer_by_answer() -> None:
    whole = encode(make_tokenizer(TEMPLATE), row("a cat", "sat", "a mat", "and sat"), 1000)
    apart = encode(make_tokenizer(FORGETTING), row("a cat", "sat", "a mat", "and sat"), 1000)
    assert (len(whole), len(apart)) == (1, 2)


def test_the_system_message_is_not_scored() -> None:
    assert scored(TEMPLATE, row("a cat", "the mat", system="said the plain")) == ["the mat<|im_end|>\n"]


def test_an_answer_that_repeats_the_question_is_scored_where_it_is_the_answer() -> None:
    assert scored(TEMPLATE, row("the cat", "the cat")) == ["the cat<|im_end|>\n"]


def test_the_first_token_is_never_scored_since_nothing_predicts_it() -> None:
    silent = "{% for m in messages %}{% if m['role'] == 'assistant' %}{{ m['content'] }}{% endif %}{% endfor %}"
    (sequence,) = encode(make_tokenizer(silent), row("a cat", "the mat and the rain"), 1000)
    assert sequence.labelled == (False, *([True] * (len(sequence.ids) - 1)))


def test_end_tokens_are_scored_although_they_are_the_padding_token() -> None:
    tokenizer = make_tokenizer()
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    (sequence,) = encode(tokenizer, row("a cat", "the mat"), 1000)
    ends = [index for index, token in enumerate(sequence.ids) if token == tokenizer.eos_token_id]
    assert [sequence.labelled[index] for index in ends] == [False, True]


@pytest.mark.parametrize("template", [TEMPLATE, FORGETTING])
def test_long_rows_are_cut_at_the_end(template: str) -> None:
    conversation = row("a cat", "the mat and the rain", "a bird", "said that")
    for whole, cut in zip(*(encode(make_tokenizer(template), conversation, limit) for limit in (1000, 12)), strict=True):
        assert (cut.ids, cut.labelled) == (whole.ids[:12], whole.labelled[:12])


def test_digest_tells_tokens_and_marks_apart() -> None:
    tokenizer = make_tokenizer()
    one, other = (encode(tokenizer, conversation, 1000) for conversation in (row("a cat", "sat"), row("a cat", "said")))
    assert digest(one) == digest(encode(tokenizer, row("a cat", "sat"), 1000))
    assert digest(one) != digest(other)
    assert digest(one) != digest(encode(tokenizer, row("a cat", "sat"), 5))


def test_a_template_that_refuses_is_named_with_the_row() -> None:
    refusing: Any = make_tokenizer("{{ raise_exception('no system role') }}")
    with pytest.raises(ValueError, match="row row: the chat template can't render it: no system role"):
        encode(refusing, row("a cat", "sat"), 1000)
