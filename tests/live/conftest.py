"""The workspace of these tests: a real one if ``MLOPS_LIVE`` is set, otherwise the emulator, so that they can't rot.

``MLOPS_LIVE=free`` runs those that cost nothing, ``MLOPS_LIVE=paid`` all. Sign-in and workspace come from the variables of docs/azure.md.
"""

from __future__ import annotations

import os
import uuid
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from mlops.cloud.workspace import Workspace
from mlops.core.config import load
from tests.support.live import LiveProject

LIVE = os.environ.get("MLOPS_LIVE", "")


@pytest.fixture(scope="session")
def project(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveProject]:
    """A project folder in front of the workspace. What the tests create there is deleted at the end, whatever happens."""
    if LIVE not in ("", "free", "paid"):
        raise pytest.UsageError(f"MLOPS_LIVE={LIVE} is neither 'free' nor 'paid'; unset it to use the emulator")
    project = LiveProject(tmp_path_factory.mktemp("live"), f"mlops-live-{uuid.uuid4().hex[:8]}")
    if LIVE:
        with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
            warnings.simplefilter("default")
            patch.chdir(project.folder)
            yield project
            project.clean_up()
        return
    # Only the emulator's environment has what it imports.
    from tests.support.project import client_of

    with client_of(request.getfixturevalue("shared_emulator"), project.folder):
        yield project
        project.clean_up()


@pytest.fixture
def workspace(project: LiveProject) -> Workspace:
    """The workspace as the stages see it."""
    return Workspace.open(load(Path("pipeline.toml"), "live"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out what costs money unless that is requested."""
    if LIVE == "free":
        for item in items:
            if item.get_closest_marker("paid"):
                item.add_marker(pytest.mark.skip(reason="costs money; set MLOPS_LIVE=paid"))
