"""The MLflow server behind the workspace: the application that ``mlflow server`` runs, as a child process on loopback, on SQLite.

It is run by uvicorn directly, because ``mlflow server`` is a second process of the same size that only waits for it. Artifacts are not
stored twice: a run's artifact folder is a link to the run's blobs, so the server's page shows what the workspace holds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import httpx

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.errors import AzureFault
from mlops.emulator.storage import blobs

__all__ = ["Server", "of", "shutdown", "startup"]

KIND = {"key": "mlflow.experimentKind", "value": "custom_model_development"}
"""Tag that makes MLflow's page open an experiment at its runs, not at the traces of an application."""

API = "/api/2.0/mlflow/"
POLL_S = 0.1

_servers: dict[Path, Server] = {}


class Server:
    """One MLflow server.

    Args:
        azure: whose.
        port: where it listens on loopback.
    """

    def __init__(self, azure: Azure, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._folder = azure.folder("mlflow")
        self._log = self._folder / "server.log"
        database = f"sqlite:///{self._folder / 'mlflow.db'}"
        # What `mlflow server` sets for its uvicorn; MLflow is pinned, so these names are as stable as its options.
        environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ} | {
            "_MLFLOW_SERVER_FILE_STORE": database,
            "_MLFLOW_SERVER_REGISTRY_STORE": database,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": str(self._folder / "artifacts"),
            "_MLFLOW_SGI_NAME": "uvicorn",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "MLFLOW_DISABLE_TELEMETRY": "true",
            "DO_NOT_TRACK": "true",
        }
        command = [sys.executable, "-m", "uvicorn", "mlflow.server.fastapi_app:app", "--host", "127.0.0.1", "--port", str(port)]
        self._child = azure.children.start([*command, "--log-level", "warning"], cwd=self._folder, environment=environment, log=self._log)
        # Loopback must not go through the caller's proxy. uvicorn ends a connection that has idled for five seconds, and a request of ours
        # that meets the end on its way would be lost, so we let go first.
        self._client = httpx.AsyncClient(base_url=self.url, timeout=60, trust_env=False, limits=httpx.Limits(keepalive_expiry=1))
        self._ready = asyncio.create_task(self._wait())

    async def _wait(self) -> None:
        while True:
            if self._child.returncode is not None:
                tail = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
                raise AzureFault(500, "ServiceError", f"The MLflow server has ended. Its log says: {tail}")
            # The first search makes the database.
            with contextlib.suppress(httpx.TransportError):
                if (await self._client.post(API + "experiments/search", json={"max_results": 1})).is_success:
                    return
            await asyncio.sleep(POLL_S)

    async def forward(self, method: str, path: str, query: Sequence[tuple[str, str]], body: Any) -> httpx.Response:
        """Send a request of MLflow's REST API, e.g. ``("GET", "runs/get", …)``, once the server is ready.

        Raises:
            AzureFault: 500, the server has ended.
        """
        await asyncio.shield(self._ready)
        try:
            return await self._client.request(method, API + path, params=httpx.QueryParams(list(query)), json=body)
        except httpx.TransportError as problem:
            raise AzureFault(500, "ServiceError", f"The MLflow server does not answer: {problem!r}") from problem

    async def call(self, method: str, path: str, body: Mapping[str, Any]) -> dict[str, Any]:
        """Ask for something of the emulator's own; the answer.

        Raises:
            AzureFault: 500, the server refuses or has ended.
        """
        query = [(name, str(value)) for name, value in body.items()] if method == "GET" else []
        response = await self.forward(method, path, query, None if method == "GET" else dict(body))
        if not response.is_success:
            raise AzureFault(500, "ServiceError", f"The MLflow server refuses {path}: {response.text}")
        answer: dict[str, Any] = response.json()
        return answer

    async def experiment(self, name: str) -> str:
        """Id of the experiment of that name, made if missing."""
        response = await self.forward("GET", "experiments/get-by-name", [("experiment_name", name)], None)
        if response.is_success:
            found: str = response.json()["experiment"]["experiment_id"]
            return found
        made: str = (await self.call("POST", "experiments/create", {"name": name, "tags": [KIND]}))["experiment_id"]
        return made

    def link(self, azure: Azure, experiment: str, uuid: str, run: str) -> None:
        """Make the blobs of ``run`` the artifacts of the MLflow run ``uuid``."""
        folder = blobs.path(azure, blobs.ARTIFACTS, f"ExperimentRun/dcid.{run}")
        folder.mkdir(parents=True, exist_ok=True)
        link = self._folder / "artifacts" / experiment / uuid / "artifacts"
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(folder)

    async def close(self) -> None:
        """Send nothing more. The child is ended with all others."""
        self._ready.cancel()
        await asyncio.gather(self._ready, return_exceptions=True)
        await self._client.aclose()


def of(azure: Azure) -> Server:
    """The server of a azure that has started up."""
    return _servers[azure.state]


async def startup(azure: Azure) -> None:
    """Start the server; returns at once. ``state/mlflow.json`` tells its URL, the same after a restart if the port is still free."""
    known = azure.store.get("mlflow", "port") or {"port": 0}
    port = _free_port(known["port"])
    azure.store.put("mlflow", "port", {"port": port})
    server = Server(azure, port)
    _servers[azure.state] = server
    (azure.state / "mlflow.json").write_text(json.dumps({"url": server.url}), encoding="utf-8")


async def shutdown(azure: Azure) -> None:
    """Let go of it."""
    (azure.state / "mlflow.json").unlink(missing_ok=True)
    if server := _servers.pop(azure.state, None):
        await server.close()


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe, contextlib.suppress(OSError):
            # As uvicorn binds: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            free: int = probe.getsockname()[1]
            return free
    raise OSError("no free port on 127.0.0.1")
