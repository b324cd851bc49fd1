"""Likely secrets and personal data are reported by kind, never repeated; ordinary text is not reported."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops.dataset.privacy import PATTERNS, check_privacy, find_kinds, possible_kinds

# Put together, so that scanners of this repository don't find them either.
SAMPLES = {
    "private key": "-----BEGIN RSA PRIVATE" + " KEY-----",
    "AWS access key": "AKIA" + "IOSFODNN7EXAMPLE",
    "GitHub token": "ghp" + "_" + "a1B2" * 9,
    "API key": "sk-proj" + "-" + "Ab3d" * 8,
    "Slack token": "xoxb" + "-123456789012-abc",
    "Hugging Face token": "hf" + "_" + "AbCd" * 8,
    "Google API key": "AIza" + "Sy0_-" * 7,
    "Azure storage key": "AccountKey" + "=" + "Ab+/" * 21 + "xy==",
    "JSON web token": "eyJ" + "hbGciOiJIUzI1NiJ9" + ".eyJ" + "zdWIiOiIxMjM0NTY3ODkwIn0" + "." + "abc_def-ghi123",
    "e-mail address": "jane.doe@mail.uni-bern.ch",
    "telephone number": "+41 79 123 45 67",
    "card number": "4111 1111 1111 1111",
    "bank account (IBAN)": "CH93 0076 2011 6238 5295 7",
    "social security number": "123-45-6789",
}
HARMLESS = [
    "me@example.com", "user@host.test", "a @ b", "@octocat", "1234 5678 9012 3456", "0000 0000 0000 0000", "123-456-7890", "000-12-3456",
    "2026-11-26 18:00", "3.14159265358979", "sk-short", "ghp_x", "AKIA", "CH94 0076 2011 6238 5295 7", "eyJ.eyJ.x", "+1 and +2", "v1.2.3",
]  # fmt: skip


def test_every_kind_has_a_sample() -> None:
    assert [kind for _, kind, _, _ in PATTERNS] == list(SAMPLES)


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_sample_is_recognized_inside_a_text(kind: str) -> None:
    assert [name for _, name in find_kinds(f"Write to ({SAMPLES[kind]}), please.")] == [kind]


@pytest.mark.parametrize("text", HARMLESS)
def test_ordinary_text_is_not_reported(text: str) -> None:
    assert list(find_kinds(f"See {text} for more.")) == []


def test_a_kind_is_reported_once_per_split_without_the_text(tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    texts = ["Hello", SAMPLES["e-mail address"], "Bye", SAMPLES["e-mail address"]]
    rows = [{"prompt": "p", "messages": [{"role": "user", "content": text}], "prompt_id": "1"} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (finding,) = check_privacy({"train_sft": path}, lambda split, line: f"{split}@{line}")
    assert (finding.rule, finding.severity, finding.where) == ("privacy.personal", "warning", "train_sft@2")
    assert "2 row(s) of train_sft may contain this: e-mail address" in finding.message
    assert "jane" not in finding.message


@pytest.mark.parametrize(("kind", "pattern"), [(kind, pattern) for _, kind, pattern, _ in PATTERNS])
@settings(max_examples=10, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_the_quick_search_misses_no_match(kind: str, pattern: str, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(pattern, alphabet=st.characters(codec="utf-8")))
    assert kind in possible_kinds(text)


@given(texts=st.lists(st.sampled_from([*SAMPLES.values(), *HARMLESS, "Hello"]), min_size=1, max_size=12))
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_row_is_reported_whatever_rows_are_around_it(texts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "train.jsonl"
    rows = [{"prompt": "p", "messages": [{"role": "user", "content": text}], "prompt_id": "1"} for text in texts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    expected: dict[str, list[int]] = {}
    for line, text in enumerate(texts, 1):
        for _, kind in find_kinds(text):
            expected.setdefault(kind, []).append(line)
    findings = check_privacy({"train_sft": path}, lambda split, line: str(line))
    found = {finding.message.split("this: ")[1].split(";")[0]: (finding.where, finding.message.split()[0]) for finding in findings}
    assert found == {kind: (str(lines[0]), str(len(lines))) for kind, lines in expected.items()}


@pytest.mark.parametrize("kind", SAMPLES)
def test_a_text_is_only_searched_for_possible_kinds(kind: str) -> None:
    assert possible_kinds(SAMPLES[kind], {kind}) == {kind}
    assert kind not in possible_kinds(SAMPLES[kind], SAMPLES.keys() - {kind})
