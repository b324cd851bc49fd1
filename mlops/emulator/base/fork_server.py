"""Processes that start quickly, as forks of a process that has already imported what they need.

The import of torch, transformers and MLflow takes ten times as long as what a step of a tiny training does. A fork server imports them
once, in the environment in which its processes would import them, and forks for every process. The fork becomes what ``python -m MODULE``
would have been: with its own session, environment, working directory, streams, arguments and ``__main__``, and none of the emulator's
state, which the fork server doesn't have. If there is no fork server, as on macOS, or it has died, the guard starts an ordinary process.

The guard of a process (:mod:`mlops.emulator.base.children`) talks to it on a socket of its own: request with the three streams → process
id, then the exit code. If the guard is killed, its process ends with it. Two things differ from an ordinary process:
``/proc/PID/environ`` shows the environment of the fork server, and libraries aren't torn down when the process ends. This file is
also the program of the fork server; it may import the standard library only.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import gc
import importlib
import io
import json
import os
import runpy
import select
import signal
import socket
import sys
import sysconfig
import threading
import types
import warnings
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

__all__ = ["main"]


def main(arguments: Sequence[str]) -> None:
    """Serve until the emulator ends; in a fork, become the requested process and end with its exit code."""
    control, imports = int(arguments[0]), arguments[1].split(",")
    # Nothing may be imported from the folder of this file.
    del sys.path[0]
    request = _serve(control, imports)
    if request is not None:
        _end(_run(_become(request)))


def _serve(control: int, imports: Sequence[str]) -> dict[str, Any] | None:
    """Import, then fork for every request. Return None at the end, and in each fork the request that it has to fulfill."""
    gc.disable()  # imports leave no garbage worth collecting again and again
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for name in imports:
            # A process that needs a missing module reports that itself.
            with contextlib.suppress(Exception):
                importlib.import_module(name)
    gc.collect()
    gc.freeze()
    gc.enable()
    connections = _accept(socket.socket(fileno=control))
    for connection in connections:
        with connection, warnings.catch_warnings():
            # Python 3.12 warns about other threads. OpenBLAS has some, but ends and restarts them around a fork.
            warnings.simplefilter("ignore", DeprecationWarning)
            if os.fork() == 0:
                connections.close()
                return _fork(connection)
        _reap()
    _reap()
    return None


def _accept(server: socket.socket) -> Generator[socket.socket]:
    """Return a socket for every process that is to be started, until nobody uses the server any longer."""
    is_shared = server.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    controls = [server.accept()[0]] if is_shared else [server]
    try:
        while controls:
            numbers = _wait(*controls, *([server] if is_shared else []))
            if is_shared and server.fileno() in numbers:
                controls.append(server.accept()[0])
            for ready in [control for control in controls if control.fileno() in numbers]:
                message, files, _, _ = socket.recv_fds(ready, 1, 1)
                if message:
                    yield socket.socket(fileno=files[0])
                else:
                    controls.remove(ready)
                    ready.close()
    finally:
        for each in (server, *controls):
            each.close()


def _wait(*files: socket.socket | int) -> list[int]:
    """Wait until files can be read, and return their descriptors. Not select(), which takes no descriptor above 1023."""
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    return [number for number, _ in poll.poll()]


def _reap() -> None:
    """Collect the exit codes of all forks that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def _fork(connection: socket.socket) -> dict[str, Any]:
    """Fork once more: return the request in the new process, and stay as its parent until it has ended."""
    header, files, _, _ = socket.recv_fds(connection, 4, 3)
    size, content = int.from_bytes(header, "big"), b""
    while len(content) < size and (part := connection.recv(1 << 16)):
        content += part
    if len(files) != 3 or len(content) != size:
        os._exit(1)  # the guard is gone
    read, write = os.pipe()
    process = os.fork()
    if process == 0:
        os.setsid()
        os.close(read)
        os.close(write)
        connection.close()
        for number, file in enumerate(files):
            os.dup2(file, number)
            os.close(file)
        request: dict[str, Any] = json.loads(content)
        return request
    for file in (*files, write):
        os.close(file)
    os.read(read, 1)  # until it leads its own group, which the guard may end from now on
    # Without a guard, nobody would ever stop it. The guard may have ended while this server was importing.
    if not _is_guarded_to_its_end(connection, process):
        os.killpg(process, signal.SIGKILL)
    with contextlib.suppress(OSError):
        # The process stays a zombie, so that its id isn't used again before the guard has ended its group.
        end = os.waitid(os.P_PID, process, os.WEXITED | os.WNOWAIT)
        assert end is not None
        connection.sendall((end.si_status if end.si_code == os.CLD_EXITED else 128 + end.si_status).to_bytes(4, "big"))
        connection.recv(1)
    os.waitpid(process, 0)
    os._exit(0)


