"""``python -m tests.chaos.command HOURS ARGUMENTS``: ``mlops ARGUMENTS`` with a quick clock, once its stdin has ended."""

from __future__ import annotations

import datetime
import importlib
import sys
import time
import types
import warnings
from typing import Any

SPEED = 20.0
"""How much faster the clock of a command runs: it waits for Azure as often as always, and its deadlines pass as early."""


def main(hours_later: float, arguments: list[str]) -> int:
    """Run the command and return its exit code."""
    sys.stdin.read()
    _speed_up()
    main = importlib.import_module("mlops.__main__").main
    if hours_later:
        set_clock(hours_later)
    warnings.simplefilter("ignore")
    code: int = main(arguments)
    return code


def _speed_up() -> None:
    sleep, monotonic = time.sleep, time.monotonic

    def sleep_less(seconds: float) -> None:
        sleep(seconds / SPEED)

    time.sleep = sleep_less  # type: ignore[assignment]
    time.monotonic = lambda: monotonic() * SPEED


def set_clock(hours: float) -> None:
    """Let every module of the project that reads the clock read a later time."""
    late = datetime.timedelta(hours=hours)

    class Later(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Any:
            return datetime.datetime.now(tz) + late

    for module in clocks():
        setattr(module, "datetime", Later)  # noqa: B010


def clocks() -> list[types.ModuleType]:
    """Return the modules of the project, of those that are imported, that read the clock."""
    modules = [module for name, module in sys.modules.items() if name.startswith("mlops.")]
    return [module for module in modules if getattr(module, "datetime", None) is datetime.datetime]


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1]), sys.argv[2:]))
