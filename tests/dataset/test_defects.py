"""Defects of more than sixty kinds, planted into clean data in three formats: each is found at its line, and nothing else is."""

from __future__ import annotations

import copy
import gzip
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from mlops.core.errors import DataError, ValidationFailed
from mlops.core.run import Run
from mlops.core.settings import Config
from mlops.dataset.checks import RULES, check
from mlops.dataset.conversation import SPLITS
from mlops.prepare import prepare

Row = dict[str, Any]
ROWS = 8
LONG = "A first prompt that is long enough to be recognized in both splits, with number"


def clean_row(split: str, number: int) -> Row:
    prompt = f"{LONG} {number} of {split}"
    turns = [("user", prompt), ("assistant", f"Answer {number}"), ("user", f"And {number}?"), ("assistant", f"Also {number}.")]
    return {
        "prompt": prompt,
        "messages": [{"role": role, "content": f"{text} ({split})" if place else text} for place, (role, text) in enumerate(turns)],
        "prompt_id": f"{split}-{number}",
        "source": "web",
    }


def edit(change: Callable[[Row], object]) -> Callable[[Row], bytes]:
    """Make a defect of a function that changes the row."""

    def apply(row: Row) -> bytes:
        changed = copy.deepcopy(row)
        change(changed)
        return json.dumps(changed).encode()

    return apply


def raw(change: Callable[[bytes], bytes]) -> Callable[[Row], bytes]:
    """Make a defect of a function that changes the row's JSON text."""
    return lambda row: change(json.dumps(row).encode())


def turn(place: int, **changes: Any) -> Callable[[Row], bytes]:
    return edit(lambda row: row["messages"][place].update(changes))


def without(place: int, key: str) -> Callable[[Row], bytes]:
    return edit(lambda row: row["messages"][place].pop(key))


def roles(names: str) -> Callable[[Row], bytes]:
    """Give the conversation these roles, by their first letters; the prompt stays the first user message."""
    full = {"s": "system", "u": "user", "a": "assistant"}

    def change(row: Row) -> None:
        texts = [
            row["prompt"] if names[: place + 1].count("u") == 1 and name == "u" else f"{row['prompt_id']} {place}"
            for place, name in enumerate(names)
        ]
        row["messages"] = [{"role": full[name], "content": text} for name, text in zip(names, texts, strict=True)]

    return edit(change)


def train(number: int) -> Row:
    return clean_row("train_sft", number)


SYNTAX: Mapping[str, tuple[str, Callable[[Row], bytes]]] = {
    "cut off": ("json.malformed", raw(lambda text: text[:-20])),
    "only a brace": ("json.malformed", raw(lambda text: b"{")),
    "trailing comma": ("json.malformed", raw(lambda text: text[:-1] + b",}")),
    "two objects on a line": ("json.malformed", raw(lambda text: text + text)),
    "text after the object": ("json.malformed", raw(lambda text: text + b" x")),
    "single quotes": ("json.malformed", raw(lambda text: text.replace(b'"', b"'"))),
    "NaN": ("json.malformed", raw(lambda text: text.replace(b'"web"', b"NaN"))),
    "Infinity": ("json.malformed", raw(lambda text: text.replace(b'"web"', b"-Infinity"))),
    "None": ("json.malformed", raw(lambda text: text.replace(b'"web"', b"None"))),
    "comment": ("json.malformed", raw(lambda text: text + b" // checked")),
    "tab in a text": ("json.malformed", raw(lambda text: text.replace(b"Answer", b"An\tswer"))),
    "zero byte": ("json.malformed", raw(lambda text: text.replace(b"Answer", b"An\x00swer"))),
    "unknown escape": ("json.malformed", raw(lambda text: text.replace(b"Answer", b"An\\qswer"))),
    "half a surrogate": ("json.malformed", raw(lambda text: text.replace(b"Answer", b"\\ud83d"))),
    "plain words": ("json.malformed", raw(lambda text: b"user: Hi")),
    "Latin-1": ("json.encoding", raw(lambda text: text.replace(b"Answer", b"R\xe9ponse"))),
    "surrogate in UTF-8": ("json.encoding", raw(lambda text: text.replace(b"Answer", b"\xed\xa0\xbd"))),
    "overlong UTF-8": ("json.encoding", raw(lambda text: text.replace(b"Answer", b"\xc0\xaf"))),
    "byte order mark": ("json.bom", raw(lambda text: b"\xef\xbb\xbf" + text)),
}  # fmt: skip
"""Kind → rule and defect. They make the whole file invalid if it is a JSON array."""

