"""Tiny models and the five steps, for the tests of the emulated component."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlops.emulator.component import spec
from mlops.emulator.component.step import Step

# Read when torch is imported. Tiny models gain nothing from a second thread, and spinning ones starve the neighbours' tests.
os.environ.update({"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"})

NOT_OURS = (
    # Said by mlflow about its own classes when mlflow.pyfunc is imported.
    "ignore:.*Any type hint is inferred as AnyType.*:UserWarning",
    # Said by transformers about what peft and its own trainer call.
    "ignore:.*is_gradient_checkpointing.*:FutureWarning",
)


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    for item in items:
        if Path(item.path).is_relative_to(Path(__file__).parent):
            for text in NOT_OURS:
                item.add_marker(pytest.mark.filterwarnings(text))


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Kind → the stand-in's MLflow folder."""
    from mlops.emulator.registry.weights import ensure_standin

    cache = tmp_path_factory.mktemp("standins")
    return lambda kind: ensure_standin(kind, cache)  # type: ignore[arg-type]


@pytest.fixture(scope="session")
def tokenizer(model: Callable[[str], Path]) -> Callable[[str], Any]:
    """Kind → its tokenizer."""
    from transformers import AutoTokenizer

    return lambda kind: AutoTokenizer.from_pretrained(model(kind) / "artifacts" / "model")


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
    """Two dozen, of different lengths."""
    return [conversation(number) for number in range(24)]


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, conversations: Sequence[Any]) -> dict[str, Path]:
    """Training and validation files: 8 and 5 rows."""
    folder = tmp_path_factory.mktemp("data")
    files = {"train": conversations[:8], "validation": conversations[8:13], "test": conversations[13:15]}
    for name, rows in files.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    return {name: folder / f"{name}.jsonl" for name in files}


@pytest.fixture(scope="session")
def prepared(
    tmp_path_factory: pytest.TempPathFactory, model: Callable[[str], Path], data: Mapping[str, Path]
) -> Callable[[str], dict[str, str]]:
    """Kind → the inputs that the first three steps give to fine-tuning; made once."""
    from mlops.emulator.component import model_import, preprocess, validation

    made: dict[str, dict[str, str]] = {}

    def make(kind: str) -> dict[str, str]:
        if kind not in made:
            folder = tmp_path_factory.mktemp(kind)
            values = {f"{name}_file_path": str(path) for name, path in data.items()} | {"mlflow_model_path": str(model(kind))}
            parent, outputs = spec.fill_defaults(values), {}
            runs = {"ft_nlp_common_validation": validation, "chat_completion_model_import": model_import}
            runs["chat_completion_datapreprocess"] = preprocess
            for node in spec.NODES[:3]:
                outputs[node.name] = {name: str(folder / node.name / name) for name in node.outputs}
                step = Step(node.bind(parent, outputs), {name: Path(path) for name, path in outputs[node.name].items()})
                runs[node.name].run(step)
            made[kind] = {
                "model_selector_output": outputs["chat_completion_model_import"]["output_dir"],
                "preprocess_output": outputs["chat_completion_datapreprocess"]["output_dir"],
            }
        return made[kind]

    return make


@pytest.fixture
def finetune(tmp_path: Path, prepared: Callable[[str], dict[str, str]], monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run the fine-tuning step on a tiny model and give its output folder."""
    from mlops.emulator.component import finetune as module

    monkeypatch.chdir(tmp_path)

    def run(output: str = "out", kind: str = "tiny-llama", **values: str) -> Path:
        assert not spec.find_problems(values)
        inputs = {"learning_rate": "0.003", "logging_steps": "1"} | values | prepared(kind)
        module.run(Step(inputs, {"pytorch_model_folder": tmp_path / output}))
        return tmp_path / output

    return run
