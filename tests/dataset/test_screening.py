"""The quick search misses no run of words that the exact one finds, and the quick look at a row no defect."""

from __future__ import annotations

import json
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlops.dataset import words as words_module
from mlops.dataset.checks import check
from mlops.dataset.conversation import Conversation, Message
from mlops.dataset.hashes import hash_ends, normalize
from mlops.dataset.leak_index import LeakIndex
from mlops.dataset.passages import Answers, RunIndex
from mlops.dataset.row_checks import check_row, is_clean
from mlops.dataset.screening import RUN_WORDS, filter_grams, find_grams, owners_of
from mlops.dataset.words import CodedLines, code_words, hash_runs
from tests.dataset.test_checks import BAD_ROWS, row, write
from tests.support.leaks import find_leaks

WORDS = ["a", "I", "to", "the", "7", "Straße", "naïve", "İstanbul", "x1", "antidisestablishmentarianism", "中文", "e\u0301"]
words = st.sampled_from(WORDS)
spaces = st.sampled_from([" ", ", ", "\n\n", " — ", ".", "'", "\u00a0", "\\", '\\\\"', '"', "\t", "\x11", "\u2019", "\u2026 ", "\u2027"])
texts = st.lists(st.lists(words, max_size=30), min_size=1, max_size=8)


def spell(words: list[str], data: st.DataObject) -> str:
    """Write words down with any case and punctuation."""
    return "".join(data.draw(st.sampled_from([word, word.upper()])) + data.draw(spaces) for word in words)


@pytest.mark.slow
@given(evaluated=texts, trained=texts, run=st.lists(words, min_size=RUN_WORDS, max_size=RUN_WORDS), data=st.data())
@settings(suppress_health_check=[HealthCheck.too_slow])
def test_every_shared_run_of_words_is_detected(evaluated: list[list[str]], trained: list[list[str]], run: list[str], data: Any) -> None:
    for rows in (evaluated, trained):
        place = data.draw(st.integers(0, len(rows) - 1))
        rows[place][data.draw(st.integers(0, len(rows[place]))) :] = [*run, *data.draw(st.lists(words, max_size=5))]
    ours, theirs = ([spell(words, data) for words in rows] for rows in (evaluated, trained))
    known = set(hash_runs(ours, RUN_WORDS)[0].tolist())
    hashes, begin = hash_runs(theirs, RUN_WORDS)
    expected = {number for number in range(len(theirs)) if known & set(hashes[begin[number] : begin[number + 1]].tolist())}
    codes, counts = code_words(theirs)
    assert len(codes) == sum(counts)
    assert expected
    assert expected <= set(owners_of(find_grams(codes, filter_grams(code_words(ours)[0])), counts).tolist())
    index = RunIndex()
    index.add(Answers.encode(ours, range(len(ours))))
    for is_ascii in (True, False):
        block = "\n".join(json.dumps({"content": text}, ensure_ascii=is_ascii) for text in theirs).encode()
        assert expected <= set(index.screen([[text] for text in theirs], block)[0])


@pytest.mark.slow
@given(texts=texts, data=st.data(), is_ascii=st.booleans(), size=st.sampled_from([8, 64, 1 << 16]))
def test_words_have_the_same_codes_in_lines_of_json(texts: list[list[str]], data: Any, is_ascii: bool, size: int) -> None:
    spelled = [spell(words, data) for words in texts]
    block = "\n".join(json.dumps([text], ensure_ascii=is_ascii) for text in spelled).encode()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words_module, "_PART", size)
        lines = CodedLines(block)
        found = [int(lines.find(np.array([place]))[0]) for place in range(len(lines.codes))]
    codes, counts = code_words(spelled)
    others = set(lines.others.tolist())
    assert others <= {number for number, text in enumerate(spelled) if not text.isascii() or "\x11" in text}
    owners = np.repeat(np.arange(len(spelled)), counts)
    is_plain = ~np.isin(owners, list(others))
    kept = [place for place, line in enumerate(found) if line not in others]
    assert [found[place] for place in kept] == owners[is_plain].tolist()
    assert lines.codes[kept].tolist() == codes[is_plain].tolist()


