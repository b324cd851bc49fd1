"""Turns a function into a command: arguments, configuration, run directory, workspace, output, exit code.

A stage is a function that names what it needs as parameters: ``config``, ``run``, ``workspace``, or an option of its command::

    def train(config: Config, run: Run, workspace: Workspace) -> Trained: ...


    main = stage.command(train, needs=(Prepared, Validated))
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import inspect
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from pydantic_core import to_json

from mlops.cloud.workspace import Workspace
from mlops.core import console
from mlops.core.config import load
from mlops.core.errors import OUTPUT_CLOSED, Detached, Interrupted, MlopsError, StorageFailed, UsageError
from mlops.core.record import Record
from mlops.core.run import Run
from mlops.core.settings import Config

__all__ = ["Answer", "Command", "Context", "bare_parser", "command", "finish", "load_context", "parser", "run_and_report"]


_PERMISSION = "change its permissions, or use another folder (--run for the records)"
_SPACE = "free some space, then run the command again"
_PATH = "correct the path"
STORAGE_FIXES = {
    errno.ENOSPC: _SPACE, errno.EDQUOT: _SPACE, errno.EFBIG: _SPACE, errno.EACCES: _PERMISSION, errno.EPERM: _PERMISSION,
    errno.EROFS: _PERMISSION,
    errno.ENOENT: _PATH, errno.ENOTDIR: _PATH, errno.EISDIR: _PATH, errno.EEXIST: _PATH, errno.ENAMETOOLONG: _PATH, errno.ELOOP: _PATH,
    errno.EMFILE: "raise the limit of open files (ulimit -n)", errno.ENFILE: "close other programs", errno.EIO: "check the disk",
}  # fmt: skip
"""File system error → what the user can do about it."""


SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""Signals that interrupt a command. It cleans up after the first, and ignores further ones while it does."""


@dataclass(frozen=True)
class Answer:
    """A command's result whose printed form differs from its JSON form."""

    content: object
    """The value that ``--json`` prints."""
    text: str = ""
    """The text that is printed without ``--json``."""
    exit_code: int = 0
    failure: MlopsError | None = None
    """A failure that has been reported already. ``--json`` prints it instead of the content."""


class Context:
    """The settings, run directory and workspace that a command's options select."""

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
        special = ("config", "run", "workspace")
        parameters = inspect.signature(function).parameters
        # A default stands for an option that this command doesn't have, as when `mlops run` calls a stage.
        names = [
            name
            for name, parameter in parameters.items()
            if name in special or name in self.options or parameter.default is parameter.empty
        ]
        return function(**{name: getattr(self, name) if name in special else self.options[name] for name in names})


class Command:
    """A function as a command. Call it with arguments to get an exit code, or :meth:`execute` it in a context that exists already."""

    def __init__(
        self,
        function: Callable[..., Any],
        needs: Sequence[type[Record]],
        add_options: Callable[[argparse.ArgumentParser], object] | None,
        answer_query: Callable[[argparse.Namespace], Answer | None] | None,
    ) -> None:
        self.function = function
        self.needs = needs
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
        arguments = options.parse_args(argv)

        def run() -> object:
            answer = self._answer_query(arguments) if self._answer_query else None
            return self.execute(load_context(arguments)) if answer is None else answer

        return finish(run, as_json=arguments.json)

    def execute(self, context: Context) -> Any:
        """Run the function in a titled section and return its result.

        Raises:
            RecordError: a record that the function needs is missing. Checked first, before the workspace is opened.
        """
        with console.step(self.name):
            context.run.require(self.needs)
            try:
                with context.run.locked():
                    return context.call(self.function)
            except OSError as problem:
                if failure := explain_storage_failure(problem):
                    raise failure from problem
                raise


def command(
    function: Callable[..., Any],
    *,
    needs: Sequence[type[Record]] = (),
    add_options: Callable[[argparse.ArgumentParser], object] | None = None,
    answer_query: Callable[[argparse.Namespace], Answer | None] | None = None,
) -> Command:
    """Make a command of a function.

    Args:
        function: its name is the command's, its parameters are what it needs, its module's docstring is the help text.
        needs: records that must exist, in the order of the stages; checked before any credential is needed.
        add_options: adds options beside the common ones; the function can name them as parameters.
        answer_query: called first with the parsed arguments. If it returns an answer, the function isn't called.
    """
    return Command(function, needs, add_options, answer_query)


class _Parser(argparse.ArgumentParser):
    """Arguments that can't be parsed are a failure like others: as JSON if that is requested."""

    def parse_args(self, args: Sequence[str] | None = None, namespace: None = None) -> argparse.Namespace:  # type: ignore[override]
        self._wants_json = "--json" in (sys.argv if args is None else args)
        return super().parse_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        if self._wants_json:
            _print_json(UsageError(message, f"see `{self.prog} --help`"))
        super().error(console.neutralize(message))  # it repeats arguments


def bare_parser(description: str, prog: str | None = None) -> argparse.ArgumentParser:
    """A parser that keeps the description's line breaks, with the one option of all commands, ``--json``."""
    # Docstrings have reStructuredText's quotes, and ruff removes the indentation of examples.
    description = re.sub(r"(?m)^(?=mlops )", "    ", description.replace("``", "`"))
    bare = _Parser(description=description, prog=prog, formatter_class=argparse.RawDescriptionHelpFormatter)
    bare.add_argument(
        "--json", action="store_true", help="print the result, or the failure, as one JSON value; everything else goes to stderr"
    )
    return bare


