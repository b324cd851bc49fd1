"""The session with one Azure ML workspace: who we are, where we are, and what can be asked for."""

from __future__ import annotations

import getpass
import logging
import os
import socket
import sys
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlops.cloud.credential import checked_credential
from mlops.cloud.errors import translated
from mlops.cloud.tags import MARK, OWNER, PIPELINE, RUN, TARGET
from mlops.core.config import COORDINATES, Config
from mlops.core.errors import ConfigError, NotPromoted

if TYPE_CHECKING:
    from mlops.cloud.assets import Assets
    from mlops.cloud.compute import Computes
    from mlops.cloud.endpoints import Endpoints
    from mlops.cloud.jobs import Jobs
    from mlops.cloud.run_history import History
    from mlops.cloud.tracking import Tracking

__all__ = ["Workspace"]


class Workspace:
    """What the stages ask of Azure. Opened with :meth:`open`; the clients are built when they are first used.

    Attributes:
        config: the settings of this target.
        tags: put on everything that we create.
        credential: an ``azure.core.credentials.TokenCredential``.
    """

    def __init__(self, config: Config, credential: Any, coordinates: Mapping[str, str]) -> None:
        self.config = config
        self.credential = credential
        self.coordinates = dict(coordinates)
        self.tags = {**config.tags, PIPELINE: MARK, TARGET: config.target, OWNER: _owner(), RUN: _run()}

    @classmethod
    def open(cls, config: Config) -> Workspace:
        """Find the workspace and get a token.

        Coordinates come from ``config.workspace``, else from config.json as the SDK finds it (here, in ``.azureml/``, or above).

        Raises:
            ConfigError: the workspace's coordinates are nowhere.
            CredentialError: nothing gives a token.
        """
        _quieten()
        coordinates = _coordinates(config)
        return cls(config, checked_credential(), coordinates)

    @cached_property
    def ml(self) -> Any:
        """The SDK's client for the workspace (``azure.ai.ml.MLClient``)."""
        at = self.coordinates
        return self._client(subscription_id=at["subscription_id"], resource_group_name=at["resource_group"], workspace_name=at["name"])

    def registry(self, name: str) -> Any:
        """The SDK's client for a registry, e.g. ``azureml``."""
        if name not in self._registries:
            with translated(f"looking up registry {name}", "check model.registry in pipeline.toml"):
                self._registries[name] = self._client(registry_name=name)
        return self._registries[name]

    def _client(self, **where: str) -> Any:
        from azure.ai.ml import MLClient
        from azure.ai.ml._utils._azureml_polling import AzureMLPolling
        from azure.mgmt.core.polling.arm_polling import ARMPolling

        # The SDK prints a dot per look at a long-running operation; we say more than that ourselves.
        AzureMLPolling.update_status = ARMPolling.update_status
        client = MLClient(self.credential, **where, enable_telemetry=False, show_progress=sys.stdout.isatty())
        # Building a client sets its loggers to talk.
        _quieten()
        return client

    @cached_property
    def _registries(self) -> dict[str, Any]:
        return {}

    @cached_property
    def entity(self) -> Any:
        """The workspace itself (``azure.ai.ml.entities.Workspace``): location, tracking URI, discovery URL."""
        name = self.coordinates["name"]
        with translated(f"looking up workspace {name}", f"check {', '.join(COORDINATES.values())}"):
            return self.ml.workspaces.get(name)

    @property
    def location(self) -> str:
        """The workspace's region, e.g. ``eastus``."""
        return str(self.entity.location)

    @property
    def tracking_uri(self) -> str:
        """MLflow tracking URI, ``azureml://{host}/mlflow/v1.0/subscriptions/…``."""
        return str(self.entity.mlflow_tracking_uri)

    @property
    def arm_id(self) -> str:
        """``/subscriptions/…/resourceGroups/…/providers/Microsoft.MachineLearningServices/workspaces/…``."""
        at = self.coordinates
        return (
            f"/subscriptions/{at['subscription_id']}/resourceGroups/{at['resource_group']}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{at['name']}"
        )

    @cached_property
    def jobs(self) -> Jobs:
        """Submit, watch, cancel; metrics and outputs."""
        from mlops.cloud.jobs import Jobs

        return Jobs(self)

    @cached_property
    def history(self) -> History:
        """Run history: details, children, logs."""
        from mlops.cloud.run_history import History

        return History(self)

    @cached_property
    def tracking(self) -> Tracking:
        """MLflow."""
        from mlops.cloud.tracking import Tracking

        return Tracking(self)

    @cached_property
    def compute(self) -> Computes:
        """Clusters and VM sizes."""
        from mlops.cloud.compute import Computes

        return Computes(self)

    @cached_property
    def assets(self) -> Assets:
        """Base models, components, registered models."""
        from mlops.cloud.assets import Assets

        return Assets(self)

    @cached_property
    def endpoints(self) -> Endpoints:
        """Endpoints, deployments, traffic, scoring."""
        from mlops.cloud.endpoints import Endpoints

        return Endpoints(self)

    def ours(self, tags: Mapping[str, str] | None) -> bool:
        """Whether something with these tags was made by this pipeline for this target."""
        return tags is not None and tags.get(PIPELINE) == MARK and tags.get(TARGET) == self.config.target

    def check_endpoint(self, name: str, tags: Mapping[str, str]) -> None:
        """Refuse to touch the traffic of an endpoint that is another target's, which may have reviewers that this one has not.

        A target that stays may take over an endpoint that somebody made by hand; one that is ephemeral works on what it has made only.

        Raises:
            NotPromoted: it is not this target's.
        """
        made_for = tags.get(TARGET, "nobody") if tags.get(PIPELINE) == MARK else ""
        if made_for != self.config.target and (made_for or self.config.endpoint.ephemeral):
            raise NotPromoted(
                f"Endpoint {name} was made {f'for target {made_for}' if made_for else 'by somebody else'}, and this is target "
                f"{self.config.target}{', which is ephemeral' if self.config.endpoint.ephemeral else ''}.",
                "set endpoint.name to one of its own",
            )

    def ours_now(self, tags: Mapping[str, str] | None) -> bool:
        """Whether it was made by this very run of the pipeline."""
        return tags is not None and self.ours(tags) and all(tags.get(key) == self.tags[key] for key in (OWNER, RUN))


