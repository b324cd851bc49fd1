"""Commands of mlops, each in a process of its own that starts at once: a fork of a process that has imported everything.

A stage spends most of its time importing the SDKs. ``python -m tests.chaos.forks`` imports them once and forks for each command, so that a
command takes about a second and is still a process that can really be killed. :class:`Forks` talks to that process.
"""

from __future__ import annotations

import datetime
import gc
import importlib
import json
import os
import signal
import subprocess
import sys
import time
import types
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

__all__ = ["Forks"]

ROOT = Path(__file__).parents[2]
SPEED = 20.0
"""How much faster the clock of a command runs: it waits for Azure as often as always, and its deadlines pass as early."""
IMPORTS = (
    "azure.ai.ml", "azure.ai.ml.dsl", "azure.ai.ml.entities", "azure.ai.ml._utils._azureml_polling", "azure.core.pipeline.policies",
    "azure.identity", "azure.storage.blob", "azureml.mlflow", "mlflow", "mlflow.tracking", "mlops.__main__", "mlops.cli.recover",
    "mlops.cli.rollback", "mlops.deploy", "mlops.evaluate", "mlops.gate", "mlops.prepare", "mlops.promote", "mlops.register",
    "mlops.smoke_test", "mlops.teardown", "mlops.train", "mlops.validate",
)  # fmt: skip


class Forks:
    """Runs commands one after the other. A context manager."""

    def __init__(self) -> None:
        command = [sys.executable, "-m", "tests.chaos.forks"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"}
        self._process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    def run(
        self,
        arguments: Sequence[str],
        *,
        cwd: Path,
        environment: Mapping[str, str],
        output: Path,
        hours_later: float = 0.0,
        started: Callable[[int], None] = lambda _: None,
    ) -> int:
        """Run a command of mlops and return its exit code, negative for the signal that ended it.

        Args:
            arguments: of ``mlops``.
            cwd: its working directory.
            environment: all of its variables.
            output: file to which it appends what it prints.
            hours_later: how late the clock is by which changes of the traffic expire.
            started: is called with its process id, before it makes any request.
        """
        request = {
            "arguments": list(arguments),
            "cwd": str(cwd),
            "environment": dict(environment),
            "output": str(output),
            "late": hours_later,
        }
        self._send(request)
        started(int(self._receive()["pid"]))
        self._send({})
        return int(self._receive()["code"])

    def _send(self, message: Mapping[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(message) + "\n")
        self._process.stdin.flush()

    def _receive(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the process that runs the commands has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer


def main() -> None:
    """Import everything, then fork for each request on stdin until it ends."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in IMPORTS:
            importlib.import_module(name)
    gc.collect()
    gc.freeze()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    for line in sys.stdin:
        request = json.loads(line)
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(write)
            os._exit(_run(request, read))
        os.close(read)
        _answer({"pid": pid})
        sys.stdin.readline()
        os.close(write)
        _, status = os.waitpid(pid, 0)
        _answer({"code": os.waitstatus_to_exitcode(status)})


def _answer(message: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


def _run(request: Mapping[str, Any], gate: int) -> int:
    """In the child: become the command, and return its exit code."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.read(gate, 1)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    with open(request["output"], "ab", buffering=0) as output:  # noqa: PTH123
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    with open(os.devnull, "rb") as nothing:  # noqa: PTH123
        os.dup2(nothing.fileno(), 0)
    sys.stdout = open(1, "w", closefd=False, buffering=1)  # noqa: SIM115
    sys.stderr = open(2, "w", closefd=False, buffering=1)  # noqa: SIM115
    _speed_up()
    _set_clock(request["late"])
    warnings.simplefilter("ignore")
    code = 1
    try:
        code = importlib.import_module("mlops.__main__").main(request["arguments"])
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 1
    except KeyboardInterrupt:
        code = 130
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
    return code


def _speed_up() -> None:
    sleep, monotonic = time.sleep, time.monotonic

    def sleep_less(seconds: float) -> None:
        sleep(seconds / SPEED)

    time.sleep = sleep_less  # type: ignore[assignment]
    time.monotonic = lambda: monotonic() * SPEED


def _set_clock(hours: float) -> None:
    late = datetime.timedelta(hours=hours)

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return datetime.datetime.now(tz) + late

    for name in ("mlops.cloud.traffic", "mlops.cloud.standby"):
        module: types.ModuleType = importlib.import_module(name)
        setattr(module, "datetime", Later)  # noqa: B010


if __name__ == "__main__":
    main()