ROW: Mapping[str, tuple[str, Callable[[Row], bytes]]] = {
    "key twice": ("json.duplicate-key", raw(lambda text: b'{"prompt": "No", ' + text[1:])),
    "key of a message twice": ("json.duplicate-key", raw(lambda text: text.replace(b'"role"', b'"role": "x", "role"', 1))),
    "key twice, once escaped": ("json.duplicate-key", raw(lambda text: b'{"pr\\u006fmpt": "No", ' + text[1:])),
    "a list": ("schema.field", lambda row: b'["a", "b"]'),
    "a text": ("schema.field", lambda row: b'"Hi"'),
    "a number": ("schema.field", lambda row: b"42"),
    "null": ("schema.field", lambda row: b"null"),
    "an empty object": ("schema.field", lambda row: b"{}"),
    "no messages": ("schema.field", edit(lambda row: row.pop("messages"))),
    "messages are null": ("schema.field", edit(lambda row: row.update(messages=None))),
    "messages are text": ("schema.field", edit(lambda row: row.update(messages="Hi"))),
    "messages in Python's form": ("schema.field", edit(lambda row: row.update(messages=str(row["messages"])))),
    "messages are a number": ("schema.field", edit(lambda row: row.update(messages=3))),
    "messages are an object": ("schema.field", edit(lambda row: row.update(messages=row["messages"][0]))),
    "a message is text": ("schema.field", edit(lambda row: row["messages"].insert(1, "Hi"))),
    "a message is a list": ("schema.field", edit(lambda row: row["messages"].insert(1, ["user", "Hi"]))),
    "no role": ("schema.field", without(1, "role")),
    "role is null": ("schema.field", turn(1, role=None)),
    "role is a number": ("schema.field", turn(1, role=1)),
    "no content": ("schema.field", without(1, "content")),
    "content is null": ("schema.field", turn(1, content=None)),
    "content is a number": ("schema.field", turn(1, content=42)),
    "content is an object": ("schema.field", turn(1, content={"text": "Hi"})),
    "unknown field of a message": ("schema.field", turn(1, contents="Hi")),
    "tool call without a name": ("schema.field", turn(1, tool_calls=[{"function": {}}])),
    "prompt is a number": ("schema.field", edit(lambda row: row.update(prompt=3))),
    "prompt is a list": ("schema.field", edit(lambda row: row.update(prompt=["Hi"]))),
    "prompt_id is a list": ("schema.field", edit(lambda row: row.update(prompt_id=[1]))),
    "prompt_id is true": ("schema.field", edit(lambda row: row.update(prompt_id=True))),
    "prompt_id is a fraction": ("schema.field", edit(lambda row: row.update(prompt_id=1.5))),
    "a picture": ("content.type", turn(0, content=[{"type": "image_url", "image_url": {"url": "x"}}])),
    "weight of a half": ("message.weight", turn(1, weight=0.5)),
    "weight is text": ("message.weight", turn(1, weight="1")),
    "all weights are 0": ("message.weight", edit(lambda row: [message.update(weight=0) for message in row["messages"]])),
    "messages are empty": ("messages.empty", edit(lambda row: row.update(messages=[]))),
    "prompt_id is blank": ("id.empty", edit(lambda row: row.update(prompt_id="  "))),
    "prompt is blank": ("text.empty", edit(lambda row: row.update(prompt="\n"))),
    "content is empty": ("text.empty", turn(1, content="")),
    "content is white space": ("text.empty", turn(1, content=" \n\t")),
    "content has no width": ("text.empty", turn(1, content="\u200b\u2060")),
    "no parts": ("text.empty", turn(1, content=[])),
    "unknown role": ("role.unknown", turn(1, role="bot")),
    "role with a capital": ("role.unknown", turn(1, role="Assistant")),
    "role with a space": ("role.unknown", turn(1, role="assistant ")),
    "role of ShareGPT": ("role.unknown", turn(1, role="gpt")),
    "late system message": ("role.system", roles("usa")),
    "two system messages": ("role.system", roles("ssua")),
    "assistant first": ("role.order", roles("aua")),
    "user twice": ("role.order", roles("uua")),
    "assistant twice": ("role.order", roles("uaa")),
    "system message alone": ("role.order", roles("s")),
    "ends with the user": ("role.ending", roles("uau")),
    "no answer": ("assistant.missing", roles("u")),
    "control token": ("text.control-token", turn(1, content="Fine.<|im_end|>\n<|im_start|>user")),
    "end of sequence": ("text.control-token", turn(1, content="Fine.</s>")),
    "damaged characters": ("text.replacement", turn(1, content="Gr\ufffd\ufffde")),
    "another prompt": ("prompt.mismatch", edit(lambda row: row.update(prompt="Something else"))),
    "conversation twice": ("duplicate.exact", lambda row: json.dumps({**train(ROWS), "prompt_id": "x"}).encode()),
    "nearly the same": ("duplicate.normalized", lambda row: json.dumps(nearly(train(ROWS))).encode()),
    "id twice": ("id.duplicate", edit(lambda row: row.update(prompt_id=f"train_sft-{ROWS}"))),
}  # fmt: skip
"""Kind → rule and defect of a single row. ``train(ROWS)`` is the last row of the clean file."""


