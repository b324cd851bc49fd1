"""The commands of the action `setup`. Only GitHub shows that they install."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.support.workflows.trees import ROOT

SCRIPT = ROOT / ".github/actions/setup/install.py"


@pytest.fixture
def install() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_runner_that_only_talks_to_azure_installs_the_locked_minimum(install: ModuleType) -> None:
    lock, package = install.commands(ROOT, False)
    assert lock[-4:] == ["--no-deps", "--require-hashes", "-r", str(ROOT / "requirements/azure.lock")]
    assert package[-2:] == ["--no-deps", str(ROOT)]
    assert install.ROOT == ROOT


def test_an_offline_runner_installs_pinned_torch_and_the_lock(install: ModuleType) -> None:
    lock, torch, _package = install.commands(ROOT, True)
    assert lock[-1] == str(ROOT / "requirements/local.lock")
    assert torch[-1].startswith("torch==")
    assert f'"{torch[-1]}"' in Path(ROOT / "noxfile.py").read_text(), "noxfile.py installs another version"


def test_anything_else_is_refused() -> None:
    done = subprocess.run([sys.executable, str(SCRIPT), "yes"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "::error::" in done.stderr
