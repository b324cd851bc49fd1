"""An emulator for each test module, and the environment in which the real SDK finds it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from mlops.emulator.base.azure import Options
from mlops.emulator.server import Emulator


@pytest.fixture(scope="session")
def weights_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny stand-in weights are made once for all tests of this process."""
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="module")
def options(weights_cache: Path) -> Options:
    """What the module's emulator is started with; a module may override it."""
    return Options(weights="tiny-llama", cache=weights_cache)


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory, options: Options) -> Iterator[Emulator]:
    """A running emulator."""
    with Emulator(tmp_path_factory.mktemp("emulator"), options) as running:
        yield running


@pytest.fixture
def environment(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, str]:
    """The variables that lead every client of this process to the emulator, set."""
    for name in ("ALL_PROXY", "all_proxy", "CURL_CA_BUNDLE", "AZURE_TOKEN_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    return emulator.environment()


@pytest.fixture
def credential(environment: Mapping[str, str]) -> Iterator[Any]:
    """As the tutorial signs in."""
    from azure.identity import DefaultAzureCredential

    with DefaultAzureCredential() as found:
        yield found


@pytest.fixture
def ml(environment: Mapping[str, str], credential: Any) -> Any:
    """A client of the workspace."""
    from azure.ai.ml import MLClient

    names = ("AZURE_SUBSCRIPTION_ID", "AZUREML_RESOURCE_GROUP", "AZUREML_WORKSPACE")
    return MLClient(credential, *(environment[name] for name in names))


@pytest.fixture
def azureml(credential: Any) -> Any:
    """A client of the registry."""
    from azure.ai.ml import MLClient

    return MLClient(credential, registry_name="azureml")
