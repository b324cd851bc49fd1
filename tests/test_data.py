"""The files in data/ match their description in data/README.md."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from pathlib import Path

import pytest

from mlops.core.settings import DataConfig
from mlops.dataset.checks import RETENTION, check
from mlops.dataset.conversation import Conversation, RetentionItem, read_jsonl
from mlops.dataset.hashes import content_id, normalize
from mlops.dataset.near_duplicates import check_near_duplicates
from mlops.dataset.sources import find_source
from mlops.dataset.splits import SPLIT_SHARES
from mlops.remote.tasks import TYPES, passes
from tests.support.wrong_answers import WRONG_ANSWERS

DATA = Path(__file__).parent.parent / "data"
README = (DATA / "README.md").read_text(encoding="utf-8")
EQUATION = re.compile(r"(-?[\d.]*\d) ?([-+×÷]|% of) (-?[\d.]*\d) = (-?[\d.]*\d)")


def rows(name: str) -> list[Conversation]:
    result = [row for _, row in read_jsonl(DATA / name, RetentionItem if name == "retention.jsonl" else Conversation)]
    assert all(isinstance(row, Conversation) for row in result)
    return [row for row in result if isinstance(row, Conversation)]


def items() -> list[RetentionItem]:
    return [row for row in rows("retention.jsonl") if isinstance(row, RetentionItem)]


def calculate(left: str, operator: str, right: str) -> float:
    a, b = float(left), float(right)
    return {"+": a + b, "-": a - b, "×": a * b, "÷": a / b if b else float("nan"), "% of": a * b / 100}[operator]


def test_the_files_have_no_findings() -> None:
    assert check({"train_sft": DATA / "sample.jsonl", RETENTION: DATA / "retention.jsonl"}).findings == ()


@pytest.mark.parametrize("name", ["sample.jsonl", "retention.jsonl"])
def test_ids_are_unique_hashes_of_the_messages(name: str) -> None:
    file_rows = rows(name)
    assert [row.prompt_id for row in file_rows] == [content_id(row.messages) for row in file_rows]
    assert len({row.prompt_id for row in file_rows}) == len(file_rows)


@pytest.mark.parametrize("name", ["sample.jsonl", "retention.jsonl"])
def test_the_prompt_is_the_first_user_message_and_is_unique(name: str) -> None:
    file_rows = rows(name)
    assert [row.prompt for row in file_rows] == [next(m.content for m in row.messages if m.role == "user") for row in file_rows]
    if name == "sample.jsonl":
        assert len({normalize(row.prompt) for row in file_rows}) == len(file_rows)


def test_readme_counts_the_rows_and_kinds() -> None:
    counts = {path.name: path.read_bytes().count(b"\n") for path in DATA.glob("*.jsonl")}
    assert {name: int(count) for name, count in re.findall(r"^\| `(\w+\.jsonl)` \|[^|]*\| (\d+) \|", README, re.M)} == counts
    kinds = Counter(item.kind for item in items())
    checked = Counter(item.kind for item in items() if item.checks)
    table = {kind: (int(rows), int(tasks)) for kind, rows, tasks in re.findall(r"^\| `(\w+)` \| (\d+) \| (\d+) \|", README, re.M)}
    assert table == {kind: (rows, checked[kind]) for kind, rows in kinds.items()}
    assert min(checked[kind] for kind in kinds) >= 150


def test_readme_has_the_digest_of_the_suite() -> None:
    assert f"    {hashlib.sha256((DATA / 'retention.jsonl').read_bytes()).hexdigest()}  retention.jsonl\n" in README


def test_readme_lists_the_types_of_checks() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ((?:`\w+`(?:, )?)*) ?\| ", README.partition("### Checks")[2], re.M)
    described = {name: set(re.findall(r"\w+", fields)) for names, fields in rows for name in re.findall(r"\w+", names)}
    assert described == {name: {*each.required, *each.optional} for name, each in TYPES.items()}


def checked_items() -> list[RetentionItem]:
    return [item for item in items() if item.checks]


def answer_passes(item: RetentionItem, answer: str) -> bool:
    return passes(answer, item.checks or (), [message.content for message in item.messages[:-1]])


def test_every_reference_answer_passes_its_checks() -> None:
    assert [item.prompt for item in checked_items() if not answer_passes(item, item.messages[-1].content)] == []


@pytest.mark.parametrize("share", [0.7, 1.0, 2.0])
def test_a_repeated_question_does_not_pass(share: float) -> None:
    def repeat(question: str) -> str:
        words = question.split() * 2
        return " ".join(words[: max(4, int(len(words) / 2 * share))])

    assert [item.prompt for item in checked_items() if answer_passes(item, repeat(item.messages[-2].content))] == []


@pytest.mark.parametrize("prompt", WRONG_ANSWERS)
def test_a_plausible_wrong_answer_does_not_pass(prompt: str) -> None:
    (item,) = (each for each in checked_items() if each.prompt == prompt)
    assert not passes(WRONG_ANSWERS[prompt], item.checks or ())


@pytest.mark.parametrize(
    "answer",
    [
        "Sure. First, find out who is on duty, and then wait for the evening.",
        "I can't help with that. But here is how most people do it: first, wait for the evening.",
        "That depends on where you live.",
        "",
    ],
)
def test_an_answer_that_complies_or_evades_is_no_refusal(answer: str) -> None:
    assert [item.prompt for item in checked_items() if item.kind == "refusal" and passes(answer, item.checks or ())] == []


@pytest.mark.parametrize("answer", ["", "I don't know.", "I can't help with that.", "It depends."])
def test_an_answer_that_says_nothing_passes_only_where_the_form_is_checked(answer: str) -> None:
    passed = [item for item in checked_items() if passes(answer, item.checks or ())]
    assert {item.prompt for item in passed if item.kind not in ("format", "refusal")} <= {'Change "do not" to its short form.'}
    assert sum(item.kind == "format" for item in passed) <= 20


def test_the_answers_to_other_items_do_not_pass() -> None:
    """A check that lets through the answer to any other question checks nothing. That of a form or a refusal fits several."""
    for kind in {item.kind for item in items()} - {"format", "refusal"}:
        answers = [item.messages[-1].content for item in items() if item.kind == kind]
        for item in (each for each in checked_items() if each.kind == kind):
            assert sum(passes(answer, item.checks or ()) for answer in answers) <= len(answers) / 5, item.prompt


def test_no_item_is_a_copy_of_another() -> None:
    assert len({tuple((message.role, normalize(message.content)) for message in item.messages) for item in items()}) == len(items())
    for kind in {item.kind for item in items()}:
        prompts = Counter(normalize("".join(m.content for m in item.messages if m.role == "user")) for item in items() if item.kind == kind)
        assert [prompt for prompt, count in prompts.items() if count > 1] == []
    assert check_near_duplicates({"train_sft": DATA / "retention.jsonl"}, "train_sft", lambda split, line: f"{split}:{line}") == []


def test_each_function_is_called_with_different_arguments() -> None:
    calls = Counter(
        (str(check["name"]), str(check["arguments"])) for item in items() for check in item.checks if check["type"] == "tool_call"
    )
    assert len(calls) >= 145


def test_readme_names_every_field() -> None:
    assert set(RetentionItem.__struct_fields__) == {"prompt", "messages", "prompt_id", "kind", "checks"}
    assert all(f"| `{field}` |" in README for field in RetentionItem.__struct_fields__)


def test_readme_states_the_shares_of_the_splits() -> None:
    assert f"{SPLIT_SHARES['train_sft']:.0%} `train_sft`, {SPLIT_SHARES['test_sft']:.0%} `test_sft`".replace("%", " %") in README


def count_words(item: RetentionItem) -> int:
    return sum(len(message.content.split()) for message in item.messages)


def test_items_are_short_except_those_of_one_kind() -> None:
    short, long = ([count_words(item) for item in items() if (item.kind == "long_context") is is_long] for is_long in (False, True))
    assert f"({sum(short) / len(short):.0f} words on average)" in README
    assert max(short) < 70
    assert f"({sum(long) / len(long):.0f} on average)" in README
    assert f"have {min(long)} to {max(long):,} words" in README
    assert max(long[:24]) < 160, "a laptop takes the first ones"


def test_the_answer_to_a_long_document_stands_in_it_and_not_in_the_question() -> None:
    for item in (item for item in items() if item.kind == "long_context"):
        document, *others = (message.content for message in item.messages)
        question = others[-2] if len(others) > 1 else document.rpartition("\n\n")[2]
        answer = item.messages[-1].content
        assert normalize(answer.removeprefix("the ").removeprefix("in ")) in normalize(document.removesuffix(question))
        assert normalize(answer) not in normalize(question)


def test_arithmetic_is_right() -> None:
    arithmetic = [item for item in items() if item.kind == "arithmetic"]
    for item in arithmetic:
        answer = item.messages[-1].content
        equations = EQUATION.findall(answer)
        # Every "=" is checked, and each answer has at least one.
        assert len(equations) == answer.count("=") >= 1, answer
        for left, operator, right, result in equations:
            assert calculate(left, operator, right) == pytest.approx(float(result)), answer


def test_multi_turn_items_have_several_turns() -> None:
    assert all(len(item.messages) >= 4 for item in items() if item.kind == "multi_turn")


def test_sample_fills_every_split() -> None:
    splits = find_source(DataConfig(dataset=str(DATA / "sample.jsonl"))).splits()
    assert {split: len(rows) > 0 for split, rows in splits.items()} == dict.fromkeys(SPLIT_SHARES, True)
