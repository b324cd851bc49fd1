"""The containers of deployments: child processes that serve a model.

One process stands for all instances of a deployment; its request concurrency is the product of both settings. A container that exits by
itself is restarted once, as Azure's kubelet would do, and then given up.
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
from mlops.emulator.base.children import Child, package_environment
from mlops.emulator.base.libraries import preload_for_package

__all__ = ["POLL_S", "Container", "ContainerSpec", "Unhealthy", "find", "log_file", "start", "stop", "stop_all"]

POLL_S = 0.02
"""Seconds between two looks at a container that is starting."""
WATCH_S = 0.1
"""Seconds between two looks at a container that is ready."""
CONNECT_S = 10.0
RESTARTS = 1

log = logging.getLogger("mlops.emulator")


class Unhealthy(Exception):
    """The container has exited, or was not ready in time. The message is that of the failed probe."""


@dataclasses.dataclass(frozen=True)
class ContainerSpec:
    """The specification of a container.

    Args:
        model: the model's folder or file; for a deployment without a script, an MLflow model.
        script: a scoring script that serves it, if it has one.
        concurrency: number of requests that are processed at once; as many again may wait.
        request_timeout_ms: time limit of a request.
        transformers: its version in the image.
        answer_shape: shape in which the image returns texts.
        startup_timeout_s: time limit for getting ready.
        variables: environment variables of the deployment.
    """

    model: Path | None
    script: Path | None
    concurrency: int
    request_timeout_ms: int
    transformers: str
    answer_shape: str
    startup_timeout_s: float
    variables: dict[str, str]


class Container:
    """The process that serves a deployment, a client for it, and its number of requests.

    Args:
        azure: the emulated Azure.
        folder: working directory, with the log.
        spec: how to run it.
    """

    def __init__(self, azure: Azure, folder: Path, spec: ContainerSpec) -> None:
        self.spec = spec
        self.client: httpx.AsyncClient | None = None
        """Set while the container is ready for requests."""
        self.in_flight = 0
        """Number of requests that are being processed or waiting."""
        self.has_failed = False
        """Whether it has exited too often, or could not be restarted."""
        self._azure = azure
        self._folder = folder
        self._child: Child | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._closed = False

    async def start(self) -> None:
        """Start the process and wait until it passes its liveness probe.

        Raises:
            Unhealthy: it never did.
        """
        ready = self._folder / "ready"
        ready.unlink(missing_ok=True)
        self._check_open()
        self._child = self._azure.children.start(
            [
                *(sys.executable, "-m", "mlops.emulator.serving.container", "--port", "0"),
                *(("--script", str(self.spec.script)) if self.spec.script else ("--model", str(self.spec.model))),
                *("--ready-file", str(ready), "--max-concurrent", str(self.spec.concurrency)),
                *("--request-timeout-ms", str(self.spec.request_timeout_ms), "--answer-shape", self.spec.answer_shape),
                *("--transformers", self.spec.transformers),
            ],
            cwd=self._folder,
            environment=self._environment(),
            log=self._folder / "container.log",
            # A script may import whatever it likes, with all that its host has.
            preload=None if self.spec.script else preload_for_package(self.spec.variables),
        )
        deadline = time.monotonic() + self.spec.startup_timeout_s
        while not ready.is_file():
            self._check_open()
            if (code := self._child.returncode) is not None:
                raise Unhealthy(f"User container has crashed or terminated with exit code {code}.")
            if time.monotonic() > deadline:
                raise Unhealthy(f"User container has crashed or terminated: it was not ready after {self.spec.startup_timeout_s:.0f} s.")
            await asyncio.sleep(POLL_S)
        client = httpx.AsyncClient(
            base_url=f"http://127.0.0.1:{int(ready.read_text())}",
            trust_env=False,
            timeout=httpx.Timeout(None, connect=CONNECT_S),
            # uvicorn closes an idle connection after five seconds. The client closes it earlier, or a request could be lost.
            limits=httpx.Limits(keepalive_expiry=1),
        )
        try:
            (await client.get("/health/live", timeout=30)).raise_for_status()
        except httpx.HTTPError as problem:
            await client.aclose()
            raise Unhealthy(f"User container has crashed or terminated: Liveness probe failed: {problem!r}.") from None
        self.client = client

    def restart_on_exit(self) -> None:
        """Restart the container from now on if it exits by itself."""
        self._watcher = self._azure.start_task(self._watch())

    def abandon(self) -> None:
        """Stop waiting for the container to get ready, because the emulator is shutting down."""
        self._closed = True

    async def stop(self) -> None:
        """Stop the container. Return when the process is gone."""
        self._closed = True
        if self._watcher is not None:
            self._watcher.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watcher
        await self._disconnect()
        if self._child is not None:
            await asyncio.to_thread(self._child.stop)

    def write_log(self, line: str) -> None:
        """Append a line of the platform to the container's log."""
        log.info("%s: %s", self._folder.name, line)
        with (self._folder / "container.log").open("a", encoding="utf-8") as file:
            file.write(f"[azureml] {line}\n")

    async def _watch(self) -> None:
        for restarts_left in range(RESTARTS, -1, -1):
            while self._child is not None and self._child.returncode is None:
                await asyncio.sleep(WATCH_S)
            await self._disconnect()
            code = self._child.returncode if self._child else None
            self.write_log(f"The container has exited by itself with exit code {code}; restarts left: {restarts_left}.")
            if restarts_left:
                try:
                    await self.start()
                except Unhealthy as problem:
                    self.write_log(str(problem))
                    break
        self.has_failed = True

    def _environment(self) -> dict[str, str]:
        # A container doesn't see the environment of its host.
        own = package_environment() | dict(self._azure.environment)
        if self.spec.script is None:
            return own | {"AZUREML_MODEL_DIR": str(self.spec.model)} | self.spec.variables
        own |= {"AML_APP_ROOT": str(self.spec.script.parent), "AZUREML_ENTRY_SCRIPT": self.spec.script.name}
        return own | {"AZUREML_MODEL_DIR": str(self._mount_model())} | self.spec.variables

    def _mount_model(self) -> Path:
        """Return a folder that contains nothing but the model under its own name, as scripts expect it."""
        folder, model = self._folder / "model", self.spec.model
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        # No symbolic link to the model: MLflow refuses a model that is really in another folder.
        if model is not None and model.is_dir():
            shutil.copytree(model, folder / model.name, copy_function=_link)
        elif model is not None:
            _link(str(model), str(folder / model.name))
        return folder

    async def _disconnect(self) -> None:
        client, self.client = self.client, None
        if client is not None:
            await client.aclose()

    def _check_open(self) -> None:
        if self._closed:
            # As if this task had been canceled, which is about to happen: the operation stays in progress and is failed at the next start.
            raise asyncio.CancelledError("The emulator is shutting down.")


