"""Child processes that can't outlive the emulator: jobs, containers, the MLflow server.

Each child runs in its own process group under a guard, which is this file run by a bare interpreter. The guard holds the read end of a
pipe whose write end only the emulator has. When the emulator exits, by whatever signal, the pipe closes and the guard kills the group.
This file may import the standard library only, because the guard runs without site-packages.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Child", "Children", "Fork", "Preload", "base_environment", "package_environment"]

INHERITED = ("HOME", "LANG", "LC_ALL", "TMPDIR", "TZ", "OMP_NUM_THREADS")
"""Variables that a child inherits from the emulator."""

GRACE_S = 3.0
"""Seconds between SIGTERM and SIGKILL."""


def base_environment() -> dict[str, str]:
    """Return the environment of any child: the emulator's own Python first on the path, and little else."""
    path = os.pathsep.join((str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return {name: os.environ[name] for name in INHERITED if name in os.environ} | {"PATH": path, "PYTHONUNBUFFERED": "1"}


def package_environment() -> dict[str, str]:
    """Return the environment of a child that runs this package: a step of the component, or the conversion of weights."""
    return base_environment() | {"PYTHONPATH": str(Path(__file__).parents[3])}


@dataclass(frozen=True)
class Preload:
    """The modules that a fork server imports, and its environment.

    Args:
        imports: modules, in this order.
        environment: all environment variables, in their order by name; libraries read some of them when they are imported.
    """

    imports: tuple[str, ...]
    environment: tuple[tuple[str, str], ...]

    @classmethod
    def of(cls, imports: Sequence[str], environment: Mapping[str, str]) -> Preload:
        """Return the preload of these modules in this environment."""
        return cls(tuple(imports), tuple(sorted(environment.items())))


class Child:
    """One guarded process.

    Args:
        process: the guard, which exits with the child's exit code (128 + signal number if a signal killed the child).
        pipe: write end of the guard's pipe; closing it stops the child.
    """

    def __init__(self, process: subprocess.Popen[bytes], pipe: int) -> None:
        self._process = process
        self._pipe: int | None = pipe
        self._lock = threading.Lock()

    @property
    def returncode(self) -> int | None:
        """The exit code, or None while the child runs."""
        return self._process.poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait until the child exits and return its exit code.

        Raises:
            subprocess.TimeoutExpired: the child still runs after ``timeout`` seconds.
        """
        return self._process.wait(timeout)

    def stop(self) -> None:
        """Stop the whole process group with SIGTERM, then SIGKILL after a grace period. Return once it is gone."""
        with self._lock:
            if self._pipe is not None:
                os.close(self._pipe)
                self._pipe = None
        self._process.wait()


class Children:
    """All child processes of one emulator, so that they can be stopped together.

    Args:
        connect: returns the socket of a fork server for a child with a ``preload``; without it, every child is an ordinary process.
    """

    def __init__(self, connect: Callable[[Preload], socket.socket | None] | None = None) -> None:
        self._connect = connect
        self._lock = threading.Lock()
        self._running: list[Child] = []
        self._closed = False

    def start(
        self, command: Sequence[str], *, cwd: Path, environment: Mapping[str, str], log: Path, preload: Preload | None = None
    ) -> Child:
        """Start ``command`` with exactly this environment, appending its stdout and stderr to ``log``.

        Args:
            command: the command with its arguments.
            cwd: working directory.
            environment: all environment variables.
            log: receives the output.
            preload: for the command ``PYTHON -m MODULE …``: its imports, so that it can start as a fork of a process that has made them.

        Raises:
            RuntimeError: the emulator is shutting down.
        """
        read, write = os.pipe()
        try:
            with self._lock, log.open("ab") as output, contextlib.ExitStack() as stack:
                if self._closed:
                    raise RuntimeError("the emulator is shutting down")
                server = self._connect(preload) if self._connect and preload else None
                descriptors = (read,) if server is None else (read, stack.enter_context(server).fileno())
                process = subprocess.Popen(
                    [sys.executable, "-I", "-S", __file__, ",".join(map(str, descriptors)), "--", *command],
                    cwd=cwd,
                    env=dict(environment),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=descriptors,
                    start_new_session=True,
                )
                child = Child(process, write)
                self._running = [*(other for other in self._running if other.returncode is None), child]
        except BaseException:
            os.close(write)
            raise
        finally:
            os.close(read)
        return child

    def stop(self) -> None:
        """Stop all children at the same time, and refuse to start more."""
        with self._lock:
            self._closed = True
            running, self._running = self._running, []
        threads = [threading.Thread(target=child.stop) for child in running]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()


class Fork:
    """A process of a fork server (``fork_server.py``), with the interface of Popen.

    Args:
        server: the socket on which the fork server waits for a request.
        command: ``PYTHON -m MODULE …``.
        pipe: read end of the guard's pipe; None if there is no guard.
        cwd, environment, streams: of the process; by default those of this one.

    Raises:
        OSError: the fork server has ended.
        SystemExit: the pipe was closed before the fork server was ready.
    """

    def __init__(
        self,
        server: socket.socket,
        command: Sequence[str],
        pipe: int | None = None,
        *,
        cwd: Path | None = None,
        environment: Mapping[str, str] = os.environ,
        streams: tuple[int, int, int] = (0, 1, 2),
    ) -> None:
        self._server = server
        request = json.dumps({"command": list(command), "cwd": str(cwd or Path.cwd()), "environment": dict(environment)}).encode()
        socket.send_fds(server, [len(request).to_bytes(4, "big")], streams)
        server.sendall(request)
        poll = select.poll()
        for file in (server, pipe):
            if file is not None:
                poll.register(file, select.POLLIN)
        if [number for number, _ in poll.poll()] == [pipe]:
            sys.exit(128 + signal.SIGTERM)
        self.pid = self._receive()

    def wait(self) -> int:
        """Return the exit code. The process stays a zombie until this object closes its socket, at the end of the guard."""
        try:
            return self._receive()
        except OSError:  # its fork server was killed, so its exit code is unknown
            return 128 + signal.SIGKILL

    def _receive(self) -> int:
        answer = self._server.recv(4, socket.MSG_WAITALL)
        if len(answer) != 4:
            raise OSError("the fork server has ended")
        return int.from_bytes(answer, "big")


def guard(pipe: int, command: Sequence[str], *, attached: bool = False, server: socket.socket | None = None) -> int:
    """Run ``command`` in its own process group until it exits or the pipe closes, and return the exit code.

    Args:
        pipe: read end of the pipe.
        command: the command with its arguments.
        attached: stay in the terminal's foreground group, so that the command can read from the terminal, and forward signals to it.
        server: a fork server's socket: the command starts as its fork, or as an ordinary process if it has ended.
    """
    if attached:
        return _guard_attached(pipe, command)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    child = _start(command, server, pipe)
    threading.Thread(target=_kill_when_closed, args=(pipe, child.pid, _signal_group), daemon=True).start()
    code = child.wait()
    # Helpers that the child left running are part of the job and end with it.
    _signal_group(child.pid, signal.SIGKILL)
    return 128 - code if code < 0 else code


def _start(command: Sequence[str], server: socket.socket | None, pipe: int) -> subprocess.Popen[bytes] | Fork:
    if server is not None:
        with contextlib.suppress(OSError):
            return Fork(server, command, pipe)
    # A child must not inherit the signals that the guard ignores.
    return subprocess.Popen(command, start_new_session=True, close_fds=True, preexec_fn=_reset_signals)


def _guard_attached(pipe: int, command: Sequence[str]) -> int:
    # A terminal interrupts the whole foreground group: a forwarded SIGINT would reach the command twice.
    at_terminal = os.isatty(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        child = subprocess.Popen(command, close_fds=True, preexec_fn=_reset_signals)
    except OSError as problem:
        sys.stderr.write(f"{command[0]}: {problem.strerror}\n")
        return 127 if isinstance(problem, FileNotFoundError) else 126
    for number in (signal.SIGTERM, signal.SIGHUP, *(() if at_terminal else (signal.SIGINT,))):
        signal.signal(number, lambda received, _: _signal_process(child.pid, received))
    threading.Thread(target=_kill_when_closed, args=(pipe, child.pid, _signal_process), daemon=True).start()
    code = child.wait()
    return 128 - code if code < 0 else code


def _reset_signals() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _kill_when_closed(pipe: int, number: int, send: Callable[[int, int], None]) -> None:
    # Until the end of the pipe. Not select(), which takes no descriptor above 1023, and the emulator's process may have more.
    os.read(pipe, 1)
    send(number, signal.SIGTERM)
    time.sleep(GRACE_S)
    send(number, signal.SIGKILL)


def _signal_group(group: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, number)


def _signal_process(process: int, number: int) -> None:
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.kill(process, number)


if __name__ == "__main__":
    descriptors = [int(number) for number in sys.argv[1].split(",")]
    server = socket.socket(fileno=descriptors[1]) if len(descriptors) > 1 else None
    sys.exit(guard(descriptors[0], sys.argv[3:], attached=sys.argv[2] == "--attached", server=server))
