"""Sampled rows are shortened, and several processes read the same ones as this process."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops.core.run import Run
from mlops.core.settings import Config
from mlops.dataset import candidates, chunks, processes
from mlops.dataset.candidates import sample, shorten
from mlops.dataset.conversation import Conversation, Message, convert, encode
from mlops.dataset.rows import ListRows
from mlops.prepare import prepare


@pytest.mark.parametrize(("count", "percent", "expected"), [(40, 2.5, 1), (40, 2.6, 2), (3, 1, 1), (7, 100, 7)])
def test_percentages_are_rounded_up(count: int, percent: float, expected: int) -> None:
    rows = ListRows((str(number), Conversation(prompt="", messages=[], prompt_id=str(number))) for number in range(count))
    assert len(sample(rows, percent, 42)) == expected


@pytest.mark.parametrize(
    ("roles", "limit", "split", "expected"),
    [
        ("uaua", None, "train_sft", "uaua"),
        ("uaua", 4, "train_sft", "uaua"),
        ("uaua", 3, "train_sft", "ua"),
        ("uaua", 3, "train_gen", "uau"),
        ("suaua", 2, "train_sft", "sua"),
        ("suaua", 3, "train_sft", "sua"),
        # What was wrong before the cut is left for validate to find.
        ("uau", 4, "train_sft", "uau"),
    ],
)
def test_conversations_are_cut_back_to_an_answer(roles: str, limit: int | None, split: str, expected: str) -> None:
    names = {"u": "user", "a": "assistant", "s": "system"}
    whole = Conversation(prompt="p", messages=[Message(names[role], str(place)) for place, role in enumerate(roles)], prompt_id="i")
    short = shorten(whole, limit, split)
    assert short == Conversation(prompt="p", messages=whole.messages[: len(expected)], prompt_id="i")


def row(number: int, answer: str, **extra: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": f"Question {number}?"}, {"role": "assistant", "content": answer, **extra}]
    return {"messages": messages, "prompt_id": f"row-{number}"}


@pytest.mark.slow
def test_processes_prepare_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With blank lines, a byte order mark, rows with errors, repetitions, leaks and notes, in two files of one split."""
    source = tmp_path / "source"
    source.mkdir()
    leak = "An answer that is long enough to be recognized wherever it is, in the training data too."
    first = [row(number, f"Answer {number}") for number in range(60)]
    first[7], first[13] = row(7, leak), {"messages": "none", "prompt_id": "13"}
    first[20]["messages"] += [{"role": "assistant", "content": "Not learned", "weight": 0}, {"role": "assistant", "content": "Bad order"}]
    second = [row(number, f"Answer {number}") for number in range(100, 160)]
    second[9]["messages"][1]["content"] = ""
    second[30:38] = [{**first[number], "prompt_id": f"again-{number}"} for number in range(30, 38)]
    (source / "train_sft-1.jsonl").write_text("\ufeff" + "\n\n".join(map(json.dumps, first)))
    (source / "train_sft-2.jsonl").write_text("\n".join(map(json.dumps, second)) + "\n")
    for split in ("test_sft", "train_gen", "test_gen"):
        rows = [row(500, leak), row(501, f"Answer of {split}")]
        (source / f"{split}.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n")
    settings = {"dataset": str(source), "percent": 100, "on_bad_row": "drop"}
    config = Config.model_validate({"target": "test", "data": settings})

    def contents(name: str) -> dict[str, bytes]:
        record = prepare(config, Run(tmp_path / name))
        texts = {path.name: path.read_bytes() for path in (tmp_path / name / "data").iterdir()}
        return texts | {"record": json.dumps([record.dropped, record.notes, record.formats, record.fingerprint]).encode()}

    expected = contents("one")
    monkeypatch.setattr(chunks, "CHUNK_BYTES", 500)
    assert contents("chunks") == expected
    monkeypatch.setattr(chunks, "PARALLEL_BYTES", 5000)
    monkeypatch.setattr(candidates, "PARALLEL_ROWS", 50)
    monkeypatch.setattr(processes, "_count_processors", lambda: 2)
    assert contents("two") == expected
    assert b'"repeated": 8' in expected["record"]
    assert b"with an answer of an evaluation row" in expected["record"]
    assert b"weight 0" in expected["record"]
    assert len(expected["quarantine.jsonl"].splitlines()) == 3


@pytest.mark.parametrize("held", [1, 3, 1000])
def test_rows_are_the_same_whether_they_are_copied_or_written_anew(held: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With conversations that differ in the middle only, repetitions, leaks, stock phrases, an empty line and no line break at the end."""
    monkeypatch.setattr(candidates, "_BATCH", 4)
    monkeypatch.setattr(candidates, "_WAITING_LIMIT", held)
    source = tmp_path / "source"
    source.mkdir()
    ends = "the beginning and the end are the same in many of these answers, and long enough for the quick look " * 2
    leak = "Give it six hours of light, water it from below when the soil feels dry, and pinch off the tops every two weeks or so."
    stock = "I am sorry, but I can not help with a request like this one, because it could hurt somebody, and that must not be."
    answers = [f"{ends} {number % 9} {ends}" if number % 3 else f"Answer {number}" for number in range(40)]
    answers[5], answers[8], answers[11:17] = leak, f"They say: {leak.upper()}", [stock] * 6
    rows = {
        "train_sft": answers,
        "test_sft": [leak, stock, f"{ends} 4 {ends}"],
        "train_gen": ["Fine"],
        "test_gen": ["Well", f"{ends} 5 {ends}"],
    }

    def contents(write: Callable[[dict[str, Any]], bytes]) -> dict[str, bytes]:
        for split, texts in rows.items():
            lines = [
                write({"prompt": turns["messages"][0]["content"], **turns})
                for turns in (row(1 if ends in text else number, text) for number, text in enumerate(texts))
            ]
            lines[-1:-1] = [b""] if split == "train_sft" else []
            (source / f"{split}.jsonl").write_bytes(b"\n".join(lines))
        config = Config.model_validate({"target": "test", "data": {"dataset": str(source), "percent": 100, "max_messages": 2}})
        run = Run(tmp_path / write.__name__)
        record = prepare(config, run)
        return {path.name: path.read_bytes() for path in run.path("data").iterdir()} | {"dropped": json.dumps(record.dropped).encode()}

    def as_written(row: dict[str, Any]) -> bytes:
        return encode(convert(row)).removesuffix(b"\n")

    def with_spaces(row: dict[str, Any]) -> bytes:
        return json.dumps(row).encode()

    expected = contents(with_spaces)
    assert contents(as_written) == expected
    dropped = json.loads(expected["dropped"])
    assert dropped["train_sft"] == {"with an answer of an evaluation row": 6, "repeated": 16}
