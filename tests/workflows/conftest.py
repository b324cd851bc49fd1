"""An emulated Azure and GitHub for each test module, and a repository on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mlops.emulator.cloud import Options
from mlops.emulator.server import Emulator
from tests.workflows.harness import REPOSITORY, Harness

TRUSTED = tuple(f"repo:{REPOSITORY}:environment:{name}" for name in ("train", "prod", "pr"))
"""The federated credentials that docs/workflows.md tells to create: no branch and no bare pull request is trusted."""


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Emulator]:
    """Azure and GitHub."""
    options = Options(weights="tiny-llama", github=REPOSITORY, federated_subjects=TRUSTED)
    with Emulator(tmp_path_factory.mktemp("emulator"), options) as running:
        yield running


@pytest.fixture(scope="module")
def repository(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory) -> Harness:
    """This project's own workflows, in a repository with Azure variables."""
    return Harness(emulator, tmp_path_factory.mktemp("repository"))
