"""Questions from conversations, and a quick check of answers."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mlops.core.errors import RecordError

__all__ = ["Question", "fault", "last_question", "questions"]

MARKER = re.compile(r"<\|[a-z_0-9]+\|>|</?s>|\[/?INST\]", re.IGNORECASE)
"""Markers of chat templates. In an answer they mean that the model continued past the end of its turn."""


@dataclass(frozen=True)
class Question:
    """A conversation up to a user's turn, and the answer in the data."""

    messages: tuple[Mapping[str, str], ...]
    reference: str

    @property
    def prompt(self) -> str:
        """The user's last turn."""
        return self.messages[-1]["content"]


def questions(path: Path, count: int, seed: int) -> list[Question]:
    """Sample ``count`` rows of a JSON Lines file (all of them if there are fewer) by a hash with the seed, cut after the last user turn.

    Raises:
        RecordError: no row has a user's turn.
    """
    chosen: list[tuple[str, Question]] = []
    with path.open(encoding="utf-8") as lines:
        for line in lines:
            if line.strip() and (question := last_question(json.loads(line)["messages"])) is not None:
                chosen.append((hashlib.sha256(f"{seed}\n{line}".encode()).hexdigest(), question))
    if not chosen:
        raise RecordError(f"{path} has no conversation with a user's turn.", "run `mlops prepare` with more rows of test_gen")
    return [question for _, question in sorted(chosen, key=lambda pair: pair[0])[:count]]


def last_question(messages: Sequence[Mapping[str, str]]) -> Question | None:
    """Cut a conversation after its last user turn; return None if it has none."""
    users = [number for number, message in enumerate(messages) if message["role"] == "user"]
    if not users:
        return None
    last = users[-1]
    reference = messages[last + 1]["content"] if last + 1 < len(messages) else ""
    return Question(tuple(messages[: last + 1]), reference)


def fault(question: Question, answer: str) -> str:
    """Return what is wrong with an answer; empty if nothing is."""
    text, prompt = _normalize(answer), _normalize(question.prompt)
    if not text:
        return "the answer is empty"
    # People also answer a greeting with the same greeting.
    if len(prompt) >= 20 and text.startswith(prompt):
        return "the answer repeats the question"
    if marker := MARKER.search(answer):
        return f"the answer continues past its end: it contains {marker[0]!r}"
    return ""


def _normalize(text: str) -> str:
    return " ".join(text.split()).casefold()
