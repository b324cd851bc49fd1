"""The prepare stage: which rows are kept, in which order, and when nothing needs to be done."""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import pytest

from mlops.core.errors import ConfigError, DataError, ValidationFailed
from mlops.core.records import Prepared
from mlops.core.run import Run, file_sha256
from mlops.core.settings import Config
from mlops.dataset.checks import check
from mlops.dataset.conversation import SPLITS, Conversation, read_jsonl
from mlops.prepare import ORDER, prepare

specification = importlib.util.spec_from_file_location("hub", Path(__file__).parent / "support" / "hub.py")
assert specification is not None
assert specification.loader is not None
hub = importlib.util.module_from_spec(specification)
specification.loader.exec_module(hub)

COMMIT, OTHER_COMMIT = "a" * 40, "b" * 40


def row(split: str, number: int, turns: int = 2) -> dict[str, Any]:
    messages = [{"role": ("user", "assistant")[turn % 2], "content": f"{split} {number} turn {turn}"} for turn in range(turns)]
    return {"prompt": messages[0]["content"], "messages": messages, "prompt_id": f"{split}-{number}"}


def rows(count: int = 40, turns: int = 2) -> dict[str, list[dict[str, Any]]]:
    return {split: [row(split, number, turns) for number in range(count)] for split in SPLITS}


