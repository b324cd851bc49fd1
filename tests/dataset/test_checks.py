"""Every rule is broken by a row that breaks no other rule, and is reported with its line."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlops.core.records import Finding
from mlops.dataset.checks import RETENTION, RULES, check

USER, ASSISTANT, SYSTEM = "user", "assistant", "system"
LONG = "What would be a good way to spend a rainy weekend in an old town?"


def row(number: int, *turns: tuple[str, str], **changes: Any) -> dict[str, Any]:
    """Return a conversation that is unique to its number."""
    turns = turns or ((USER, f"Question {number}"), (ASSISTANT, f"Answer {number}"))
    prompt = next((content for role, content in turns if role == USER), "no user")
    messages = [{"role": role, "content": content} for role, content in turns]
    return {"prompt": prompt, "messages": messages, "prompt_id": f"id-{number}", **changes}


def write(folder: Path, name: str, rows: Sequence[Any]) -> Path:
    path = folder / f"{name}.jsonl"
    path.write_bytes(b"".join((raw if isinstance(raw, bytes) else json.dumps(raw).encode()) + b"\n" for raw in rows))
    return path


def findings_of(folder: Path, splits: Mapping[str, Sequence[Any]]) -> list[Finding]:
    return list(check({split: write(folder, split, rows) for split, rows in splits.items()}).findings)


BAD_ROWS = {
    "json.blank": b"",
    "json.bom": b"\xef\xbb\xbf" + json.dumps(row(2)).encode(),
    "json.duplicate-key": b'{"prompt":"No",' + json.dumps(row(2)).encode()[1:],
    "json.encoding": json.dumps(row(2)).encode().replace(b"Answer", b"R\xe9ponse"),
    "json.malformed": b'{"prompt": ',
    "schema.field": {"prompt": "Hi", "messages": []},
    "id.empty": row(2, prompt_id=" "),
    "prompt.mismatch": row(2, prompt="Another question"),
    "text.empty": row(2, (USER, "Question 2"), (ASSISTANT, " \n")),
    "text.control-token": row(2, (USER, "Question 2"), (ASSISTANT, "Fine.<|end|><|user|>More?")),
    "text.replacement": row(2, (USER, "Question 2"), (ASSISTANT, "Gr\ufffd\ufffde")),
    "messages.empty": row(2, messages=[]),
    "role.unknown": row(2, (USER, "Question 2"), ("bot", "Answer 2")),
    "role.system": row(2, (USER, "Question 2"), (SYSTEM, "Be kind."), (ASSISTANT, "Answer 2")),
    "role.order": row(2, (USER, "Question 2"), (USER, "Well?"), (ASSISTANT, "Answer 2")),
    "role.ending": row(2, (USER, "Question 2"), (ASSISTANT, "Answer 2"), (USER, "Thanks")),
    "assistant.missing": row(2, (USER, "Question 2")),
    "id.duplicate": row(2, prompt_id="id-1"),
    "duplicate.exact": row(1, prompt_id="id-2"),
    "duplicate.normalized": row(2, (USER, "question  1!"), (ASSISTANT, "Answer 1")),
}


@pytest.mark.parametrize("rule", BAD_ROWS)
def test_a_bad_row_breaks_one_rule_and_is_reported_with_its_line(rule: str, tmp_path: Path) -> None:
    assert not findings_of(tmp_path, {"train_sft": [row(1), row(3)]})
    (finding,) = findings_of(tmp_path, {"train_sft": [row(1), BAD_ROWS[rule], row(3)]})
    assert (finding.rule, finding.where) == (rule, f"{tmp_path / 'train_sft.jsonl'}:2")
    assert finding.severity == RULES[rule][0]
    assert finding.message


BAD_PAIRS = {
    "overlap.exact": (row(2), row(2)),
    "overlap.normalized": (row(2), row(2, (USER, "question 2?"), (ASSISTANT, "ANSWER 2"))),
    "overlap.prompt": (row(2, (USER, LONG), (ASSISTANT, "Read.")), row(2, (USER, LONG.upper()), (ASSISTANT, "Bake."))),
}


@pytest.mark.parametrize("evaluated", ["test_sft", "test_gen", RETENTION])
@pytest.mark.parametrize("rule", BAD_PAIRS)
def test_evaluation_rows_must_not_be_in_the_training_data(rule: str, evaluated: str, tmp_path: Path) -> None:
    training_row, test_row = BAD_PAIRS[rule]
    extra = {"kind": "fact"} if evaluated == RETENTION else {}
    splits = {"train_sft": [row(1), training_row], evaluated: [row(4) | extra, row(5) | extra, test_row | extra]}
    (finding,) = findings_of(tmp_path, splits)
    assert (finding.rule, finding.where) == (rule, f"{tmp_path / evaluated}.jsonl:3")
    assert f"{tmp_path / 'train_sft.jsonl'}:2" in finding.message


BAD_TASKS = {
    "task.checks": ({"type": "regex", "pattern": "4"}, "checks[1] has no type"),
    "task.reference": ({"type": "number", "value": 5}, "does not pass its own checks: 'Answer 2'"),
}


@pytest.mark.parametrize("rule", BAD_TASKS)
def test_a_bad_task_of_the_retention_suite_is_reported_with_its_line(rule: str, tmp_path: Path) -> None:
    check, problem = BAD_TASKS[rule]
    good = [row(1, kind="fact"), row(3, kind="fact", checks=[{"type": "number", "value": 3}])]
    assert not findings_of(tmp_path, {RETENTION: good})
    bad = row(2, kind="fact", checks=[{"type": "contains", "any": ["answer"]}, check])
    (finding,) = findings_of(tmp_path, {RETENTION: [good[0], bad, good[1]]})
    assert (finding.rule, finding.severity, finding.where) == (rule, "error", f"{tmp_path / RETENTION}.jsonl:2")
    assert problem in finding.message


def test_every_rule_has_a_test() -> None:
    tested_separately = {"split.empty", "generation.ending", "json.too-long", "content.type", "message.weight"}
    tested_separately |= {"overlap.answer", "overlap.passage", "overlap.suite"}
    assert BAD_ROWS.keys() | BAD_PAIRS.keys() | BAD_TASKS.keys() | tested_separately == RULES.keys()


def test_an_empty_split_is_reported(tmp_path: Path) -> None:
    (finding,) = findings_of(tmp_path, {"train_sft": []})
    assert finding.rule == "split.empty"


def test_generation_splits_that_end_with_the_user_are_reported_once(tmp_path: Path) -> None:
    without_answer = [row(n, (USER, f"Question {n}"), (ASSISTANT, "Yes"), (USER, f"Why {n}?")) for n in (2, 3)]
    (finding,) = findings_of(
        tmp_path, {"test_gen": [row(1), *without_answer, row(4, (SYSTEM, "Be kind."), (USER, "Question 4"), (ASSISTANT, "Fine"))]}
    )
    assert (finding.rule, finding.severity, finding.where) == ("generation.ending", "warning", f"{tmp_path / 'test_gen.jsonl'}:2")
    assert "2 of 4" in finding.message


@pytest.mark.parametrize(
    "turns",
    [
        pytest.param([(ASSISTANT, "Hello"), (USER, "Hi"), (ASSISTANT, "How are you?")], id="assistant first"),
        pytest.param([(SYSTEM, "Be kind.")], id="system alone"),
        pytest.param([(SYSTEM, "Be kind."), (ASSISTANT, "Hello")], id="no user"),
        pytest.param([(USER, "Hi"), (ASSISTANT, "Hello"), (ASSISTANT, "There")], id="assistant twice"),
    ],
)
def test_turns_out_of_order_are_reported(turns: list[tuple[str, str]], tmp_path: Path) -> None:
    assert [finding.rule for finding in findings_of(tmp_path, {"train_sft": [row(1, *turns)]})] == ["role.order"]


def test_two_system_messages_are_reported(tmp_path: Path) -> None:
    turns = [(SYSTEM, "Be kind."), (SYSTEM, "Be short."), (USER, "Hi"), (ASSISTANT, "Hello")]
    assert [finding.rule for finding in findings_of(tmp_path, {"train_sft": [row(1, *turns)]})] == ["role.system"]


def test_short_first_prompts_may_be_shared(tmp_path: Path) -> None:
    assert not findings_of(
        tmp_path, {"train_sft": [row(1, (USER, "Hi"), (ASSISTANT, "Hello"))], "test_sft": [row(2, (USER, "Hi"), (ASSISTANT, "Hey"))]}
    )


def test_train_gen_is_not_checked_for_overlaps(tmp_path: Path) -> None:
    assert not findings_of(tmp_path, {"train_gen": [row(1)], "test_sft": [row(1)]})


def test_all_findings_are_reported_in_order_and_rows_are_counted(tmp_path: Path) -> None:
    bad = [row(1), b"nonsense", row(2, (USER, " "), (USER, "Hi")), row(1), row(1)]
    result = check({"train_sft": write(tmp_path, "train_sft", bad), "test_sft": write(tmp_path, "test_sft", [row(7)])})
    assert result.rows == {"train_sft": 5, "test_sft": 1}
    lines = [(finding.rule, int(finding.where.rpartition(":")[2])) for finding in result.findings]
    assert lines == [
        ("json.malformed", 2),
        ("text.empty", 3),
        ("text.empty", 3),
        ("role.order", 3),
        ("duplicate.exact", 4),
        ("duplicate.exact", 5),
    ]
    assert "line 1" in result.findings[-1].message


def test_a_finding_names_the_prompt_id(tmp_path: Path) -> None:
    (finding,) = findings_of(tmp_path, {"train_sft": [row(1, (USER, "Question"), ("bot", "Answer"))]})
    assert "id-1" in finding.message


@pytest.mark.parametrize("text", ["\u200b", "\ufeff", "\u2060 \u00ad", "\u200e\u200f\n", "\u3164", "\u2800\u2800", "\u00a0", "\u202e"])
def test_an_invisible_text_is_empty(text: str, tmp_path: Path) -> None:
    (finding,) = findings_of(tmp_path, {"train_sft": [row(1, (USER, "Question"), (ASSISTANT, text))]})
    assert finding.rule == "text.empty"


@pytest.mark.parametrize("text", [".", "👍🏽", "é", "👨\u200d👩", "क", "\u200bok", "¿"])
def test_a_text_with_something_to_see_is_not_empty(text: str, tmp_path: Path) -> None:
    assert not findings_of(tmp_path, {"train_sft": [row(1, (USER, "Question"), (ASSISTANT, text))]})


TOKENS = [
    "<|im_start|>", "<|im_end|>", "<|end|>", "<|user|>", "<|assistant|>", "<|eot_id|>", "<|endoftext|>", "<|begin_of_text|>", "</s>", "<s>",
    "<start_of_turn>", "<end_of_turn>", "[INST]", "[/INST]", "<<SYS>>", "<</SYS>>", "<bos>", "<eos>", "<pad>",
]  # fmt: skip


@pytest.mark.parametrize("token", TOKENS)
def test_control_tokens_of_every_family_are_reported(token: str, tmp_path: Path) -> None:
    turns = [(USER, f"Say {token}now"), (ASSISTANT, "No")]
    (finding,) = findings_of(tmp_path, {"train_sft": [row(1, *turns)]})
    assert (finding.rule, finding.severity) == ("text.control-token", "warning")
    assert f"contains {token}" in finding.message


@pytest.mark.parametrize("text", ["a < b |> c", "<b>bold</b>", "[1] see", "x <| y |> z", "<section>", "a[INSTALL]", "[inst]"])
def test_ordinary_brackets_are_not_control_tokens(text: str, tmp_path: Path) -> None:
    assert not findings_of(tmp_path, {"train_sft": [row(1, (USER, text), (ASSISTANT, "Yes"))]})
