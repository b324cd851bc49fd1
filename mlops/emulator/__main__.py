"""Azure ML on a laptop, for one command or until it is stopped.

    python -m mlops.emulator -- python train.py      start it, run the command inside it, stop it; exits with the command's status
    python -m mlops.emulator serve --state DIR       keep it running; in another shell: . DIR/env

A command runs inside it because of environment variables alone: proxy, CA bundle, identity and workspace coordinates.
"""

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
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mlops.emulator.base.faults import Faults
    from mlops.emulator.server import Emulator

__all__ = ["main"]

CATALOGS = ("tutorial", "current")
WEIGHTS = ("real", "tiny-llama", "tiny-phi3")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Returns:
        The command's exit status (128 + signal number if a signal killed it, 127 if the command doesn't exist); 0 for ``serve``.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    end = arguments.index("--") if "--" in arguments else len(arguments)
    command = arguments[end + 1 :]
    parser = _make_parser()
    options = parser.parse_args(arguments[:end])
    if options.action == "serve" and (command or options.state is None):
        parser.error("serve takes --state DIR and no command")
    if options.action is None and not command:
        parser.error("enter a command after --, or 'serve --state DIR'")
    if options.federated_subject and not options.github:
        parser.error("--federated-subject takes effect only with --github OWNER/NAME")
    faults = _make_faults(options.fault, parser)
    if options.verbose:
        from mlops.emulator.wire import request_log

        request_log.write_to_stderr()
    with _exit_on_signals(), contextlib.ExitStack() as stack:
        state = options.state or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="emulator-")))
        stack.enter_context(_lock_state(state, parser))
        emulator = _make_emulator(options, state, faults)
        try:
            stack.enter_context(emulator)
        except OSError as problem:
            if problem.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            parser.exit(
                1, f"The emulator can't listen on port {options.port}: {problem.strerror}. Choose another --port, or 0 for any free one.\n"
            )
        try:
            if options.action:
                return _serve(emulator, state)
            status = _run(command, emulator.environment())
            if options.state is not None:
                sys.stderr.write(f"The emulator's state is in {options.state}. To open its MLflow page: {_serve_command(options)}\n")
            return status
        finally:
            if options.hosts is not None:
                lines = (f"{host} {'allowed' if allowed else 'refused'}\n" for host, allowed in sorted(emulator.contacted_hosts.items()))
                options.hosts.write_text("".join(lines))


def _make_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mlops.emulator",
        usage="%(prog)s [options] -- COMMAND …\n       %(prog)s serve --state DIR [options]",
        description=textwrap.dedent(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", nargs="?", choices=["serve"], help="keep it running instead of running a command")
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="folder for all state; reuse it to continue (default: a temporary folder)"
    )
    parser.add_argument("--catalog", choices=CATALOGS, default="tutorial", help="content of the azureml registry (default: %(default)s)")
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default=os.environ.get("MLOPS_EMULATOR_WEIGHTS", "real"),
        help="stand-in weights of the base models (default: MLOPS_EMULATOR_WEIGHTS, else real)",
    )
    parser.add_argument(
        "--fault", action="append", default=[], metavar="SPEC", help="inject a fault: NAME[@GLOB] [xN | always]; see --faults"
    )
    parser.add_argument("--faults", action=_Faults, help="list the faults that can be injected")
    parser.add_argument("--port", type=int, default=0, help="port of the proxy (default: any free one)")
    parser.add_argument(
        "--polls",
        type=int,
        default=0,
        help="additional status reads of a long-running operation (default: 0)",
    )
    parser.add_argument(
        "--github", default="", metavar="OWNER/NAME", help="emulate GitHub as well: the token issuer and the REST API of this repository"
    )
    parser.add_argument(
        "--federated-subject",
        action="append",
        default=[],
        metavar="SUBJECT",
        help="make the application trust GitHub's tokens with this subject, e.g. repo:OWNER/NAME:environment:prod",
    )
    parser.add_argument("--hosts", type=Path, metavar="FILE", help="write the contacted host names to FILE, each allowed or refused")
    parser.add_argument("--verbose", action="store_true", help="write a line to stderr for each request")
    return parser


class _Faults(argparse.Action):
    """``--faults``: list the faults and exit."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:  # noqa: A002 - argparse's name
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from mlops.emulator.base.faults import FAULTS

        sys.stdout.writelines(f"{name:<22}{description}\n" for name, description in FAULTS.items())
        parser.exit()


def _make_faults(specs: Sequence[str], parser: argparse.ArgumentParser) -> Faults:
    from mlops.emulator.base.faults import Faults

    try:
        return Faults(specs)
    except ValueError as problem:
        parser.error(str(problem))


def _make_emulator(options: argparse.Namespace, state: Path, faults: Faults) -> Emulator:
    from mlops.emulator.base.azure import Options
    from mlops.emulator.server import Emulator

    settings = Options(
        catalog=options.catalog,
        weights=options.weights,
        polls=options.polls,
        github=options.github,
        federated_subjects=tuple(options.federated_subject),
        mlflow_at_start=True,
    )
    return Emulator(state, settings, faults, options.port)


def _serve(emulator: Emulator, state: Path) -> int:
    from mlops.emulator.history import mlflow_api

    variables = state.resolve() / "env"
    variables.touch(mode=0o600)  # the file contains the client secret
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


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    from mlops.emulator.base import children

    read, write = os.pipe()
    try:
        # If this process is killed, the pipe closes and the guard stops the command.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", children.__file__, str(read), "--attached", *command],
            env=dict(os.environ) | dict(environment),
            pass_fds=(read,),
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
def _lock_state(state: Path, parser: argparse.ArgumentParser) -> Iterator[None]:
    """Keep a second emulator from using the same state."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            parser.exit(1, f"Another emulator is using {state}: stop it, or choose another --state.\n")
        yield


if __name__ == "__main__":
    sys.exit(main())
