"""The MLflow model: its payloads, its answers, and that it is self-contained."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlops.emulator.component import converter
from mlops.emulator.component.folders import weights_digest
from mlops.emulator.component.step import Step

HELLO = [{"role": "user", "content": "what do you think about the weather today 1"}]
OTHER = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "and you?"}]
SHORT = {"max_new_tokens": 12}


@pytest.fixture(scope="module")
def train_model(tmp_path_factory: pytest.TempPathFactory, prepare: Callable[[str], dict[str, str]]) -> Callable[..., Path]:
    """Fine-tune with these values until the model has memorized the training data, and package it as an MLflow model."""
    from mlops.emulator.component import finetune

    def train(**values: str) -> Path:
        folder = tmp_path_factory.mktemp("trained")
        previous = Path.cwd()
        os.chdir(folder)
        try:
            inputs = {"learning_rate": "0.005", "num_train_epochs": "6"} | values | prepare("tiny-llama")
            finetune.run(Step(inputs, {"pytorch_model_folder": folder / "pytorch"}))
            converter.run(Step({"model_path": str(folder / "pytorch")}, {"mlflow_model_folder": folder / "mlflow"}))
        finally:
            os.chdir(previous)
        return folder / "mlflow"

    return train


@pytest.fixture(scope="module")
def folder(train_model: Callable[..., Path]) -> Path:
    return train_model()


@pytest.fixture(scope="module")
def loaded(folder: Path) -> Any:
    import mlflow.pyfunc

    return mlflow.pyfunc.load_model(str(folder))


def frame(**columns: Any) -> Any:
    import pandas

    return pandas.DataFrame(columns)


def arrays(**values: Any) -> dict[str, Any]:
    """As Azure's scoring script hands them over."""
    import numpy

    return {name: numpy.asarray(value) for name, value in values.items()}


@pytest.mark.parametrize(
    "payload",
    [
        lambda: {"input_string": HELLO, "parameters": SHORT},
        lambda: {"input_string": [HELLO], "parameters": SHORT},
        lambda: {"input_data": {"input_string": [HELLO], "parameters": SHORT}, "params": {}},
        lambda: {"input_data": {"input_string": HELLO}, "params": SHORT},
        lambda: {"input_data": {"input_string": HELLO, "params": SHORT}},
        lambda: arrays(input_string=HELLO, parameters=SHORT),
        lambda: arrays(input_string=[HELLO], parameters=SHORT),
        lambda: frame(input_string=[HELLO], parameters=[SHORT]),
        lambda: frame(input_string=HELLO, parameters=[SHORT]),
    ],
    ids=["flat", "nested", "notebook", "outer-params", "inner-params", "flat-arrays", "nested-arrays", "nested-frame", "flat-frame"],
)
def test_every_form_of_one_conversation_gets_the_same_answer(payload: Callable[[], Any], loaded: Any) -> None:
    answer = loaded.predict(payload())
    assert answer == loaded.predict({"input_string": HELLO, "parameters": SHORT})
    assert answer["output"].startswith("the question is fine!")


def test_a_batch_gets_the_answers_that_each_conversation_gets_alone(loaded: Any) -> None:
    alone = [loaded.predict({"input_string": each, "parameters": SHORT})["output"] for each in (HELLO, OTHER)]
    assert loaded.predict({"input_string": [HELLO, OTHER, HELLO], "parameters": SHORT}) == {"output": [*alone, alone[0]]}


def test_sampling_needs_do_sample_and_a_temperature(loaded: Any) -> None:
    def answers(**parameters: Any) -> set[str]:
        return {loaded.predict({"input_string": OTHER, "parameters": SHORT | parameters})["output"] for _ in range(4)}

    greedy = answers()
    assert len(greedy) == 1
    assert answers(do_sample=False, temperature=50.0) == greedy
    assert answers(do_sample=True, temperature=0) == greedy
    assert len(answers(do_sample=True, temperature=50.0)) > 1
    assert answers(do_sample=True, temperature=50.0, top_k=1) == greedy
    assert answers(do_sample=True, temperature=1.0, top_p=0.001) == greedy


