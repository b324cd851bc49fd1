"""Fixtures of several folders: the emulator, and a workspace session that uses it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import hypothesis
import pytest

from mlops.cloud.workspace import Workspace
from mlops.core.config import load
from mlops.core.settings import Config
from mlops.emulator.base.azure import Options
from mlops.emulator.base.faults import Faults
from mlops.emulator.base.fork_servers import ForkServers
from mlops.emulator.server import Emulator
from tests.support.deployments import model_job
from tests.support.project import client_of, enter


def pytest_configure() -> None:
    # How long an example takes depends on what else the machine does.
    hypothesis.settings.register_profile("project", deadline=None)
    hypothesis.settings.load_profile("project")


@pytest.fixture(scope="session")
def weights_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny stand-in weights, which are made once for all worker processes."""
    base = tmp_path_factory.getbasetemp()
    return (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "weights"


@pytest.fixture(scope="session")
def fork_servers(weights_cache: Path) -> Iterator[ForkServers]:
    """What the emulators of all tests share, in all worker processes: processes that have imported torch, transformers and MLflow."""
    weights_cache.mkdir(parents=True, exist_ok=True)
    servers = ForkServers(weights_cache)
    yield servers
    servers.stop()


@pytest.fixture(scope="session")
def shared_emulator(tmp_path_factory: pytest.TempPathFactory, weights_cache: Path, fork_servers: ForkServers) -> Iterator[Emulator]:
    """One emulator for all tests that don't disturb each other."""
    options = Options(weights="tiny-llama", cache=weights_cache)
    with Emulator(tmp_path_factory.mktemp("azure"), options, fork_servers=fork_servers) as running:
        yield running


@pytest.fixture
def inside(shared_emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Emulator:
    """The shared emulator, with this process as its client."""
    enter(shared_emulator, monkeypatch)
    return shared_emulator


@pytest.fixture
def fault(inside: Emulator) -> Iterator[Callable[[str], None]]:
    """Order a fault from the shared emulator. It must have occurred when the test ends, or the test proves nothing."""
    yield inside.azure.faults.add
    assert inside.azure.faults.pending() == []


@pytest.fixture
def start_emulator(
    tmp_path_factory: pytest.TempPathFactory, weights_cache: Path, fork_servers: ForkServers, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[..., Emulator]]:
    """Start a separate emulator: ``start_emulator(*faults, catalog=...)``. This process becomes its client."""
    with ExitStack() as stack:

        def start(*faults: str, **options: Any) -> Emulator:
            chosen = Options(**{"weights": "tiny-llama", "cache": weights_cache, **options})
            folder = tmp_path_factory.mktemp("emulator")
            emulator = stack.enter_context(Emulator(folder, chosen, Faults(faults), fork_servers=fork_servers))
            enter(emulator, monkeypatch)
            return emulator

        yield start


@pytest.fixture
def workspace(inside: Emulator, settings: Callable[..., Config], open_workspace: Callable[[Config], Workspace]) -> Workspace:
    """The shared emulator's workspace."""
    return open_workspace(settings())


@pytest.fixture(scope="session")
def trained_job(shared_emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Completed job of the shared emulator with a servable model in its output."""
    folder = tmp_path_factory.mktemp("job")
    with client_of(shared_emulator, folder):
        (folder / "pipeline.toml").write_text("[targets.test]\n")
        return model_job(Workspace.open(load(folder / "pipeline.toml", "test")), folder / "code")
