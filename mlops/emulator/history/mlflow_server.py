"""The MLflow server behind the workspace: the application that ``mlflow server`` runs, as a child process on loopback, on SQLite.

uvicorn runs it directly, because ``mlflow server`` is a second process of the same size that only waits for it. Artifacts are not
stored twice: a run's artifact folder is a link to the run's blobs, so the server's page shows what the workspace holds.

Starting it is slow: MLflow's imports alone take 5 s of CPU. So it starts when the first request needs it, unless the options ask for it
at once, and its database is a copy of one that is already migrated to this MLflow version.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import json
import os
import shutil
import socket
import sqlite3
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.children import Child, Preload
from mlops.emulator.base.errors import AzureFault
from mlops.emulator.base.loopback import open_client
from mlops.emulator.storage import blobs

__all__ = ["MlflowServer", "get_server", "shutdown", "startup"]

KIND = {"key": "mlflow.experimentKind", "value": "custom_model_development"}
"""Tag that makes MLflow's page open an experiment at its runs, not at the traces of an application."""

IMPORTS = ("uvicorn.main", "graphene", "mlflow.store.tracking.sqlalchemy_store", "mlflow.server.fastapi_app")
"""The application and what it imports later. It opens its database with the first request."""
API = "/api/2.0/mlflow/"
POLL_S = 0.02


