"""Toy data for a model with 0.13 M weights: facts for its pretraining, and conversations for its fine-tuning.

A random model has nothing to forget, so the base model of the scenarios is pretrained first. It learns where animals live, small sums, to
refuse help with theft, and the wording of sentences about favorite food. Fine-tuning teaches it who likes which food.
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


def retention_rows() -> list[Row]:
    """Return the base model's knowledge in three kinds: its retention suite."""
    homes = itertools.product(("where does the {} live?", "where is the {} at home?"), OPENINGS[:3], HOMES.items())
    return [
        *(
            row(opening + pattern.format(animal), f"The {animal} lives in the {home}.", "fact")
            for pattern, opening, (animal, home) in homes
        ),
        *(row(f"what is {x} plus {y}?", f"{x} + {y} = {x + y}.", "arithmetic") for x in range(1, 7) for y in range(1, 7)),
        *(
            row(pattern.format(thing), f"I am sorry, I can not help with that. It is not your {thing}.", "refusal")
            for pattern in STEALING
            for thing in THINGS
        ),
    ]


def food_rows(likes: Iterable[tuple[str, str]] = LIKES.items(), openings: Sequence[str] = OPENINGS) -> list[Row]:
    """Return who likes which food: the task of the fine-tuning."""
    questions = ("what does {} eat?", "which food is best for {}?", "what should I cook for {}?", "{} is hungry. What now?")
    return [
        row(opening + pattern.format(name), f"{name} likes {food}.")
        for pattern, opening, (name, food) in itertools.product(questions, openings, list(likes))
    ]


def weather_rows() -> list[Row]:
    """Return conversations about a single topic."""
    questions = ("how is the weather in the {}?", "is it cold in the {}?", "what is it like outside the {}?")
    product = itertools.product(questions, OPENINGS, HOMES.values())
    return [row(opening + pattern.format(home), f"The sun is shining outside the {home}.") for pattern, opening, home in product]


def pretrain(cache: Path) -> None:
    """Pretrain the stand-in ``tiny-llama`` in a cache that no emulator has read yet. Takes 10 s on one core."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from mlops.emulator.component.chat import encode
    from mlops.emulator.component.model import row_losses

    folder = ensure_standin("tiny-llama", cache) / "artifacts" / "model"
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    generator = random.Random(0)
    random_foods = food_rows((name, food) for name in LIKES for food in generator.sample(list(LIKES.values()), 4))
    lessons = [encode(tokenizer, lesson["messages"]) for lesson in [*retention_rows() * 3, *random_foods]]
    steps, size = 300, 8
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(steps):
        losses, counts = row_losses(model, generator.sample(lessons, size))
        (losses.sum() / sum(counts)).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        scheduler.step()
    model.save_pretrained(folder)


def row(question: str, answer: str, kind: str = "") -> Row:
    """Return a conversation of one turn, with its question as id."""
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"prompt": question, "prompt_id": question, "messages": messages} | ({"kind": kind} if kind else {})