def test_texts_without_a_common_run_do_not_match() -> None:
    generator = random.Random(3)
    vocabulary = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=6)) for _ in range(3000)]
    ours, theirs = ([" ".join(generator.choices(vocabulary, k=400)) for _ in range(300)] for _ in range(2))
    theirs[7] += " " + " ".join(ours[5].split()[50:62])
    grams = filter_grams(code_words(ours)[0])
    codes, counts = code_words(theirs)
    assert len(find_grams(codes, grams)) == 0
    theirs[9] += " " + " ".join(ours[5].split()[50:63])
    codes, counts = code_words(theirs)
    assert owners_of(find_grams(codes, grams), counts).tolist() == [9]


@given(first=st.text(st.sampled_from("aB ,.é\u2019K\0"), max_size=300), data=st.data())
def test_texts_that_are_equal_when_normalized_have_equal_ends(first: str, data: Any) -> None:
    second = "".join(data.draw(st.sampled_from([letter, letter.swapcase(), f"{letter}, ", f"\n{letter}"])) for letter in first)
    if normalize(first) == normalize(second):
        assert hash_ends([first]) == hash_ends([second])


@pytest.mark.parametrize("change", [0, 20, -1, -20])
def test_ends_depend_on_both_ends(change: int) -> None:
    text = "abcdefghijklmnopqrstuvwxyz " * 20
    place = change % len(text)
    assert hash_ends([text])[0] != hash_ends([f"{text[:place]}0{text[place + 1 :]}"])[0]


@pytest.mark.parametrize("for_training", [True, False])
@pytest.mark.parametrize("rule", [rule for rule, bad in BAD_ROWS.items() if isinstance(bad, dict) and rule != "schema.field"])
def test_rows_that_look_clean_at_first_sight_are_clean(rule: str, for_training: bool) -> None:
    bad: Any = BAD_ROWS[rule]
    conversation = Conversation(bad["prompt"], [Message(**message) for message in bad["messages"]], bad["prompt_id"])
    problems = list(check_row(conversation, for_training=for_training))
    assert not (is_clean(conversation, for_training=for_training) and problems)


@given(
    turns=st.lists(
        st.tuples(st.sampled_from(["system", "user", "assistant", "bot"]), st.text("a .<|>/s[]\ufffd\u200b\u00a0é", max_size=8)), max_size=5
    ),
    prompt=st.none() | st.text("a ", max_size=2),
    identity=st.sampled_from(["1", "", " ", "\u200b", "é"]),
    for_training=st.booleans(),
)
def test_any_row_that_is_clean_at_first_sight_is_clean(
    turns: list[tuple[str, str]], prompt: str | None, identity: str, for_training: bool
) -> None:
    first = next((text for role, text in turns if role == "user"), "")
    conversation = Conversation(first if prompt is None else prompt, [Message(role, text) for role, text in turns], identity)
    if is_clean(conversation, for_training=for_training):
        assert list(check_row(conversation, for_training=for_training)) == []


def test_most_rows_are_clean_at_first_sight() -> None:
    assert is_clean(Conversation("Hi", [Message("user", "Hi"), Message("assistant", "Hello — é")], "1"), for_training=True)
    system = [Message("system", "Be kind."), Message("user", "Hi"), Message("assistant", "Hello")]
    assert is_clean(Conversation("Hi", system, "1"), for_training=True)


@given(seed=st.integers(0, 10_000))
@settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_quick_search_finds_the_same_leaks_as_the_exact_one(seed: int, tmp_path: Path) -> None:
    generator = random.Random(seed)
    vocabulary = [f"word{number}" for number in range(200)]
    pool = [" ".join(generator.choices(vocabulary, k=generator.choice((3, 14, 40, 90)))) for _ in range(12)]

    def conversation(number: int) -> dict[str, Any]:
        turns = []
        for _ in range(generator.randint(1, 3)):
            known, cut = generator.choice(pool), generator.randint(0, 60)
            new = " ".join(generator.choices(vocabulary, k=generator.randint(1, 60)))
            answer = generator.choice((known, known, new, f"{known[cut:]} {new}", f"{new}. {known[:cut]}"))
            turns += [("user", f"Question {generator.randint(0, 30)}?"), ("assistant", answer)]
        return row(number, *turns)

    train = write(tmp_path, "train_sft", [conversation(number) for number in range(30)])
    suite = write(tmp_path, "test_sft", [conversation(100 + number) for number in range(12)])
    leaks = find_leaks(train, {"test_sft": suite})
    findings = check({"train_sft": train, "test_sft": suite}).findings
    whole = {finding.where for finding in findings if finding.rule in ("overlap.exact", "overlap.normalized")}
    expected = {f"{suite}:{leak.line}": f"{leak.how}: {train}:{leak.training_line}" for leak in leaks.answers["test_sft"]}
    found = {finding.where: finding.message for finding in findings if finding.rule == "overlap.answer"}
    assert found == {where: message for where, message in expected.items() if where not in whole}
    count = len([line for line in leaks.passages["test_sft"] if f"{suite}:{line}" not in {*expected, *whole, *prompts(findings)}])
    messages = [finding.message for finding in findings if finding.rule == "overlap.passage"]
    assert [message.split()[0] for message in messages] == ([str(count)] if count else [])


