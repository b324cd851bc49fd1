"""Child processes that can't outlive the emulator: jobs, containers, the MLflow server.

Each child runs in a process group of its own under a guard: this very file, run by a bare interpreter. The guard holds the reading end
of a pipe whose writing end only the emulator has. When the emulator ends, by whatever signal, the pipe closes and the guard kills
the group. Nothing here may import more than the standard library, since the guard runs without site-packages.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

__all__ = ["Child", "Children"]

GRACE_S = 3.0
"""Between SIGTERM and SIGKILL."""


class Child:
    """One guarded process.

    Args:
        process: its guard, which ends with the child's exit code (128 + signal number if a signal ended it).
        pipe: writing end of the guard's pipe; closing it ends the child.
    """

    def __init__(self, process: subprocess.Popen[bytes], pipe: int) -> None:
        self._process = process
        self._pipe: int | None = pipe
        self._lock = threading.Lock()

    @property
    def returncode(self) -> int | None:
        """The exit code, or None while it runs."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Block until it ends; its exit code.

        Raises:
            subprocess.TimeoutExpired: it still runs after ``timeout`` seconds.
        """
        return self._process.wait(timeout)

    def stop(self) -> None:
        """End the whole group: SIGTERM, then SIGKILL after a grace period. Returns once it is gone."""
        with self._lock:
            if self._pipe is not None:
                os.close(self._pipe)
                self._pipe = None
        self._process.wait()


class Children:
    """All of them, so that they can be ended together."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: list[Child] = []
        self._closed = False

    def start(self, command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], log: Path) -> Child:
        """Start ``command`` with exactly this environment; stdout and stderr are appended to ``log``.

        Raises:
            RuntimeError: the emulator is shutting down.
        """
        read, write = os.pipe()
        try:
            with self._lock, log.open("ab") as output:
                if self._closed:
                    raise RuntimeError("the emulator is shutting down")
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", __file__, str(read), "--", *command],
                    cwd=cwd,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(read,),
                    start_new_session=True,
                )
                child = Child(process, write)
                self._running = [known for known in self._running if known.returncode is None] + [child]
        except BaseException:
            os.close(write)
            raise
        finally:
            os.close(read)
        return child

    def stop(self) -> None:
        """End every child, all at once, and start no more."""
        with self._lock:
            self._closed = True
            running, self._running = self._running, []
        threads = [threading.Thread(target=child.stop) for child in running]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


def guard(pipe: int, command: Sequence[str], *, attached: bool = False) -> int:
    """Run ``command`` in a group of its own until it ends or the pipe closes; the exit code.

    Args:
        pipe: reading end.
        command: with its arguments.
        attached: stay in the terminal's foreground group instead, so that the command may read from the terminal; signals are passed on.
    """
    if attached:
        return _attached(pipe, command)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    # A child must not inherit what the guard ignores.
    child = subprocess.Popen(command, start_new_session=True, close_fds=True, preexec_fn=_default_signals)
    threading.Thread(target=_kill_when_closed, args=(pipe, child.pid, _signal_group), daemon=True).start()
    code = child.wait()
    # What the child left running in its group ends with it: a job's helpers are part of the job.
    _signal_group(child.pid, signal.SIGKILL)
    return 128 - code if code < 0 else code


def _attached(pipe: int, command: Sequence[str]) -> int:
    # A terminal sends its interrupt to the whole foreground group: passed on, the command would see it twice.
    at_terminal = os.isatty(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = subprocess.Popen(command, close_fds=True, preexec_fn=_default_signals)
    except OSError as problem:
        sys.stderr.write(f"{command[0]}: {problem.strerror}\n")
        return 127 if isinstance(problem, FileNotFoundError) else 126
    for number in (signal.SIGTERM, signal.SIGHUP, *(() if at_terminal else (signal.SIGINT,))):
        signal.signal(number, lambda received, _: _signal_one(child.pid, received))
    threading.Thread(target=_kill_when_closed, args=(pipe, child.pid, _signal_one), daemon=True).start()
    code = child.wait()
    return 128 - code if code < 0 else code


def _default_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _kill_when_closed(pipe: int, number: int, send: Callable[[int, int], None]) -> None:
    select.select([pipe], [], [])
    send(number, signal.SIGTERM)
    time.sleep(GRACE_S)
    send(number, signal.SIGKILL)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _signal_one(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process, number)


if __name__ == "__main__":
    sys.exit(guard(int(sys.argv[1]), sys.argv[3:], attached=sys.argv[2] == "--attached"))
