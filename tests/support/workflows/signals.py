"""The processes of running steps, and how the runner cancels them."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path


def cancel_step(artifacts: Path, words: str) -> None:
    """Signal a step's process as the runner does when a run is cancelled: SIGINT, after 7.5 s SIGTERM, after another 2.5 s SIGKILL."""
    for number, patience in ((signal.SIGINT, 7.5), (signal.SIGTERM, 2.5), (signal.SIGKILL, 5.0)):
        for process in step_processes(artifacts, words):
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, number)
        if wait_until(lambda: not list(step_processes(artifacts, words)), patience):
            return


def step_processes(artifacts: Path, words: str) -> Iterator[int]:
    """Find the processes of a harness's steps.

    Args:
        artifacts: the harness's folder of that name. Only its own steps have it in their environment.
        words: part of the command line, e.g. ``-m mlops run --from deploy``.
    """
    mine = f"ARTIFACT_STORE={artifacts}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            line = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            if words in line and mine in (folder / "environ").read_bytes().split(b"\0"):
                yield int(folder.name)


def wait_until(condition: Callable[[], bool], seconds: float = 600.0) -> bool:
    """Wait until a condition holds; False if it does not in time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.1)
    return True


__all__ = ["cancel_step", "step_processes", "wait_until"]
