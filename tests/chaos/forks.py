"""Commands of mlops, each in a process of its own that starts at once: a fork of a process that has imported everything.

A stage spends most of its time importing the SDKs. As a fork it takes about a second, and is still a process that can really be killed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from mlops.core.errors import INTERRUPTED
from mlops.emulator.base.children import Fork, Preload
from mlops.emulator.base.fork_servers import ForkServers

__all__ = ["ROOT", "Forks"]

ROOT = Path(__file__).parents[2]
PRELOAD = Preload.of(
    (
        "azure.ai.ml", "azure.ai.ml.dsl", "azure.ai.ml.entities", "azure.ai.ml._utils._azureml_polling", "azure.core.pipeline.policies",
        "azure.identity", "azure.storage.blob", "azureml.mlflow", "mlflow", "mlflow.tracking", "mlops.__main__", "mlops.cli.recover",
        "mlops.cli.rollback", "mlops.deploy", "mlops.evaluate", "mlops.gate", "mlops.prepare", "mlops.promote", "mlops.register",
        "mlops.smoke_test", "mlops.teardown", "mlops.train", "mlops.validate",
    ),
    {**os.environ, "PYTHONPATH": str(ROOT), "MLFLOW_DISABLE_TELEMETRY": "true"},
)  # fmt: skip


class Forks:
    """Runs commands one after the other. A context manager."""

    def __init__(self) -> None:
        self._servers = ForkServers()

    def __enter__(self) -> Forks:
        return self

    def __exit__(self, *_: object) -> None:
        self._servers.stop()

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
        connection = self._servers.connect(PRELOAD)
        if connection is None:
            raise RuntimeError("the process that runs the commands has ended")
        read, write = os.pipe()
        command = [sys.executable, "-m", "tests.chaos.command", str(hours_later), *arguments]
        with connection, output.open("ab") as printed, open(read, "rb") as gate:  # noqa: PTH123
            streams = (gate.fileno(), printed.fileno(), printed.fileno())
            process = Fork(connection, command, cwd=cwd, environment={**environment, "PYTHONPATH": str(ROOT)}, streams=streams)
            started(process.pid)
            os.close(write)
            code = process.wait()
        # As a shell has it. The commands end with 130 themselves when they are interrupted.
        return 128 - code if code > 128 and code != INTERRUPTED else code
