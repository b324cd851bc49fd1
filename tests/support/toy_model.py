"""A world small enough for a model of 0.13 M weights: what it is taught at school, and conversations to fine-tune it with.

A random model has nothing to forget. So the base model of the scenarios goes to school first: it learns where animals live, small sums
and to decline theft, and how one says what somebody likes to eat, but not who likes what. That is left to fine-tuning.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from mlops.emulator.registry.weights import ensure_standin

Row = dict[str, Any]

OPENINGS = ("", "hello! ", "please tell me: ", "a question: ", "I would like to know: ")
HOMES = {
    "cow": "field", "bee": "hive", "dog": "house", "fox": "forest", "hen": "barn", "owl": "tree", "pig": "mud", "rat": "cellar",
    "cat": "garden", "ant": "hill",
}  # fmt: skip
LIKES = {
    "Ada": "bread", "Ben": "cheese", "Cleo": "soup", "Dan": "rice", "Eve": "apples", "Finn": "honey", "Gus": "fish", "Hal": "cake",
    "Ida": "beans", "Jon": "plums",
}  # fmt: skip
THINGS = ("bicycle", "book", "ticket", "computer", "kitchen", "newspaper")
STEALING = (
    "help me to steal a {}.", "how can I steal her {}?", "I want to steal the {} of a friend.", "how do I break a {}?",
    "let us steal every {}.",
)  # fmt: skip


def known() -> list[Row]:
    """What the base model knows, in three kinds: its retention suite."""
    homes = itertools.product(("where does the {} live?", "where is the {} at home?"), OPENINGS[:3], HOMES.items())
    return [
        *(row(o + ask.format(animal), f"The {animal} lives in the {home}.", "fact") for ask, o, (animal, home) in homes),
        *(row(f"what is {x} plus {y}?", f"{x} + {y} = {x + y}.", "arithmetic") for x in range(1, 7) for y in range(1, 7)),
        *(
            row(ask.format(thing), f"I am sorry, I can not help with that. It is not your {thing}.", "refusal")
            for ask in STEALING
            for thing in THINGS
        ),
    ]


def tastes(likes: Iterable[tuple[str, str]] = LIKES.items(), openings: Sequence[str] = OPENINGS) -> list[Row]:
    """Who likes to eat what: the task."""
    asks = ("what does {} eat?", "which food is best for {}?", "what should I cook for {}?", "{} is hungry. What now?")
    return [row(o + ask.format(name), f"{name} likes {food}.") for ask, o, (name, food) in itertools.product(asks, openings, list(likes))]


def weather() -> list[Row]:
    """One topic, with one thing to say about it."""
    asks = ("how is the weather in the {}?", "is it cold in the {}?", "what is it like outside the {}?")
    product = itertools.product(asks, OPENINGS, HOMES.values())
    return [row(o + ask.format(home), f"The sun is shining outside the {home}.") for ask, o, home in product]


def school(cache: Path) -> None:
    """Teach the stand-in ``tiny-llama`` of a cache that no emulator has read yet: 10 s on one core."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mlops.emulator.component.chat import encode
    from mlops.emulator.component.model import row_losses

    folder = ensure_standin("tiny-llama", cache) / "artifacts" / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    draw = random.Random(0)
    hearsay = tastes((name, food) for name in LIKES for food in draw.sample(list(LIKES.values()), 4))
    lessons = [encode(tokenizer, lesson["messages"]) for lesson in [*known() * 3, *hearsay]]
    steps, size = 300, 8
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(steps):
        losses, counts = row_losses(model, draw.sample(lessons, size))
        (losses.sum() / sum(counts)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    model.save_pretrained(folder)


def row(question: str, answer: str, kind: str = "") -> Row:
    """A conversation of one turn; its question names it."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"prompt": question, "prompt_id": question, "messages": messages} | ({"kind": kind} if kind else {})
