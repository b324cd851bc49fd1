"""The whole emulator: HTTPS server, proxy and services, started and stopped together."""

from __future__ import annotations

import asyncio
import importlib
import threading
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Self

import uvicorn

from mlops.emulator.base.azure import Azure, Identity, Options
from mlops.emulator.base.children import Children
from mlops.emulator.base.faults import Faults
from mlops.emulator.base.fork_servers import ForkServers
from mlops.emulator.base.store import Store
from mlops.emulator.wire import operations
from mlops.emulator.wire.app import App, Route
from mlops.emulator.wire.https import HttpsServer
from mlops.emulator.wire.proxy import Proxy
from mlops.emulator.wire.tls import GITHUB_HOSTS, HOSTS, certificates

__all__ = ["Emulator", "load_routes"]

MODULES = (
    "identity.entra", "identity.roles", "registry.registry", "workspace.workspace", "workspace.datastores", "workspace.compute",
    "workspace.quota", "storage.blobs", "workspace.mlflow_models", "history.mlflow_api", "history.runs", "history.artifacts",
    "workspace.assets", "workspace.data", "workspace.components", "workspace.models", "workspace.resolved_uris", "jobs.scheduler",
    "jobs.jobs", "serving.endpoints", "serving.deployments", "serving.scoring",
)  # fmt: skip
"""Modules of the services, with ``ROUTES``, ``startup(azure)`` and ``shutdown(azure)`` as needed; shut down in reverse order.
A path that several routes match belongs to the first: MLflow's model registry comes before the rest of its API."""
GITHUB_MODULES = ("identity.github_oidc", "github_api")
"""Additional modules if GitHub is emulated as well."""

KEEP_ALIVE_S = 240
"""Seconds that an idle connection stays open: Azure Load Balancer's default. uvicorn's default of five seconds is about as long as clients
pause between two requests, and a request that is sent while its connection is being closed is lost: clients don't repeat a POST."""


def load_routes(github: bool = False) -> list[Route]:
    """Return the routes of all services, those of GitHub included if it is emulated as well."""
    return [*operations.ROUTES, *(route for module in _load_modules(github) for route in getattr(module, "ROUTES", ()))]


def _load_modules(github: bool) -> list[ModuleType]:
    return [importlib.import_module(f"mlops.emulator.{name}") for name in (*MODULES, *(GITHUB_MODULES if github else ()))]


class Emulator:
    """Azure ML on loopback, in a thread of this process. A context manager.

    Args:
        state: folder for all persistent state; an emulator that is started on an existing one continues from it.
        options: see :class:`Options`.
        faults: faults to inject.
        port: port of the proxy; 0 for any free one.
        fork_servers: processes that have imported what children need, shared with others; its own by default.
    """

    def __init__(
        self,
        state: Path,
        options: Options | None = None,
        faults: Faults | None = None,
        port: int = 0,
        fork_servers: ForkServers | None = None,
    ) -> None:
        self.state = state.resolve()
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        # Client secret and keys are in it, and whoever could write to it could run code as this user: also a folder of an earlier version.
        self.state.chmod(0o700)
        store = Store(self.state / "emulator.db")
        self._own_fork_servers = ForkServers()  # none runs until it is used
        children = Children((fork_servers or self._own_fork_servers).connect)
        self.azure = Azure(self.state, store, Identity.load_or_create(store), options or Options(), faults or Faults(), children)
        self.contacted_hosts: dict[str, bool] = {}
        """Host name → whether it was allowed, for every host that a client has contacted."""
        self._port = port
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._stop = asyncio.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="emulator", daemon=True)

    def environment(self) -> dict[str, str]:
        """Return the variables that lead a client to the emulator: proxy, CA bundle, identity and workspace coordinates."""
        return dict(self.azure.environment)

    def start(self) -> Self:
        """Start the emulator; return once it serves requests."""
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            self._thread.join()  # stop() would fail on a loop that is closing
            self.azure.store.close()
            raise self._failure
        return self

    def stop(self) -> None:
        """Stop all child processes, then the servers."""
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
            self._own_fork_servers.stop()
            self._ready.set()
            self._loop.close()

    async def _serve(self) -> None:
        github = bool(self.azure.options.github)
        hosts = (*HOSTS, *(GITHUB_HOSTS if github else ()))
        modules = _load_modules(github)
        identity = importlib.import_module("mlops.emulator.identity.entra")
        permissions = importlib.import_module("mlops.emulator.identity.permissions")
        roles = importlib.import_module("mlops.emulator.identity.roles")
        routes = load_routes(github)
        permissions.check_routes(routes)
        config = uvicorn.Config(
            App(self.azure, routes, identity.authenticate, roles.authorize),
            lifespan="off",
            log_config=None,
            access_log=False,
            timeout_keep_alive=KEEP_ALIVE_S,
            ssl_context_factory=lambda _config, _default: certificates(self.state, hosts),
        )
        # uvicorn leaves signals to the main thread because this isn't it.
        server = HttpsServer(config)
        proxy = Proxy(server.adopt, self._record_host, hosts)
        try:
            await server.start()
            self._port = await proxy.start(self._port)
            self.azure.environment = self._client_environment()
            operations.fail_interrupted(self.azure)
            await self._call_hooks(modules, "startup")
            self._ready.set()
            await self._stop.wait()
        finally:
            await proxy.stop()
            await self._call_hooks(modules[::-1], "shutdown")
            # In another thread: a child that is being stopped may still send requests.
            await asyncio.to_thread(self.azure.children.stop)
            server.abort_connections()
            await server.stop()
            await self._cancel_tasks()

    async def _cancel_tasks(self) -> None:
        # Operations in progress are reported as interrupted after a restart.
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _call_hooks(self, modules: list[ModuleType], name: str) -> None:
        for module in modules:
            if hook := getattr(module, name, None):
                await hook(self.azure)

    def _record_host(self, host: str, allowed: bool) -> None:
        self.contacted_hosts[host] = allowed

    def _client_environment(self) -> dict[str, str]:
        proxy = f"http://127.0.0.1:{self._port}"
        authority = str(self.state / "ca.pem")
        i = self.azure.identity
        variables = {
            "HTTPS_PROXY": proxy,
            "HTTP_PROXY": proxy,
            "NO_PROXY": "127.0.0.1,localhost",
            # For requests, and for clients that use Python's ssl module (aiohttp, urllib, pandas). Both replace the public authorities, so
            # that a client that bypasses the proxy can't send its credentials to a real host.
            "REQUESTS_CA_BUNDLE": authority,
            "SSL_CERT_FILE": authority,
            "AZURE_TENANT_ID": i.tenant,
            "AZURE_CLIENT_ID": i.client,
            "AZURE_CLIENT_SECRET": i.client_secret,
            "AZURE_SUBSCRIPTION_ID": i.subscription,
            "AZUREML_RESOURCE_GROUP": i.group,
            "AZUREML_WORKSPACE": i.workspace,
        }
        # Clients prefer the lower-case variable if both are set.
        return variables | {name.lower(): variables[name] for name in ("HTTPS_PROXY", "HTTP_PROXY", "NO_PROXY")}
