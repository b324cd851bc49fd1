"""The Python environment of a job, in real processes."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from mlops.emulator.jobs.overlay import create_overlay


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    return dict(os.environ) | create_overlay(tmp_path / "overlay")


@pytest.fixture
def wheel(tmp_path: Path) -> Path:
    """A wheel of one module, made by hand: nothing is downloaded or built."""
    file = tmp_path / "overlaytest-1.0-py3-none-any.whl"
    info = "overlaytest-1.0.dist-info"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("overlaytest.py", "VALUE = 7\n")
        archive.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: overlaytest\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", f"overlaytest.py,,\n{info}/METADATA,,\n{info}/WHEEL,,\n{info}/RECORD,,\n")
    return file


def run(command: str, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["/bin/sh", "-c", command], env=environment, capture_output=True, text=True, check=False)


def test_it_has_the_packages_of_this_python(environment: dict[str, str], tmp_path: Path) -> None:
    result = run("python -c 'import pydantic, sys; print(sys.prefix, sys.version_info[:2])'", environment)
    assert result.stdout.strip() == f"{tmp_path / 'overlay'} {sys.version_info[:2]}", result.stderr


def test_installed_packages_stay_in_it(environment: dict[str, str], wheel: Path, tmp_path: Path) -> None:
    installed = run(f"pip install --no-index --no-deps '{wheel}'", environment)
    assert installed.returncode == 0, installed.stderr
    where = run("python -c 'import overlaytest; print(overlaytest.VALUE, overlaytest.__file__)'", environment).stdout
    assert where.startswith(f"7 {tmp_path / 'overlay'}")
    assert importlib.util.find_spec("overlaytest") is None


def test_it_uninstalls_nothing_of_this_python(environment: dict[str, str]) -> None:
    result = run("pip uninstall --yes pydantic", environment)
    assert "outside environment" in result.stdout + result.stderr
    assert run("python -c 'import pydantic'", environment).returncode == 0
