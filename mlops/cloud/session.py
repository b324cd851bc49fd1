"""The connection to an Azure ML workspace: credential, coordinates, SDK clients, and the tags for everything that we create."""

from __future__ import annotations

import logging
import os
import re
import socket
import sys
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mlops.cloud.creators import creator_of_token
from mlops.cloud.credential import MANAGEMENT_SCOPE, sign_in
from mlops.cloud.errors import translate_errors
from mlops.cloud.rest import Rest
from mlops.cloud.retries import use_safe_retries
from mlops.cloud.tags import MARK, OWNER, PIPELINE, RUN, TARGET, fit
from mlops.core.errors import ConfigError
from mlops.core.settings import COORDINATES, Config
from mlops.core.user import current_user
from mlops.github.oidc import decode_claims

__all__ = ["Session"]


_NAME, _LOGIN = r"azure_?(public_?)?cloud", r"(https://)?login\.microsoftonline\.com/?"
PUBLIC_CLOUD = {
    "AZURE_CLOUD": _NAME,
    "AZUREML_CURRENT_CLOUD": _NAME,
    "AZURE_AUTHORITY_HOST": _LOGIN,
    "ARM_CLOUD_METADATA_URL": r"https://management\.azure\.com(/.*)?",
}
"""Environment variable that selects a cloud → pattern of the values that mean the public one."""


class Session:
    """A connection to the workspace. Use :meth:`open`; each SDK client is built when it is first used.

    Attributes:
        config: the target's settings.
        credential: an ``azure.core.credentials.TokenCredential``.
        coordinates: ``subscription_id``, ``resource_group`` and ``name`` of the workspace.
        tags: set on everything that we create.
    """

    def __init__(self, config: Config, credential: Any, coordinates: Mapping[str, str]) -> None:
        self.config = config
        self.credential = credential
        self.coordinates = dict(coordinates)
        self.tags = {**config.tags, PIPELINE: MARK, TARGET: config.target, OWNER: fit(_current_user()), RUN: fit(_current_run())}
        self._registries: dict[str, Any] = {}

    @classmethod
    def open(cls, config: Config) -> Session:
        """Locate the workspace and get a token.

        The coordinates come from ``config.workspace``, or from the config.json that the SDK finds (in the current folder, its
        ``.azureml/``, or a parent).

        Raises:
            ConfigError: the workspace's coordinates are not set anywhere, or the environment selects a sovereign cloud.
            CredentialError: no credential yields a token.
        """
        _silence_libraries()
        _check_cloud()
        coordinates = _read_coordinates(config)
        return cls(config, sign_in(), coordinates)

    @cached_property
    def ml(self) -> Any:
        """The SDK's client for the workspace (``azure.ai.ml.MLClient``)."""
        workspace = self.coordinates
        return self._build_client(
            subscription_id=workspace["subscription_id"], resource_group_name=workspace["resource_group"], workspace_name=workspace["name"]
        )

    def registry(self, name: str) -> Any:
        """Return the SDK's client for a registry, e.g. ``azureml``."""
        if name not in self._registries:
            with translate_errors(f"looking up registry {name}", "check model.registry in pipeline.toml"):
                self._registries[name] = self._build_client(registry_name=name)
        return self._registries[name]

    def _build_client(self, **scope: str) -> Any:
        from azure.ai.ml import MLClient
        from azure.ai.ml._utils._azureml_polling import AzureMLPolling
        from azure.mgmt.core.polling.arm_polling import ARMPolling

        # The SDK prints a dot each time it polls a long-running operation; our own progress messages say more.
        AzureMLPolling.update_status = ARMPolling.update_status
        client = MLClient(self.credential, **scope, enable_telemetry=False, show_progress=sys.stdout.isatty())
        use_safe_retries(client)
        # Building a client raises the log level of its loggers.
        _silence_libraries()
        return client

    @cached_property
    def rest(self) -> Rest:
        """For requests that the SDK has no public method for."""
        return Rest(self.credential)

    def read_arm(self, path: str, api_version: str = "2024-04-01") -> Any:
        """Return the JSON of the workspace in Azure Resource Manager, or of what is at a path below it."""
        return self.rest.get(f"https://management.azure.com{self.arm_id}{path}", **{"api-version": api_version})

    @cached_property
    def entity(self) -> Any:
        """The workspace itself (``azure.ai.ml.entities.Workspace``): location, tracking URI, discovery URL."""
        name = self.coordinates["name"]
        with translate_errors(f"looking up workspace {name}", f"check {', '.join(COORDINATES.values())}"):
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
    def data_plane(self) -> str:
        """The region's data plane, which serves MLflow, run history and the URIs of assets: ``https://{region}.api.azureml.ms``."""
        return f"https://{urlsplit(self.tracking_uri).netloc}"

    @property
    def arm_id(self) -> str:
        """``/subscriptions/…/resourceGroups/…/providers/Microsoft.MachineLearningServices/workspaces/…``."""
        workspace = self.coordinates
        return (
            f"/subscriptions/{workspace['subscription_id']}/resourceGroups/{workspace['resource_group']}"
            f"/providers/Microsoft.MachineLearningServices/workspaces/{workspace['name']}"
        )

    @cached_property
    def creator(self) -> str:
        """What Azure writes as the creator of what we create (see :mod:`mlops.cloud.creators`); empty if our token doesn't say."""
        with translate_errors("signing in to Entra ID"):
            return creator_of_token(decode_claims(self.credential.get_token(MANAGEMENT_SCOPE).token))

    def trusts(self, creator: str) -> bool:
        """Return whether this target may reuse what an identity created.

        An ephemeral target may reuse anything. A permanent one reuses only what its own identity or a configured one created: whoever may
        run pull requests may also submit a job with the run key and the tags that the next push will look for.

        Args:
            creator: as :func:`mlops.cloud.creators.creator_of` returns it.
        """
        if self.config.endpoint.ephemeral:
            return True
        return bool(creator) and (creator == self.creator or creator in map(str.lower, self.config.workspace.trusted_creators))

    def owns(self, tags: Mapping[str, str] | None) -> bool:
        """Return whether this pipeline created a resource with these tags for this target."""
        return tags is not None and tags.get(PIPELINE) == MARK and tags.get(TARGET) == self.config.target

    def is_from_this_run(self, tags: Mapping[str, str] | None) -> bool:
        """Return whether this very run of the pipeline created a resource with these tags."""
        return tags is not None and self.owns(tags) and all(tags.get(key) == self.tags[key] for key in (OWNER, RUN))


