"""Prompts that don't fit into the base model's context are reported before the cluster is paid for."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlops.dataset.lengths import check_prompt_lengths, estimate_tokens
from mlops.dataset.tokenizer import load_counter
from tests.support.tiny import make_tokenizer


def locate(split: str, line: int) -> str:
    return f"{split}:{line}"


def write(path: Path, prompts: list[str], system: str = "") -> dict[str, Path]:
    rows = []
    for number, prompt in enumerate(prompts):
        messages = [{"role": "user", "content": prompt}, {"role": "assistant", "content": "word " * 500}]
        messages = [{"role": "system", "content": system}, *messages] if system else messages
        rows.append({"prompt": prompt, "messages": messages, "prompt_id": str(number)})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return {"train_sft": path}


LONG, SHORT = "some more words " * 100, "a question"


@pytest.mark.parametrize(
    ("prompts", "severity", "text"),
    [
        ([SHORT, SHORT], None, ""),
        ([SHORT, LONG, LONG], "warning", "2 of 3 prompts"),
        ([LONG, LONG], "error", "all 2 prompts"),
    ],
)
def test_long_prompts_are_a_warning_and_only_long_ones_an_error(
    prompts: list[str], severity: str | None, text: str, tmp_path: Path
) -> None:
    files = write(tmp_path / "train.jsonl", prompts)
    findings = check_prompt_lengths(files, locate, None, 200, "the context of X")
    assert [finding.severity for finding in findings] == ([severity] if severity else [])
    if findings:
        assert findings[0].where == f"train_sft:{1 + prompts.index(LONG)}"
        assert text in findings[0].message
        assert "200 tokens (the context of X)" in findings[0].message


def test_the_answer_does_not_count_but_the_system_message_does(tmp_path: Path) -> None:
    assert not check_prompt_lengths(write(tmp_path / "a.jsonl", [SHORT]), locate, None, 200, "x")
    (finding,) = check_prompt_lengths(write(tmp_path / "b.jsonl", [SHORT], system=LONG), locate, None, 200, "x")
    assert finding.where == "train_sft:1"


@given(st.text(st.characters(codec="utf-8"), max_size=200))
def test_the_estimate_never_exceeds_the_bytes(text: str) -> None:
    assert 0 <= estimate_tokens(text) <= len(text.encode())


@pytest.mark.parametrize(
    "text", ["The quick brown fox jumps.", "x = foo(bar, 12345) + 3.14", "Straße und Übermut", "これは日本語の文です。" * 3]
)
def test_a_tokenizer_with_a_small_vocabulary_needs_more(text: str) -> None:
    assert 0 < estimate_tokens(text) <= len(make_tokenizer()(text)["input_ids"])


def test_with_a_tokenizer_the_tokens_are_counted(tmp_path: Path) -> None:
    make_tokenizer().backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    count = load_counter(str(tmp_path))
    prompt = "Xylophone quizzes vex. " * 30  # its words are whole to the estimate, but not to this tokenizer
    tokens = count(prompt)
    assert tokens == len(make_tokenizer()(prompt)["input_ids"]) > estimate_tokens(prompt) + 100
    files = write(tmp_path / "train.jsonl", [prompt, SHORT])
    assert not check_prompt_lengths(files, locate, None, tokens, "x")
    assert not check_prompt_lengths(files, locate, count, tokens + 1, "x")
    (finding,) = check_prompt_lengths(files, locate, count, tokens, "x")
    assert "1 of 2 prompts" in finding.message
    assert "counted by model.tokenizer" in finding.message
