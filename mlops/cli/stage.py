"""How a function becomes a command: arguments, configuration, run directory, workspace, exit code.

A stage is a function that names what it needs as parameters: ``config``, ``run``, ``workspace``, or an option of its command::

    def train(config: Config, run: Run, workspace: Workspace) -> Trained: ...


    main = stage.command(train, needs=(Prepared, Validated))
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import inspect
import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.config import Config, load
from mlops.core.errors import INTERRUPTED, OUTPUT_CLOSED, Detached, MlopsError, StorageFailed
from mlops.core.records import Record
from mlops.core.run import Run

__all__ = ["Command", "Context", "bare_parser", "command", "guarded", "load_context", "parser"]


_PERMISSION = "change its permissions, or use another folder (--run for the records)"
_SPACE = "free some space, then run the command again"
_PATH = "correct the path"
STORAGE_FIXES = {
    errno.ENOSPC: _SPACE, errno.EDQUOT: _SPACE, errno.EFBIG: _SPACE, errno.EACCES: _PERMISSION, errno.EPERM: _PERMISSION,
    errno.EROFS: _PERMISSION,
    errno.ENOENT: _PATH, errno.ENOTDIR: _PATH, errno.EISDIR: _PATH, errno.EEXIST: _PATH, errno.ENAMETOOLONG: _PATH, errno.ELOOP: _PATH,
    errno.EMFILE: "raise the limit of open files (ulimit -n)", errno.ENFILE: "close other programs", errno.EIO: "check the disk",
}  # fmt: skip
"""Error of the file system → what the user can do."""


SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that interrupt a command. It cleans up after the first, and ignores further ones while it does."""


class Context:
    """What a command's options select: the settings of a target, a run directory, the workspace."""

    def __init__(self, config: Config, run: Run, options: Mapping[str, Any]) -> None:
        self.config = config
        self.run = run
        self.options = options
        self._workspace: Workspace | None = None

    @property
    def workspace(self) -> Workspace:
        """The workspace, opened on first use: commands that don't talk to Azure need no credential."""
        if self._workspace is None:
            self._workspace = Workspace.open(self.config)
            coordinates = self._workspace.session.coordinates
            console.info(
                f"  workspace {coordinates['name']}, resource group {coordinates['resource_group']}, "
                f"subscription {coordinates['subscription_id']}"
            )
        return self._workspace

    def call(self, function: Callable[..., Any]) -> Any:
        """Call a function with the parameters that it names."""
        own = ("config", "run", "workspace")
        parameters = inspect.signature(function).parameters
        # A default stands for an option that this command doesn't have, as when `mlops run` calls a stage.
        names = [
            name for name, parameter in parameters.items() if name in own or name in self.options or parameter.default is parameter.empty
        ]
        return function(**{name: getattr(self, name) if name in own else self.options[name] for name in names})


class Command:
    """A function as a command. Call it with arguments to get an exit code, or :meth:`execute` it in a context that exists already."""

    def __init__(
        self,
        function: Callable[..., Any],
        needs: Sequence[type[Record]],
        add_options: Callable[[argparse.ArgumentParser], object] | None,
        answer_query: Callable[[argparse.Namespace], int | None] | None,
        to_json: Callable[[Any], object] | None = None,
    ) -> None:
        self.function = function
        self.needs = needs
        self._to_json = to_json
        self.name = function.__name__.replace("_", "-")
        self._add_options = add_options
        self._answer_query = answer_query

    def __call__(self, argv: Sequence[str] | None = None) -> int:
        """Parse arguments, run the function and return the exit code."""
        # The module's docstring opens with what the command does and an example.
        description = inspect.cleandoc(sys.modules[self.function.__module__].__doc__ or "")
        options = parser(description, prog=f"mlops {self.name}")
        if self._add_options:
            self._add_options(options)
        if self._to_json:
            options.add_argument("--json", action="store_true", help="print one JSON value; everything else goes to stderr")
        arguments = options.parse_args(argv)

        def run() -> int:
            code = self._answer_query(arguments) if self._answer_query else None
            if code is not None:
                return code
            return self.execute(load_context(arguments))

        return guarded(run)

    def execute(self, context: Context) -> int:
        """Run the function in a titled section. The gate's record decides the exit code; every other result is success.

        Raises:
            RecordError: a record that the function needs is missing. Checked first, before the workspace is opened.
        """
        as_json = self._to_json if context.options.get("json") else None
        with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout), console.step(self.name):
            context.run.require(self.needs)
            try:
                with context.run.locked():
                    result = context.call(self.function)
            except OSError as problem:
                if failure := explain_storage_failure(problem):
                    raise failure from problem
                raise
        if as_json:
            console.info(json.dumps(as_json(result), indent=1, ensure_ascii=False))
        return int(getattr(result, "exit_code", 0))