def write(folder: Path, splits: Mapping[str, Sequence[Any]]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for split, content in splits.items():
        (folder / f"{split}.jsonl").write_text("".join((text if isinstance(text, str) else json.dumps(text)) + "\n" for text in content))
    return folder


def config(dataset: Path | str, **data: Any) -> Config:
    return Config.model_validate({"target": "local", "data": {"dataset": str(dataset), "percent": 100, **data}})


def read_split(run: Run, split: str) -> list[Conversation]:
    conversations = [conversation for _, conversation in read_jsonl(run.directory / "data" / f"{split}.jsonl")]
    assert all(isinstance(conversation, Conversation) for conversation in conversations)
    return [conversation for conversation in conversations if isinstance(conversation, Conversation)]


def ids(run: Run, split: str) -> list[str]:
    return [conversation.prompt_id for conversation in read_split(run, split)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    return Run(tmp_path / "run")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write(tmp_path / "source", rows())


def test_the_record_describes_the_kept_rows_and_their_source(folder: Path, run: Run) -> None:
    record = prepare(config(folder, percent=25), run)
    assert run.read(Prepared) == record
    assert {split: record.files[split].rows for split in SPLITS} == dict.fromkeys(SPLITS, 10)
    assert {split: record.files[split].sha256 for split in SPLITS} == {
        split: file_sha256(run.directory / "data" / f"{split}.jsonl") for split in SPLITS
    }
    assert (record.dataset, record.revision, record.percent, record.seed) == (str(folder), "local", 25.0, 42)
    assert record.source == {f"{split}.jsonl": file_sha256(folder / f"{split}.jsonl") for split in SPLITS}
    assert record.dropped == {}
    assert not [path for path in (run.directory / "data").iterdir() if path.name.startswith(".")]


def test_the_same_seed_keeps_the_same_rows_and_another_seed_keeps_others(folder: Path, tmp_path: Path) -> None:
    records = [prepare(config(folder, percent=25, seed=seed), Run(tmp_path / name)) for name, seed in (("a", 42), ("b", 42), ("c", 7))]
    assert records[0].fingerprint == records[1].fingerprint != records[2].fingerprint
    assert records[0].digest() == records[1].digest()
    assert set(ids(Run(tmp_path / "a"), "train_sft")) != set(ids(Run(tmp_path / "c"), "train_sft"))


def test_the_kept_rows_do_not_depend_on_the_order_of_the_source(folder: Path, tmp_path: Path) -> None:
    shuffled = write(tmp_path / "shuffled", {split: content[::-1] for split, content in rows().items()})
    one, other = (prepare(config(source, percent=25), Run(tmp_path / name)) for source, name in ((folder, "a"), (shuffled, "b")))
    assert one.fingerprint == other.fingerprint


def test_a_larger_percentage_keeps_what_a_smaller_one_kept_and_adds_to_it(folder: Path, tmp_path: Path) -> None:
    samples = []
    for percent in (10, 30, 100):
        prepare(config(folder, percent=percent), Run(tmp_path / str(percent)))
        samples.append(ids(Run(tmp_path / str(percent)), "test_sft"))
    assert [len(part) for part in samples] == [4, 12, 40]
    assert samples[1][:4] == samples[0]
    assert samples[2][:12] == samples[1]
    assert samples[2] != sorted(samples[2], key=lambda name: int(name.split("-")[1])), "the source's own order would not be a sample"


def test_rows_are_limited_after_the_percentage(folder: Path, run: Run) -> None:
    record = prepare(config(folder, percent=50, max_rows={"train_sft": 7, "test_gen": 100}), run)
    assert {split: record.files[split].rows for split in SPLITS} == {"train_sft": 7, "test_sft": 20, "train_gen": 20, "test_gen": 20}


def test_long_conversations_are_dropped_and_counted(tmp_path: Path, run: Run) -> None:
    splits = rows(4)
    splits["train_sft"][2] = row("train_sft", 2, turns=8)
    splits["train_gen"][2] = row("train_gen", 2, turns=8)
    record = prepare(config(write(tmp_path / "s", splits), max_characters=100), run)
    assert record.dropped == {"train_sft": {"longer than max_characters": 1}, "train_gen": {"longer than max_characters": 1}}
    assert "train_sft-2" not in ids(run, "train_sft")
    again = prepare(config(tmp_path / "s", max_characters=100, max_messages=2), run)
    assert again.dropped == {}, "the cut comes first"


def test_repeated_rows_are_dropped_from_the_training_split_first(tmp_path: Path, run: Run) -> None:
    splits = rows(6)
    splits["train_sft"][0]["messages"] = splits["test_sft"][0]["messages"]
    splits["train_gen"][1]["messages"] = splits["test_gen"][1]["messages"]
    splits["test_sft"][5]["messages"] = [
        {**message, "content": message["content"].upper() + "!"} for message in splits["test_sft"][4]["messages"]
    ]
    source = write(tmp_path / "s", splits)
    record = prepare(config(source), run)
    assert record.dropped == {split: {"repeated": 1} for split in ("test_sft", "train_sft", "train_gen")}
    assert {"test_sft-0"} <= set(ids(run, "test_sft"))
    assert "train_sft-0" not in ids(run, "train_sft")
    assert not check({split: run.directory / "data" / f"{split}.jsonl" for split in SPLITS}).findings

    assert prepare(config(source, deduplicate=False), run).dropped == {}
    findings = check({split: run.directory / "data" / f"{split}.jsonl" for split in SPLITS}).findings
    assert {finding.rule for finding in findings} == {"overlap.exact", "duplicate.normalized", "prompt.mismatch"}


def test_conversations_that_become_equal_when_cut_are_deduplicated(tmp_path: Path, run: Run) -> None:
    splits = rows(4, turns=4)
    for number, conversation in enumerate([*splits["test_sft"][:2], *splits["train_sft"][:2]]):
        for place, content in enumerate(("Hello", "Hi there", f"{number}", f"{number}!")):
            conversation["messages"][place]["content"] = content
    record = prepare(config(write(tmp_path / "s", splits), max_messages=2), run)
    assert record.dropped == {"test_sft": {"repeated": 1}, "train_sft": {"repeated": 2}}
    assert ORDER.index("test_sft") < ORDER.index("train_sft")


def test_a_second_run_changes_nothing_and_does_not_read_the_source(folder: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    first = prepare(config(folder), run)
    assert "nothing to do" not in capsys.readouterr().out
    stamps = {split: (folder / f"{split}.jsonl").stat().st_mtime_ns for split in SPLITS}
    for split, stamp in stamps.items():
        # Same size, same time, other content: only who reads the file would notice.
        path = folder / f"{split}.jsonl"
        path.write_text(path.read_text().replace("turn 1", "TURN 1"))
        os.utime(path, ns=(stamp, stamp))
    assert prepare(config(folder), run) == first
    assert "nothing to do" in capsys.readouterr().out


def test_a_fresh_checkout_of_the_same_files_is_the_same_source(folder: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    first = prepare(config(folder), run)
    for split in SPLITS:
        os.utime(folder / f"{split}.jsonl", ns=(1, 1))
    assert prepare(config(folder), run) == first
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.parametrize(
    "change",
    [{"percent": 50}, {"seed": 1}, {"max_rows": {"train_sft": 3}}, {"max_messages": 2}, {"max_characters": 9999}, {"deduplicate": False}],
)
def test_other_settings_prepare_again(change: dict[str, Any], folder: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    prepare(config(folder), run)
    capsys.readouterr()
    prepare(config(folder, **change), run)
    assert "nothing to do" not in capsys.readouterr().out


def test_another_source_or_damaged_files_prepare_again(folder: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    first = prepare(config(folder), run)
    (run.directory / "data" / "test_gen.jsonl").write_text("spoilt\n")
    assert prepare(config(folder), run).digest() == first.digest()
    with (folder / "train_sft.jsonl").open("a") as file:
        file.write(json.dumps(row("train_sft", 99)) + "\n")
    assert prepare(config(folder), run).files["train_sft"].rows == 41
    assert "nothing to do" not in capsys.readouterr().out


def test_all_unreadable_rows_are_listed_with_file_and_line(tmp_path: Path, run: Run) -> None:
    splits: dict[str, list[Any]] = {**rows(5)}
    splits["train_sft"][1] = "nonsense"
    splits["train_sft"][3] = json.dumps({"prompt": "x"})
    source = write(tmp_path / "s", splits)
    with pytest.raises(ValidationFailed) as caught:
        prepare(config(source, percent=20), run)
    assert f"{source}/train_sft.jsonl:2: json.malformed: " in str(caught.value)
    assert f"{source}/train_sft.jsonl:4: schema.field: " in str(caught.value)
    assert "2 row(s)" in str(caught.value)
    assert not run.has(Prepared)


def test_the_list_of_unreadable_rows_is_limited(tmp_path: Path, run: Run) -> None:
    source = write(tmp_path / "s", {**rows(5), "test_sft": ["?"] * 30})
    with pytest.raises(ValidationFailed, match=r"30 row\(s\)") as caught:
        prepare(config(source), run)
    assert "… and 10 more" in str(caught.value)


def test_readable_but_wrong_rows_are_left_for_validate(tmp_path: Path, run: Run) -> None:
    splits = rows(5)
    splits["train_sft"][0]["messages"][0]["role"] = "bot"
    prepare(config(write(tmp_path / "s", splits)), run)
    assert {finding.rule for finding in check({"train_sft": run.directory / "data" / "train_sft.jsonl"}).findings} == {"role.unknown"}


def test_a_missing_or_empty_split_is_refused(tmp_path: Path, run: Run) -> None:
    without = {split: content for split, content in rows(5).items() if split != "test_gen"}
    with pytest.raises(DataError, match="has no split test_gen"):
        prepare(config(write(tmp_path / "a", without)), run)
    with pytest.raises(DataError, match=r"split train_gen .* is empty"):
        prepare(config(write(tmp_path / "b", {**rows(5), "train_gen": []})), run)
    with pytest.raises(DataError, match="No rows of test_sft remain"):
        prepare(config(write(tmp_path / "c", rows(5)), max_characters=3), run)
    assert not run.has(Prepared)


def test_a_single_file_is_divided_into_the_four_splits(run: Run) -> None:
    record = prepare(config(Path(__file__).parent.parent / "data" / "sample.jsonl"), run)
    assert sum(file.rows or 0 for file in record.files.values()) == 24
    assert not check({split: run.directory / "data" / f"{split}.jsonl" for split in SPLITS}).findings


@pytest.mark.slow
def test_chitchat_passes_every_check(run: Run) -> None:
    record = prepare(config("chitchat", max_messages=4, max_characters=600, percent=20), run)
    assert record.revision == "chitchat-dataset 0.9.0"
    findings = check({split: run.directory / "data" / f"{split}.jsonl" for split in SPLITS}).findings
    # One answer of the test split quotes the same text as one of the training data.
    assert [finding.rule for finding in findings] == ["overlap.passage"]


# The hub: a process of its own for each, since `datasets` reads its endpoint and its cache folder when it is imported.


def parquet(conversations: Sequence[Mapping[str, Any]]) -> bytes:
    content = io.BytesIO()
    datasets.Dataset.from_list(list(conversations)).to_parquet(content)
    return content.getvalue()


def repository(splits: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, bytes]:
    files = {f"data/{split}-00000-of-00001.parquet": parquet(conversations) for split, conversations in splits.items()}
    return {**files, "README.md": b"---\nlicense: mit\n---\nTest data.\n"}


def from_hub(folder: Path, endpoint: str, revision: str = COMMIT, *options: str, **environment: str) -> subprocess.CompletedProcess[str]:
    folder.joinpath("pipeline.toml").write_text(
        f"[defaults.data]\ndataset = 'tester/chats'\nrevision = '{revision}'\npercent = 50\n[targets.local]\nendpoint.ephemeral = true\n"
    )
    variables = {name: value for name, value in os.environ.items() if "proxy" not in name.lower() and not name.startswith("HF_")}
    return subprocess.run(
        [sys.executable, "-m", "mlops.prepare", *options],
        cwd=folder,
        env={
            **variables,
            "PYTHONPATH": str(Path(__file__).parent.parent),
            "HF_HOME": str(folder / "hf"),
            "HF_ENDPOINT": endpoint,
            **environment,
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, subprocess.CompletedProcess[str], list[str]]:
    """A folder into which the stage has loaded the pinned revision; its output; and its requests to the hub."""
    folder = tmp_path_factory.mktemp("hub")
    with hub.Hub("tester/chats", COMMIT, repository(rows())) as server:
        done = from_hub(folder, server.url)
    assert done.returncode == 0, done.stderr
    return folder, done, server.requests


@pytest.mark.slow
def test_the_hub_is_read_at_the_pinned_revision_and_with_progress(loaded: Any, tmp_path: Path) -> None:
    folder, done, requests = loaded
    files = [request for request in requests if "parquet" in request]
    assert files
    assert all(f"/resolve/{COMMIT}/" in request for request in files)
    assert "4/4 files downloaded" in done.stdout
    assert "20 rows of train_sft" in done.stdout
    record = Run(folder / "run").read(Prepared)
    assert (record.dataset, record.revision, record.source) == ("tester/chats", COMMIT, {})
    local = prepare(config(write(tmp_path / "source", rows()), percent=50), Run(tmp_path / "local"))
    assert local.fingerprint == record.fingerprint, "the same rows, whatever they come from"


@pytest.mark.slow
def test_a_data_set_with_train_and_test_in_another_layout_is_read_from_the_hub(tmp_path: Path) -> None:
    chats = {name: [{"messages": row(name, number)["messages"], "score": number} for number in range(12)] for name in ("train", "test")}
    with hub.Hub("tester/chats", COMMIT, repository(chats)) as server:
        done = from_hub(tmp_path, server.url, COMMIT, "--set", "data.percent=100")
    assert done.returncode == 0, done.stderr
    assert "train_sft: OpenAI messages, 1" in done.stdout
    record = Run(tmp_path / "run").read(Prepared)
    assert sum(record.files[split].rows or 0 for split in SPLITS) == 24
    places = (tmp_path / "run" / record.files["origin.train_sft"].path).read_text().splitlines()
    assert all(place.startswith("tester/chats/train:") for place in places)


def test_a_second_run_does_not_contact_the_hub(loaded: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(loaded[0])  # as in the first run
    # No hub is running here, and this process has the real one's address.
    prepare(config("tester/chats", revision=COMMIT, percent=50), Run(loaded[0] / "run"))
    assert "nothing to do" in capsys.readouterr().out


@pytest.mark.slow
def test_a_revision_that_the_hub_does_not_have_is_refused(loaded: Any) -> None:
    with hub.Hub("tester/chats", COMMIT, repository(rows(4))) as server:
        refused = from_hub(loaded[0], server.url, OTHER_COMMIT)
    assert refused.returncode == DataError.exit_code
    assert f"no tester/chats at {OTHER_COMMIT}" in refused.stderr


@pytest.mark.slow
def test_the_cache_is_never_used_for_another_revision(loaded: Any) -> None:
    # `datasets` itself would use the cached revision here, whichever is requested.
    refused = from_hub(loaded[0], "http://127.0.0.1:9", OTHER_COMMIT, HF_HUB_OFFLINE="1")
    assert refused.returncode == DataError.exit_code
    assert f"contains revision {COMMIT} of tester/chats, not {OTHER_COMMIT}" in refused.stderr


@pytest.mark.slow
def test_the_cache_is_used_for_the_pinned_revision(loaded: Any) -> None:
    folder = loaded[0]
    cached = from_hub(folder, "http://127.0.0.1:9", COMMIT, "--run", "cached", HF_HUB_OFFLINE="1")
    assert cached.returncode == 0, cached.stderr
    assert Run(folder / "cached").read(Prepared).fingerprint == Run(folder / "run").read(Prepared).fingerprint


@pytest.mark.slow
def test_an_unreachable_hub_is_an_error_with_a_fix(tmp_path: Path) -> None:
    result = from_hub(tmp_path, "http://127.0.0.1:9", HF_HUB_OFFLINE="1")
    assert result.returncode == DataError.exit_code, result.stderr
    assert "tester/chats can't be loaded from the hub" in result.stderr
    assert "Fix: " in result.stderr
    assert "Traceback" not in result.stderr


def test_a_hub_data_set_needs_a_commit(run: Run) -> None:
    with pytest.raises(ConfigError, match="not a commit"):
        prepare(config("tester/chats", revision="main"), run)


def test_rows_with_errors_are_left_out_counted_and_listed_if_configured(
    tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    splits: dict[str, list[Any]] = {**rows(6)}
    splits["train_sft"][1] = "nonsense"
    splits["train_sft"][4]["messages"][1]["role"] = "user"
    splits["test_gen"][0]["messages"][1]["content"] = "\u200b"
    source = write(tmp_path / "s", splits)
    with pytest.raises(ValidationFailed, match=r'1 row\(s\) .*(?s:.*)data\.on_bad_row = "drop"'):
        prepare(config(source), run)
    record = prepare(config(source, on_bad_row="drop"), run)
    assert record.dropped == {"train_sft": {"with errors": 2}, "test_gen": {"with errors": 1}}
    assert {split: record.files[split].rows for split in SPLITS} == {"train_sft": 4, "test_sft": 6, "train_gen": 6, "test_gen": 5}
    listed = [json.loads(line) for line in (run.directory / record.files["quarantine"].path).read_text().splitlines()]
    assert [(row["where"], row["split"], row["rule"]) for row in listed] == [
        (f"{source}/train_sft.jsonl:2", "train_sft", "json.malformed"),
        (f"{source}/test_gen.jsonl:1", "test_gen", "text.empty"),
        (f"{source}/train_sft.jsonl:5", "train_sft", "role.order"),
    ]
    assert all(row["message"] for row in listed)
    assert "3 row(s) with errors are dropped" in capsys.readouterr().err
    assert not check({split: run.directory / record.files[split].path for split in SPLITS}).findings

    fixed = prepare(config(write(tmp_path / "s", rows(6)), on_bad_row="drop"), run)
    assert "quarantine" not in fixed.files
    assert not (run.directory / "data" / "quarantine.jsonl").exists(), "the list of an earlier run is not left behind"


def test_a_file_without_a_single_conversation_is_refused_even_if_rows_may_be_left_out(tmp_path: Path, run: Run) -> None:
    source = write(tmp_path / "s", {split: ["?"] * 3 for split in SPLITS})
    with pytest.raises(ValidationFailed, match=r"None of the 12 row\(s\) is a conversation"):
        prepare(config(source, on_bad_row="drop"), run)
    assert [path.name for path in (run.directory / "data").glob("*")] == []


def test_the_origin_of_every_row_is_recorded(folder: Path, run: Run) -> None:
    record = prepare(config(folder, percent=50), run)
    for split in SPLITS:
        places = (run.directory / record.files[f"origin.{split}"].path).read_text().splitlines()
        source = (folder / f"{split}.jsonl").read_text().splitlines()
        prompts = [json.loads(source[int(place.rpartition(":")[2]) - 1])["prompt"] for place in places]
        assert prompts == [conversation.prompt for conversation in read_split(run, split)]


def test_messages_that_are_learned_in_spite_of_weight_0_are_counted(tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    splits = rows(4, turns=4)
    splits["train_sft"][2]["messages"][1]["weight"] = 0
    record = prepare(config(write(tmp_path / "s", splits)), run)
    assert list(record.notes.values()) == [1]
    assert "1 row(s) have an assistant message with weight 0" in capsys.readouterr().err


def test_a_file_with_too_few_rows_for_four_splits_says_how_they_fall(tmp_path: Path, run: Run) -> None:
    (tmp_path / "tiny.jsonl").write_text("".join(json.dumps({"messages": row("x", n)["messages"]}) + "\n" for n in range(6)))
    with pytest.raises(DataError, match=r"too few conversations to divide them into the four splits: train_sft \d") as caught:
        prepare(config(tmp_path / "tiny.jsonl"), run)
    assert "100 are enough" in caught.value.fix


@pytest.mark.parametrize("count", [100, 150, 200])
def test_a_hundred_rows_are_enough_for_four_splits(count: int, tmp_path: Path, run: Run) -> None:
    (tmp_path / "some.jsonl").write_text("".join(json.dumps({"messages": row(f"x{count}", n)["messages"]}) + "\n" for n in range(count)))
    record = prepare(config(tmp_path / "some.jsonl"), run)
    assert sum(record.files[split].rows or 0 for split in SPLITS) == count


def test_an_empty_source_is_refused_as_such(tmp_path: Path, run: Run) -> None:
    (tmp_path / "none.jsonl").write_text("\n\n")
    with pytest.raises(DataError, match=r"none\.jsonl is empty: it has no rows"):
        prepare(config(tmp_path / "none.jsonl"), run)


def test_rows_are_reported_before_splits(tmp_path: Path, run: Run) -> None:
    (tmp_path / "bad.jsonl").write_text("nonsense\n" * 3)
    with pytest.raises(ValidationFailed, match=r"None of the 3 row\(s\) is a conversation:\n.*bad\.jsonl:1: json\.malformed"):
        prepare(config(tmp_path / "bad.jsonl"), run)
