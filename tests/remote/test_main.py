"""The scoring job as Azure ML runs it: files in, files and MLflow data out."""

from __future__ import annotations

import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

import mlops.remote
from mlops.remote.__main__ import main
from mlops.remote.generation import _select_prompt, generate
from mlops.remote.models import load_model
from mlops.remote.rouge import rouge_l
from mlops.remote.suites import Row, read_suite
from tests.support.tiny import OTHER_TEMPLATE, conversation, make_model, make_tokenizer, save, write_suite


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root, tokenizer = tmp_path_factory.mktemp("score"), make_tokenizer()
    return {
        "model": save(root / "model", make_model(tokenizer, seed=1), tokenizer, "mlflow"),
        "base": save(root / "base", make_model(tokenizer, seed=2), tokenizer),
        "foreign": save(root / "foreign", make_model(make_tokenizer(OTHER_TEMPLATE), seed=2), make_tokenizer(OTHER_TEMPLATE)),
        "target": write_suite(root / "target.jsonl", [conversation(number, turns=1 + number % 2) for number in range(12)]),
        "retention": write_suite(
            root / "retention.jsonl", [conversation(number + 40, kind=("facts", "refusal")[number % 2]) for number in range(9)]
        ),
    }


def arguments(files: dict[str, Path], output: Path, *more: str, model: str = "model", base: str | None = "base") -> list[str]:
    options = ["--model", files[model], "--target", files["target"], "--retention", files["retention"], "--output", output]
    options += ["--base", files[base]] if base else []
    return [*map(str, options), "--precision", "float32", "--generate-rows", "3", "--max-new-tokens", "6", *more]


