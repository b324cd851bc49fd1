"""Azure ML on a laptop, around one command or until it is stopped.

    python -m mlops.emulator -- python train.py      start it, run the command inside it, stop it; exits with the command's status
    python -m mlops.emulator serve --state DIR       keep it running; in another shell: . DIR/env

What makes a command run inside it is its environment alone: proxy, certificate, identity and workspace coordinates.
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
    """Run as the arguments say.

    Returns:
        The command's exit status (128 + signal number if a signal ended it, 127 if there is no such command); of ``serve``, 0.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    own, command = (arguments[: (cut := arguments.index("--"))], arguments[cut + 1 :]) if "--" in arguments else (arguments, [])
    parser = _parser()
    options = parser.parse_args(own)
    if options.action == "serve" and (command or options.state is None):
        parser.error("serve takes --state DIR and no command")
    if options.action is None and not command:
        parser.error("give a command after --, or 'serve --state DIR'")
    if options.federated_subject and not options.github:
        parser.error("--federated-subject takes effect only with --github OWNER/NAME")
    faults = _ordered(options.fault, parser)
    with _signals(), contextlib.ExitStack() as stack:
        state = options.state or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="emulator-")))
        stack.enter_context(_lock(state, parser))
        emulator = _emulator(options, state, faults)
        try:
            stack.enter_context(emulator)
        except OSError as problem:
            if problem.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            parser.exit(
                1, f"The emulator can't listen on port {options.port}: {problem.strerror}. Take another --port, or 0 for a free one.\n"
            )
        try:
            if options.action:
                return _serve(emulator, state)
            status = _run(command, emulator.environment())
            if options.state is not None:
                sys.stderr.write(f"The emulator's state is kept. Its MLflow page: {_again(options)}\n")
            return status
        finally:
            if options.hosts is not None:
                lines = (f"{host} {'allowed' if allowed else 'refused'}\n" for host, allowed in sorted(emulator.hosts_asked.items()))
                options.hosts.write_text("".join(lines))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m mlops.emulator",
        usage="%(prog)s [options] -- COMMAND …\n       %(prog)s serve --state DIR [options]",
        description=textwrap.dedent(__doc__),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("action", nargs="?", choices=["serve"], help="keep it running instead of running a command")
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="where everything is kept; found again at the next start (default: nowhere)"
    )
    parser.add_argument("--catalog", choices=CATALOGS, default="tutorial", help="what the azureml registry holds (default: %(default)s)")
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default=os.environ.get("MLOPS_EMULATOR_WEIGHTS", "real"),
        help="which stand-in weights the base models have (default: MLOPS_EMULATOR_WEIGHTS, else real)",
    )
    parser.add_argument("--fault", action="append", default=[], metavar="SPEC", help="NAME[@GLOB] [xN | always]; see --faults")
    parser.add_argument("--faults", action=_Faults, help="list the faults that can be ordered")
    parser.add_argument("--port", type=int, default=0, help="of the proxy (default: a free one)")
    parser.add_argument("--polls", type=int, default=0, help="status reads a long-running operation takes beyond its work (default: 0)")
    parser.add_argument(
        "--github", default="", metavar="OWNER/NAME", help="stand for GitHub as well: the token issuer and the REST API of this repository"
    )
    parser.add_argument(
        "--federated-subject",
        action="append",
        default=[],
        metavar="SUBJECT",
        help="let the application trust GitHub's tokens with this subject, e.g. repo:OWNER/NAME:environment:prod",
    )
    parser.add_argument("--hosts", type=Path, metavar="FILE", help="write there which host names were asked for, and which were refused")
    return parser


class _Faults(argparse.Action):
    """``--faults``: list them and exit."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:  # noqa: A002 - argparse's name
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from mlops.emulator.base.faults import KNOWN

        sys.stdout.writelines(f"{name:<22}{what}\n" for name, what in KNOWN.items())
        parser.exit()


def _ordered(specs: Sequence[str], parser: argparse.ArgumentParser) -> Faults:
    from mlops.emulator.base.faults import Faults

    try:
        return Faults(specs)
    except ValueError as problem:
        parser.error(str(problem))


def _emulator(options: argparse.Namespace, state: Path, faults: Faults) -> Emulator:
    from mlops.emulator.base.azure import Options
    from mlops.emulator.server import Emulator

    chosen = Options(
        catalog=options.catalog,
        weights=options.weights,
        polls=options.polls,
        github=options.github,
        federated_subjects=tuple(options.federated_subject),
    )
    return Emulator(state, chosen, faults, options.port)


def _serve(emulator: Emulator, state: Path) -> int:
    from mlops.emulator.history import mlflow_api

    variables = state.resolve() / "env"
    variables.touch(mode=0o600)  # it holds the client secret
    variables.write_text("".join(f"export {name}={shlex.quote(value)}\n" for name, value in emulator.environment().items()))
    lines = [
        "The Azure ML emulator is running.",
        f"  in another shell   . {shlex.quote(str(variables))}",
        f"  MLflow page        {mlflow_api.url(emulator.azure)}",
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    try:
        with contextlib.suppress(KeyboardInterrupt, SystemExit):
            while True:
                signal.pause()
    finally:
        # Whoever sourced it later would talk to nobody.
        variables.unlink(missing_ok=True)
    return 0


def _again(options: argparse.Namespace) -> str:
    """The command that opens the same state again."""
    python = Path(sys.executable)
    shown = python.relative_to(Path.cwd()) if python.is_relative_to(Path.cwd()) else python
    return shlex.join([str(shown), "-m", "mlops.emulator", "serve", "--state", str(options.state)])


def _run(command: Sequence[str], environment: Mapping[str, str]) -> int:
    from mlops.emulator.base import children

    read, write = os.pipe()
    try:
        # The guard ends the command if we are killed: it sees the pipe close.
        process = subprocess.Popen(
            [sys.executable, "-I", "-S", children.__file__, str(read), "--attached", *command],
            env=dict(os.environ) | dict(environment),
            pass_fds=(read,),
        )
        os.close(read)
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            # At a terminal the command has its own SIGINT.
            ours = number == signal.SIGINT and os.isatty(0)
            signal.signal(number, signal.SIG_IGN if ours else lambda received, _: process.send_signal(received))
        return process.wait()
    finally:
        os.close(write)


@contextlib.contextmanager
def _signals() -> Iterator[None]:
    """SIGTERM and SIGHUP unwind the stack, so that the state folder is tidied and children end."""

    def leave(number: int, _: FrameType | None) -> None:
        sys.exit(128 + number)

    before = {number: signal.signal(number, leave) for number in (signal.SIGTERM, signal.SIGHUP)}
    before[signal.SIGINT] = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _lock(state: Path, parser: argparse.ArgumentParser) -> Iterator[None]:
    """Keep a second emulator away from the same state."""
    state.mkdir(parents=True, exist_ok=True)
    with (state / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            parser.exit(1, f"Another emulator is running on {state}: stop it, or take another --state.\n")
        yield


if __name__ == "__main__":
    sys.exit(main())
