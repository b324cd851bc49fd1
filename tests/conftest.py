"""Fixtures of several folders, and the order of the tests. Those that use the emulator are in support/emulators.py."""

from __future__ import annotations

import gc
import inspect
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops.cloud.workspace import Workspace
from mlops.core.config import load
from mlops.core.settings import Config

# The tests of a real workspace run where requirements/azure.lock is installed, which lacks what the emulator needs.
pytest_plugins = () if os.environ.get("MLOPS_LIVE") else ("tests.support.emulators",)


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


SLOW = (
    "chaos", "cli/test_resume.py", "cli/test_rollback.py", "cli/test_scheduled_role.py", "cloud/evaluation", "cloud/test_endpoints.py",
    "cloud/test_jobs.py", "cloud/test_traffic.py", "emulator/component", "emulator/history", "emulator/jobs",
    "emulator/registry/test_weights.py", "emulator/serving", "emulator/test_main.py", "emulator/test_tutorial.py",
    "github/test_override.py", "judging/selftest", "judging/statistics", "judging/test_properties.py", "live", "remote/test_likelihood.py",
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


def stack_without_source(context: int = 0) -> list[inspect.FrameInfo]:
    """``inspect.stack`` without source lines: azure-ai-ml calls it for each experimental object, and only needs the functions' names."""
    frames = (frame for frame, _ in traceback.walk_stack(sys._getframe(1)))
    return [inspect.FrameInfo(frame, frame.f_code.co_filename, frame.f_lineno, frame.f_code.co_name, None, None) for frame in frames]


def pytest_configure() -> None:
    # Python looks for garbage after 700 new objects, which takes a tenth of the time of tests with large libraries.
    gc.set_threshold(50_000)
    pytest.MonkeyPatch().setattr(inspect, "stack", stack_without_source)
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
