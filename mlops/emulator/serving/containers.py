"""The containers behind deployments: child processes that serve a model, watched while they live.

One process stands for all instances of a deployment; how many requests it takes at once is the product of both settings. A container that
ends by itself is started once more, as Azure's kubelet would, and then left alone.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import shutil
import sys
import time
from pathlib import Path

import httpx

from mlops.emulator.base.azure import Azure
from mlops.emulator.base.children import Child
from mlops.emulator.base.loopback import open_client

__all__ = ["Instance", "Launch", "Unhealthy", "find", "forget", "log_file", "start", "stop"]

TICK_S = 0.1
"""How often a starting container is looked at."""
CONNECT_S = 10.0
WATCH_S = 0.25
"""How often a running one is."""
RESTARTS = 1

log = logging.getLogger("mlops.emulator")


class Unhealthy(Exception):
    """The container has ended, or not answered in time; the message is what the probe says."""


@dataclasses.dataclass(frozen=True)
class Launch:
    """How a container is to be run.

    Args:
        model: folder of the MLflow model.
        concurrency: requests that it takes at once; as many again wait.
        timeout_ms: of one request.
        patience_s: how long it may take to get ready.
        variables: the deployment's environment variables.
    """

    model: Path
    concurrency: int
    timeout_ms: int
    patience_s: float
    variables: dict[str, str]


class Instance:
    """A deployment's container: the process, the way to it, and the requests that are in it.

    Args:
        folder: where it runs and logs.
    """

    def __init__(self, folder: Path, launch: Launch) -> None:
        self.folder = folder
        self.launch = launch
        self.client: httpx.AsyncClient | None = None
        """Set while the container is ready for requests."""
        self.in_flight = 0
        self.gave_up = False
        """It has ended once too often, or would not start again."""
        self.child: Child | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._closed = False

    async def up(self, azure: Azure) -> None:
        """Start the process and wait until it answers its liveness probe.

        Raises:
            Unhealthy: it never did.
        """
        ready = self.folder / "ready"
        ready.unlink(missing_ok=True)
        if self._closed:
            raise _stopping()
        self.child = azure.children.start(
            [
                *(sys.executable, "-m", "mlops.emulator.serving.container", "--model", str(self.launch.model), "--port", "0"),
                *("--ready-file", str(ready), "--max-concurrent", str(self.launch.concurrency)),
                *("--request-timeout-ms", str(self.launch.timeout_ms)),
            ],
            cwd=self.folder,
            environment=_environment(azure, self.launch),
            log=self.folder / "container.log",
        )
        deadline = time.monotonic() + self.launch.patience_s
        while not ready.is_file():
            if self._closed:
                raise _stopping()
            if (code := self.child.returncode) is not None:
                raise Unhealthy(f"User container has crashed or terminated with exit code {code}.")
            if time.monotonic() > deadline:
                raise Unhealthy(f"User container has crashed or terminated: it was not ready after {self.launch.patience_s:.0f} s.")
            await asyncio.sleep(TICK_S)
        port = int(ready.read_text())
        client = open_client(f"http://127.0.0.1:{port}", timeout=httpx.Timeout(None, connect=CONNECT_S))
        try:
            (await client.get("/health/live", timeout=30)).raise_for_status()
        except httpx.HTTPError as problem:
            await client.aclose()
            raise Unhealthy(f"User container has crashed or terminated: Liveness probe failed: {problem!r}.") from None
        self.client = client

    def abandon(self) -> None:
        """The emulator is shutting down: what happens to the container from now on is not its own fault."""
        self._closed = True

    def watch(self, azure: Azure) -> None:
        """From now on, start the container again when it ends by itself."""
        self._watcher = asyncio.create_task(self._watch(azure))

    async def down(self) -> None:
        """End it. Returns when the process is gone."""
        self._closed = True
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        await self._hang_up()
        if self.child is not None:
            await asyncio.to_thread(self.child.stop)

    async def _watch(self, azure: Azure) -> None:
        for left in range(RESTARTS, -1, -1):
            while self.child is not None and self.child.returncode is None:
                await asyncio.sleep(WATCH_S)
            await self._hang_up()
            code = self.child.returncode if self.child else None
            note(self.folder, f"The container has ended by itself with exit code {code}; restarts left: {left}.")
            if left:
                try:
                    await self.up(azure)
                except Unhealthy as problem:
                    note(self.folder, str(problem))
                    break
        self.gave_up = True

    async def _hang_up(self) -> None:
        client, self.client = self.client, None
        if client is not None:
            await client.aclose()


_starting: set[Instance] = set()
_instances: dict[Path, Instance] = {}
"""By folder, which no other emulator has. Only touched from the emulator's event loop."""


async def start(azure: Azure, key: str, launch: Launch, doom: str | None = None) -> Instance:
    """Run a container for the deployment ``{endpoint}/{deployment}``; once it is ready it takes the place of the one that served before.

    Args:
        doom: what its probe is going to say, however well it is: a fault on order.

    Raises:
        Unhealthy: it did not get ready. What served before still does; the process is gone, its log stays.
    """
    folder = azure.folder("deployments", *key.split("/"))
    instance = Instance(folder, launch)
    _starting.add(instance)
    try:
        await instance.up(azure)
        if doom is not None:
            raise Unhealthy(doom)
    except BaseException as problem:
        await instance.down()
        note(folder, str(problem))
        raise
    finally:
        _starting.discard(instance)
    before = _instances.get(folder)
    _instances[folder] = instance
    instance.watch(azure)
    if before is not None:
        await before.down()
    return instance


def find(azure: Azure, key: str) -> Instance | None:
    """The container that serves a deployment, if one does."""
    return _instances.get(azure.state.joinpath("deployments", *key.split("/")))


async def stop(azure: Azure, key: str, remove: bool = False) -> None:
    """End a deployment's container; ``remove`` also its folder with the logs."""
    folder = azure.state.joinpath("deployments", *key.split("/"))
    if (instance := _instances.pop(folder, None)) is not None:
        await instance.down()
    if remove:
        shutil.rmtree(folder, ignore_errors=True)


async def forget(azure: Azure) -> None:
    """End the containers of this emulator, all at once."""
    for instance in _starting:
        if instance.folder.is_relative_to(azure.state):
            instance.abandon()
    keys = [folder for folder in _instances if folder.is_relative_to(azure.state)]
    await asyncio.gather(*(_instances.pop(folder).down() for folder in keys))


def log_file(azure: Azure, key: str) -> Path:
    """What the deployment's containers have written, oldest first."""
    return azure.state.joinpath("deployments", *key.split("/"), "container.log")


def note(folder: Path, line: str) -> None:
    """Add a line of the platform's to the container's log."""
    log.info("%s: %s", folder.name, line)
    with (folder / "container.log").open("a", encoding="utf-8") as file:
        file.write(f"[azureml] {line}\n")


def _stopping() -> asyncio.CancelledError:
    # As if our task had been cancelled, which is about to happen: the operation remains under way for the next emulator to find.
    return asyncio.CancelledError("The emulator is shutting down.")


def _environment(azure: Azure, launch: Launch) -> dict[str, str]:
    # Only what a process needs to run at all: a container doesn't see its host's variables.
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV", "LD_LIBRARY_PATH") if name in os.environ}
    return {
        **kept,
        "PYTHONPATH": str(Path(__file__).resolve().parents[3]),
        "PYTHONUNBUFFERED": "1",
        "OMP_WAIT_POLICY": "PASSIVE",
        **azure.environment,
        "AZUREML_MODEL_DIR": str(launch.model),
        **launch.variables,
    }
