"""Answers of evaluation rows in the training data, whatever is around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlops.dataset.checks import check
from mlops.dataset.overlap import find_leaks

SYSTEM, USER, ASSISTANT = "system", "user", "assistant"
QUESTION = "How do I keep basil alive on a windowsill?"
ANSWER = (
    "Give it six hours of light, water it from below when the soil feels dry, and pinch off the tops every two weeks so that it grows "
    "bushy instead of tall."
)
Turns = list[tuple[str, str]]
ROW: Turns = [(USER, QUESTION), (ASSISTANT, ANSWER)]
SHORT: Turns = [(USER, "What is the capital of the Kingdom of Norway?"), (ASSISTANT, "Oslo.")]


def write(path: Path, *conversations: Turns) -> Path:
    rows: list[dict[str, Any]] = [
        {
            "prompt": next((text for role, text in turns if role == USER), ""),
            "prompt_id": f"{path.stem}-{number}",
            "messages": [{"role": role, "content": text} for role, text in turns],
        }
        for number, turns in enumerate(conversations)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


LEAKS: dict[str, tuple[Turns, Turns]] = {
    "one more turn": (ROW, [*ROW, (USER, "Thanks!"), (ASSISTANT, "You are welcome.")]),
    "a system message": (ROW, [(SYSTEM, "You are a gardener."), *ROW]),
    "a longer chat before it": (ROW, [(USER, "Hi"), (ASSISTANT, "Hello!"), *ROW]),
    "another question": (ROW, [(USER, "Tell me about herbs."), (ASSISTANT, ANSWER.upper())]),
    "inside a longer answer": (ROW, [(USER, "Herbs?"), (ASSISTANT, f"Here is what my grandmother used to say. {ANSWER} She was right.")]),
    "in the user's words": (ROW, [(USER, f"I read this: {ANSWER} Is it true?"), (ASSISTANT, "Yes.")]),
    "with small changes": (ROW, [(USER, "Herbs?"), (ASSISTANT, ANSWER.replace("instead of tall", "rather than tall"))]),
    "a short answer to the same question": (SHORT, [(USER, "Hello"), (ASSISTANT, "Hi."), *SHORT, (USER, "Ok"), (ASSISTANT, "Bye.")]),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leaked_answer_is_found(name: str, tmp_path: Path) -> None:
    evaluated, training = LEAKS[name]
    suite = write(tmp_path / "suite.jsonl", [(USER, "Unrelated"), (ASSISTANT, "Entirely")], evaluated)
    train = write(tmp_path / "train.jsonl", [(USER, "Other"), (ASSISTANT, "Things")], training)
    [leak] = find_leaks(train, {"target": suite})["target"]
    assert (leak.suite, leak.line, leak.training_line) == ("target", 2, 2)
    (finding,) = [each for each in check({"train_sft": train, "test_sft": suite}).findings if each.severity == "error"]
    assert (finding.rule, finding.where) == ("overlap.answer", f"{suite}:2")


NO_LEAKS: dict[str, tuple[Turns, Turns]] = {
    "the same short answer to another question": (SHORT, [(USER, "Where is the Munch museum?"), (ASSISTANT, "Oslo.")]),
    "a greeting": ([(USER, "Hi"), (ASSISTANT, "Hello!")], [(USER, "Hi"), (ASSISTANT, "Hello!"), (USER, "And you?"), (ASSISTANT, "Fine.")]),
    "the same question": (ROW, [(USER, QUESTION), (ASSISTANT, "Buy a new one every month, like everybody else does.")]),
    "a stock phrase": (
        [(USER, "Are you sad?"), (ASSISTANT, "As a language model I do not have feelings or opinions of my own, but I can tell you about "
          "the history of melancholy in art, music, medicine and philosophy if that would be of any help to you today.")],
        [(USER, "Do you like me?"), (ASSISTANT, "As a language model I do not have feelings or opinions of my own, but thank you.")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_LEAKS)
def test_what_is_equal_by_chance_is_no_leak(name: str, tmp_path: Path) -> None:
    evaluated, training = NO_LEAKS[name]
    suite, train = write(tmp_path / "suite.jsonl", evaluated), write(tmp_path / "train.jsonl", training)
    assert find_leaks(train, {"target": suite}) == {}


def test_both_suites_are_searched(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [*ROW, *SHORT])
    leaks = find_leaks(train, {"target": write(tmp_path / "t.jsonl", ROW), "retention": write(tmp_path / "r.jsonl", SHORT)})
    assert {suite: len(found) for suite, found in leaks.items()} == {"target": 1, "retention": 1}
