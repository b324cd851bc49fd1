"""What makes the emulated Azure quick enough for thousands of trials: jobs whose results are prepared, and containers without a process.

The services, their state, and every request and answer are the emulator's. Only what would run on a compute node is replaced: a training
copies a model without weights, a scoring job writes scores that are a function of the suite and of the model's role, a container answers
every question in the same way, and all emulators of a process share one MLflow server.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import hashlib
import json
import shutil
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import httpx

from mlops.emulator.base.azure import Azure
from mlops.emulator.history import mlflow_server
from mlops.emulator.jobs.scheduler import Worker
from mlops.emulator.serving import containers
from mlops.remote.metrics import aggregate
from tests.support.deployments import ANSWERING, MLMODEL

__all__ = ["SharedMlflow", "prepared"]

ANSWER = "That is a fine number, and the next one is even finer."
STARTUP_S = 120.0
LOSS = {"candidate": 1.0, "champion": 1.2, "base": 2.0}


class SharedMlflow:
    """One MLflow server for emulators that follow each other; its database can be saved and restored while it runs.

    Args:
        azure: the emulator that starts it and lives as long as it.
    """

    def __init__(self, azure: Azure) -> None:
        self.server = mlflow_server.get_server(azure)
        self._database = azure.state / "mlflow" / "mlflow.db"
        deadline = time.monotonic() + STARTUP_S
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(f"{self.server.url}/health", trust_env=False).raise_for_status()
                return
            if time.monotonic() > deadline:
                raise RuntimeError("the MLflow server does not start")
            time.sleep(0.1)

    def save(self, path: Path) -> None:
        """Copy the database to a file."""
        _copy(self._database, path)

    def restore(self, path: Path) -> None:
        """Replace the database's content by that of a file."""
        _copy(path, self._database)


def _copy(source: Path, target: Path) -> None:
    with contextlib.closing(sqlite3.connect(source)) as old, contextlib.closing(sqlite3.connect(target)) as new:
        old.backup(new)


@contextlib.contextmanager
def prepared(mlflow: SharedMlflow | None = None) -> Iterator[None]:
    """Replace jobs, containers and the MLflow server of the emulators that this process starts inside."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(patch.object(Worker, "execute", _execute))
        for name, method in {"start": _start, "restart_on_exit": lambda _: None, "stop": _stop}.items():
            stack.enter_context(patch.object(containers.Container, name, method))
        if mlflow is not None:
            url = mlflow.server.url
            stack.enter_context(patch.object(mlflow_server.MlflowServer, "_spawn", lambda *_: _Running()))
            stack.enter_context(patch.object(mlflow_server, "_find_free_port", lambda _: int(url.rpartition(":")[2])))
        yield


class _Running:
    """The child process of an MLflow server that runs elsewhere."""

    returncode = None


async def _answer(scope: Mapping[str, Any], receive: Any, send: Any) -> None:
    """The container, as an ASGI application."""
    body = json.dumps({"output": ANSWER}).encode() if scope["method"] == "POST" else b"Healthy"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


async def _start(self: containers.Container) -> None:
    self._check_open()
    await asyncio.sleep(0)
    self.client = httpx.AsyncClient(transport=httpx.ASGITransport(app=_answer), base_url="http://container")


async def _stop(self: containers.Container) -> None:
    self._closed = True
    await self._disconnect()


async def _execute(
    self: Worker,
    command: Sequence[str],
    *,
    run: str,
    compute_name: str,
    cwd: Path,
    environment: Mapping[str, str],
    output: Path,
    timeout_s: float | None = None,
    preload: Any = None,
    on_poll: Any = None,
) -> int:
    """Write what the process of a job would write. Takes the place of :meth:`Worker.execute`."""
    await self.pause()
    with output.open("a") as log:
        log.write("prepared\n")
    if command[1:3] == ["-m", "mlops.remote"]:
        await asyncio.to_thread(_score, command)
        return 0
    outputs = json.loads((cwd / "spec.json").read_text())["outputs"]
    for path in map(Path, outputs.values()):
        if path.is_dir():
            _write_model(path)
        else:
            path.write_text("{}")
    for uuid in environment["EMULATOR_MLFLOW_RUNS"].split(","):
        metric = {"run_id": uuid, "key": "train_loss", "value": 1.0, "timestamp": 1, "step": 1}
        await mlflow_server.get_server(self.azure).call("POST", "runs/log-metric", metric)
    return 0


def _write_model(folder: Path) -> None:
    shutil.rmtree(folder)
    (folder / "code" / "answering").mkdir(parents=True)
    (folder / "code" / "answering" / "__init__.py").write_text(ANSWERING)
    (folder / "MLmodel").write_text(MLMODEL)


def _score(command: Sequence[str]) -> None:
    """Do the work of ``python -m mlops.remote`` with scores that are made up."""
    options = argparse.ArgumentParser()
    for name in ("target", "retention", "output", "key", "role", "model-id", "evaluation-version"):
        options.add_argument(f"--{name}", required=True)
    arguments, _ = options.parse_known_args(command[3:])
    suites = {name: Path(getattr(arguments, name)) for name in ("target", "retention")}
    rows = [row for name, path in suites.items() for row in _rows(name, path, LOSS[arguments.role])]
    folder = Path(arguments.output)
    (folder / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = {
        "schema_version": 2, "key": arguments.key, "evaluation_version": arguments.evaluation_version, "role": arguments.role,
        "weights_digest": hashlib.sha256(arguments.model_id.encode()).hexdigest(), "base_weights_digest": "0" * 64, "mlflow_run_id": "",
        "metrics": aggregate(rows), "rows": {name: sum(row["suite"] == name for row in rows) for name in suites},
        "suite_digests": {name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in suites.items()},
        "scores_sha256": hashlib.sha256((folder / "scores.jsonl").read_bytes()).hexdigest(), "samples": [], "notes": [],
    }  # fmt: skip
    (folder / "result.json").write_text(json.dumps(result))


def _rows(suite: str, path: Path, loss: float) -> list[dict[str, Any]]:
    rows = []
    for number, line in enumerate(path.read_text().splitlines()):
        conversation, tokens = json.loads(line), 6 + number % 3
        rows.append(
            {
                "suite": suite, "id": conversation["prompt_id"], "kind": conversation.get("kind", ""), "input": f"{suite} {number}",
                "tokens": tokens, "nll": tokens * (loss + number / 100), "kl": 0.0, "greedy_tokens": 1, "rouge_l": None,
            }
        )  # fmt: skip
    return rows
