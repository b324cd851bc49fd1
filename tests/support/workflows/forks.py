"""A Python for the steps of workflow runs, in which ``-m mlops …`` starts as a fork of a process that has imported the SDKs.

A step spends most of its time importing them. The step's own process forwards signals to the fork and ends with its exit code.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from types import FrameType

from mlops.emulator.base.children import Fork, Preload
from mlops.emulator.base.fork_servers import ForkServers
from mlops.emulator.base.libraries import READ_ON_IMPORT

__all__ = ["main", "write_python"]

ROOT = Path(__file__).parents[3]
IMPORTS = (
    "azure.ai.ml", "azure.ai.ml.dsl", "azure.ai.ml.entities", "azure.ai.ml._utils._azureml_polling", "azure.identity", "azure.storage.blob",
    "azureml.mlflow", "github", "jinja2", "mlflow", "mlflow.tracking", "msgspec", "numpy", "pandas", "pydantic", "scipy.special",
    "scipy.stats", "tomlkit",
)  # fmt: skip
READ = {"OMP_NUM_THREADS": "1"}
"""What a step has of the variables that libraries read on import."""
OTHERS = ("LANG", "LC_", "PYTHONPATH", "AZUREML_")
"""What has the same value everywhere, or is set by the fork itself, or is read when the SDK connects."""
PRELOAD = Preload.of(IMPORTS, READ | {"LANG": "C.UTF-8", "MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true"})
SCRIPT = """#!{python} -IS
import sys
sys.path.insert(0, {root!r})
from tests.support.workflows.forks import main
main({folder!r})
"""


def write_python(script: Path, servers: ForkServers) -> Path:
    """Write the Python of a harness. Its processes use the fork server of these, which runs as long as these do."""
    if (connection := servers.connect(PRELOAD)) is None or servers.folder is None:
        return Path(sys.executable)
    connection.close()
    script.write_text(SCRIPT.format(python=sys.executable, root=str(ROOT), folder=str(servers.folder)))
    script.chmod(0o755)
    return script


def main(folder: str) -> None:
    """Become ``python ARGUMENTS``; for a command of mlops, as a fork."""
    command = [sys.executable, *sys.argv[1:]]
    read = {name: value for name, value in os.environ.items() if READ_ON_IMPORT.match(name) and not name.startswith(OTHERS)}
    if command[1:3] == ["-m", "mlops"] and read == READ and (connection := ForkServers(Path(folder)).connect(PRELOAD)):
        with contextlib.suppress(OSError):
            os._exit(_follow(Fork(connection, command)))
    os.execv(sys.executable, command)


def _follow(process: Fork) -> int:
    def forward(number: int, _: FrameType | None) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, number)

    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, forward)
    return process.wait()
