from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlops.cloud.invoke import ScoringResponse, build_payload
from mlops.core.errors import RecordError
from mlops.smoke_test import Question, fault, percentile, questions


def answer(body: object, status: int = 200) -> ScoringResponse:
    return ScoringResponse(status=status, body=body, deployment="d", reason="" if status == 200 else f"HTTP {status}", latency_ms=1.0)


def question(text: str = "What is the capital of France?") -> Question:
    return Question(({"role": "user", "content": text},), "Paris")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        pytest.param({"output": "Paris."}, "", id="good"),
        pytest.param([{"output": "Paris."}], "", id="good-in-a-list"),
        pytest.param({"output": "   \n"}, "is empty", id="empty"),
        pytest.param({"output": " what is the  capital of FRANCE? "}, "repeats the question", id="echo"),
        pytest.param({"output": "What is the capital of France? Paris."}, "repeats the question", id="prompt-not-cut-off"),
        pytest.param({"output": "Paris.<|end|><|user|> And"}, "continues past its end", id="runs-on"),
        pytest.param({"result": "Paris"}, "does not have the form", id="other-key"),
        pytest.param({"output": 7}, "does not have the form", id="number"),
        pytest.param([{"output": "a"}, {"output": "b"}], "does not have the form", id="two-answers"),
        pytest.param("Paris.", "does not have the form", id="bare-text"),
        pytest.param([], "does not have the form", id="nothing"),
    ],
)
def test_a_bad_answer_is_a_fault_and_a_good_one_is_not(body: object, expected: str) -> None:
    actual = fault(question(), answer(body))
    assert expected in actual
    assert bool(actual) == bool(expected)


@pytest.mark.parametrize("text", ["Hi there, how can I help?", "Hi!", "hi"])
def test_a_greeting_may_be_answered_with_a_greeting(text: str) -> None:
    assert fault(question("Hi"), answer({"output": text})) == ""


def test_a_status_other_than_200_is_a_fault() -> None:
    assert fault(question(), answer({"output": "Paris"}, status=424)) == "HTTP 424"


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(value) for value in range(1, 101)]
    assert (percentile(values, 50), percentile(values, 95), percentile([3.0], 95), percentile([1.0, 9.0], 95)) == (50.0, 95.0, 3.0, 9.0)


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


def test_the_payload_is_the_flat_form_with_greedy_decoding() -> None:
    assert build_payload([{"role": "user", "content": "Hi", "extra": "x"}], 7) == {
        "input_data": {
            "input_string": [{"role": "user", "content": "Hi"}],
            "parameters": {"do_sample": False, "max_new_tokens": 7},
        }
    }
