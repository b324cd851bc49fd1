"""The fork servers that an emulator, or several of them, use. ``fork_server.py`` is the program of one."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import socket
import subprocess
import sys
import threading
from pathlib import Path

from mlops.emulator.base.children import Preload

__all__ = ["ForkServers"]

PROGRAM = Path(__file__).with_name("fork_server.py")
TITLE_LENGTH = 16_384
"""Bytes of a fork server's own arguments, which a fork overwrites with its arguments, as they would be seen in /proc."""


class ForkServers:
    """The fork servers that this process uses: one for every :class:`Preload`. A server ends with the last process that uses it.

    Args:
        folder: through which this user's other processes share the servers; without it, nobody else uses them.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._controls: dict[Preload, socket.socket] = {}
        self._processes: list[subprocess.Popen[bytes]] = []

    def connect(self, preload: Preload) -> socket.socket | None:
        """Return a socket on which the fork server waits for a request; None if there is none. The server need not be ready yet."""
        if sys.platform != "linux":
            return None
        own, other = socket.socketpair()
        with self._lock, other:
            try:
                if preload not in self._controls:
                    self._controls[preload] = self._open(preload)
                socket.send_fds(self._controls[preload], [b"."], [other.fileno()])
            except OSError:  # it has ended, or the path of the folder is too long for a socket
                own.close()
                return None
        return own

    def stop(self) -> None:
        """Stop using the fork servers, and wait until those that this process started have ended, unless others use them."""
        with self._lock:
            controls, self._controls = self._controls, {}
            processes, self._processes = self._processes, []
        for control in controls.values():
            control.close()
        for process in processes:
            if self.folder is None:
                process.kill()  # it may be in the middle of its imports
            process.wait()

    def _open(self, preload: Preload) -> socket.socket:
        if self.folder is None:
            own, other = socket.socketpair()
            self._start(preload, other)
            return own
        path = self.folder / hashlib.sha256(repr(preload).encode()).hexdigest()[:16]
        with path.with_suffix(".lock").open("w") as lock, contextlib.ExitStack() as stack:
            fcntl.flock(lock, fcntl.LOCK_EX)
            own = stack.enter_context(socket.socket(socket.AF_UNIX))
            try:
                own.connect(str(path))
            except OSError:
                path.unlink(missing_ok=True)
                listener = stack.enter_context(socket.socket(socket.AF_UNIX))
                listener.bind(str(path))
                listener.listen()
                own.connect(str(path))
                self._start(preload, listener)
            return own.dup()

    def _start(self, preload: Preload, server: socket.socket) -> None:
        with server:
            process = subprocess.Popen(
                [sys.executable, str(PROGRAM), str(server.fileno()), ",".join(preload.imports), " " * TITLE_LENGTH],
                env=dict(preload.environment),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(server.fileno(),),
                start_new_session=True,
            )
        self._processes.append(process)
