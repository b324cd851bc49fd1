"""Parallel nodes over files, and data transfer nodes that copy."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from mlops.emulator.jobs import node_copy, node_parallel
from mlops.emulator.server import Emulator
from mlops.emulator.workspace import uris
from tests.emulator.jobs.test_graph_jobs import ENVIRONMENT
from tests.emulator.jobs.test_jobs import wait_for_job

SCRIPT = """
import pathlib, sys
seen = []
def init():
    seen.append(sys.argv[1:])
def run(batch):
    print(len(batch), seen)
    return [pathlib.Path(file).read_text() + sys.argv[-1] for file in batch]
"""

MERGE = """
$schema: http://azureml/sdk-2-0/DataTransferComponent.json
name: merge
type: data_transfer
task: copy_data
inputs: {first: {type: uri_folder}, second: {type: uri_folder}}
outputs: {folder: {type: uri_folder}}
data_copy_mode: merge_with_overwrite
"""


def test_a_pipeline_of_them(emulator: Emulator, ml: Any, tmp_path: Path) -> None:
    from azure.ai.ml import Input, Output, dsl, load_component
    from azure.ai.ml.parallel import RunFunction, parallel_run_function

    data, code = tmp_path / "data", tmp_path / "code"
    for folder, names in ((data, "abc"), (code, ())):
        folder.mkdir()
        for name in names:
            (folder / f"{name}.txt").write_text(name)
    (code / "score.py").write_text(SCRIPT)
    task = RunFunction(
        code=str(code), entry_script="score.py", environment=ENVIRONMENT, program_arguments="--mark ${{inputs.mark}}",
        append_row_to="${{outputs.rows}}",
    )  # fmt: skip
    score = parallel_run_function(
        name="score",
        inputs={"data": Input(type="uri_folder"), "mark": Input(type="string")},
        outputs={"rows": Output(type="uri_folder")},
        input_data="${{inputs.data}}",
        mini_batch_size="2",
        instance_count=1,
        max_concurrency_per_instance=1,
        error_threshold=0,
        mini_batch_error_threshold=0,
        task=task,
    )

    (tmp_path / "merge.yml").write_text(MERGE)
    merge = load_component(tmp_path / "merge.yml")

    @dsl.pipeline(default_compute="serverless")
    def scored_and_merged(data):  # type: ignore[no-untyped-def]
        scored = score(data=data, mark="!")
        merged = merge(first=data, second=scored.outputs.rows)
        return {"merged": merged.outputs.folder}

    submitted = ml.jobs.create_or_update(scored_and_merged(Input(type="uri_folder", path=str(data))))
    job = wait_for_job(ml, submitted.name)
    assert job.status == "Completed", ml.jobs._runs_operations.get_run_details(job.name).error
    children = {child.display_name: child for child in ml.jobs.list(parent_job_name=job.name)}
    assert {name: child.status for name, child in children.items()} == {"score": "Completed", "merged": "Completed"}
    merged = uris.output_path(emulator.azure, job.name, "merged")
    assert {file.name: file.read_text() for file in merged.iterdir()} == {
        "a.txt": "a", "b.txt": "b", "c.txt": "c", node_parallel.APPENDED: "a!\nb!\nc!\n",
    }  # fmt: skip
    log = uris.output_path(emulator.azure, children["score"].name, "artifacts") / "user_logs" / "std_log.txt"
    assert log.read_text().splitlines() == ["2 [['--mark', '!']]", "1 [['--mark', '!']]", "3 items, 0 of them failed."]


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with three files, beside the folder in which scripts are run."""
    for name in ("data/a.csv", "data/b.csv", "data/deep/c.txt", "wd/x"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    monkeypatch.chdir(tmp_path / "wd")
    monkeypatch.setattr("sys.path", list(sys.path))
    return tmp_path / "data"


def run_parallel(files: Path, monkeypatch: pytest.MonkeyPatch, script: str, **options: Any) -> str | None:
    Path("entry.py").write_text(script)
    defaults = {"input": files, "entry": "entry.py", "size": 1, "failed_items": -1, "failed_batches": -1, "retries": 1}
    words = [f"--{key.replace('_', '-')}={value}" for key, value in (defaults | options).items()]
    monkeypatch.setattr("sys.argv", ["node", *words, "--", "rest"])
    return node_parallel.main()


@pytest.mark.parametrize(
    ("script", "options", "problem"),
    [
        ("def run(batch): return batch", {"failed_items": 0, "failed_batches": 0}, None),
        ("def run(batch): return []", {"failed_items": 2}, "Failed items: 3; at most 2 may fail."),
        ("def run(batch): return []", {"failed_items": 3, "failed_batches": 0}, None),
        ("def run(batch): return batch * ('a.csv' not in batch[0])", {"failed_items": 0}, "Failed items: 1; at most 0 may fail."),
        (
            "def run(batch): 1 / ('a.csv' not in batch[0]); return batch",
            {"failed_batches": 0},
            "Failed mini-batches: 1; at most 0 may fail.",
        ),
        ("def run(batch): 1 / 0", {}, None),
        ("count = [1]\ndef run(batch): count.append(1); 1 / (len(count) % 2); return batch", {"failed_batches": 0}, None),
        ("count = [1]\ndef run(batch): count.append(1); 1 / (len(count) % 2); return batch", {"failed_batches": 2, "retries": 0}, None),
        ("count = [1]\ndef run(batch): count.append(1); 1 / (len(count) % 2)", {"failed_batches": 1, "retries": 0}, "Failed mini-"),
    ],
)
def test_the_thresholds(files: Path, monkeypatch: pytest.MonkeyPatch, script: str, options: dict[str, int], problem: str | None) -> None:
    assert (run_parallel(files, monkeypatch, script, **options) or "").startswith(problem or "")
    assert problem is not None or run_parallel(files, monkeypatch, script, **options) is None


def test_a_table_of_results_is_appended_as_rows(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    script = "import pandas\ndef run(batch): return pandas.DataFrame({'a': [len(batch)], 'b': ['x y']})"
    assert run_parallel(files, monkeypatch, script, size=2, append_to="rows.txt") is None
    assert Path("rows.txt").read_text() == '2 "x y"\n1 "x y"\n'


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        ("paths: [{pattern: ./*.csv}]", "a.csv b.csv"),
        ("paths: [{file: ./a.csv}, {folder: ./deep}]", "a.csv c.txt"),
        ("paths: [{pattern: ./*.csv}]\ntransformations: [read_delimited: {}]", "The emulator does not run parallel nodes over tables"),
        ("paths: [{pattern: ./*.png}]", "The path ./*.png in MLTable matches no file"),
        ("paths: [{file: 'https://example.com/a.csv'}]", "The path https://example.com/a.csv in MLTable"),
    ],
)
def test_an_mltable_names_the_files(files: Path, monkeypatch: pytest.MonkeyPatch, table: str, expected: str) -> None:
    (files / "MLTable").write_text(table)
    script = "import os\ndef run(batch): return map(os.path.basename, batch)"
    problem = run_parallel(files, monkeypatch, script, append_to="rows.txt")
    assert (problem or " ".join(Path("rows.txt").read_text().split())).startswith(expected)


@pytest.mark.parametrize(
    ("words", "problem", "copied"),
    [
        (
            ["--mode=merge_with_overwrite", "out", "../data"],
            None,
            {"a.csv": "data/a.csv", "b.csv": "data/b.csv", "c.txt": "data/deep/c.txt"},
        ),
        (["--mode=merge_with_overwrite", "out", "../data/a.csv", "x"], None, {"a.csv": "data/a.csv", "x": "wd/x"}),
        (["--mode=merge_with_overwrite", "--to-file", "out/y", "x"], None, {"y": "wd/x"}),
        (["--mode=fail_if_conflict", "out", "x", "../data", "x"], "x exists already, and the mode is fail_if_conflict.", None),
    ],
)
def test_copies(files: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], problem: str | None, copied: dict[str, str] | None) -> None:
    monkeypatch.setattr("sys.argv", ["node", *words])
    assert node_copy.main() == problem
    assert copied is None or {file.name: file.read_text() for file in Path("out").rglob("*") if file.is_file()} == copied