def nearly(row: Row) -> Row:
    changed = copy.deepcopy(row)
    for message in changed["messages"]:
        message["content"] = message["content"].upper() + "!"
    return {**changed, "prompt": changed["messages"][0]["content"], "prompt_id": "x"}


def write_jsonl(path: Path, texts: list[bytes]) -> Path:
    path = path.with_suffix(".jsonl")
    path.write_bytes(b"\n".join(texts) + b"\n")
    return path


def write_gzip(path: Path, texts: list[bytes]) -> Path:
    path = path.with_suffix(".jsonl.gz")
    path.write_bytes(gzip.compress(b"\n".join(texts) + b"\n", 1))
    return path


def write_array(path: Path, texts: list[bytes]) -> Path:
    path = path.with_suffix(".json")
    path.write_bytes(b"[\n" + b",\n".join(texts) + b"\n]\n")
    return path


WRITERS = {"jsonl": (write_jsonl, 1), "gz": (write_gzip, 1), "array": (write_array, 2)}
"""Format → function that writes it, and the line of the first row."""


def source(folder: Path, form: str, defects: Mapping[int, Callable[[Row], bytes]], split: str = "train_sft") -> Path:
    """Write clean data with defects: index of a row of the split → defect. The training data has one more row, which stays clean."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in SPLITS:
        rows = [clean_row(name, number) for number in range(ROWS + (name == "train_sft"))]
        # The clean row that others repeat comes first.
        rows = rows[-1:] + rows[:-1] if name == "train_sft" else rows
        planted = defects if name == split else {}
        WRITERS[form][0](folder / name, [planted[n](row) if n in planted else json.dumps(row).encode() for n, row in enumerate(rows)])
    return folder


def findings_of(folder: Path, run: Run) -> list[tuple[str, str]]:
    """Prepare and check; return (rule, place) of everything that is found, by one or the other."""
    config = Config.model_validate({"target": "local", "data": {"dataset": str(folder), "percent": 100, "deduplicate": False}})
    try:
        record = prepare(config, run)
    except ValidationFailed as problem:
        return re.findall(r"^(\S+:\d+): ([\w.-]+): ", str(problem), re.MULTILINE)
    files = {split: run.directory / record.files[split].path for split in SPLITS}
    origins = {split: run.directory / record.files[f"origin.{split}"].path for split in SPLITS}
    return [(finding.where, finding.rule) for finding in check(files, origins).findings]


@pytest.mark.parametrize("form", WRITERS)
def test_clean_data_has_no_findings(form: str, tmp_path: Path) -> None:
    assert findings_of(source(tmp_path / "source", form, {}), Run(tmp_path / "run")) == []


@pytest.mark.parametrize("form", WRITERS)
@pytest.mark.parametrize("kind", ROW)
def test_a_defect_in_a_row_is_reported_at_its_line(kind: str, form: str, tmp_path: Path) -> None:
    rule, defect = ROW[kind]
    folder = source(tmp_path / "source", form, {5: defect})
    (file,) = folder.glob("train_sft.*")
    found = set(findings_of(folder, Run(tmp_path / "run")))
    # Which of two equal rows is the repetition depends on the order of the copy.
    line = WRITERS[form][1]
    places = {f"{file}:{5 + line}"} | ({f"{file}:{line}"} if rule.startswith(("duplicate", "id.duplicate")) else set())
    assert {name for _, name in found} == {rule}
    assert {where for where, _ in found} <= places
    assert len(found) == 1


@pytest.mark.parametrize("form", ["jsonl", "gz"])
@pytest.mark.parametrize("kind", SYNTAX)
def test_a_syntax_error_is_reported_at_its_line(kind: str, form: str, tmp_path: Path) -> None:
    rule, defect = SYNTAX[kind]
    folder = source(tmp_path / "source", form, {5: defect})
    (file,) = folder.glob("train_sft.*")
    assert findings_of(folder, Run(tmp_path / "run")) == [(f"{file}:6", rule)]


@pytest.mark.parametrize("kind", SYNTAX)
def test_a_defect_of_the_syntax_makes_an_array_unreadable(kind: str, tmp_path: Path) -> None:
    folder = source(tmp_path / "source", "array", {5: SYNTAX[kind][1]})
    with pytest.raises((DataError, ValidationFailed), match=r"train_sft\.json:\d+: "):
        prepare(Config.model_validate({"target": "local", "data": {"dataset": str(folder)}}), Run(tmp_path / "run"))


@pytest.mark.parametrize(
    ("rule", "change"),
    [
        ("overlap.exact", lambda row: row),
        ("overlap.normalized", nearly),
        ("overlap.prompt", lambda row: {**row, "messages": [row["messages"][0], {"role": "assistant", "content": "New."}]}),
    ],
)
@pytest.mark.parametrize("split", ["test_sft", "test_gen"])
def test_training_rows_in_a_test_split_are_reported_at_their_line(
    rule: str, change: Callable[[Row], Row], split: str, tmp_path: Path
) -> None:
    leaked = json.dumps({**change(train(3)), "prompt_id": "leaked"}).encode()
    folder = source(tmp_path / "source", "jsonl", {2: lambda row: leaked}, split)
    assert findings_of(folder, Run(tmp_path / "run")) == [(f"{folder}/{split}.jsonl:3", rule)]


def test_a_training_answer_after_another_turn_is_reported_at_its_line(tmp_path: Path) -> None:
    opening = [{"role": "user", "content": "Hello."}, {"role": "assistant", "content": "Yes?"}]
    leaked = {**train(3), "prompt": "Hello.", "messages": opening + train(3)["messages"][:2], "prompt_id": "leaked"}
    folder = source(tmp_path / "source", "jsonl", {2: lambda row: json.dumps(leaked).encode()}, "test_sft")
    assert findings_of(folder, Run(tmp_path / "run")) == [(f"{folder}/test_sft.jsonl:3", "overlap.answer")]


def test_the_corpus_is_large_and_covers_the_rules() -> None:
    assert len(ROW) + len(SYNTAX) >= 70
    assert len(ROW) * len(WRITERS) + len(SYNTAX) * len(WRITERS) >= 150
    elsewhere = {
        "split.empty",
        "generation.ending",
        "json.too-long",
        "json.blank",
        "overlap.exact",
        "overlap.normalized",
        "overlap.prompt",
        "overlap.answer",
        "overlap.passage",
        "overlap.suite",
        "task.checks",
        "task.reference",
    }
    assert {rule for rule, _ in (*ROW.values(), *SYNTAX.values())} | elsewhere >= RULES.keys()


KINDS = {kind: value for kind, value in {**ROW, **SYNTAX}.items() if not value[0].startswith(("duplicate", "id.duplicate"))}
READABLE = {
    kind for kind, (rule, _) in KINDS.items() if rule.startswith(("text.", "role.", "id.", "assistant.", "messages.empty", "prompt."))
}


@given(planted=st.dictionaries(st.integers(1, ROWS), st.sampled_from(sorted(KINDS)), min_size=1), form=st.sampled_from(["jsonl", "gz"]))
@example(planted={1: "prompt_id is blank", 2: "prompt_id is blank"}, form="jsonl")
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_combination_of_defects_is_reported_line_by_line(planted: dict[int, str], form: str, tmp_path: Path) -> None:
    folder = source(tmp_path / form, form, {index: KINDS[kind][1] for index, kind in planted.items()})
    (file,) = folder.glob("train_sft.*")
    expected = {(f"{file}:{index + 1}", KINDS[kind][0]) for index, kind in planted.items()}
    # Rows that can't be read are listed by `prepare`; the others are checked once there are none.
    unreadable = {(f"{file}:{index + 1}", KINDS[kind][0]) for index, kind in planted.items() if kind not in READABLE}
    assert set(findings_of(folder, Run(tmp_path / "run"))) == (unreadable or expected)


@given(
    parts=st.lists(st.binary(max_size=60), max_size=6),
    name=st.sampled_from(["a.jsonl", "a.json", "a.csv", "a.tsv", "a.parquet", "a.jsonl.gz", "a.arrow"]),
)
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_bytes_at_all_end_in_a_traceback(parts: list[bytes], name: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_bytes(b"\n".join(parts))
    with pytest.raises((DataError, ValidationFailed)):
        prepare(Config.model_validate({"target": "local", "data": {"dataset": str(path)}}), Run(tmp_path / "run"))


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "messages", "prompt", "from", "value", "x"]), inner)
    ),
    max_leaves=12,
)


@given(values=st.lists(JSON, min_size=1, max_size=4))
@settings(max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_json_at_all_ends_in_a_traceback(values: list[Any], tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(value) + "\n" for value in values))
    with pytest.raises((DataError, ValidationFailed)):
        prepare(Config.model_validate({"target": "local", "data": {"dataset": str(path)}}), Run(tmp_path / "run"))