def test_max_new_tokens_is_a_limit(loaded: Any, tokenizer: Callable[[str], Any]) -> None:
    for count in (1, 5):
        text = loaded.predict({"input_string": HELLO, "parameters": {"max_new_tokens": count}})["output"]
        assert 0 < len(tokenizer("tiny-llama")(text)["input_ids"]) <= count


@pytest.mark.parametrize(
    ("payload", "problem"),
    [
        ({"messages": HELLO}, "The keys messages are not accepted"),
        ({"input_data": {"columns": [], "data": []}}, "The keys columns, data are not accepted"),
        ({"input_string": []}, "input_string should be a non-empty list"),
        ({"input_string": "hello"}, "input_string should be a non-empty list"),
        ({"input_string": [[]]}, "A conversation should be a non-empty list"),
        ({"input_string": [HELLO, "hello"]}, "A conversation should be a non-empty list"),
        ({"input_string": [{"role": "robot", "content": "x"}]}, "A message should have a role"),
        ({"input_string": [{"role": "user"}]}, "A message should have a role"),
        ({"input_string": HELLO, "parameters": "fast"}, "Parameters should be an object"),
        ({"input_string": HELLO, "parameters": {"max_tokens": 5}}, "Unknown parameters max_tokens"),
        ({"input_string": HELLO, "parameters": {"max_new_tokens": 0}}, "Parameter max_new_tokens can't be 0"),
        ({"input_string": HELLO, "parameters": {"max_new_tokens": True}}, "Parameter max_new_tokens can't be True"),
        ({"input_string": HELLO, "parameters": {"temperature": float("nan")}}, "Parameter temperature can't be nan"),
        ({"input_string": HELLO, "parameters": {"do_sample": "false"}}, "Parameter do_sample can't be 'false'"),
        ({"input_string": HELLO, "parameters": {"max_new_tokens": 2000}}, "exceed the model's 1024"),
    ],
)
def test_an_invalid_payload_is_refused_with_its_problem(payload: Any, problem: str, loaded: Any) -> None:
    with pytest.raises(ValueError) as failure:
        loaded.predict(payload)
    assert str(failure.value).find(problem) >= 0


def test_fine_tuning_changes_the_answer(model: Callable[[str], Path], loaded: Any) -> None:
    import mlflow.pyfunc

    base = mlflow.pyfunc.load_model(str(model("tiny-llama")))
    payload = {"input_string": HELLO, "parameters": SHORT}
    assert base.predict(payload) != loaded.predict(payload)


def test_an_unmerged_adapter_answers_like_a_merged_one(train_model: Callable[..., Path]) -> None:
    import mlflow.pyfunc

    answers, digests = [], set()
    for merge in ("true", "false"):
        folder = train_model(apply_lora="true", merge_lora_weights=merge)
        model = mlflow.pyfunc.load_model(str(folder))
        answers.append(model.predict({"input_string": HELLO, "parameters": {"max_new_tokens": 4}}))
        digests.add(model.metadata.metadata["weights_digest"])
        assert ("peft" in (folder / "requirements.txt").read_text()) == (merge == "false")
    assert answers[0] == answers[1]
    assert len(digests) == 2


def test_the_model_has_no_signature_no_pickle_and_the_digest_of_its_weights(folder: Path) -> None:
    import yaml

    document = yaml.safe_load((folder / "MLmodel").read_text())
    assert "signature" not in document
    assert document["metadata"]["weights_digest"] == weights_digest(folder / "artifacts" / "model")
    assert not list(folder.rglob("*.pkl"))
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in (folder / "artifacts" / "model").iterdir()}
    assert not list(folder.rglob("checkpoint-*"))


def test_the_model_does_not_import_this_package(folder: Path, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    folder.rename(moved)
    program = (
        "import json, sys, mlflow.pyfunc\n"
        f"answer = mlflow.pyfunc.load_model({str(moved)!r}).predict({{'input_string': {HELLO!r}}})\n"
        "print(json.dumps([answer, [name for name in sys.modules if name.split('.')[0] == 'mlops']]))"
    )
    try:
        # -I: neither this folder nor PYTHONPATH is importable.
        done = subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, check=True, capture_output=True, text=True)
    finally:
        moved.rename(folder)
    answer, own_modules = json.loads(done.stdout.splitlines()[-1])
    assert answer["output"].startswith("the question is fine!")
    assert own_modules == []
