"""A run that the gate has judged, which takes half a second, made once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mlops.core.run import Run
from tests.support.evidence import RULES
from tests.support.run_directories import judge_run, make_run


@pytest.fixture(scope="session")
def judged_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of the run. Tests don't change it."""
    run = make_run(tmp_path_factory.mktemp("judged") / "run")
    judge_run(run, *RULES)
    return run.directory


@pytest.fixture
def run(judged_run: Path, tmp_path: Path) -> Run:
    """A copy of the run, for one test."""
    return Run(Path(shutil.copytree(judged_run, tmp_path / "run")))
