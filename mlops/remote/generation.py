"""What a model answers: greedy, so that the same model answers the same."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from mlops.remote.encoding import render, tokenise
from mlops.remote.likelihood import batches
from mlops.remote.rouge import rouge_l
from mlops.remote.suites import Row

__all__ = ["Answer", "generate"]


@dataclass(frozen=True)
class Answer:
    """A generated answer beside the one that stands in the suite."""

    prompt: str
    """What the user said last."""
    answer: str
    reference: str
    tokens: int
    stop: str
    """``end`` where the model ended its answer, ``length`` where it was cut."""
    rouge_l: float


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
    """Let the model answer the last user turn of each row, in their order.

    Args:
        model: a causal language model in evaluation mode.
        tokenizer: its tokenizer, with a chat template.
        rows: conversations that end with the assistant.
        max_tokens: of a question with what was said before; where that is longer, an earlier turn is asked.
        max_new_tokens: of an answer.
        batch_tokens: tokens in a batch, padding and answers included.
        advance: called with the number of rows done.
    """
    asked = [_question(tokenizer, row, max_tokens) for row in rows]
    answers: list[Answer | None] = [None] * len(rows)
    for batch in batches([len(ids) + max_new_tokens for _, ids in asked], batch_tokens):
        made = _generate_batch(model, tokenizer, [asked[index][1] for index in batch], max_new_tokens)
        for index, (answer, tokens, ended) in zip(batch, made, strict=True):
            turn = asked[index][0]
            messages = rows[index].messages
            reference = messages[turn]["content"]
            answers[index] = Answer(
                messages[turn - 1]["content"], answer, reference, tokens, "end" if ended else "length", rouge_l(answer, reference)
            )
        advance(len(batch))
    return [answer for answer in answers if answer is not None]


def _question(tokenizer: Any, row: Row, max_tokens: int) -> tuple[int, list[int]]:
    """The assistant's turn to generate, and the token ids before it: the last turn that fits, else the first one's end."""
    turns = [number for number, message in enumerate(row.messages) if message["role"] == "assistant"]
    for turn in reversed(turns):
        ids = tokenise(tokenizer, render(tokenizer, row.messages[:turn], answer=True))
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
        # On the left, so that every answer begins at the same place.
        ids[number, longest - len(prompt) :] = torch.tensor(prompt)
        attention[number, longest - len(prompt) :] = 1
    # The model's own generation settings may sample or penalise; only its end tokens are taken from there.
    settings = GenerationConfig(
        do_sample=False, num_beams=1, max_new_tokens=max_new_tokens, eos_token_id=ends, pad_token_id=ends[0], use_cache=True
    )
    with torch.inference_mode():
        made = model.generate(input_ids=ids.to(model.device), attention_mask=attention.to(model.device), generation_config=settings)
    return [_read(tokenizer, row, ends) for row in made[:, longest:].tolist()]


def _read(tokenizer: Any, ids: Sequence[int], ends: Sequence[int]) -> tuple[str, int, bool]:
    length = next((number for number, token in enumerate(ids) if token in ends), len(ids))
    return str(tokenizer.decode(ids[:length], skip_special_tokens=True)).strip(), length, length < len(ids)


def _end_tokens(model: Any, tokenizer: Any) -> list[int]:
    """What ends an answer: the generation settings', the model's and the tokenizer's end tokens."""
    ends: list[int | None] = []
    for source in (getattr(model, "generation_config", None), model.config, tokenizer):
        found = getattr(source, "eos_token_id", None)
        ends += found if isinstance(found, (list, tuple)) else [found]
    known = [end for end in dict.fromkeys(ends) if end is not None]
    if not known:
        raise ValueError("neither the model nor its tokenizer names an end token")
    return known
