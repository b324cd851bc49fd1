"""Runs one command against the emulator, or serves until a signal arrives."""

from __future__ import annotations

import argparse
import contextlib
import errno
import fcntl
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

from mlops.emulator.base import children
from mlops.emulator.base.azure import Options
from mlops.emulator.base.faults import Faults
from mlops.emulator.history import mlflow_api
from mlops.emulator.identity.roles import RolesError
from mlops.emulator.server import Emulator
from mlops.emulator.wire import request_log
from mlops.emulator.workspace import quota

__all__ = ["run"]


def run(command: Sequence[str], options: argparse.Namespace, faults: Faults) -> int:
    """Start the emulator, run the command or serve, stop the emulator, and return the exit status."""
    if options.verbose:
        request_log.write_to_stderr()
    with _exit_on_signals(), _private_files() as umask, contextlib.ExitStack() as stack:
        state = options.state or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="emulator-")))
        stack.enter_context(_lock_state(state))
        emulator = _make_emulator(options, state, faults)
        try:
            stack.enter_context(emulator)
        except RolesError as problem:
            sys.exit(str(problem))
        except OSError as problem:
            if problem.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            sys.exit(f"The emulator can't listen on port {options.port}: {problem.strerror}. Choose another --port, or 0 for any free one.")
        try:
            if options.action:
                return _serve(emulator, state)
            status = _run_attached(command, emulator.environment(), umask)
            if options.state is not None:
                sys.stderr.write(f"The emulator's state is in {options.state}. To open its MLflow page: {_serve_command(options)}\n")
            return status
        finally:
            if options.hosts is not None:
                lines = (f"{host} {'allowed' if allowed else 'refused'}\n" for host, allowed in sorted(emulator.contacted_hosts.items()))
                options.hosts.write_text("".join(lines))


def _make_emulator(options: argparse.Namespace, state: Path, faults: Faults) -> Emulator:
    settings = Options(
        catalog=options.catalog,
        weights=options.weights,
        answer_shape=options.answer_shape,
        storage=options.storage,
        network=options.network,
        endpoints_taken=tuple(options.endpoint_taken),
        quota=_parse_quota(options.quota),
        polls=options.polls,
        github=options.github,
        federated_subjects=tuple(options.federated_subject),
        mlflow_at_start=True,
        roles=options.roles,
    )
    return Emulator(state, settings, faults, options.port)


def _parse_quota(specs: Sequence[str]) -> dict[str, int]:
    try:
        return quota.parse(specs)
    except ValueError as problem:
        sys.exit(str(problem))


def _serve(emulator: Emulator, state: Path) -> int:
    variables = state.resolve() / "env"
    variables.unlink(missing_ok=True)
    variables.touch(mode=0o600, exist_ok=False)  # the file contains the client secret
    variables.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in emulator.environment().items()))
    lines = [
        "The Azure ML emulator is running.",
        f"  in another shell   . {shlex.quote(str(variables))}",
        f"  MLflow page        {mlflow_api.get_url(emulator.azure)}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    try:
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            while True:
                signal.pause()
    finally:
        # A shell that sources it later would find nothing listening.
        variables.unlink(missing_ok=True)
    return 0


def _serve_command(options: argparse.Namespace) -> str:
    """Return the command that serves the same state again."""
    python = Path(sys.executable)
    path = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return shlex.join([str(path), "-m", "mlops.emulator", "serve", "--state", str(options.state)])


def _run_attached(command: Sequence[str], environment: Mapping[str, str], umask: int) -> int:
    read, write = os.pipe()
    try:
        # If this process is killed, the pipe closes and the guard stops the command.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", children.__file__, str(read), "--attached", *command],
            env=dict(os.environ) | dict(environment),
            pass_fds=(read,),
            umask=umask,
        )
        os.close(read)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            # A terminal sends SIGINT to the command itself.
            is_sent_by_terminal = number == signal.SIGINT and os.isatty(0)
            signal.signal(number, signal.SIG_IGN if is_sent_by_terminal else lambda received, _: process.send_signal(received))
        return process.wait()
    finally:
        os.close(write)


@contextlib.contextmanager
def _exit_on_signals() -> Iterator[None]:
    """Make SIGTERM and SIGHUP unwind the stack, so that the state folder is cleaned up and children are stopped."""

    def exit_with(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, exit_with) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _private_files() -> Iterator[int]:
    """Let only this user read what the emulator writes. Yield the previous umask, which the user's command keeps."""
    umask = os.umask(0o077)
    try:
        yield umask
    finally:
        os.umask(umask)


@contextlib.contextmanager
def _lock_state(state: Path) -> Iterator[None]:
    """Keep a second emulator from using the same state."""
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    if state.stat().st_uid != os.geteuid():
        sys.exit(f"{state} belongs to another user, who could change what this emulator runs: choose another --state.")
    with (state / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            sys.exit(f"Another emulator is using {state}: stop it, or choose another --state.")
        yield