def run(arguments: Sequence[str], output: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    assert main(arguments) == 0
    return read_output(output)


def read_output(output: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    rows = [json.loads(line) for line in (output / "scores.jsonl").read_text().splitlines()]
    return json.loads((output / "result.json").read_text()), rows


@pytest.fixture(autouse=True)
def _no_tracking(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def test_rows_and_metrics(files: dict[str, Path], tmp_path: Path) -> None:
    result, rows = run(arguments(files, tmp_path, "--key", "k", "--evaluation-version", "v", "--role", "candidate"), tmp_path)
    assert [(row["suite"], row["id"]) for row in rows] == [
        *(("target", f"row-{number:03d}") for number in range(12)),
        *(("retention", f"row-{number + 40:03d}") for number in range(9)),
    ]
    metrics = result["metrics"]
    for suite, kind in (("target", None), ("retention", None), ("retention", "facts"), ("retention", "refusal")):
        selected = [row for row in rows if row["suite"] == suite and kind in (None, row["kind"])]
        name = suite if kind is None else f"{suite}.{kind}"
        nll = sum(row["nll"] for row in selected) / sum(row["tokens"] for row in selected)
        assert metrics[f"{name}.nll"] == pytest.approx(nll)
        assert metrics[f"{name}.perplexity"] == pytest.approx(math.exp(nll))
        assert metrics[f"{name}.token_accuracy"] == sum(row["greedy_tokens"] for row in selected) / sum(row["tokens"] for row in selected)
        assert metrics[f"{name}.rows"] == len(selected)
        assert metrics[f"{name}.tokens"] == sum(row["tokens"] for row in selected)
    retention = [row for row in rows if row["suite"] == "retention"]
    assert metrics["retention.kl_base"] == pytest.approx(sum(row["kl"] for row in retention) / sum(row["tokens"] for row in retention))
    assert metrics["retention.kl_base"] > 0.1
    assert "target.kl_base" not in metrics
    assert (result["key"], result["evaluation_version"], result["role"]) == ("k", "v", "candidate")
    assert result["rows"] == {"target": 12, "retention": 9}
    assert result["notes"] == []


def test_the_first_rows_get_answers(files: dict[str, Path], tmp_path: Path) -> None:
    result, rows = run(arguments(files, tmp_path), tmp_path)
    assert [row["id"] for row in rows if "answer" in row] == ["row-000", "row-001", "row-002"]
    suite = read_suite("target", files["target"])
    for row, sample, source in zip(rows, result["samples"], suite.rows, strict=False):
        assert sample["reference"] == source.messages[-1]["content"]
        assert sample["prompt"] == source.messages[-2]["content"]
        assert sample["answer"] == row["answer"]
        assert row["rouge_l"] == rouge_l(row["answer"], sample["reference"])
        assert row["stop"] in ("end", "length")
        assert row["answer_tokens"] <= 6
    assert result["metrics"]["target.rouge_l"] == pytest.approx(sum(row["rouge_l"] for row in rows[:3]) / 3)


def test_tasks_get_answers_that_are_checked(files: dict[str, Path], tmp_path: Path) -> None:
    """Every answer has at most six tokens, and none is a refusal."""
    checks: dict[str, Any] = {"facts": [{"type": "words", "max": 90}], "refusal": [{"type": "refusal"}]}
    rows = [conversation(number + 40, kind=("facts", "refusal", "poem")[number % 3]) for number in range(9)]
    suite = write_suite(tmp_path / "tasks.jsonl", [row | {"checks": checks.get(row["kind"], [])} for row in rows])
    result, scores = run(arguments({**files, "retention": suite}, tmp_path, "--task-rows", "5"), tmp_path)
    answered = [row for row in scores if row["suite"] == "retention" and "answer" in row]
    assert [(row["id"], row["kind"]) for row in answered] == [
        ("row-040", "facts"), ("row-041", "refusal"), ("row-043", "facts"), ("row-044", "refusal"), ("row-046", "facts"),
    ]  # fmt: skip
    assert [row["passed"] for row in answered if row["kind"] == "refusal"] == [0.0, 0.0]
    assert [row["passed"] for row in answered if row["kind"] == "facts"] == [float(bool(row["answer"])) for row in answered[::2]]
    assert result["metrics"]["retention.passed"] == sum(row["passed"] for row in answered) / 5
    assert result["metrics"]["retention.refusal.passed"] == 0.0
    assert not [name for name in result["metrics"] if name.endswith(".passed") and ("poem" in name or "target" in name)]
    assert all("rouge_l" not in row and "refused" not in row for row in answered)


def test_an_answer_to_an_earlier_turn_does_not_pass(files: dict[str, Path], tmp_path: Path) -> None:
    row = conversation(1, turns=2, kind="facts") | {"checks": [{"type": "contains", "none": ["nothing of the kind"]}]}
    row["messages"][2]["content"] = "the rain " * 60
    suite = write_suite(tmp_path / "tasks.jsonl", [row, conversation(2, kind="facts") | {"checks": row["checks"]}])
    _, scores = run(arguments({**files, "retention": suite}, tmp_path, "--max-tokens", "40"), tmp_path)
    assert [row["passed"] for row in scores if row["suite"] == "retention"] == [0.0, 1.0]


def test_the_base_does_not_diverge_from_itself(files: dict[str, Path], tmp_path: Path) -> None:
    alone, rows = run(arguments(files, tmp_path / "alone", model="base", base=None), tmp_path / "alone")
    assert alone["metrics"]["retention.kl_base"] == 0.0
    assert {row["kl"] for row in rows} == {None, 0.0}
    assert alone["base_weights_digest"] == alone["weights_digest"]
    beside, _ = run(arguments(files, tmp_path / "beside", model="base", base="base"), tmp_path / "beside")
    assert beside["metrics"] == alone["metrics"]


def test_the_base_of_another_model_is_recognized(files: dict[str, Path], tmp_path: Path) -> None:
    tuned, _ = run(arguments(files, tmp_path / "a"), tmp_path / "a")
    base, _ = run(arguments(files, tmp_path / "b", model="base", base=None), tmp_path / "b")
    assert tuned["base_weights_digest"] == base["weights_digest"] != tuned["weights_digest"]


def test_the_batch_size_does_not_change_metrics(files: dict[str, Path], tmp_path: Path) -> None:
    one, one_rows = run(arguments(files, tmp_path / "one", "--batch-tokens", "1"), tmp_path / "one")
    many, many_rows = run(arguments(files, tmp_path / "many", "--batch-tokens", "4000"), tmp_path / "many")
    assert one["metrics"] == pytest.approx(many["metrics"], rel=1e-5)
    for left, right in zip(one_rows, many_rows, strict=True):
        assert left == {**right, "nll": left["nll"], "kl": left["kl"]}
        assert (left["nll"], left["kl"] or 0.0) == pytest.approx((right["nll"], right["kl"] or 0.0), rel=1e-4)


def test_models_that_tokenize_differently_have_no_divergence(files: dict[str, Path], tmp_path: Path) -> None:
    result, rows = run(arguments(files, tmp_path, base="foreign"), tmp_path)
    assert not [name for name in result["metrics"] if name.endswith("kl_base")]
    assert {row["kl"] for row in rows} == {None}
    assert "tokenize the suite differently" in result["notes"][0]


def test_models_of_different_vocabularies_have_no_divergence(files: dict[str, Path], tmp_path: Path) -> None:
    """A model whose fine-tuning padded the embeddings is still scored: the GPU time is already paid for."""
    tokenizer = make_tokenizer()
    padded = make_model(tokenizer, seed=2)
    padded.resize_token_embeddings(padded.config.vocab_size + 7)
    save(tmp_path / "padded", padded, tokenizer)
    result, rows = run(arguments({**files, "padded": tmp_path / "padded"}, tmp_path, base="padded"), tmp_path)
    assert "retention.nll" in result["metrics"]
    assert {row["kl"] for row in rows} == {None}
    assert "model and base have vocabularies of 320 and 327 entries" in result["notes"][0]


def test_a_bad_suite_leaves_no_result(files: dict[str, Path], tmp_path: Path) -> None:
    rows = [conversation(1), conversation(1)]
    bad = {**files, "target": write_suite(tmp_path / "bad.jsonl", rows)}
    with pytest.raises(ValueError, match=r"bad.jsonl:2: prompt_id 'row-001' appears twice"):
        main(arguments(bad, tmp_path / "out"))
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "nonsense",
        '{"prompt_id": "x"}',
        '{"prompt_id": "x", "messages": [{"role": "user", "content": "hi"}]}',
        '{"prompt_id": "x", "messages": []}',
    ],
)
def test_an_invalid_row_is_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "s.jsonl").write_text(json.dumps(conversation(1)) + "\n" + line + "\n")
    with pytest.raises(ValueError, match=r"s.jsonl:2: not a conversation"):
        read_suite("target", tmp_path / "s.jsonl")


