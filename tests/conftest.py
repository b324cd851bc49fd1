"""What tests of several folders need: the emulator, and a workspace session inside it."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from mlops.cloud.workspace import Workspace
from mlops.core.config import Config, load
from mlops.emulator.base.azure import Options
from mlops.emulator.base.faults import Faults
from mlops.emulator.server import Emulator


@pytest.fixture(scope="session")
def weights_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where tiny stand-in weights are made once for all tests of this process."""
    return tmp_path_factory.mktemp("weights")


@pytest.fixture(scope="session")
def azure(tmp_path_factory: pytest.TempPathFactory, weights_cache: Path) -> Iterator[Emulator]:
    """One emulator for all tests that leave each other's things alone."""
    with Emulator(tmp_path_factory.mktemp("azure"), Options(weights="tiny-llama", cache=weights_cache)) as running:
        yield running


@pytest.fixture
def inside(shared_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The common emulator, with this process as its client."""
    _enter(shared_emulator, monkeypatch)
    return shared_emulator


@pytest.fixture
def fault(inside: Emulator) -> Iterator[Callable[[str], None]]:
    """Order a fault from the common emulator. It must have happened when the test ends, or the test has shown nothing."""
    yield inside.azure.faults.order
    assert inside.azure.faults.pending() == []


@pytest.fixture
def start_emulator(
    tmp_path_factory: pytest.TempPathFactory, weights_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Emulator]]:
    """Start an emulator of one's own: ``start_emulator(*faults, catalog=...)``. This process becomes its client."""
    with ExitStack() as stack:

        def start(*faults: str, **options: Any) -> Emulator:
            given = Options(**{"weights": "tiny-llama", "cache": weights_cache, **options})
            emulator = stack.enter_context(Emulator(tmp_path_factory.mktemp("emulator"), given, Faults(faults)))
            _enter(emulator, monkeypatch)
            return emulator

        yield start


@pytest.fixture
def settings(tmp_path: Path) -> Callable[..., Config]:
    """Settings of a target ``test``: ``settings('''TOML of the target's tables''', "key=value")``."""

    def make(toml: str = "", *overrides: str, environment: dict[str, str] | None = None) -> Config:
        path = tmp_path / "pipeline.toml"
        path.write_text("[targets.test]\n" + toml)
        return load(path, "test", overrides, os.environ if environment is None else environment)

    return make


@pytest.fixture
def open_workspace() -> Iterator[Callable[[Config], Workspace]]:
    """Open sessions as the stages do. What third parties warn about is not for our tests to fail on."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield Workspace.open


@pytest.fixture
def workspace(inside: Emulator, settings: Callable[..., Config], open_workspace: Callable[[Config], Workspace]) -> Workspace:
    """A session with the common emulator's workspace."""
    return open_workspace(settings())


def _enter(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ALL_PROXY", "all_proxy", "CURL_CA_BUNDLE", "AZURE_TOKEN_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def trained_job(shared_emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Completed job of the common emulator with a servable model in its output."""
    from tests.support.deployments import model_job

    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("default")
        _enter(shared_emulator, patch)
        folder = tmp_path_factory.mktemp("job")
        (folder / "pipeline.toml").write_text("[targets.test]\n")
        return model_job(Workspace.open(load(folder / "pipeline.toml", "test")), folder / "code")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-docs", action="store_true", help="bring the generated parts of the documents up to date")
