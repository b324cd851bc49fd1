"""Fixtures of several folders: the emulator, and a workspace session that uses it."""

from __future__ import annotations

import gc
import os
import signal
import warnings
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
def settings(tmp_path: Path) -> Callable[..., Config]:
    """Load the settings of a target ``test``: ``settings('''TOML of the target's tables''', "key=value")``."""

    def make(toml: str = "", *overrides: str, environment: dict[str, str] | None = None) -> Config:
        path = tmp_path / "pipeline.toml"
        path.write_text("[targets.test]\n" + toml)
        return load(path, "test", overrides, os.environ if environment is None else environment)

    return make


@pytest.fixture
def open_workspace() -> Iterator[Callable[[Config], Workspace]]:
    """Open workspaces as the stages do. Third-party warnings don't fail our tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield Workspace.open


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


SLOW = (
    "chaos", "cli/test_resume.py", "cli/test_rollback.py", "cloud/evaluation", "cloud/test_endpoints.py", "cloud/test_jobs.py",
    "emulator/component", "emulator/history", "emulator/jobs", "emulator/registry/test_weights.py", "emulator/serving",
    "emulator/test_main.py", "emulator/test_tutorial.py", "github/test_override.py", "judging/selftest",
    "judging/statistics", "judging/test_properties.py", "live", "remote/test_likelihood.py",
    "remote/test_main.py", "report/test_explain.py",
    "test_add_a_metric.py", "test_gate.py", "test_main.py", "test_pipeline.py", "test_promote.py", "test_register.py", "test_roles.py",
    "test_scenarios.py", "test_train.py", "test_validate.py", "workflows",
)  # fmt: skip
"""Folders and files whose tests train, serve, score, simulate or start processes at length; single tests have the marker."""
LONGEST = (
    "test_pipeline.py", "test_push.py", "test_promote.py", "test_scenarios.py", "test_pull_request.py", "test_main.py", "test_gate.py",
    "test_chaos.py", "test_evaluate.py", "test_init.py", "test_fork.py", "test_override.py", "test_evaluation.py", "test_properties.py",
    "test_probes.py", "test_prepare.py", "test_training.py", "test_component_process.py", "test_champion.py", "test_tutorial.py",
)  # fmt: skip
"""Files that take the longest, which start first."""


def pytest_configure() -> None:
    # How long an example takes depends on what else the machine does.
    hypothesis.settings.register_profile("project", deadline=None)
    hypothesis.settings.load_profile("project")
    # Python looks for garbage after 700 new objects, which takes a tenth of the time of tests with large libraries.
    gc.set_threshold(50_000)
    # A shell that starts the tests in the background has them ignore SIGINT, and their children would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes stay out of the tests' names: what a compressor or a clock puts there differs among the workers, which then refuse to start."""
    return argname if isinstance(val, bytes) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    slow = [here / path for path in SLOW]
    for item in items:
        if any(item.path.is_relative_to(path) for path in slow):
            item.add_marker(pytest.mark.slow)
    # A worker that begins with a long file at the end of the run would leave the others without work.
    items.sort(key=lambda item: LONGEST.index(item.path.name) if item.path.name in LONGEST else len(LONGEST))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--write-docs", action="store_true", help="rewrite the generated parts of the documents")