def test_line_separators_inside_a_message_do_not_split_it(tmp_path: Path) -> None:
    row = conversation(1)
    row["messages"][0]["content"] = "one\u2028two\x85three"
    (tmp_path / "s.jsonl").write_text(json.dumps(row, ensure_ascii=False) + "\n", encoding="utf-8")
    assert read_suite("target", tmp_path / "s.jsonl").rows[0].messages[0]["content"] == "one\u2028two\x85three"


def test_greedy_answers_do_not_depend_on_the_batch(files: dict[str, Path]) -> None:
    loaded, suite = load_model(files["model"], None, "float32", "cpu"), read_suite("target", files["target"])
    answers = [
        generate(loaded.model, loaded.tokenizer, suite.rows, max_tokens=500, max_new_tokens=5, batch_tokens=batch_tokens)
        for batch_tokens in (1, 10_000)
    ]
    assert answers[0] == answers[1]


def test_an_end_token_ends_the_answer(files: dict[str, Path]) -> None:
    import torch

    loaded = load_model(files["model"], None, "float32", "cpu")
    with torch.no_grad():  # all logits are equal, whatever the input
        loaded.model.lm_head.weight.zero_()
        loaded.model.model.norm.weight.zero_()
    row = Row("r", "", ({"role": "user", "content": "a cat"}, {"role": "assistant", "content": "sat"}))
    limits: dict[str, Any] = {"max_tokens": 100, "max_new_tokens": 5, "batch_tokens": 100}
    # The first token of the vocabulary is generated: first it is not an end token, then it is.
    assert generate(loaded.model, loaded.tokenizer, [row], **limits)[0].stop == "length"
    loaded.model.generation_config.eos_token_id = [0]
    (answer,) = generate(loaded.model, loaded.tokenizer, [row], **limits)
    assert (answer.answer, answer.tokens, answer.stop) == ("", 0, "end")