def _coordinates(config: Config) -> dict[str, str]:
    given = config.workspace.model_dump()
    if all(given.values()):
        return given
    missing = [COORDINATES[key] for key, value in given.items() if not value]
    if any(given.values()):
        raise ConfigError(f"Which workspace? {', '.join(missing)} not set, the other coordinates are.", f"set {', '.join(missing)}")

    from azure.ai.ml import MLClient

    try:
        # The credential is not used for reading the file; the SDK only wants to have one.
        client = MLClient.from_config(_NoCredential())
    except Exception as problem:
        raise ConfigError(
            f"Which workspace? Neither {', '.join(missing)} nor a config.json (here, in .azureml/ or in a folder above) says so.",
            f"set {', '.join(missing)}, or download config.json from the workspace's page in the Azure portal",
        ) from problem
    return {
        "subscription_id": str(client.subscription_id),
        "resource_group": str(client.resource_group_name),
        "name": str(client.workspace_name),
    }


class _NoCredential:
    def get_token(self, *_scopes: str, **_options: Any) -> Any:
        raise NotImplementedError


def _owner() -> str:
    return os.environ.get("GITHUB_ACTOR") or getpass.getuser()


def _run() -> str:
    if run := os.environ.get("GITHUB_RUN_ID"):
        return f"{os.environ.get('GITHUB_REPOSITORY', '')}/{run}"
    return f"{socket.gethostname()}:{Path.cwd()}"


def _quieten() -> None:
    """Keep what the libraries say about themselves (experimental classes, retries that go on, dots) out of the user's sight."""
    for name in ("azure", "azure.ai.ml", "azureml", "msrest", "mlflow", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("azure", "azureml", "mlflow", "marshmallow", "pydantic"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
