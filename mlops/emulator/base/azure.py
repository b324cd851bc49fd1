"""The emulated subscription with its one resource group and workspace, and the state that all services share."""

from __future__ import annotations

import asyncio
import dataclasses
import secrets
import threading
import uuid
from collections.abc import Coroutine, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mlops.emulator.base.children import Children
from mlops.emulator.base.faults import Faults
from mlops.emulator.base.store import Store

__all__ = ["LOCATION", "Azure", "Identity", "Options", "Services", "arm_id", "object_id"]

T = TypeVar("T")

LOCATION = "eastus"
"""The only emulated region: the SDK's registry discovery goes to eastus, whatever the workspace's region is."""

API_HOST = f"{LOCATION}.api.azureml.ms"
BLOB_SUFFIX = "blob.core.windows.net"
SCORING_SUFFIX = f"{LOCATION}.inference.ml.azure.com"


@dataclasses.dataclass(frozen=True)
class Identity:
    """Names and secrets of the emulated subscription. Random where Azure's are, and the same after a restart."""

    tenant: str
    client: str
    client_secret: str
    subscription: str
    group: str
    workspace: str
    workspace_guid: str
    account: str
    account_key: str
    """Signs shared access signatures."""
    token_key: str
    """Signs access tokens."""

    @classmethod
    def load_or_create(cls, store: Store) -> Identity:
        """Return the identity in the store, creating it at the first start."""
        document = store.get("identity", "self")
        if document is None:
            document = store.put(
                "identity",
                "self",
                {
                    "tenant": str(uuid.uuid4()),
                    "client": str(uuid.uuid4()),
                    "client_secret": secrets.token_urlsafe(30),
                    "subscription": str(uuid.uuid4()),
                    "group": "rg-emulator",
                    "workspace": "ws-emulator",
                    "workspace_guid": str(uuid.uuid4()),
                    "account": "emulator" + secrets.token_hex(6),
                    "account_key": secrets.token_hex(32),
                    "token_key": secrets.token_hex(32),
                },
            )
        return cls(**document)


@dataclasses.dataclass(frozen=True)
class Options:
    """Settings from the command line.

    Args:
        catalog: content of the ``azureml`` registry, ``current`` or ``tutorial``.
        weights: stand-in weights of its models, ``real`` (SmolLM2-135M-Instruct), ``tiny-llama``, ``tiny-phi3`` or ``tiny-phi4``.
        answer_shape: shape in which the serving images return the texts of a chat model, a name in ``serving/container/shapes.py``.
        storage: ``keys``, or ``identity`` for a workspace whose storage account has its keys disabled.
        network: ``public``; ``private`` for a workspace without public network access, whose clients are in its virtual network;
            ``private-outside`` for one whose clients are not.
        managed_network: whether a private workspace has a managed virtual network.
        endpoints_taken: names of endpoints that other users of the region have.
        quota: name of a VM family, ``TotalDedicatedCores`` or ``TotalLowPriorityCores`` → limit in cores; unlimited if missing.
        polls: number of status reads for which a long-running operation stays ``InProgress`` after its work is done.
        cache: folder for files that emulators share, such as converted weights.
        github: the repository (``owner/name``) whose GitHub is emulated as well; empty for Azure only.
        federated_subjects: subjects of GitHub's tokens that the application trusts.
        immutable_subjects: whether GitHub's subjects contain ids, as in repositories created since July 2026.
        mlflow_at_start: whether the MLflow server starts with the emulator, so that a browser can open its page; otherwise it starts at the
            first request that needs it.
        roles: file with the roles of the application (:mod:`mlops.emulator.identity.roles`); None for all permissions.
    """

    catalog: str = "current"
    weights: str = "real"
    answer_shape: str = "output"
    storage: str = "keys"
    network: str = "public"
    managed_network: bool = True
    endpoints_taken: tuple[str, ...] = ()
    quota: Mapping[str, int] = dataclasses.field(default_factory=dict)
    polls: int = 0
    cache: Path = Path.home() / ".cache" / "azureml-chat-mlops"
    github: str = ""
    federated_subjects: tuple[str, ...] = ()
    immutable_subjects: bool = False
    mlflow_at_start: bool = False
    roles: Path | None = None

    @property
    def is_private(self) -> bool:
        """Whether the workspace has no public network access."""
        return self.network != "public"

    @property
    def is_outside(self) -> bool:
        """Whether clients are outside the virtual network of a workspace without public network access."""
        return self.network == "private-outside"


class Services:
    """The in-memory state of each service, one object per class.

    State that must survive a restart goes into the store; everything else a service keeps between requests (running tasks, started
    servers, locks) is an attribute of a small class in the module that owns it, never a module global::

        class Queues:
            def __init__(self) -> None:
                self.by_compute: dict[str, list[str]] = {}


        queues = azure.services.get(Queues)  # the same object every time

    The class takes no arguments. Its object lives as long as this emulator does, so two emulators in one process share nothing.
    Safe to use from several threads.
    """

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._states: dict[type[Any], Any] = {}

    def get(self, state: type[T]) -> T:
        """Return this emulator's object of the class ``state``, creating it on first use."""
        with self._lock:
            if state not in self._states:
                self._states[state] = state()
            instance: T = self._states[state]
            return instance


@dataclasses.dataclass
class Azure:
    """The emulated subscription: everything that outlives a request. Handlers take it as their first argument.

    Module globals hold constants only. For in-memory state of a service see :class:`Services`, for background work :meth:`start_task`.
    """

    state: Path
    store: Store
    identity: Identity
    options: Options
    faults: Faults
    children: Children
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """Variables that a child process (a job, a container) needs to reach the emulator as Azure; empty until the server listens."""
    services: Services = dataclasses.field(default_factory=Services)
    """In-memory state of the services."""
    caller: str = ""
    """Object id of the service principal whose request is being handled; empty for the emulator's own actions."""
    _tasks: set[asyncio.Task[Any]] = dataclasses.field(default_factory=set)

    @property
    def author(self) -> str:
        """``createdBy`` and ``lastModifiedBy`` of ``systemData``: the object id of a service principal. Clients can't set it."""
        return self.caller or object_id(self.identity.client)

    @property
    def workspace_id(self) -> str:
        """The workspace's ARM id."""
        i = self.identity
        return (
            f"/subscriptions/{i.subscription}/resourceGroups/{i.group}/providers/Microsoft.MachineLearningServices/workspaces/{i.workspace}"
        )

    @property
    def tracking_uri(self) -> str:
        """The workspace's MLflow tracking URI."""
        return f"azureml://{API_HOST}/mlflow/v1.0{self.workspace_id}"

    def start_task(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run ``work`` in the background. It is canceled when the emulator stops."""
        task = asyncio.create_task(work)
        self._tasks.add(task)  # asyncio itself holds only weak references to tasks
        task.add_done_callback(self._tasks.discard)
        return task

    def folder(self, *parts: str) -> Path:
        """Return a folder under the state folder, creating it if necessary."""
        path = self.state.joinpath(*parts)
        if not path.is_dir():
            path.mkdir(parents=True, exist_ok=True)
        return path


def object_id(client: str) -> str:
    """Return the object id of the service principal of an application (its client id)."""
    return str(uuid.uuid5(uuid.NAMESPACE_URL, f"service-principal/{client}"))


def arm_id(azure: Azure, *parts: str) -> str:
    """Return the ARM id of a resource in the workspace, e.g. ``arm_id(azure, "jobs", name)``."""
    return "/".join((azure.workspace_id, *parts))