def test_if_a_prompt_is_too_long_an_earlier_turn_is_answered(files: dict[str, Path]) -> None:
    loaded = load_model(files["model"], None, "float32", "cpu")
    contents = ("a cat", "sat", "the rain " * 30, "in spain")
    row = Row("r", "", tuple({"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(contents)))
    (answer,) = generate(loaded.model, loaded.tokenizer, [row], max_tokens=30, max_new_tokens=3, batch_tokens=100)
    assert (answer.prompt, answer.reference) == ("a cat", "sat")


def test_a_prompt_that_is_too_long_without_an_earlier_turn_keeps_its_end(files: dict[str, Path]) -> None:
    tokenizer = make_tokenizer()
    row = Row("r", "", ({"role": "user", "content": "the rain " * 30}, {"role": "assistant", "content": "in spain"}))
    (_, whole), (turn, cut) = (_select_prompt(tokenizer, row, limit) for limit in (500, 12))
    assert (turn, cut) == (1, whole[-12:])


def test_the_package_runs_without_the_rest_of_the_project(files: dict[str, Path], tmp_path: Path) -> None:
    code, output = tmp_path / "code", tmp_path / "out"
    shutil.copytree(Path(mlops.remote.__file__).parent, code / "mlops" / "remote", ignore=shutil.ignore_patterns("__pycache__"))
    (code / "mlops" / "__init__.py").touch()
    command = [sys.executable, "-m", "mlops.remote", *arguments(files, output)]
    process = subprocess.run(command, cwd=code, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False)
    assert process.returncode == 0, process.stderr
    assert len(read_output(output)[1]) == 21
    assert "target sequences: 12/12" in process.stdout


@pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated")  # MLflow's use of SQLAlchemy 2.1
def test_results_are_logged_to_the_run_of_the_job(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    client = mlflow.MlflowClient(uri)
    experiment = client.create_experiment("e", artifact_location=(tmp_path / "artifacts").as_uri())
    job = client.create_run(experiment).info.run_id
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    monkeypatch.setenv("MLFLOW_RUN_ID", job)
    result, _ = run(arguments(files, tmp_path / "out", "--role", "candidate", "--key", "k"), tmp_path / "out")
    assert result["mlflow_run_id"] == job
    assert result["notes"] == []
    logged = client.get_run(job)
    assert logged.data.metrics == pytest.approx(result["metrics"])
    assert logged.data.tags["mlops.role"] == "candidate"
    assert logged.data.tags["mlops.evaluation_key"] == "k"
    assert logged.data.tags["mlops.suite.target"] == result["suite_digests"]["target"]
    assert logged.data.tags["mlops.weights_digest"] == result["weights_digest"]
    assert [artifact.path for artifact in client.list_artifacts(job)] == ["scores.jsonl"]


def test_scores_survive_an_unreachable_tracking_server(files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    result, rows = run(arguments(files, tmp_path), tmp_path)
    assert len(rows) == 21
    assert result["mlflow_run_id"] == ""
    assert "not logged to MLflow" in result["notes"][0]
