"""Running as a job of an emulated GitHub."""

from __future__ import annotations

import pytest

from mlops.emulator.identity.github_oidc import WorkflowRun, job_environment
from mlops.emulator.server import Emulator

REPOSITORY = "octo/chat"
RUN = WorkflowRun("17")


def enter_job(
    github: Emulator, monkeypatch: pytest.MonkeyPatch, run: WorkflowRun = RUN, environment: str = "train", **changes: str
) -> None:
    """Make this process a job of a workflow run, without any secret. ``changes`` override environment variables."""
    variables = github.environment() | job_environment(github.azure, run, environment) | {"GITHUB_ACTIONS": "true"} | changes
    variables.pop("AZURE_CLIENT_SECRET")
    monkeypatch.delenv("AZURE_CLIENT_SECRET", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
