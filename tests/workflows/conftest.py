"""An emulated Azure and GitHub for each test module, with a repository."""

from __future__ import annotations

import warnings
from collections.abc import Iterator

import pytest

from mlops.cloud.workspace import Workspace
from mlops.core.config import load
from mlops.emulator.base.azure import Options
from mlops.emulator.base.fork_servers import ForkServers
from mlops.emulator.identity import entra, github_oidc
from mlops.emulator.server import Emulator
from tests.support.workflows.harness import PULL_REQUESTS, Harness
from tests.support.workflows.trees import REPOSITORY

TRUSTED = tuple(f"repo:{REPOSITORY}:environment:{name}" for name in ("train", "prod", "gate-override"))
"""The federated credentials of docs/workflows.md: neither a branch nor a pull request is trusted without an environment."""
TRUSTED_PR = f"repo:{REPOSITORY}:environment:pr"
"""The federated credential of the application of pull requests."""


@pytest.fixture(scope="module")
def emulator(tmp_path_factory: pytest.TempPathFactory, fork_servers: ForkServers) -> Iterator[Emulator]:
    """Start Azure and GitHub."""
    options = Options(weights="tiny-llama", github=REPOSITORY, federated_subjects=TRUSTED)
    with Emulator(tmp_path_factory.mktemp("emulator"), options, fork_servers=fork_servers) as running:
        entra.add_application(running.azure, PULL_REQUESTS)
        entra.federate(running.azure, github_oidc.ISSUER, TRUSTED_PR, github_oidc.public_keys(running.azure), PULL_REQUESTS)
        yield running


@pytest.fixture(scope="module")
def repository(emulator: Emulator, tmp_path_factory: pytest.TempPathFactory, fork_servers: ForkServers) -> Harness:
    """A repository with Azure variables and this project's own workflows."""
    return Harness(emulator, tmp_path_factory.mktemp("repository"), fork_servers=fork_servers)


@pytest.fixture
def workspace(repository: Harness, emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[Workspace]:
    """A session of the person who owns the workspace, beside the workflows."""
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield Workspace.open(load(repository.tree / "pipeline.toml", "prod"))
