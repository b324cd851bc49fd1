"""Questions from conversations, and faults of answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlops.core.errors import RecordError
from mlops.dataset.questions import Question, fault, questions


def question(text: str = "What is the capital of France?") -> Question:
    return Question(({"role": "user", "content": text},), "Paris")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("Paris.", "", id="good"),
        pytest.param("   \n", "is empty", id="empty"),
        pytest.param(" what is the  capital of FRANCE? ", "repeats the question", id="echo"),
        pytest.param("What is the capital of France? Paris.", "repeats the question", id="prompt-not-cut-off"),
        pytest.param("Paris.<|end|><|user|> And", "continues past its end", id="runs-on"),
    ],
)
def test_a_bad_answer_is_a_fault_and_a_good_one_is_not(text: str, expected: str) -> None:
    actual = fault(question(), text)
    assert expected in actual
    assert bool(actual) == bool(expected)


@pytest.mark.parametrize("text", ["Hi there, how can I help?", "Hi!", "hi"])
def test_a_greeting_may_be_answered_with_a_greeting(text: str) -> None:
    assert fault(question("Hi"), text) == ""


def rows(path: Path, *conversations: list[tuple[str, str]]) -> Path:
    lines = [json.dumps({"messages": [{"role": role, "content": text} for role, text in talk]}) for talk in conversations]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_a_question_ends_with_the_users_last_turn(tmp_path: Path) -> None:
    talk = [("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Who are you?"), ("assistant", "A model.")]
    [sampled] = questions(rows(tmp_path / "gen.jsonl", talk), 5, 42)
    assert [message["content"] for message in sampled.messages] == ["Be kind.", "Hi", "Hello", "Who are you?"]
    assert (sampled.prompt, sampled.reference) == ("Who are you?", "A model.")


def test_the_same_seed_samples_the_same_questions_whatever_the_order_of_the_file(tmp_path: Path) -> None:
    talks = [[("user", f"question {number}")] for number in range(50)]
    one = questions(rows(tmp_path / "one.jsonl", *talks), 10, 42)
    two = questions(rows(tmp_path / "two.jsonl", *reversed(talks)), 10, 42)
    other = questions(tmp_path / "one.jsonl", 10, 43)
    assert one == two
    assert len(one) == 10
    assert one != other


def test_a_file_without_a_question_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RecordError, match="no conversation with a user's turn"):
        questions(rows(tmp_path / "gen.jsonl", [("assistant", "Hello")]), 5, 42)