def parser(description: str, prog: str | None = None) -> argparse.ArgumentParser:
    """A parser with the options of every command that reads pipeline.toml or the run directory."""
    common = bare_parser(description, prog)
    common.add_argument(
        "--target", default=os.environ.get("MLOPS_TARGET", "local"), help="a table under [targets] in pipeline.toml (default: local)"
    )
    common.add_argument("--config", type=Path, default=Path("pipeline.toml"), metavar="FILE", help="default: pipeline.toml")
    common.add_argument("--run", type=Path, default=Path("run"), metavar="DIR", help="where records are stored (default: run)")
    common.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="override a setting, e.g. training.parameters.max_steps=5 (also MLOPS_SET, one per line)",
    )
    return common


def load_context(arguments: argparse.Namespace) -> Context:
    """Load what the common options select. Without an option --override, MLOPS_OVERRIDE is the gate's; workflows set it."""
    options = {"override": os.environ.get("MLOPS_OVERRIDE", ""), **vars(arguments)}
    return Context(load(arguments.config, arguments.target, arguments.set), Run(arguments.run), options)


def finish(function: Callable[[], object], *, as_json: bool) -> int:
    """Run a command and print its result, or why it failed.

    Args:
        function: the command. It may return anything that pydantic can turn into JSON, or an :class:`Answer`.
        as_json: print nothing on stdout but the result, or the failure as ``{"error": …}``.

    Returns:
        The exit code: that of the failure, or the result's attribute ``exit_code``, or 0.
    """
    failures: list[MlopsError] = []
    results: list[object] = []

    def run() -> int:
        result = function()
        results.append(result.content if isinstance(result, Answer) else result)
        if isinstance(result, Answer) and result.failure:
            failures.append(result.failure)
        if isinstance(result, Answer) and result.text and not as_json:
            console.info(result.text)
        return int(getattr(result, "exit_code", 0))

    def show() -> int:
        _print_json((failures or results)[0])
        return code

    with contextlib.redirect_stdout(sys.stderr if as_json else sys.stdout):
        code = run_and_report(run, failures)
    return run_and_report(show) if as_json and code != OUTPUT_CLOSED else code


def run_and_report(function: Callable[[], int], failures: list[MlopsError] | None = None) -> int:
    """Run a function, and turn every failure into a message and an exit code. Add the failure to a list."""
    previous = {number: signal.signal(number, _interrupt) for number in SIGNALS}
    try:
        return function()
    except console.OutputClosed:
        return OUTPUT_CLOSED
    except (Exception, KeyboardInterrupt) as problem:
        failure = _translate(problem)
        (console.notice if isinstance(failure, Detached) else console.error)(str(failure))
        if failures is not None:
            failures.append(failure)
        return failure.exit_code
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _print_json(content: object) -> None:
    if isinstance(content, MlopsError):
        kind = "notice" if isinstance(content, Detached) else "error"
        description = {"class": type(content).__name__, "message": content.what, "fix": content.fix, "exit_code": content.exit_code}
        content = {kind: description}
    text = to_json(content, indent=1, ensure_ascii=True, inf_nan_mode="null").decode()
    # Escaped, because the console would break up what is a command to GitHub.
    console.info(text.replace("##[", r"#\u0023["))


def _translate(problem: BaseException) -> MlopsError:
    if isinstance(problem, MlopsError):
        return problem
    if isinstance(problem, KeyboardInterrupt):
        return Interrupted("Interrupted.")
    if isinstance(problem, OSError) and (failure := explain_storage_failure(problem)):
        return failure
    console.info(traceback.format_exc().rstrip())
    return MlopsError(f"Unexpected error: {type(problem).__name__}: {problem}", "this is a bug; please report it with the lines above")


def explain_storage_failure(problem: OSError) -> StorageFailed | None:
    """Return what a failure of the file system means, or None if it is something else, such as a failure of the network."""
    fix = STORAGE_FIXES.get(problem.errno or 0)
    if fix is None or type(problem).__module__ != "builtins":
        return None
    where = f"{problem.filename}: " if problem.filename else ""
    return StorageFailed(f"{where}{problem.strerror}. The incomplete output has been removed.", fix)


def _interrupt(_signum: int, _frame: FrameType | None) -> None:
    # SIGTERM is handled like Ctrl-C, so that `finally` blocks run and a canceled workflow cancels its job. GitHub sends SIGINT, 7.5
    # seconds later SIGTERM, and kills after another 2.5: the second signal must not interrupt the clean-up that the first has started.
    for number in SIGNALS:
        signal.signal(number, _ignore)
    # At once, because the clean-up may not end before the kill. Not by print, which may have been interrupted itself.
    with contextlib.suppress(OSError):
        os.write(2, b"Interrupted: cleaning up. Further signals are ignored.\n")
    raise KeyboardInterrupt


def _ignore(_signum: int, _frame: FrameType | None) -> None:
    """Do nothing. Unlike SIG_IGN, child processes don't inherit it."""