def _check_cloud() -> None:
    """Refuse sovereign clouds, whose host names differ from those that the services of this package use."""
    for variable, pattern in PUBLIC_CLOUD.items():
        value = os.environ.get(variable, "")
        if value and not re.fullmatch(pattern, value, re.IGNORECASE):
            raise ConfigError(
                f"{variable} is {value!r}, but only Azure's public cloud is supported. Nothing was sent to Azure.", f"unset {variable}"
            )


def _read_coordinates(config: Config) -> dict[str, str]:
    coordinates = {key: getattr(config.workspace, key) for key in COORDINATES}
    if all(coordinates.values()):
        return coordinates
    missing = ", ".join(COORDINATES[key] for key, value in coordinates.items() if not value)
    if any(coordinates.values()):
        raise ConfigError(f"The workspace is not fully specified: {missing} not set.", f"set {missing}")

    if config.endpoint.workspace_suffix:
        raise ConfigError(
            f"The name of the endpoint depends on the workspace (endpoint.workspace_suffix), but {missing} are not set.",
            f"set {missing}; with only a config.json, set endpoint.workspace_suffix = false in pipeline.toml and choose another name",
        )

    from azure.ai.ml import MLClient

    try:
        # Reading the file needs no credential, but the SDK requires one.
        client = MLClient.from_config(_UnusedCredential())
    except Exception as problem:
        raise ConfigError(
            f"No workspace is specified: {missing} are not set, and neither this folder, its .azureml/ nor a parent has a config.json.",
            f"set {missing}, or download config.json from the workspace's page in the Azure portal",
        ) from problem
    return {
        "subscription_id": str(client.subscription_id),
        "resource_group": str(client.resource_group_name),
        "name": str(client.workspace_name),
    }


class _UnusedCredential:
    def get_token(self, *_scopes: str, **_options: Any) -> Any:
        raise NotImplementedError


def _current_user() -> str:
    return os.environ.get("GITHUB_ACTOR") or current_user()


def _current_run() -> str:
    if run := os.environ.get("GITHUB_RUN_ID"):
        return f"{os.environ.get('GITHUB_REPOSITORY', '')}/{run}"
    return f"{socket.gethostname()}:{Path.cwd()}"


def _silence_libraries() -> None:
    """Hide what the libraries log about themselves: experimental classes, retries, dots."""
    for name in ("azure", "azure.ai.ml", "azureml", "msrest", "mlflow", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    for module in ("azure", "azureml", "mlflow", "marshmallow", "pydantic"):
        warnings.filterwarnings("ignore", module=rf"{module}(\.|$)")