class MlflowServer:
    """One MLflow server. It is started by :meth:`start`, at the latest by the first request.

    Args:
        azure: the emulator that it belongs to.
        port: the loopback port that it listens on.
    """

    def __init__(self, azure: Azure, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._azure = azure
        self._port = port
        self._folder = azure.folder("mlflow")
        self._log = self._folder / "server.log"
        self._client = open_client(self.url, timeout=60)
        self._ready: asyncio.Task[None] | None = None

    def start(self) -> asyncio.Task[None]:
        """Start the server unless it runs; return a task that ends when the server answers."""
        if self._ready is None:
            self._ready = asyncio.create_task(self._start())
        return self._ready

    async def _start(self) -> None:
        database = self._folder / "mlflow.db"
        template = _template(self._azure.options.cache)
        is_new = not database.exists()
        if is_new:
            await asyncio.to_thread(_create_database, database, template)
        await self._wait(self._spawn(database))
        if is_new and not template.exists():
            await asyncio.to_thread(_save_template, database, template)

    def _spawn(self, database: Path) -> Child:
        uri = f"sqlite:///{database}"
        general = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ} | {
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
            # What `mlflow server` sets for its uvicorn; MLflow is pinned, so these names are as stable as its options.
            "_MLFLOW_SGI_NAME": "uvicorn",
            # The application only behaves as a server's if there is a database when it is imported, which may be before this one exists.
            "_MLFLOW_SERVER_FILE_STORE": "sqlite://",
        }
        environment = general | {
            "_MLFLOW_SERVER_FILE_STORE": uri,
            "_MLFLOW_SERVER_REGISTRY_STORE": uri,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": str(self._folder / "artifacts"),
        }
        command = [sys.executable, "-m", "uvicorn", "mlflow.server.fastapi_app:app", "--host", "127.0.0.1", "--port", str(self._port)]
        # When the emulator stops, nobody is left to wait for a response.
        command += ["--log-level", "warning", "--timeout-graceful-shutdown", "0"]
        preload = Preload.of(IMPORTS, general)
        return self._azure.children.start(command, cwd=self._folder, environment=environment, log=self._log, preload=preload)

    async def _wait(self, child: Child) -> None:
        while True:
            if child.returncode is not None:
                tail = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise AzureFault(500, "ServiceError", f"The MLflow server has exited. The end of its log: {tail}")
            # The first search opens the database and creates the default experiment.
            with contextlib.suppress(httpx.TransportError):
                if (await self._client.post(API + "experiments/search", json={"max_results": 1})).is_success:
                    return
            await asyncio.sleep(POLL_S)

    async def forward(self, method: str, path: str, query: Sequence[tuple[str, str]], body: Any) -> httpx.Response:
        """Send a request of MLflow's REST API, e.g. ``("GET", "runs/get", …)``, once the server is ready.

        Raises:
            AzureFault: 500, the server has exited.
        """
        await asyncio.shield(self.start())
        try:
            return await self._client.request(method, API + path, params=httpx.QueryParams(list(query)), json=body)
        except httpx.TransportError as problem:
            raise AzureFault(500, "ServiceError", f"The MLflow server does not answer: {problem!r}") from problem

    async def call(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Send a request on the emulator's own behalf and return the answer.

        Raises:
            AzureFault: 500, the server refuses the request or has exited.
        """
        query = [(name, str(value)) for name, value in body.items()] if method == "GET" else []
        response = await self.forward(method, path, query, None if method == "GET" else dict(body))
        if not response.is_success:
            raise AzureFault(500, "ServiceError", f"The MLflow server refuses {path}: {response.text}")
        answer: dict[str, Any] = response.json()
        return answer

    async def ensure_experiment(self, name: str) -> str:
        """Return the id of the experiment with this name; create it if it does not exist."""
        response = await self.forward("GET", "experiments/get-by-name", [("experiment_name", name)], None)
        if response.is_success:
            experiment_id: str = response.json()["experiment"]["experiment_id"]
        else:
            experiment_id = (await self.call("POST", "experiments/create", {"name": name, "tags": [KIND]}))["experiment_id"]
        return experiment_id

    def link_artifacts(self, experiment: str, uuid: str, run: str) -> None:
        """Make the blobs of ``run`` the artifacts of the MLflow run ``uuid``."""
        folder = blobs.path(self._azure, blobs.ARTIFACTS, blobs.artifact(run))
        folder.mkdir(parents=True, exist_ok=True)
        link = self._folder / "artifacts" / experiment / uuid / "artifacts"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(folder)

    async def close(self) -> None:
        """Stop sending requests. The child process ends with all the other children."""
        if self._ready is not None:
            self._ready.cancel()
            await asyncio.gather(self._ready, return_exceptions=True)
        await self._client.aclose()


class _State:
    """The server of one emulator."""

    def __init__(self) -> None:
        self.server: MlflowServer | None = None


def get_server(azure: Azure) -> MlflowServer:
    """Return the server of an emulator that has started up."""
    server = azure.services.get(_State).server
    assert server is not None
    return server


async def startup(azure: Azure) -> None:
    """Choose the port, and start the server if the options say so. Returns at once.

    ``state/mlflow.json`` names the URL; it is the same after a restart if the port is still free.
    """
    previous = azure.store.get("mlflow", "port") or {"port": 0}
    port = _find_free_port(previous["port"])
    azure.store.put("mlflow", "port", {"port": port})
    server = azure.services.get(_State).server = MlflowServer(azure, port)
    (azure.state / "mlflow.json").write_text(json.dumps({"url": server.url}), encoding="utf-8")
    if azure.options.mlflow_at_start:
        server.start()


async def shutdown(azure: Azure) -> None:
    """Close the connections to the server."""
    (azure.state / "mlflow.json").unlink(missing_ok=True)
    state = azure.services.get(_State)
    if state.server is not None:
        await state.server.close()
        state.server = None


def _template(cache: Path) -> Path:
    """Return the path of the cached, empty database of this MLflow version."""
    return cache / f"mlflow-{importlib.metadata.version('mlflow')}.db"


def _create_database(database: Path, template: Path) -> None:
    """Create the database from the template, or an empty one for MLflow to migrate if there is no template yet."""
    part = database.with_suffix(".part")
    if template.exists():
        shutil.copyfile(template, part)
    with contextlib.closing(sqlite3.connect(part)) as connection:
        # The mode is stored in the file. A commit then waits for the disk once instead of three times.
        connection.execute("PRAGMA journal_mode=WAL")
    part.replace(database)


def _save_template(database: Path, template: Path) -> None:
    """Cache a database that MLflow has just migrated. Safe with several processes at once: the file appears whole or not at all."""
    template.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=template.parent, prefix=".mlflow-") as folder:
        copy = Path(folder, "mlflow.db")
        with contextlib.closing(sqlite3.connect(database)) as source, contextlib.closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            # The default experiment names this emulator's folder. MLflow creates it again in a database that has none.
            target.execute("DELETE FROM experiments")
            target.commit()
            # A single file, without a write-ahead log beside it.
            target.execute("PRAGMA journal_mode=DELETE")
        copy.replace(template)


def _find_free_port(preferred: int) -> int:
    for port in (preferred, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As uvicorn binds: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            free: int = probe.getsockname()[1]
            return free
    raise OSError("no free port on 127.0.0.1")
