"""The files in data/ are what data/README.md says they are."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from mlops.dataset.checks import RETENTION, check
from mlops.dataset.conversation import Conversation, RetentionItem, content_id, normalise, read_jsonl
from mlops.dataset.sources import SHARES, FileSource

DATA = Path(__file__).parent.parent / "data"
README = (DATA / "README.md").read_text(encoding="utf-8")
EQUATION = re.compile(r"(-?[\d.]*\d) ?([-+×÷]|% of) (-?[\d.]*\d) = (-?[\d.]*\d)")


def rows(name: str) -> list[Conversation]:
    found = [row for _, row in read_jsonl(DATA / name, RetentionItem if name == "retention.jsonl" else Conversation)]
    assert all(isinstance(row, Conversation) for row in found)
    return [row for row in found if isinstance(row, Conversation)]


def items() -> list[RetentionItem]:
    return [row for row in rows("retention.jsonl") if isinstance(row, RetentionItem)]


def work_out(left: str, operator: str, right: str) -> float:
    a, b = float(left), float(right)
    return {"+": a + b, "-": a - b, "×": a * b, "÷": a / b if b else float("nan"), "% of": a * b / 100}[operator]


def test_every_rule_for_data_to_learn_from_holds() -> None:
    assert check({"train_sft": DATA / "sample.jsonl", RETENTION: DATA / "retention.jsonl"}).findings == ()


@pytest.mark.parametrize("name", ["sample.jsonl", "retention.jsonl"])
def test_ids_are_unique_and_follow_from_the_messages(name: str) -> None:
    found = rows(name)
    assert [row.prompt_id for row in found] == [content_id(row.messages) for row in found]
    assert len({row.prompt_id for row in found}) == len(found)


@pytest.mark.parametrize("name", ["sample.jsonl", "retention.jsonl"])
def test_prompt_is_the_first_user_message_and_is_asked_once(name: str) -> None:
    found = rows(name)
    assert [row.prompt for row in found] == [next(m.content for m in row.messages if m.role == "user") for row in found]
    if name == "sample.jsonl":
        assert len({normalise(row.prompt) for row in found}) == len(found)


def test_readme_counts_the_rows_and_kinds() -> None:
    counted = {name: len(rows(name)) for name in ("sample.jsonl", "retention.jsonl")}
    assert {name: int(found) for name, found in re.findall(r"^\| `(\w+\.jsonl)` \|[^|]*\| (\d+) \|", README, re.M)} == counted
    kinds = Counter(item.kind for item in items())
    assert {kind: int(count) for kind, count in re.findall(r"^\| `(\w+)` \| (\d+) \|", README, re.M)} == kinds
    assert sum(kinds.values()) >= 300
    assert min(kinds.values()) >= 40


def test_readme_names_every_field() -> None:
    assert set(RetentionItem.__struct_fields__) == {"prompt", "messages", "prompt_id", "kind"}
    assert all(f"| `{field}` |" in README for field in RetentionItem.__struct_fields__)


def test_readme_tells_how_a_file_is_shared_out() -> None:
    assert f"{SHARES['train_sft']:.0%} `train_sft`, {SHARES['test_sft']:.0%} `test_sft`".replace("%", " %") in README


def test_items_are_short() -> None:
    words = [sum(len(message.content.split()) for message in item.messages) for item in items()]
    assert sum(words) / len(words) < 20
    assert max(words) < 60


def test_arithmetic_is_right() -> None:
    arithmetic = [item for item in items() if item.kind == "arithmetic"]
    for item in arithmetic:
        answer = item.messages[-1].content
        found = EQUATION.findall(answer)
        # Every "=" is looked at, and there is one in each answer.
        assert len(found) == answer.count("=") >= 1, answer
        for left, operator, right, result in found:
            assert work_out(left, operator, right) == pytest.approx(float(result)), answer


def test_multi_turn_items_have_several_turns() -> None:
    assert all(len(item.messages) >= 4 for item in items() if item.kind == "multi_turn")


def test_sample_fills_every_split() -> None:
    assert {split: len(found) > 0 for split, found in FileSource(DATA / "sample.jsonl").splits().items()} == dict.fromkeys(SHARES, True)
