"""Processes of steps that run, and cancelling them as the runner does."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def cancel_step(words: str) -> None:
    """Signal a step's process as the runner does when a run is cancelled: SIGINT, after 7.5 s SIGTERM, after another 2.5 s SIGKILL."""
    for number, patience in ((signal.SIGINT, 7.5), (signal.SIGTERM, 2.5), (signal.SIGKILL, 5.0)):
        for process in step_processes(words):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        if until(lambda: not list(step_processes(words)), patience):
            return


def step_processes(words: str) -> Iterator[int]:
    """Processes of ours whose command line holds these words, e.g. ``-m mlops run --from deploy``."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if words in line and "act" not in line.split(" ")[0].rpartition("/")[2]:
                yield int(folder.name)


def until(condition: Callable[[], bool], seconds: float = 180.0) -> bool:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


__all__ = ["cancel_step", "until"]
