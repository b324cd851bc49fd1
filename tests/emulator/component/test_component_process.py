"""The steps as child processes: the whole pipeline, its metrics, its errors, and SIGTERM."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mlops.emulator.base import libraries
from mlops.emulator.base.children import Children, package_environment
from mlops.emulator.base.fork_servers import ForkServers
from mlops.emulator.component import spec
from mlops.emulator.component.failures import SystemFailure
from mlops.emulator.component.metrics import Metrics

COMMAND = (sys.executable, "-m", "mlops.emulator.component")


RunStep = Callable[..., tuple[int, str]]


def environment() -> dict[str, str]:
    return {**os.environ, **package_environment()}


@pytest.fixture
def run_step(fork_servers: ForkServers) -> Iterator[RunStep]:
    """Run a step as the emulator does, and return its exit code and its log: ``run_step(name, folder, inputs, outputs, VARIABLE=...)``."""
    children = Children(fork_servers.connect)

    def run(name: str, folder: Path, inputs: Mapping[str, str], outputs: Mapping[str, str], **more: str) -> tuple[int, str]:
        folder.mkdir(exist_ok=True)
        (folder / "spec.json").write_text(json.dumps({"inputs": inputs, "outputs": outputs}))
        everything = {**package_environment(), **libraries.ENVIRONMENT, **more}
        log, preload = folder / "log.txt", libraries.preload_for_package(more)
        child = children.start([*COMMAND, name, "spec.json"], cwd=folder, environment=everything, log=log, preload=preload)
        return child.wait(), log.read_text()

    yield run
    children.stop()


class Tracking(ThreadingHTTPServer):
    """An MLflow server that only takes metrics; ``rows`` are (run, name, step, value)."""

    def __init__(self, failures: int = 0, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), _TrackingHandler)
        self.failures, self.status = failures, status
        self.rows: list[tuple[str, str, int, float]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class _TrackingHandler(BaseHTTPRequestHandler):
    server: Tracking

    def do_POST(self) -> None:
        assert self.path == "/api/2.0/mlflow/runs/log-batch"
        batch = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.server.failures:
            self.server.failures -= 1
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        assert all(abs(metric["timestamp"] / 1000 - time.time()) < 60 for metric in batch["metrics"])
        self.server.rows += [(batch["run_id"], metric["key"], metric["step"], float(metric["value"])) for metric in batch["metrics"]]
        self.send_response(self.server.status)
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def serve(server: Tracking) -> Iterator[Tracking]:
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


@pytest.fixture
def tracking() -> Iterator[Tracking]:
    with serve(Tracking()) as server:
        yield server


def test_the_whole_pipeline_and_its_metrics(
    tmp_path: Path, model: Callable[[str], Path], data: Mapping[str, Path], tracking: Tracking, run_step: RunStep
) -> None:
    runs = ["step", "root"]
    values = {"mlflow_model_path": str(model("tiny-phi4")), "learning_rate": "0.003", "logging_steps": "4", "apply_lora": "true"}
    parent = spec.fill_defaults(values | {f"{name}_file_path": str(path) for name, path in data.items()})
    outputs: dict[str, dict[str, str]] = {}
    for node in spec.NODES:
        outputs[node.name] = {name: str(tmp_path / f"{node.name}.{name}") for name in node.outputs}
        code, log = run_step(
            node.name, tmp_path / node.name, node.bind(parent, outputs), outputs[node.name],
            EMULATOR_MLFLOW_URI=tracking.url, EMULATOR_MLFLOW_RUNS=",".join(runs),
        )  # fmt: skip
        assert code == 0, log
        assert not (tmp_path / node.name / "error.json").exists()
    assert Path(outputs["ft_nlp_common_validation"]["validation_info"]).read_text() == "Validation Completed"
    assert Path(outputs["ft_nlp_model_converter"]["mlflow_model_folder"], "MLmodel").is_file()
    expected = {(name, at) for name in ("loss", "grad_norm", "learning_rate", "epoch") for at in (4, 8)}
    for kind in ("eval", "train"):
        expected |= {(f"{kind}_{name}", 8) for name in ("loss", "runtime", "samples_per_second", "steps_per_second")}
    expected |= {("total_flos", 8), ("checkpoint_save_step", 8)}
    for run in runs:
        logged = [(name, at) for logged_run, name, at, _ in tracking.rows if logged_run == run]
        assert sorted(logged) == sorted(expected)


def test_logging_by_epoch_logs_without_steps(tracking: Tracking) -> None:
    stepless, stepped = Metrics(tracking.url, ["run"], stepless=True), Metrics(tracking.url, ["run"])
    for value in (1.0, 2.0):
        stepless.log({"loss": value}, 5)
        stepped.log({"once": value, "not_a_number": float("nan")}, 5)
    assert tracking.rows == [("run", "loss", 0, 1.0), ("run", "once", 5, 1.0), ("run", "loss", 0, 2.0)]


def test_an_infinite_metric_is_logged(tracking: Tracking) -> None:
    Metrics(tracking.url, ["run"]).log({"grad_norm": float("inf"), "other": float("-inf")}, 1)
    assert tracking.rows == [("run", "grad_norm", 1, float("inf")), ("run", "other", 1, float("-inf"))]


def test_a_lost_connection_is_tried_again() -> None:
    with serve(Tracking(failures=1)) as server:
        Metrics(server.url, ["run"]).log({"loss": 1.0}, 1)
        assert server.rows == [("run", "loss", 1, 1.0)]


def test_a_server_that_refuses_metrics_fails_the_step() -> None:
    with serve(Tracking(status=400)) as server, pytest.raises(SystemFailure, match=r"does not accept the metrics: 400"):
        Metrics(server.url, ["run"]).log({"loss": 1.0}, 1)
    assert len(server.rows) == 1, "a refusal is not tried again"


@pytest.mark.parametrize(
    ("name", "inputs", "error"),
    [
        ("chat_completion_model_import", {}, ("UserError", "There is no model.")),
        ("chat_completion_model_import", {"huggingface_id": "org/model"}, ("UserError", "The model 'org/model' can't be downloaded")),
        ("chat_completion_model_import", {"mlflow_model_path": "/nowhere"}, ("UserError", "Input mlflow_model_path: /nowhere does not")),
        ("chat_completion_model_import", {"mlflow_model_path": "."}, ("UserError", ". contains no model")),
        ("ft_nlp_model_converter", {}, ("UserError", "Input model_path is required")),
        ("chat_completion_finetune", {"model_selector_output": ".", "preprocess_output": "."}, ("SystemError", "FileNotFoundError")),
    ],
)
def test_a_failed_step_writes_its_error(
    name: str, inputs: dict[str, str], error: tuple[str, str], tmp_path: Path, run_step: RunStep
) -> None:
    code, log = run_step(name, tmp_path, inputs, {"output_dir": "out", "mlflow_model_folder": "out", "pytorch_model_folder": "out"})
    assert code == 1
    document: dict[str, Any] = json.loads((tmp_path / "error.json").read_text())
    assert set(document) == {"code", "message", "inner"}
    assert document["code"] == error[0]
    assert document["message"].startswith(error[1])
    assert "Traceback" in log


def test_an_invalid_specification_or_step_name_fails(tmp_path: Path) -> None:
    (tmp_path / "spec.json").write_text("[]")
    done = subprocess.run([*COMMAND, "ft_nlp_common_validation", "spec.json"], cwd=tmp_path, env=environment(), capture_output=True)
    assert done.returncode == 1
    assert json.loads((tmp_path / "error.json").read_text())["code"] == "SystemError"
    assert subprocess.run([*COMMAND, "no_such_step", "spec.json"], cwd=tmp_path, env=environment(), capture_output=True).returncode == 2


def test_only_fine_tuning_needs_torch(tmp_path: Path, model: Callable[[str], Path], data: Mapping[str, Path], run_step: RunStep) -> None:
    (tmp_path / "torch.py").write_text("raise ImportError('this step must not import torch')")
    path = os.pathsep.join([str(tmp_path), package_environment()["PYTHONPATH"]])
    files = {f"{name}_file_path": str(file) for name, file in data.items()}
    for name, inputs, outputs in (
        ("chat_completion_model_import", {"mlflow_model_path": str(model("tiny-llama"))}, {"output_dir": "imported"}),
        ("chat_completion_datapreprocess", {"model_selector_output": "imported", **files}, {"output_dir": "preprocessed"}),
        ("ft_nlp_model_converter", {"model_path": "imported/model"}, {"mlflow_model_folder": "mlflow"}),
    ):
        code, log = run_step(name, tmp_path, inputs, outputs, PYTHONPATH=path)
        assert code == 0, log


def test_a_model_folder_wins_over_an_mlflow_model(tmp_path: Path, model: Callable[[str], Path], run_step: RunStep) -> None:
    (tmp_path / "config.json").write_text('{"chat_special_tokens": {}}')
    inputs = {"mlflow_model_path": str(model("tiny-llama")), "pytorch_model_path": str(model("tiny-phi4") / "artifacts" / "model")}
    run_step("chat_completion_model_import", tmp_path, inputs | {"finetune_config_path": "config.json"}, {"output_dir": "out"})
    metadata = json.loads((tmp_path / "out" / "finetune_args.json").read_text())
    assert (metadata["model_type"], metadata["finetune_config"]) == ("phi3", {"chat_special_tokens": {}})
    (tmp_path / "config.json").write_text("[]")
    code, _ = run_step("chat_completion_model_import", tmp_path, inputs | {"finetune_config_path": "config.json"}, {"output_dir": "out"})
    assert code == 1


def test_sigterm_ends_training(tmp_path: Path, prepare: Callable[[str], dict[str, str]]) -> None:
    inputs = prepare("tiny-llama") | {"num_train_epochs": "100000", "evaluation_strategy": "disable"}
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