def command(
    function: Callable[..., Any],
    *,
    needs: Sequence[type[Record]] = (),
    add_options: Callable[[argparse.ArgumentParser], object] | None = None,
    answer_query: Callable[[argparse.Namespace], int | None] | None = None,
    to_json: Callable[[Any], object] | None = None,
) -> Command:
    """Make a command of a function.

    Args:
        function: its name is the command's, its parameters are what it needs, its module's docstring is the help text.
        needs: records that must exist, in the order of the stages; checked before any credential is needed.
        add_options: adds options beside the common ones; the function can name them as parameters.
        answer_query: called first with the parsed arguments; an exit code if it did what they request, so the function isn't called.
        to_json: adds the option ``--json``, which prints what this makes of the function's result.
    """
    return Command(function, needs, add_options, answer_query, to_json)


def bare_parser(description: str, prog: str | None = None) -> argparse.ArgumentParser:
    """A parser without options that keeps the description's line breaks."""
    return argparse.ArgumentParser(description=description, prog=prog, formatter_class=argparse.RawDescriptionHelpFormatter)


def parser(description: str, prog: str | None = None) -> argparse.ArgumentParser:
    """A parser with the options that every command has."""
    common = bare_parser(description, prog)
    common.add_argument("--target", default=os.environ.get("MLOPS_TARGET", "local"), help="a table under [targets] (default: local)")
    common.add_argument("--config", type=Path, default=Path("pipeline.toml"), metavar="FILE", help="default: pipeline.toml")
    common.add_argument("--run", type=Path, default=Path("run"), metavar="DIR", help="where records are stored (default: run)")
    common.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting, e.g. training.parameters.max_steps=5 (MLOPS_SET: the same, one per line)",
    )
    return common


def load_context(arguments: argparse.Namespace) -> Context:
    """Load what the common options select. Without an option --override, MLOPS_OVERRIDE is the gate's; workflows set it."""
    options = {"override": os.environ.get("MLOPS_OVERRIDE", ""), **vars(arguments)}
    return Context(load(arguments.config, arguments.target, arguments.set), Run(arguments.run), options)


def guarded(function: Callable[[], int]) -> int:
    """Turn every way to fail into a message and an exit code."""
    previous = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    try:
        return function()
    except Detached as notice:
        console.notice(str(notice))
        return notice.exit_code
    except MlopsError as problem:
        console.error(str(problem))
        return problem.exit_code
    except console.OutputClosed:
        return OUTPUT_CLOSED
    except KeyboardInterrupt:
        console.error("Interrupted.")
        return INTERRUPTED
    except OSError as problem:
        if (failure := explain_storage_failure(problem)) is None:
            return _report_bug(problem)
        console.error(str(failure))
        return failure.exit_code
    except Exception as problem:
        return _report_bug(problem)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def explain_storage_failure(problem: OSError) -> StorageFailed | None:
    """Return what a failure of the file system means, or None if it is something else, such as a failure of the network."""
    fix = STORAGE_FIXES.get(problem.errno or 0)
    if fix is None or type(problem).__module__ != "builtins":
        return None
    where = f"{problem.filename}: " if problem.filename else ""
    return StorageFailed(f"{where}{problem.strerror}. What was being written is incomplete and has been removed.", fix)


def _report_bug(problem: Exception) -> int:
    console.info(traceback.format_exc().rstrip())
    console.error(f"Unexpected error: {type(problem).__name__}: {problem}\nFix: this is a bug; please report it with the lines above.")
    return 1


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    # SIGTERM is handled like Ctrl-C, so that `finally` blocks run and a cancelled workflow cancels its job. GitHub sends SIGINT, 7.5
    # seconds later SIGTERM, and kills after another 2.5: the second signal must not interrupt the clean-up that the first has started.
    for number in SIGNALS:
        signal.signal(number, _ignore)
    # At once, because the clean-up may not end before the kill. Not by print, which may have been interrupted itself.
    with contextlib.suppress(OSError):
        os.write(2, b"Interrupted: cleaning up. Further signals are ignored.\n")
    raise KeyboardInterrupt


def _ignore(_signum: int, _frame: FrameType | None) -> None:
    """Do nothing. Unlike SIG_IGN, child processes don't inherit it."""
