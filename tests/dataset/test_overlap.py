"""Answers of evaluation rows in the training data, whatever is around them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from mlops.core.records import Finding
from mlops.dataset.checks import check
from mlops.dataset.conversation import Message
from mlops.dataset.hashes import hash_text
from mlops.dataset.leak_index import LeakIndex
from mlops.dataset.overlap import Screen
from mlops.dataset.passages import RUN_WORDS, STOCK_QUESTIONS
from tests.support.leaks import find_leaks

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


CHINESE = "请先选择一个比原来大两号的花盆，在排水孔上放一些碎瓷片，轻轻松开外面的根，然后用肥沃的柑橘土填满四周，浇透水。"
JAPANESE = "まず一回り大きな鉢を選び、底の穴に割れた陶器を置き、根をやさしくほぐしてから、肥えた土を入れて、水をたっぷりやってください。"
THAI = "เลือกกระถางที่ใหญ่กว่าเดิมสองขนาด วางเศษกระเบื้องไว้เหนือรูระบายน้ำ ค่อยๆคลายรากด้านนอก แล้วเติมดินที่อุดมสมบูรณ์ลงไปรอบๆ"
ADVICE = (
    "Choose a container two sizes larger, put broken crockery over the drainage hole, loosen the outer roots gently, fill the sides with a "
    "loamy citrus compost, water it thoroughly until it drains, and keep the tree out of direct wind for the first ten days or so."
)


def changed(text: str, every: int) -> str:
    """The text with every so many words replaced."""
    return " ".join("indeed" if number % every == 0 else word for number, word in enumerate(text.split()))


LEAKS: dict[str, tuple[Turns, Turns]] = {
    "one more turn": (ROW, [*ROW, (USER, "Thanks!"), (ASSISTANT, "You are welcome.")]),
    "a system message": (ROW, [(SYSTEM, "You are a gardener."), *ROW]),
    "a longer chat before it": (ROW, [(USER, "Hi"), (ASSISTANT, "Hello!"), *ROW]),
    "another question": (ROW, [(USER, "Tell me about herbs."), (ASSISTANT, ANSWER.upper())]),
    "inside a longer answer": (ROW, [(USER, "Herbs?"), (ASSISTANT, f"Here is what my grandmother used to say. {ANSWER} She was right.")]),
    "in the user's words": (ROW, [(USER, f"I read this: {ANSWER} Is it true?"), (ASSISTANT, "Yes.")]),
    "with small changes": (ROW, [(USER, "Herbs?"), (ASSISTANT, ANSWER.replace("instead of tall", "rather than tall"))]),
    "a changed word of twenty": ([(USER, QUESTION), (ASSISTANT, ADVICE)], [(USER, "Trees?"), (ASSISTANT, changed(ADVICE, 20))]),
    "a changed word of thirteen": ([(USER, QUESTION), (ASSISTANT, ADVICE)], [(USER, QUESTION), (ASSISTANT, changed(ADVICE, 13))]),
    "a changed word of eight": (
        [(SYSTEM, "Be kind."), (USER, QUESTION), (ASSISTANT, ADVICE)],
        [(USER, QUESTION.upper()), (ASSISTANT, changed(ADVICE, 8)), (USER, "Thanks"), (ASSISTANT, "Bye.")],
    ),
    "Chinese after a preface": ([(USER, "柠檬树怎么换盆？"), (ASSISTANT, CHINESE)], [(USER, "你好"), (ASSISTANT, f"首先，{CHINESE}祝好")]),
    "Japanese after a preface": ([(USER, "植え替え"), (ASSISTANT, JAPANESE)], [(USER, "こんにちは"), (ASSISTANT, f"はい。{JAPANESE}")]),
    "Thai after a preface": ([(USER, "ต้นไม้"), (ASSISTANT, THAI)], [(USER, "สวัสดี"), (ASSISTANT, f"ได้เลย {THAI}")]),
    "a short answer to the same question": (SHORT, [(USER, "Hello"), (ASSISTANT, "Hi."), *SHORT, (USER, "Ok"), (ASSISTANT, "Bye.")]),
}


@pytest.mark.parametrize("name", LEAKS)
def test_a_leaked_answer_is_detected(name: str, tmp_path: Path) -> None:
    evaluated, training = LEAKS[name]
    suite = write(tmp_path / "suite.jsonl", [(USER, "Unrelated"), (ASSISTANT, "Entirely")], evaluated)
    train = write(tmp_path / "train.jsonl", [(USER, "Other"), (ASSISTANT, "Things")], training)
    [leak] = find_leaks(train, {"target": suite}).answers["target"]
    assert (leak.suite, leak.line, leak.training_line) == ("target", 2, 2)
    (finding,) = [each for each in check({"train_sft": train, "test_sft": suite}).findings if each.severity == "error"]
    assert (finding.rule, finding.where) == ("overlap.answer", f"{suite}:2")


NO_LEAKS: dict[str, tuple[Turns, Turns]] = {
    "the same short answer to another question": (SHORT, [(USER, "Where is the Munch museum?"), (ASSISTANT, "Oslo.")]),
    "a greeting": ([(USER, "Hi"), (ASSISTANT, "Hello!")], [(USER, "Hi"), (ASSISTANT, "Hello!"), (USER, "And you?"), (ASSISTANT, "Fine.")]),
    "the same question": (ROW, [(USER, QUESTION), (ASSISTANT, "Buy a new one every month, like everybody else does.")]),
    "a quotation of some length": (
        [(USER, QUESTION), (ASSISTANT, f"{ADVICE} {' '.join(f'other{number}' for number in range(60))}")],
        [(USER, "Trees?"), (ASSISTANT, " ".join(ADVICE.split()[:21]))],
    ),
    "nearly the same short answer": ([(USER, QUESTION), (ASSISTANT, "Water it well.")], [(USER, QUESTION), (ASSISTANT, "Keep it dry.")]),
    "a common phrase in Chinese": (
        [(USER, "柠檬树怎么换盆？"), (ASSISTANT, CHINESE)],
        [(USER, "仙人掌呢？"), (ASSISTANT, "仙人掌喜欢沙土，在排水孔上放一些碎瓷片就可以了，冬天几乎不用浇水，放在明亮的窗边最好。")],
    ),
    "a stock phrase": (
        [(USER, "Are you sad?"), (ASSISTANT, "As a language model I do not have feelings or opinions of my own, but I can tell you about "
          "the history of melancholy in art, music, medicine and philosophy if that would be of any help to you today.")],
        [(USER, "Do you like me?"), (ASSISTANT, "As a language model I do not have feelings or opinions of my own, but thank you.")],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", NO_LEAKS)
def test_texts_that_are_equal_by_chance_are_not_leaks(name: str, tmp_path: Path) -> None:
    evaluated, training = NO_LEAKS[name]
    suite, train = write(tmp_path / "suite.jsonl", evaluated), write(tmp_path / "train.jsonl", training)
    assert find_leaks(train, {"target": suite}).answers["target"] == []


def test_both_suites_are_searched(tmp_path: Path) -> None:
    train = write(tmp_path / "train.jsonl", [*ROW, *SHORT])
    leaks = find_leaks(train, {"target": write(tmp_path / "t.jsonl", ROW), "retention": write(tmp_path / "r.jsonl", SHORT)})
    assert {suite: len(rows) for suite, rows in leaks.answers.items()} == {"target": 1, "retention": 1}


REFUSAL = "I'm sorry, but I can't help with that request because it could hurt somebody, and nobody should be hurt by what I say."


def template(city: str, answer: str) -> Turns:
    """A row of a data set that was made from a template; all of its answers have long runs of words in common."""
    text = f"Thank you for your question about {city}! I have looked it up for you in my list of capitals, and the answer is: {answer}."
    return [(USER, f"What is the capital of {city}, please?"), (ASSISTANT, text)]


def asked(question: str, answer: str) -> Turns:
    return [(USER, question), (ASSISTANT, answer)]


@pytest.mark.parametrize("evaluated", [1, STOCK_QUESTIONS])
@pytest.mark.parametrize(
    "row",
    [lambda name: asked(f"How do I hurt {name}?", REFUSAL), lambda name: template(name, name[::-1])],
    ids=["refusals", "template"],
)
def test_stock_phrases_are_not_leaks(row: Any, evaluated: int, tmp_path: Path) -> None:
    """Those of the training data alone, and those of the suite alone."""
    suite = write(tmp_path / "suite.jsonl", *(row(f"Country-{number}") for number in range(evaluated)))
    train = write(tmp_path / "train.jsonl", *(row(f"City-{number}") for number in range(STOCK_QUESTIONS - evaluated or 1)))
    assert find_leaks(train, {"target": suite}).answers["target"] == []


def test_the_same_question_with_a_stock_answer_is_a_leak(tmp_path: Path) -> None:
    rows = [asked(f"How do I hurt {name}?", REFUSAL) for name in ("birds", "cats", "dogs", "bees", "ants")]
    suite = write(tmp_path / "suite.jsonl", rows[0])
    train = write(tmp_path / "train.jsonl", *([(USER, "Hi"), (ASSISTANT, "Hello!"), *row] for row in rows))
    [leak] = find_leaks(train, {"target": suite}).answers["target"]
    assert "a question and its answer" in leak.how


WRAPPED = {"as it is": "{}", "in a longer answer": "Of course! {} I hope that this helps you."}


@pytest.mark.parametrize("form", WRAPPED)
def test_a_long_answer_is_never_a_stock_phrase_however_many_questions_precede_it(form: str, tmp_path: Path) -> None:
    """Paraphrases of one question, as augmentation makes them."""
    questions = [f"{opening} {QUESTION}" for opening in ("Tell me:", "Please explain:", "I wonder,", "Hey, quick one:", "Now,", "So,")]
    train = write(tmp_path / "train.jsonl", *(asked(question, WRAPPED[form].format(ANSWER)) for question in questions))
    suite = write(tmp_path / "suite.jsonl", ROW)
    assert len(find_leaks(train, {"target": suite}).answers["target"]) == 1
    assert screened([ROW], [asked(question, WRAPPED[form].format(ANSWER)) for question in questions]) == []


def numbered(suite: int, size: int) -> str:
    return " ".join(f"word{suite}x{number}" for number in range(size))


@pytest.mark.parametrize(("rows", "leaked", "is_reported"), [(20, 20, True), (20, 5, True), (20, 4, False), (80, 7, False), (80, 8, True)])
def test_a_suite_of_which_many_answers_are_there_piece_by_piece_is_an_error(
    rows: int, leaked: int, is_reported: bool, tmp_path: Path
) -> None:
    """Each piece is in another training row, and too short to prove anything."""
    suite = write(tmp_path / "suite.jsonl", *(asked(f"Question {row}?", numbered(row, 120)) for row in range(rows)))
    pieces = [
        asked(f"Piece {row} {start}?", " ".join(numbered(row, 120).split()[start : start + 40]))
        for row in range(leaked)
        for start in range(0, 120, 27)
    ]
    train = write(tmp_path / "train.jsonl", asked("Something else?", "Nothing."), *pieces)
    assert find_leaks(train, {"target": suite}).answers["target"] == []
    findings = check({"train_sft": train, "test_sft": suite}).findings
    errors = [(each.rule, each.where) for each in findings if each.severity == "error"]
    assert errors == ([("overlap.suite", f"{suite}:1")] if is_reported else [])


def test_many_rows_that_only_quote_are_not_an_error(tmp_path: Path) -> None:
    suite = write(tmp_path / "suite.jsonl", *(asked(f"Question {row}?", numbered(row, 120)) for row in range(20)))
    train = write(tmp_path / "train.jsonl", *(asked(f"Quote {row}?", numbered(row, 30)) for row in range(20)))
    assert [each.rule for each in check({"train_sft": train, "test_sft": suite}).findings] == ["overlap.passage"]


def test_an_answer_that_follows_fewer_questions_is_a_leak(tmp_path: Path) -> None:
    suite = write(tmp_path / "suite.jsonl", ROW)
    train = write(tmp_path / "train.jsonl", *(asked(f"Question {number}?", ANSWER) for number in range(STOCK_QUESTIONS - 2)))
    assert len(find_leaks(train, {"target": suite}).answers["target"]) == 1


def screened(evaluated: list[Turns], training: list[Turns]) -> list[int]:
    """The numbers of the training rows that pass, in the order in which they do."""
    index = LeakIndex()
    for number, turns in enumerate(evaluated):
        index.add("target", number, [Message(role=role, content=text) for role, text in turns])
    screen: Screen[int] = Screen(index)
    passed: list[int] = []
    for number, turns in enumerate(training):
        messages = [Message(role=role, content=text) for role, text in turns]
        [shared] = index.find([(messages, [hash_text(message.content) for message in messages])])
        passed += screen.put(number, shared.matches)
    return passed


def test_the_screen_withholds_a_leak_only() -> None:
    assert screened([ROW], [SHORT, asked("Herbs?", ANSWER), template("Norway", "Oslo")]) == [0, 2]


def test_the_screen_releases_the_rows_of_a_stock_phrase_once_it_is_recognized() -> None:
    rows = [asked(f"Question {number}?", REFUSAL) for number in range(5)]
    assert screened([asked("How?", REFUSAL)], [rows[0], SHORT, rows[1], *rows[2:]]) == [1, 0, 2, 3, 4, 5]


def test_the_screen_keeps_what_leaks_in_another_way() -> None:
    leak = [*asked("Question?", REFUSAL), *ROW]
    rows = [asked(f"Question {number}?", REFUSAL) for number in range(5)]
    assert screened([asked("How?", REFUSAL), ROW], [leak, *rows]) == [1, 2, 3, 4, 5]


PASSAGE = [f"word{number}" for number in range(RUN_WORDS)]


def passages(tmp_path: Path, evaluated: list[str], trained: list[str]) -> list[Finding]:
    suite, training = (
        write(tmp_path / f"{name}.jsonl", *(asked(f"{name} {number}", text) for number, text in enumerate(texts)))
        for name, texts in (("suite", evaluated), ("train", trained))
    )
    return [each for each in check({"train_sft": training, "test_sft": suite}).findings if each.rule == "overlap.passage"]


LONG = " and then something else entirely that nobody has ever written before" * 4


@pytest.mark.parametrize("text", [" ".join(PASSAGE), "Before, " + ", ".join(PASSAGE).upper() + "! After."])
def test_a_shared_passage_is_reported_in_spite_of_case_and_punctuation(text: str, tmp_path: Path) -> None:
    evaluated = ["Something else", f"It begins {' '.join(PASSAGE)} and ends{LONG}"]
    (finding,) = passages(tmp_path, evaluated, ["Nothing", "Nothing again", text])
    assert (finding.severity, finding.where) == ("warning", f"{tmp_path}/suite.jsonl:2")
    assert "1 of 2 rows of test_sft" in finding.message
    assert f"{tmp_path}/train.jsonl:3" in finding.message


@pytest.mark.parametrize("text", [" ".join(PASSAGE[1:]), " ".join(PASSAGE[::-1]), " ".join(PASSAGE[:6]) + " x " + " ".join(PASSAGE[6:])])
def test_shorter_or_other_passages_are_not(text: str, tmp_path: Path) -> None:
    assert passages(tmp_path, [" ".join(PASSAGE)], [text]) == []


def test_a_passage_does_not_span_two_messages(tmp_path: Path) -> None:
    train = [(USER, " ".join(PASSAGE[:7])), (ASSISTANT, " ".join(PASSAGE[7:]))]
    suite = write(tmp_path / "suite.jsonl", asked("A question", " ".join(PASSAGE)))
    leaks = find_leaks(write(tmp_path / "train.jsonl", train), {"target": suite})
    assert leaks.passages == {"target": {}}


def test_a_prompt_is_not_a_passage(tmp_path: Path) -> None:
    suite = write(tmp_path / "suite.jsonl", asked(" ".join(PASSAGE), "Yes."))
    train = write(tmp_path / "train.jsonl", asked(" ".join(PASSAGE), "No."))
    assert find_leaks(train, {"target": suite}).passages == {"target": {}}


def test_empty_suites_have_no_leaks(tmp_path: Path) -> None:
    leaks = find_leaks(write(tmp_path / "train.jsonl", ROW), {"target": write(tmp_path / "suite.jsonl")})
    assert (leaks.answers, leaks.passages, leaks.rows) == ({"target": []}, {"target": {}}, {"target": 0})