def _is_guarded_to_its_end(connection: socket.socket, process: int) -> bool:
    """Send the guard the id of its process and wait for the end of either. Return whether the process was the first to end."""
    try:
        connection.sendall(process.to_bytes(4, "big"))
    except OSError:
        return False
    return connection.fileno() not in _wait(connection, os.pidfd_open(process))


def _become(request: Mapping[str, Any]) -> str:
    """Become the requested process, and return the module that it runs."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    command: list[str] = request["command"]
    executable, _, module, *arguments = command
    _set_title(command)
    sys.argv, sys.orig_argv = [module, *arguments], command
    own = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    sys.path[: len(inherited)] = [request["cwd"], *own]
    if executable != sys.executable:
        _enter(Path(executable))
    encoding, is_unbuffered = sys.stdout.encoding, bool(os.environ.get("PYTHONUNBUFFERED"))
    out, errors = (open(number, "wb", 0 if is_unbuffered else -1, closefd=False) for number in (1, 2))  # noqa: SIM115
    how: dict[str, Any] = {"write_through": is_unbuffered}
    sys.stdout = sys.__stdout__ = io.TextIOWrapper(out, encoding, line_buffering=os.isatty(1), **how)  # type: ignore[misc]
    sys.stderr = sys.__stderr__ = io.TextIOWrapper(errors, encoding, "backslashreplace", line_buffering=True, **how)  # type: ignore[misc]
    if numpy := sys.modules.get("numpy"):
        # Python seeds random anew in a fork, but not this one.
        numpy.random.seed()
    main_module = sys.modules["__main__"] = types.ModuleType("__main__")
    if sys.version_info < (3, 14):
        main_module.__annotations__ = {}
    return module


def _run(module: str) -> object:
    """Run the module as the interpreter would, and return what it exits with."""
    try:
        runpy._run_module_as_main(module)  # type: ignore[attr-defined]
    except SystemExit as end:
        return end.code
    except BaseException as problem:
        # Without the lines of this file.
        trace = problem.__traceback__ and problem.__traceback__.tb_next
        sys.excepthook(type(problem), problem.with_traceback(trace), trace)
        return 128 + signal.SIGINT if isinstance(problem, KeyboardInterrupt) else 1
    return 0


def _end(code: object) -> NoReturn:
    """End the process as the interpreter does, but without tearing down the imported libraries, which takes longer than most jobs."""
    if not (code is None or isinstance(code, int)):
        sys.stderr.write(f"{code}\n")
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.modules["__main__"].__dict__.clear()
    gc.collect()
    for left in gc.get_objects():
        # A file that the process has written to and left open.
        if isinstance(left, io.IOBase):
            with contextlib.suppress(OSError, ValueError):
                left.flush()
    os._exit(int(code or 0) & 0xFF)


def _enter(executable: Path) -> None:
    """Enter the virtual environment of an interpreter, whose site-packages come before those of the fork server's Python."""
    root = executable.parents[1]
    parent = sysconfig.get_path("purelib")  # before the prefix changes, which this path follows since Python 3.14
    sys.executable, sys.prefix, sys.exec_prefix = str(executable), str(root), str(root)
    packages = root / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    sys.path.insert(sys.path.index(parent) if parent in sys.path else len(sys.path), str(packages))


def _set_title(command: Sequence[str]) -> None:
    """Overwrite the arguments of this process, so that /proc and ps show the command that it runs."""
    start, end = map(int, Path("/proc/self/stat").read_text().rpartition(")")[2].split()[45:47])
    title = b"".join(os.fsencode(word) + b"\0" for word in command)[: end - start - 1]
    ctypes.memmove(start, title.ljust(end - start, b"\0"), end - start)


if __name__ == "__main__":
    main(sys.argv[1:])
