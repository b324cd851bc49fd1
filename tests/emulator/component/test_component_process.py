"""The steps as child processes: the whole pipeline, its metrics, its errors, and its end on SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from mlops.emulator.component import spec

COMMAND = (sys.executable, "-m", "mlops.emulator.component")


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(spec.__file__).parents[3]), **more}


def step(name: str, folder: Path, inputs: Mapping[str, str], outputs: Mapping[str, str], **more: str) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    (folder / "spec.json").write_text(json.dumps({"inputs": inputs, "outputs": outputs}))
    return subprocess.run([*COMMAND, name, "spec.json"], cwd=folder, env=environment(**more), capture_output=True, text=True)


@pytest.mark.filterwarnings("ignore")  # sqlalchemy, about mlflow's tables
def test_the_whole_pipeline_and_its_metrics(tmp_path: Path, model: Callable[[str], Path], data: Mapping[str, Path]) -> None:
    from mlflow import MlflowClient

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    experiment = client.create_experiment("chat", artifact_location=str(tmp_path / "artifacts"))
    runs = [client.create_run(experiment).info.run_id for _ in range(2)]
    values = {"mlflow_model_path": str(model("tiny-phi3")), "learning_rate": "0.003", "logging_steps": "4", "apply_lora": "true"}
    parent = spec.fill_defaults(values | {f"{name}_file_path": str(path) for name, path in data.items()})
    outputs: dict[str, dict[str, str]] = {}
    for node in spec.NODES:
        outputs[node.name] = {name: str(tmp_path / f"{node.name}.{name}") for name in node.outputs}
        done = step(
            node.name, tmp_path / node.name, node.bind(parent, outputs), outputs[node.name],
            EMULATOR_MLFLOW_URI=uri, EMULATOR_MLFLOW_RUNS=",".join(runs),
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        assert not (tmp_path / node.name / "error.json").exists()
    assert Path(outputs["ft_nlp_common_validation"]["validation_info"]).read_text() == "Validation Completed"
    assert Path(outputs["ft_nlp_model_converter"]["mlflow_model_folder"], "MLmodel").is_file()
    train = ["loss", "grad_norm", "learning_rate", "epoch"]
    steps = {name: [4, 8] for name in train} | {
        f"eval_{name}": [8] for name in ("loss", "runtime", "samples_per_second", "steps_per_second")
    }
    steps |= {f"train_{name}": [8] for name in ("loss", "runtime", "samples_per_second", "steps_per_second")}
    steps |= {"total_flos": [8], "checkpoint_save_step": [8]}
    for run in runs:
        found = client.get_run(run).data.metrics
        assert {name: [row.step for row in client.get_metric_history(run, name)] for name in found} == steps


@pytest.mark.filterwarnings("ignore")  # sqlalchemy, about mlflow's tables
def test_logging_by_epoch_logs_without_steps(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    from mlops.emulator.component.metrics import Metrics

    uri = f"sqlite:///{tmp_path}/mlflow.db"
    client = MlflowClient(tracking_uri=uri)
    run = client.create_run(client.create_experiment("chat", artifact_location=str(tmp_path))).info.run_id
    stepless, stepped = Metrics(uri, [run], stepless=True), Metrics(uri, [run])
    for value in (1.0, 2.0):
        stepless.log({"loss": value}, 5)
        stepped.log({"once": value, "not_a_number": float("nan")}, 5)
    assert [(row.step, row.value) for row in client.get_metric_history(run, "loss")] == [(0, 1.0), (0, 2.0)]
    assert [(row.step, row.value) for row in client.get_metric_history(run, "once")] == [(5, 1.0)]
    assert "not_a_number" not in client.get_run(run).data.metrics


@pytest.mark.parametrize(
    ("name", "inputs", "error"),
    [
        ("chat_completion_model_import", {}, ("UserError", "No model is given.")),
        ("chat_completion_model_import", {"huggingface_id": "org/model"}, ("UserError", "The model 'org/model' can't be fetched")),
        ("chat_completion_model_import", {"mlflow_model_path": "/nowhere"}, ("UserError", "Input mlflow_model_path: /nowhere does not")),
        ("chat_completion_model_import", {"mlflow_model_path": "."}, ("UserError", ". holds no model")),
        ("ft_nlp_model_converter", {}, ("UserError", "Input model_path is required")),
        ("chat_completion_finetune", {"model_selector_output": ".", "preprocess_output": "."}, ("SystemError", "FileNotFoundError")),
    ],
)
def test_a_failed_step_leaves_its_error(name: str, inputs: dict[str, str], error: tuple[str, str], tmp_path: Path) -> None:
    done = step(name, tmp_path, inputs, {"output_dir": "out", "mlflow_model_folder": "out", "pytorch_model_folder": "out"})
    assert done.returncode == 1
    found: dict[str, Any] = json.loads((tmp_path / "error.json").read_text())
    assert set(found) == {"code", "message", "inner"}
    assert found["code"] == error[0]
    assert found["message"].startswith(error[1])
    assert "Traceback" in done.stderr


def test_a_specification_that_is_none_and_a_step_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("[]")
    done = subprocess.run([*COMMAND, "ft_nlp_common_validation", "spec.json"], cwd=tmp_path, env=environment(), capture_output=True)
    assert done.returncode == 1
    assert json.loads((tmp_path / "error.json").read_text())["code"] == "SystemError"
    assert subprocess.run([*COMMAND, "no_such_step", "spec.json"], cwd=tmp_path, env=environment(), capture_output=True).returncode == 2


def test_importing_a_model_needs_no_torch(tmp_path: Path, model: Callable[[str], Path]) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('torch is not to be imported')")
    path = os.pathsep.join([str(tmp_path), environment()["PYTHONPATH"]])
    done = step(
        "chat_completion_model_import", tmp_path, {"mlflow_model_path": str(model("tiny-llama"))}, {"output_dir": "out"}, PYTHONPATH=path
    )
    assert done.returncode == 0, done.stderr
    done = step("ft_nlp_model_converter", tmp_path, {"model_path": "out/model"}, {"mlflow_model_folder": "mlflow"}, PYTHONPATH=path)
    assert done.returncode == 0, done.stderr


def test_a_model_folder_wins_over_an_mlflow_model(tmp_path: Path, model: Callable[[str], Path]) -> None:
    (tmp_path / "config.json").write_text('{"chat_special_tokens": {}}')
    inputs = {"mlflow_model_path": str(model("tiny-llama")), "pytorch_model_path": str(model("tiny-phi3") / "artifacts" / "model")}
    step("chat_completion_model_import", tmp_path, inputs | {"finetune_config_path": "config.json"}, {"output_dir": "out"})
    metadata = json.loads((tmp_path / "out" / "finetune_args.json").read_text())
    assert (metadata["model_type"], metadata["finetune_config"]) == ("phi3", {"chat_special_tokens": {}})
    (tmp_path / "config.json").write_text("[]")
    done = step("chat_completion_model_import", tmp_path, inputs | {"finetune_config_path": "config.json"}, {"output_dir": "out"})
    assert done.returncode == 1


def test_sigterm_ends_training(tmp_path: Path, prepared: Callable[[str], dict[str, str]]) -> None:
    inputs = prepared("tiny-llama") | {"num_train_epochs": "100000", "evaluation_strategy": "disable"}
    (tmp_path / "spec.json").write_text(json.dumps({"inputs": inputs, "outputs": {"pytorch_model_folder": str(tmp_path / "out")}}))
    command = [*COMMAND, "chat_completion_finetune", "spec.json"]
    with subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        try:
            assert child.stdout
            for line in child.stdout:
                if line.startswith("step "):
                    break
            child.terminate()
            assert child.wait(timeout=30) == -signal.SIGTERM
        finally:
            child.kill()
