"""How a stage becomes a command: arguments, configuration, run directory, workspace, exit code.

A stage is a function of what it needs, by name: ``config``, ``run``, ``workspace``, ``override``::

    def train(config: Config, run: Run, workspace: Workspace) -> Trained: ...


    def main(argv: Sequence[str] | None = None) -> int:
        return stage.run(train, argv)
"""

from __future__ import annotations

import argparse
import inspect
import os
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from mlops.core import console
from mlops.core.config import Config, load
from mlops.core.errors import INTERRUPTED, Detached, MlopsError
from mlops.core.run import Run

__all__ = ["Settings", "bare_parser", "parser", "run", "settings"]

Stage = Callable[..., Any]


class Settings:
    """What the common options say."""

    def __init__(self, config: Config, run: Run, override: str = "") -> None:
        self.config = config
        self.run = run
        self.override = override
        self._workspace: Any = None

    def workspace(self) -> Any:
        """The session with the workspace, opened at the first call and then kept."""
        if self._workspace is None:
            # Here, not above: --help and the stages that don't talk to Azure must not pay for the SDK's import.
            from mlops.cloud.workspace import Workspace

            self._workspace = Workspace.open(self.config)
        return self._workspace

    def call(self, function: Stage) -> Any:
        """Call a stage with what it names."""
        offered: dict[str, Callable[[], Any]] = {
            "config": lambda: self.config,
            "run": lambda: self.run,
            "workspace": self.workspace,
            "override": lambda: self.override,
        }
        return function(**{name: offered[name]() for name in inspect.signature(function).parameters})


def bare_parser(description: str, prog: str | None = None) -> argparse.ArgumentParser:
    """A parser without options, that leaves the description's lines as they are."""
    return argparse.ArgumentParser(description=description, prog=prog, formatter_class=argparse.RawDescriptionHelpFormatter)


def parser(description: str, prog: str | None = None) -> argparse.ArgumentParser:
    """A parser with the options that every command has."""
    common = bare_parser(description, prog)
    common.add_argument("--target", default=os.environ.get("MLOPS_TARGET", "local"), help="a table under [targets] (default: local)")
    common.add_argument("--config", type=Path, default=Path("pipeline.toml"), metavar="FILE", help="default: pipeline.toml")
    common.add_argument("--run", type=Path, default=Path("run"), metavar="DIR", help="where records are kept (default: run)")
    common.add_argument(
        "--set",
        action="append",
        # A copy for each parser: argparse appends to its default.
        default=[line.strip() for line in os.environ.get("MLOPS_SET", "").splitlines() if line.strip()],
        metavar="KEY=VALUE",
        help="override a setting, e.g. training.parameters.max_steps=5 (MLOPS_SET: the same, one a line)",
    )
    return common


def settings(arguments: argparse.Namespace) -> Settings:
    """Load what the common options name. The gate's override comes from its option, else from MLOPS_OVERRIDE, which workflows set."""
    override = getattr(arguments, "override", None)
    if override is None:
        override = os.environ.get("MLOPS_OVERRIDE", "")
    return Settings(load(arguments.config, arguments.target, arguments.set), Run(arguments.run), override)


def run(function: Stage, argv: Sequence[str] | None = None) -> int:
    """Run one stage as a command and return its exit code."""
    # The calling module's docstring opens with what the stage does and the command that runs it.
    module = sys.modules[function.__module__]
    name = function.__name__.replace("_", "-")
    arguments = parser(inspect.cleandoc(module.__doc__ or ""), prog=f"mlops {name}").parse_args(argv)
    return guarded(lambda: step(settings(arguments), name, function))


def step(given: Settings, name: str, function: Stage) -> int:
    """Run a stage inside its titled section. The gate's record decides the exit code; every other result is success."""
    with console.step(name):
        result = given.call(function)
    return int(getattr(result, "exit_code", 0))


def guarded(command: Callable[[], int]) -> int:
    """Turn every way to fail into a message and an exit code."""
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        return command()
    except Detached as told:
        console.notice(str(told))
        return told.exit_code
    except MlopsError as problem:
        console.error(str(problem))
        return problem.exit_code
    except KeyboardInterrupt:
        console.error("Interrupted.")
        return INTERRUPTED
    except Exception as problem:
        traceback.print_exc()
        console.error(f"Unforeseen: {type(problem).__name__}: {problem}\nFix: this is a bug of ours; please report the lines above.")
        return 1
    finally:
        signal.signal(signal.SIGTERM, previous)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    # SIGTERM takes the way of Ctrl-C, so that `finally` blocks run and a cancelled workflow cancels its job.
    raise KeyboardInterrupt
