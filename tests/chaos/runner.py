"""Trials in processes of their own.

``python -m tests.chaos.runner FOLDER`` does the trials whose names it reads from stdin; :class:`Runner` talks to it.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.chaos import trial as trials
from tests.chaos.forks import ROOT
from tests.chaos.trial import Result, Trial
from tests.chaos.world import STAGES, World

__all__ = ["Runner", "read_recorded"]


class Runner:
    """A process that does one trial after the other, and ends with this one.

    Args:
        folder: has the states and what was recorded without a fault.
    """

    def __init__(self, folder: Path) -> None:
        command = [sys.executable, "-m", "tests.chaos.runner", str(folder)]
        self._process = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(self, trial: Trial) -> Result:
        """Do a trial.

        Raises:
            RuntimeError: the process has ended.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{trial}\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the process of the trials has ended in {trial}")
        return Result(**json.loads(line))

    def close(self) -> None:
        """End the process."""
        self._process.communicate()


def read_recorded(folder: Path) -> dict[str, Any]:
    """Return stage → requests, and what is there in the end."""
    recorded: dict[str, Any] = json.loads((folder / "recorded.json").read_text())
    return recorded


def main(folder: Path) -> None:
    """Do the trials whose names are on stdin until it ends; write a result for each as a line of JSON."""
    recorded = read_recorded(folder)
    with tempfile.TemporaryDirectory(prefix="chaos-") as scratch, World(folder / "states", Path(scratch), folder / "cache") as world:
        for line in sys.stdin:
            trial = Trial.parse(line.rstrip("\n"))
            try:
                result = trials.run(world, STAGES[trial.stage], trial, recorded[trial.ends_like]["summary"])
            except RuntimeError as problem:
                result = Result(str(trial), violations=[f"the trial itself failed: {problem}"])
            sys.stdout.write(json.dumps(dataclasses.asdict(result)) + "\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
