"""Greedy generation: the same model always gives the same answers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlops.remote.encoding import render, tokenize
from mlops.remote.likelihood import batches
from mlops.remote.rouge import rouge_l
from mlops.remote.suites import Row

__all__ = ["Answer", "generate"]


@dataclass(frozen=True)
class Answer:
    """A generated answer and the reference answer from the suite."""

    prompt: str
    """The user message that is answered."""
    answer: str
    reference: str
    tokens: int
    stop: str
    """``end`` if the model finished its answer, ``length`` if it was truncated."""
    rouge_l: float
    is_last: bool
    """Whether it answers the last user turn; an earlier one is answered if the prompt was too long."""


def generate(
    model: Any,
    tokenizer: Any,
    rows: Sequence[Row],
    *,
    max_tokens: int,
    max_new_tokens: int,
    batch_tokens: int,
    advance: Callable[[int], None] = lambda _: None,
) -> list[Answer]:
    """Generate an answer to the last user turn of each row, in the order of the rows.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        rows: conversations that end with the assistant.
        max_tokens: the limit for a prompt with its context; if it is exceeded, an earlier turn is answered instead.
        max_new_tokens: the limit for an answer.
        batch_tokens: the limit for a batch, padding and answers included.
        advance: called with the number of completed rows.
    """
    prompts = [_select_prompt(tokenizer, row, max_tokens) for row in rows]
    answers: list[Answer | None] = [None] * len(rows)
    for batch in batches([len(ids) + max_new_tokens for _, ids in prompts], batch_tokens):
        generated = _generate_batch(model, tokenizer, [prompts[index][1] for index in batch], max_new_tokens)
        for index, (answer, tokens, ended) in zip(batch, generated, strict=True):
            turn = prompts[index][0]
            messages = rows[index].messages
            reference = messages[turn]["content"]
            answers[index] = Answer(
                prompt=messages[turn - 1]["content"],
                answer=answer,
                reference=reference,
                tokens=tokens,
                stop="end" if ended else "length",
                rouge_l=rouge_l(answer, reference),
                is_last=turn == len(messages) - 1,
            )
        advance(len(batch))
    return [answer for answer in answers if answer is not None]


def _select_prompt(tokenizer: Any, row: Row, max_tokens: int) -> tuple[int, list[int]]:
    """Choose the assistant turn to generate and return it with its prompt's token ids.

    This is the last turn whose prompt fits. If none fits, it is the first turn, and the beginning of its prompt is cut off.
    """
    turns = [number for number, message in enumerate(row.messages) if message["role"] == "assistant"]
    for turn in reversed(turns):
        ids = tokenize(tokenizer, render(tokenizer, row.messages[:turn], answer=True))
        if len(ids) <= max_tokens:
            return turn, ids
    return turns[0], ids[-max_tokens:]


def _generate_batch(model: Any, tokenizer: Any, prompts: Sequence[Sequence[int]], max_new_tokens: int) -> list[tuple[str, int, bool]]:
    import torch
    from transformers import GenerationConfig

    ends = _end_tokens(model, tokenizer)
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), ends[0], dtype=torch.long)
    attention = torch.zeros_like(ids)
    for number, prompt in enumerate(prompts):
        # Pad on the left, so that all answers begin at the same position.
        ids[number, longest - len(prompt) :] = torch.tensor(prompt)
        attention[number, longest - len(prompt) :] = 1
    # The model's own generation settings may sample or penalize; use only its end tokens.
    settings = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=ends[0], use_cache=True
    )
    with torch.inference_mode():
        generated = model.generate(input_ids=ids.to(model.device), attention_mask=attention.to(model.device), generation_config=settings)
    return [_decode_answer(tokenizer, row, ends) for row in generated[:, longest:].tolist()]


def _decode_answer(tokenizer: Any, ids: Sequence[int], ends: Sequence[int]) -> tuple[str, int, bool]:
    length = next((number for number, token in enumerate(ids) if token in ends), len(ids))
    return str(tokenizer.decode(ids[:length], skip_special_tokens=True)).strip(), length, length < len(ids)


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """Collect the end tokens of the generation settings, the model and the tokenizer."""
    ends: list[int | None] = []
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        token_ids = getattr(source, "eos_token_id", None)
        ends += token_ids if isinstance(token_ids, (list, tuple)) else [token_ids]
    end_tokens = [end for end in dict.fromkeys(ends) if end is not None]
    if not end_tokens:
        raise ValueError("neither the model nor its tokenizer names an end token")
    return end_tokens
