"""An emulator for each test module, and the environment that leads the real SDK to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mlops.emulator.base.azure import Options
from mlops.emulator.base.fork_servers import ForkServers
from mlops.emulator.server import Emulator
from tests.support.project import enter


@pytest.fixture(scope="module")
def options(weights_cache: Path) -> Options:
    """The options of the module's emulator; a module may override them."""
    return Options(weights="tiny-llama", cache=weights_cache)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory, options: Options, fork_servers: ForkServers) -> Iterator[Emulator]:
    """A running emulator."""
    with Emulator(tmp_path_factory.mktemp("emulator"), options, fork_servers=fork_servers) as running:
        yield running


@pytest.fixture
def environment(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """Make this process a client of the emulator, and return the variables that do so."""
    enter(emulator, monkeypatch)
    return emulator.environment()


@pytest.fixture
def credential(environment: Mapping[str, str]) -> Iterator[Any]:
    """The credential that the tutorial uses."""
    from azure.identity import DefaultAzureCredential

    with DefaultAzureCredential() as default:
        yield default


@pytest.fixture
def ml(environment: Mapping[str, str], credential: Any) -> Any:
    """An SDK client of the workspace."""
    from azure.ai.ml import MLClient

    names = ("AZURE_SUBSCRIPTION_ID", "AZUREML_RESOURCE_GROUP", "AZUREML_WORKSPACE")
    return MLClient(credential, *(environment[name] for name in names))


@pytest.fixture
def azureml(credential: Any) -> Any:
    """An SDK client of the registry."""
    from azure.ai.ml import MLClient

    return MLClient(credential, registry_name="azureml")


@pytest.fixture
def mlflow_client(emulator: Emulator, environment: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A client of the workspace's tracking URI, which is also that of the registry."""
    monkeypatch.setenv("MLFLOW_DISABLE_TELEMETRY", "true")
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    import mlflow
    from mlflow import MlflowClient

    mlflow.set_tracking_uri(emulator.azure.tracking_uri)  # azureml-mlflow's artifact client reads the global URI
    yield MlflowClient()
    mlflow.set_tracking_uri(None)  # "" would hide MLFLOW_TRACKING_URI from later tests
