"""Run an emulated Azure ML on this machine, for one command or until it is stopped.

    python -m mlops.emulator -- python train.py      start it, run the command against it, stop it; exit with the command's status
    python -m mlops.emulator serve --state DIR       keep it running; in another shell: . DIR/env

Environment variables direct the command to the emulator: proxy, CA bundle, identity and workspace coordinates.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

from mlops.emulator.base.faults import FAULTS, Faults

__all__ = ["main"]

CATALOGS = ("current", "tutorial")
WEIGHTS = ("real", "tiny-llama", "tiny-phi3", "tiny-phi4")
NETWORKS = ("public", "private", "private-outside")
ANSWER_SHAPES = ("output", "output-list", "column", "column-list", "text-list", "chat-completion")


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
    try:
        faults = Faults(options.fault)
    except ValueError as problem:
        parser.error(str(problem))
    try:
        # Imported by name because the server is slow to import, and --help must be fast.
        run: Callable[..., int] = importlib.import_module("mlops.emulator.command").run
    except ModuleNotFoundError as problem:
        if (problem.name or "mlops").partition(".")[0] == "mlops":
            raise
        parser.error(
            f"{problem.name} is not installed. requirements/azure.lock is only enough for a real workspace; the emulator needs "
            "requirements/local.lock, which `nox -s types` installs into .nox/local (CONTRIBUTING.md)"
        )
    return run(command, options, faults)


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
    parser.add_argument("--catalog", choices=CATALOGS, default="current", help="content of the azureml registry (default: %(default)s)")
    parser.add_argument(
        "--weights",
        choices=WEIGHTS,
        default=os.environ.get("MLOPS_EMULATOR_WEIGHTS", "real"),
        help="stand-in weights of the base models (default: MLOPS_EMULATOR_WEIGHTS, else real)",
    )
    parser.add_argument(
        "--storage",
        choices=("keys", "identity"),
        default="keys",
        help="whether the workspace's storage has keys, or only accepts identities (default: %(default)s)",
    )
    parser.add_argument(
        "--network",
        choices=NETWORKS,
        default="public",
        help="public network access of the workspace; if private, whether clients are in its virtual network (default: %(default)s)",
    )
    parser.add_argument(
        "--answer-shape",
        choices=ANSWER_SHAPES,
        default="output",
        help="shape in which serving images return a chat model's texts (default: %(default)s)",
    )
    parser.add_argument(
        "--endpoint-taken",
        action="append",
        default=[],
        metavar="NAME",
        help="refuse to create an endpoint of this name, as if another user in the region had it; repeatable",
    )
    parser.add_argument(
        "--fault", action="append", default=[], metavar="SPEC", help="inject a fault: NAME[@GLOB] [xN | always]; see --faults"
    )
    parser.add_argument("--faults", action=_Faults, help="list the faults that can be injected")
    parser.add_argument(
        "--quota", action="append", default=[], metavar="FAMILY=CORES",
        help="limit the cores of a VM family, or of TotalDedicatedCores or TotalLowPriorityCores (default: unlimited)",
    )  # fmt: skip
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
    parser.add_argument(
        "--roles", type=Path, metavar="FILE", help="file with the application's role definitions and assignments (default: all permissions)"
    )
    parser.add_argument(
        "--hosts", type=Path, metavar="FILE", help="write the contacted host names to FILE, and whether each was allowed or refused"
    )
    parser.add_argument("--verbose", action="store_true", help="write a line to stderr for each request")
    return parser


class _Faults(argparse.Action):
    """``--faults``: list the faults and exit."""

    def __init__(self, option_strings: Sequence[str], dest: str, help: str | None = None) -> None:  # noqa: A002 - argparse's name
        super().__init__(option_strings, dest, nargs=0, help=help)

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        sys.stdout.writelines(f"{name:<22}{description}\n" for name, description in FAULTS.items())
        parser.exit()


if __name__ == "__main__":
    sys.exit(main())