def prompts(findings: Any) -> set[str]:
    return {finding.where for finding in findings if finding.rule == "overlap.prompt"}


def test_only_answers_that_are_expected_are_indexed_and_their_shares_are_the_same() -> None:
    """A frame that follows many questions is a stock phrase, even if only one of its answers is expected."""
    frame = "thank you for this question I have looked it up in my long list of capitals and the answer is"
    answers = [
        f"{frame} {name} and {' '.join(f'{name}{number}' for number in range(20))}" for name in ("Bern", "Oslo", "Rome", "Lima", "Kyiv")
    ]
    others = [" ".join(f"other{text}{number}" for number in range(30)) for text in range(5)]
    narrow, full = RunIndex(), RunIndex()
    for index in (narrow, full):
        index.add(Answers.encode([*answers, *others], list(range(10))))
    rows = [[f"they say: {answers[1]}"], ["nothing of this kind"]]
    suspects, codes = narrow.screen(rows)
    assert suspects == [0]
    narrow.expect([codes])
    found = list(narrow.find(rows))
    assert found == list(full.find(rows))
    assert [{answer: part.share for answer, part in each.items()} for each in found] == [{1: 1.0}, {}]
    assert narrow._find_expected() == [0, 1, 2, 3, 4]


def test_only_the_first_process_indexes_what_is_expected(monkeypatch: pytest.MonkeyPatch) -> None:
    """Others would write the same files at the same time."""
    text = " ".join(f"word{number}" for number in range(30))
    index = RunIndex()
    index.add(Answers.encode([text], [1]))
    index.expect([index.screen([[text]])[1]])
    others = [pickle.dumps(index) for _ in range(2)]
    monkeypatch.setattr(RunIndex, "_write_lookup", None)
    assert [[part.share for part in found.values()] for other in others for found in pickle.loads(other).find([[text]])] == [[1.0]] * 2


def test_rows_with_equal_ends_are_compared_as_a_whole(tmp_path: Path) -> None:
    """Far beyond the beginnings and ends, only whole texts differ."""
    middle = "the beginning and the end of both answers are the same, and long enough for the quick look " * 3
    one, other = (row(1, ("user", "Question"), ("assistant", f"{middle} {number} {middle}")) for number in (1, 2))
    assert check({"train_sft": write(tmp_path, "train_sft", [one, {**other, "prompt_id": "2"}])}).findings == ()
    (finding,) = check({"train_sft": write(tmp_path, "train_sft", [one, other, {**one, "prompt_id": "3"}])}).findings[1:]
    assert (finding.rule, finding.where) == ("duplicate.exact", f"{tmp_path}/train_sft.jsonl:3")


def test_a_row_without_messages_may_have_the_prompt_of_another(tmp_path: Path) -> None:
    prompt = "What is the long way from the beginning of this question to its end?"
    files = {
        "train_sft": write(tmp_path, "train_sft", [row(1, ("user", prompt), ("assistant", "Far"))]),
        "test_sft": write(tmp_path, "test_sft", [{**row(2, messages=[]), "prompt": prompt}]),
    }
    assert {finding.rule for finding in check(files).findings} == {"messages.empty"}


def test_an_index_without_rows_finds_nothing() -> None:
    assert LeakIndex().screen([["a text"], []], [[1], []])[0] == []
