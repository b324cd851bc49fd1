"""The emulator as a whole: TLS server, proxy and resource modules, started and stopped together."""

from __future__ import annotations

import asyncio
import importlib
import socket
import threading
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Self

import uvicorn

from mlops.emulator.base.azure import Azure, Identity, Options
from mlops.emulator.base.children import Children
from mlops.emulator.base.faults import Faults
from mlops.emulator.base.store import Store
from mlops.emulator.wire import operations
from mlops.emulator.wire.app import App, Route
from mlops.emulator.wire.proxy import Proxy
from mlops.emulator.wire.tls import GITHUB_HOSTS, HOSTS, certificates

__all__ = ["Emulator"]

MODULES = (
    "identity.entra", "registry.registry", "workspace.workspace", "workspace.compute", "storage.blobs", "history.mlflow_api",
    "history.runs", "history.artifacts", "workspace.assets", "jobs.jobs", "workspace.models", "serving.endpoints", "serving.deployments",
    "serving.scoring",
)  # fmt: skip
"""One per resource, each with ``ROUTES``; ``startup(azure)`` and ``shutdown(azure)`` where it has something to begin or end."""
GITHUB_MODULES = ("identity.github_oidc", "github_api")
"""And those where GitHub is emulated as well."""

KEEP_ALIVE_S = 240
"""How long a connection may idle: Azure Load Balancer's default idle timeout. uvicorn's own five seconds are about as long as a client
thinks between two requests, and one that is sent while its connection is being closed is lost; POSTs are not sent again."""


class Emulator:
    """Azure ML on loopback, in a thread of this process. A context manager.

    Args:
        state: folder for everything that it keeps; give the same one again and it goes on from there.
        options: see :class:`Options`.
        faults: faults on order.
        port: of the proxy; 0 for a free one.
    """

    def __init__(self, state: Path, options: Options | None = None, faults: Faults | None = None, port: int = 0) -> None:
        self.state = state.resolve()
        self.state.mkdir(parents=True, exist_ok=True)
        store = Store(self.state / "emulator.db")
        self.azure = Azure(self.state, store, Identity.remembered(store), options or Options(), faults or Faults(), Children())
        self.hosts_asked: dict[str, bool] = {}
        """Host name → whether it was let through, for every host that was asked for."""
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="emulator", daemon=True)

    def environment(self) -> dict[str, str]:
        """What a client must have set: proxy, trust, identity, coordinates. Nothing else sends it here."""
        return dict(self.azure.environment)

    def start(self) -> Self:
        """Listen. Returns when requests are served."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()  # a loop that is just closing can't be told to stop
            raise self._failure
        return self

    def stop(self) -> None:
        """End every child, then stop listening."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stop.set)
            self._thread.join()
        self.azure.store.close()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._serve())
        except BaseException as failure:
            self._failure = failure
        finally:
            self.azure.children.stop()
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        github = bool(self.azure.options.github)
        names = (*MODULES, *(GITHUB_MODULES if github else ()))
        hosts = (*HOSTS, *(GITHUB_HOSTS if github else ()))
        modules = [importlib.import_module(f"mlops.emulator.{name}") for name in names]
        identity = importlib.import_module("mlops.emulator.identity.entra")
        routes: list[Route] = [*operations.ROUTES, *(route for module in modules for route in module.ROUTES)]
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(
            App(self.azure, routes, identity.authenticate),
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=2,
            timeout_keep_alive=KEEP_ALIVE_S,
            ssl_context_factory=lambda _config, _default: certificates(self.state, hosts),
        )
        # In a thread uvicorn leaves signals alone: the main thread owns them.
        server = uvicorn.Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listener]))
        proxy = Proxy(listener.getsockname()[1], self._note, hosts)
        try:
            # A server that is told to exit before it has started leaves its socket open.
            while not (server.started or serving.done()):
                await asyncio.sleep(0.01)
            self._port = await proxy.start(self._port)
            self.azure.environment = self._client_environment()
            operations.interrupted(self.azure)
            await self._hooks(modules, "startup")
            self._ready.set()
            await self._stop.wait()
        finally:
            await proxy.stop()
            await self._hooks(modules, "shutdown")
            # Off the loop: a child that is being ended may still talk to us.
            await asyncio.to_thread(self.azure.children.stop)
            await proxy.hang_up()
            server.should_exit = True
            await serving
            await self._cancel_rest()

    async def _cancel_rest(self) -> None:
        # Operations under way; after a restart they tell that they were interrupted.
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)

    async def _hooks(self, modules: list[ModuleType], name: str) -> None:
        for module in modules:
            if hook := getattr(module, name, None):
                await hook(self.azure)

    def _note(self, host: str, allowed: bool) -> None:
        self.hosts_asked[host] = allowed

    def _client_environment(self) -> dict[str, str]:
        proxy = f"http://127.0.0.1:{self._port}"
        i = self.azure.identity
        variables = {
            "HTTPS_PROXY": proxy,
            "HTTP_PROXY": proxy,
            "NO_PROXY": "127.0.0.1,localhost",
            "REQUESTS_CA_BUNDLE": str(self.state / "ca.pem"),
            "AZURE_TENANT_ID": i.tenant,
            "AZURE_CLIENT_ID": i.client,
            "AZURE_CLIENT_SECRET": i.client_secret,
            "AZURE_SUBSCRIPTION_ID": i.subscription,
            "AZUREML_RESOURCE_GROUP": i.group,
            "AZUREML_WORKSPACE": i.workspace,
        }
        # Where both spellings are set, clients take the lower-case one: ours must win.
        return variables | {name.lower(): variables[name] for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")}