def _link(source: str, target: str) -> None:
    """Make a file available at another path, without a copy if possible."""
    try:
        os.link(os.path.realpath(source), target)
    except OSError:
        shutil.copyfile(source, target)


class _Containers:
    """All containers of one emulator. Used only in its event loop."""

    def __init__(self) -> None:
        self.starting: set[Container] = set()
        self.serving: dict[str, Container] = {}
        """Key of the deployment, ``{endpoint}/{deployment}`` → container."""


async def start(azure: Azure, key: str, spec: ContainerSpec, probe_failure: str | None = None) -> None:
    """Start a container for the deployment ``{endpoint}/{deployment}``; once it is ready it replaces the previous one.

    Args:
        azure: the emulated Azure.
        key: key of the deployment.
        spec: how to run the container.
        probe_failure: message of an injected fault: the container is treated as unhealthy although it gets ready.

    Raises:
        Unhealthy: it did not get ready. The previous container still serves; the process is gone, its log stays.
    """
    containers = azure.services.get(_Containers)
    container = Container(azure, azure.folder("deployments", *key.split("/")), spec)
    containers.starting.add(container)
    try:
        await container.start()
        if probe_failure is not None:
            raise Unhealthy(probe_failure)
    except BaseException as problem:
        await container.stop()
        container.write_log(str(problem))
        raise
    finally:
        containers.starting.discard(container)
    previous = containers.serving.get(key)
    containers.serving[key] = container
    container.restart_on_exit()
    if previous is not None:
        await previous.stop()


def find(azure: Azure, key: str) -> Container | None:
    """Return the container that serves a deployment, if there is one."""
    return azure.services.get(_Containers).serving.get(key)


async def stop(azure: Azure, key: str) -> None:
    """Stop a deployment's container and delete its folder with the log."""
    if (container := azure.services.get(_Containers).serving.pop(key, None)) is not None:
        await container.stop()
    shutil.rmtree(_folder(azure, key), ignore_errors=True)


async def stop_all(azure: Azure) -> None:
    """Stop all containers at the same time."""
    containers = azure.services.get(_Containers)
    for container in containers.starting:
        container.abandon()
    serving = list(containers.serving.values())
    containers.serving.clear()
    await asyncio.gather(*(container.stop() for container in serving))


def log_file(azure: Azure, key: str) -> Path:
    """Return the log of a deployment's containers, oldest first."""
    return _folder(azure, key) / "container.log"


def _folder(azure: Azure, key: str) -> Path:
    return azure.state.joinpath("deployments", *key.split("/"))
