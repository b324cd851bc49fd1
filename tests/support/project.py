"""A project folder as a user has it, in front of an emulated Azure; and what costs money there."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from mlops.__main__ import main
from mlops.cloud.workspace import Workspace
from mlops.core.config import load
from mlops.core.run import Run
from mlops.emulator.history import runstore
from mlops.emulator.server import Emulator

__all__ = ["Project", "client_of", "enter", "open_sdk"]

TERMINAL = ("Completed", "Failed", "Canceled")


def enter(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the variables that make every client in this process reach an emulator."""
    for name in ("ALL_PROXY", "all_proxy", "CURL_CA_BUNDLE", "AZURE_TOKEN_CREDENTIALS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in emulator.environment().items():
        monkeypatch.setenv(name, value)


def open_sdk(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Make this process a client of an emulator, and return an SDK client of its workspace."""
    from azure.ai.ml import MLClient
    from azure.identity import DefaultAzureCredential

    enter(emulator, monkeypatch)
    identity = emulator.azure.identity
    return MLClient(DefaultAzureCredential(), identity.subscription, identity.group, identity.workspace)


@contextmanager
def client_of(emulator: Emulator, folder: Path) -> Iterator[None]:
    """Make this process a client of an emulator, with ``folder`` as the working directory; third parties' warnings are no errors inside."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("default")
        patch.chdir(folder)
        enter(emulator, patch)
        yield


class Project:
    """A folder with a pipeline.toml, and the commands that run in it.

    Args:
        folder: where it is; also the working directory of the tests that use it.
        emulator: the Azure in front of it.
        toml: the text of pipeline.toml.
        target: the default target of its commands.
        endpoint: the endpoint of that target.
    """

    def __init__(self, folder: Path, emulator: Emulator, toml: str, *, target: str, endpoint: str) -> None:
        self.folder, self.emulator, self.target, self.endpoint = folder, emulator, target, endpoint
        (folder / "pipeline.toml").write_text(toml)

    def mlops(self, *arguments: str, target: str = "", run: str = "run") -> int:
        """Run one command as in a shell and return its exit code."""
        command, *rest = arguments
        return main([command, "--target", target or self.target, "--run", run, *rest])

    def records(self, run: str = "run") -> Run:
        return Run(self.folder / run)

    def workspace(self, target: str = "") -> Workspace:
        return Workspace.open(load(self.folder / "pipeline.toml", target or self.target))

    def traffic(self, endpoint: str = "") -> dict[str, int] | None:
        """The shares that the service reports, without those of 0 %; None without an endpoint."""
        found = self.workspace().endpoints.find(endpoint or self.endpoint)
        return None if found is None else {name: share for name, share in found.traffic.items() if share}

    def jobs(self) -> dict[str, str]:
        """Job → status, steps of pipelines left out."""
        return {run["name"]: run["status"] for run in runstore.list_all(self.emulator.azure) if run["kind"] == "job"}

    def models(self) -> set[str]:
        """Registered model versions."""
        return {key for key, _ in self.emulator.azure.store.list("model")}

    def endpoints(self) -> set[str]:
        """Endpoints and deployments, whoever made them."""
        store = self.emulator.azure.store
        return {key for kind in ("endpoint", "deployment") for key, _ in store.list(kind)}

    def billing(self) -> set[str]:
        """What costs money now: deployments, and jobs that have not ended."""
        deployments = {key for key, _ in self.emulator.azure.store.list("deployment")}
        return deployments | {name for name, status in self.jobs().items() if status not in TERMINAL}

    def assets(self) -> tuple[set[str], set[str], set[str]]:
        """Everything that a repeated run could make a second time: jobs, model versions, endpoints with deployments."""
        return set(self.jobs()), self.models(), self.endpoints()
