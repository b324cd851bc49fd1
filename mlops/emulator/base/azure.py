"""The one subscription, resource group and workspace that the emulator stands for, and what all resources share."""

from __future__ import annotations

import dataclasses
import secrets
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from mlops.emulator.base.children import Children
from mlops.emulator.base.store import Store

if TYPE_CHECKING:
    from mlops.emulator.base.faults import Faults

__all__ = ["LOCATION", "Azure", "Identity", "Options", "arm_id"]

LOCATION = "eastus"
"""The SDK's registry discovery goes to eastus whatever the workspace's region is, so this is the one region there is."""

API_HOST = f"{LOCATION}.api.azureml.ms"
BLOB_SUFFIX = "blob.core.windows.net"
SCORING_SUFFIX = f"{LOCATION}.inference.ml.azure.com"


@dataclasses.dataclass(frozen=True)
class Identity:
    """Names and secrets of the emulated subscription; random where Azure's are, kept across restarts."""

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
    def remembered(cls, store: Store) -> Identity:
        """The one in the store; made at the first start."""
        known = store.get("identity", "self")
        if known is None:
            known = store.put(
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
        return cls(**known)


@dataclasses.dataclass(frozen=True)
class Options:
    """What the command line says.

    Args:
        catalog: what the ``azureml`` registry holds, ``tutorial`` or ``current``.
        weights: which stand-in weights its models have, ``real`` (SmolLM2-135M-Instruct), ``tiny-llama`` or ``tiny-phi3``.
        polls: how many status reads a long-running operation stays ``InProgress`` after its work is done.
        cache: where converted weights are kept between emulators.
        github: the repository (``owner/name``) if GitHub is emulated beside Azure; empty if not.
        federated_subjects: subjects of GitHub's tokens that the application trusts.
        immutable_subjects: whether GitHub's subjects carry ids, as in repositories made since July 2026.
    """

    catalog: str = "tutorial"
    weights: str = "real"
    polls: int = 0
    cache: Path = Path.home() / ".cache" / "azureml-chat-mlops"
    github: str = ""
    federated_subjects: tuple[str, ...] = ()
    immutable_subjects: bool = False


@dataclasses.dataclass
class Azure:
    """State that outlives a request. Handlers get it as their first argument."""

    state: Path
    store: Store
    identity: Identity
    options: Options
    faults: Faults
    children: Children
    environment: Mapping[str, str] = dataclasses.field(default_factory=dict)
    """What a child process (a job, a container) must have set to reach the emulator as Azure; known once the server listens."""

    @property
    def workspace_id(self) -> str:
        """ARM id of the workspace."""
        i = self.identity
        return (
            f"/subscriptions/{i.subscription}/resourceGroups/{i.group}/providers/Microsoft.MachineLearningServices/workspaces/{i.workspace}"
        )

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking URI, as the workspace tells it."""
        return f"azureml://{API_HOST}/mlflow/v1.0{self.workspace_id}"

    def folder(self, *parts: str) -> Path:
        """A folder under the state folder, made if missing."""
        path = self.state.joinpath(*parts)
        path.mkdir(parents=True, exist_ok=True)
        return path


def arm_id(azure: Azure, *parts: str) -> str:
    """ARM id of something in the workspace, e.g. ``arm_id(azure, "jobs", name)``."""
    return "/".join((azure.workspace_id, *parts))
