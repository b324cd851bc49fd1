"""Tiny models and the five steps of the emulated component."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlops.emulator.component import spec
from mlops.emulator.component.folders import load_tokenizer
from mlops.emulator.component.step import Step

# Read when torch is imported. Tiny models gain nothing from a second thread, and spinning threads slow down parallel tests.
os.environ.update({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"})

THIRD_PARTY_WARNINGS = (
    # mlflow warns about its own classes when mlflow.pyfunc is imported.
    "ignore:.*Any type hint is inferred as AnyType.*:UserWarning",
    # transformers warns about calls of peft and of its own trainer.
    "ignore:.*is_gradient_checkpointing.*:FutureWarning",
)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            for text in THIRD_PARTY_WARNINGS:
                item.add_marker(pytest.mark.filterwarnings(text))


@pytest.fixture(scope="session")
def model(weights_cache: Path) -> Callable[[str], Path]:
    """Return the MLflow folder of a kind of stand-in."""
    from mlops.emulator.registry.weights import ensure_standin

    return lambda kind: ensure_standin(kind, weights_cache)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def tokenizer(model: Callable[[str], Path]) -> Callable[[str], Any]:
    """Return the tokenizer of a kind of stand-in."""
    return lambda kind: load_tokenizer(model(kind) / "artifacts" / "model")


def conversation(number: int) -> list[dict[str, str]]:
    return [
        *([{"role": "system", "content": "Be brief."}] if number % 2 else []),
        {"role": "user", "content": f"what do you think about the weather today {number}"},
        {"role": "assistant", "content": "the question is fine!" if number % 3 else "they would like some music"},
        {"role": "user", "content": "and you?"},
        {"role": "assistant", "content": "I would like a new story because it is late." if number % 5 else "we remember your name"},
    ]


@pytest.fixture(scope="session")
def conversations() -> list[list[dict[str, str]]]:
    """Two dozen conversations of different lengths."""
    return [conversation(number) for number in range(24)]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, conversations: Sequence[Any]) -> dict[str, Path]:
    """Training, validation and test files: 8, 5 and 2 rows."""
    folder = tmp_path_factory.mktemp("data")
    files = {"train": conversations[:8], "validation": conversations[8:13], "test": conversations[13:15]}
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return {name: folder / f"{name}.jsonl" for name in files}


@pytest.fixture(scope="session")
def prepare(
    tmp_path_factory: pytest.TempPathFactory, model: Callable[[str], Path], data: Mapping[str, Path]
) -> Callable[[str], dict[str, str]]:
    """Run the first three steps for a kind of stand-in, once, and return their outputs as inputs of fine-tuning."""
    from mlops.emulator.component import model_import, preprocess, validation

    prepared: dict[str, dict[str, str]] = {}

    def prepare_kind(kind: str) -> dict[str, str]:
        if kind not in prepared:
            folder = tmp_path_factory.mktemp(kind)
            values = {f"{name}_file_path": str(path) for name, path in data.items()} | {"mlflow_model_path": str(model(kind))}
            parent, outputs = spec.fill_defaults(values), {}
            for node, module in zip(spec.NODES, (validation, model_import, preprocess), strict=False):
                outputs[node.name] = {name: str(folder / node.name / name) for name in node.outputs}
                step = Step(node.bind(parent, outputs), {name: Path(path) for name, path in outputs[node.name].items()})
                module.run(step)
            prepared[kind] = {
                "model_selector_output": outputs["chat_completion_model_import"]["output_dir"],
                "preprocess_output": outputs["chat_completion_datapreprocess"]["output_dir"],
            }
        return prepared[kind]

    return prepare_kind


@pytest.fixture
def finetune(tmp_path: Path, prepare: Callable[[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run the fine-tuning step on a tiny model and return its output folder."""
    from mlops.emulator.component import finetune as module

    monkeypatch.chdir(tmp_path)

    def run(output: str = "out", kind: str = "tiny-llama", **values: str) -> Path:
        assert not spec.find_problems(values)
        inputs = {"learning_rate": "0.003", "logging_steps": "1"} | values | prepare(kind)
        module.run(Step(inputs, {"pytorch_model_folder": tmp_path / output}))
        return tmp_path / output

    return run
