"""All output of the pipeline, for a person at a terminal and for GitHub.

Stages call these functions and never print. Text may come from elsewhere (job logs, prompts, answers of models, messages of services), so
anything that would be a command to GitHub or to a terminal is printed in a form without effect. GitHub's forms (``::group::``,
``::error::``, the step summary, masks) are written only here, as described in
https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from types import TracebackType
from typing import Self, TextIO

from rich import progress
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from mlops.core.errors import StorageFailed

__all__ = [
    "OutputClosed",
    "Progress",
    "columns",
    "did_you_mean",
    "error",
    "in_github",
    "info",
    "is_terminal",
    "mask",
    "neutralize",
    "notice",
    "output",
    "step",
    "summary",
    "table",
    "warning",
]


ASCII_SIGNS = str.maketrans({"→": "->", "–": "-", "−": "-", "…": "...", "×": "x", "▸": ">", "≥": ">=", "≤": "<=", "ü": "ue"})
"""Replacements for our own symbols on a terminal without UTF-8."""
STYLES = {
    **dict.fromkeys(("PROMOTE", "shown", "detected"), "green"),
    **dict.fromkeys(("HOLD", "unproven", "warning"), "yellow"),
    **dict.fromkeys(("REJECT", "failed", "invalid", "MISSED", "error"), "red"),
}  # fmt: skip
"""Cell of a table → its color at a terminal."""
UNLIMITED = 1_000_000
"""The width for files and logs, whose lines are neither wrapped nor cut."""


class OutputClosed(KeyboardInterrupt):
    """The reader of our output has closed it, as ``mlops show | head`` does. It ends a command like an interrupt, but quietly."""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return `` (did you mean 'NAME'?)`` for the name most similar to the word, ignoring case; empty if none is similar."""
    by_lower = {name.lower(): name for name in names}
    matches = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[matches[0]]!r}?)" if matches else ""


def in_github() -> bool:
    """Return whether this is a GitHub Actions job."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def is_terminal(stream: TextIO | None = None) -> bool:
    """Return whether a stream, by default the output, is a terminal."""
    stream = stream or sys.stdout
    return stream is not None and stream.isatty()


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
"""Control characters except tab and newline, which move a terminal's cursor or set colors. A lone carriage return begins a new line."""
_COMMAND = re.compile(r"^(\s*):(?=:)|##(?=\[)", re.MULTILINE)
"""GitHub's commands: ``::`` at the beginning of a line, ``##[`` anywhere (github.com/actions/runner, ActionCommand)."""


def neutralize(text: str) -> str:
    """Return the text with the same look but without effect: control characters become spaces, commands to GitHub are broken up.

    A zero-width space inside ``::`` and ``##[`` breaks a command up, ``::stop-commands::``, which would hide our own ones, among them.
    """
    return _break_commands(_CONTROL.sub(" ", text))


def _break_commands(text: str) -> str:
    return _COMMAND.sub(lambda match: f"{match[0]}\u200b", text)


def info(text: str = "") -> None:
    """Print ordinary text, which may come from elsewhere."""
    _print(neutralize(text))


def notice(text: str) -> None:
    """Print a message that GitHub also shows on the run's page."""
    _annotate("notice", text)


def warning(text: str) -> None:
    """Warn about something that may cause trouble later."""
    _annotate("warning", text)


def error(text: str) -> None:
    """Print why the command stops."""
    _annotate("error", text)


def mask(secret: str) -> None:
    """Keep a secret out of GitHub's log from now on. Call this before the secret is used."""
    if in_github() and secret:
        for line in secret.splitlines():
            _print(f"::add-mask::{line}")


def output(name: str, value: str) -> None:
    """Set an output of the GitHub job, e.g. the verdict or the endpoint."""
    if path := os.environ.get("GITHUB_OUTPUT"):
        # The heredoc form: a value with a newline can't smuggle in a second output.
        mark = f"mlops-{os.urandom(8).hex()}"
        with _open_output(path) as file:
            file.write(f"{name}<<{mark}\n{value}\n{mark}\n")


def _open_output(path: str) -> TextIO:
    try:
        return Path(path).open("a", encoding="utf-8")
    except OSError as problem:
        # Later jobs depend on it, so they must not start with half of the outputs.
        raise StorageFailed(
            f"GITHUB_OUTPUT ({path}) can't be written: {problem.strerror}.", "run this in a job step, where GitHub sets it, or unset it"
        ) from problem


def summary(markdown: str) -> None:
    """Add text to the job's page on GitHub. Elsewhere do nothing, since the same text is in run/."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(markdown.rstrip() + "\n\n")
        except OSError as problem:
            # The same text is in run/, so the page is not worth a failure.
            warning(f"GITHUB_STEP_SUMMARY ({path}) can't be written: {problem.strerror}.")


def columns(
    rows: Iterable[Sequence[str]],
    header: Sequence[str] = (),
    *,
    indent: int = 2,
    gap: int = 2,
    numbers: bool = False,
    clip: bool = False,
    colored: bool = False,
) -> str:
    """Return text in columns. At a terminal it is wrapped to its width; in files and logs every row has the width that it needs.

    Args:
        rows: the same number of cells in each row. They may come from elsewhere: markup in them has no effect.
        header: names of the columns, if they have names.
        indent: number of spaces in front of each line.
        gap: number of spaces between columns.
        numbers: right-align all columns but the first.
        clip: at a terminal, cut the last column instead of wrapping.
        colored: at a terminal, with colors; :func:`info` would remove them.
    """
    cells = [[Text(neutralize(cell), STYLES.get(cell, "")) for cell in row] for row in rows]
    if not cells:
        return ""
    if clip:
        used = indent + sum(gap + max(cell.cell_len for cell in column) for column in [*zip(*cells, strict=True)][:-1])
        for row in cells:
            row[-1].truncate(max(20, _rich(sys.stdout).width - used), overflow="ellipsis")
    grid = Table(box=None, show_header=bool(header), pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for position in range(len(cells[0])):
        name = Text(neutralize(header[position])) if header else ""
        grid.add_column(name, justify="right" if numbers and position else "left", overflow="fold")
    for row in cells:
        grid.add_row(*row)
    text = _render(Padding.indent(grid, indent), sys.stdout, colored=colored)
    # Again, because a wrapped line can begin with what was in the middle of a cell.
    return _break_commands("\n".join(line.rstrip() for line in text.splitlines()))


def table(rows: Iterable[Sequence[str]], header: Sequence[str] = ()) -> None:
    """Print text in columns as :func:`columns` arranges it, and with colors."""
    if text := columns(rows, header, colored=True):
        _print(text)


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print a titled section, folded on GitHub, and how long it took, even if it fails."""
    start = time.monotonic()
    title = neutralize(title)
    _print(_command("group", title) if in_github() else _style("bold", f"▸ {title}", sys.stdout))
    try:
        yield
    finally:
        seconds = time.monotonic() - start
        _print(_style("dim", f"  {title}: {seconds:.1f} s", sys.stdout))
        if in_github():
            _print("::endgroup::")


class Progress:
    """Progress of a long operation: a bar at a terminal, a line every ten seconds elsewhere. Use it in a ``with`` statement.

    Args:
        what: what is being counted, e.g. ``"rows"``.
        total: how many there will be, or None if unknown.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._start = self._shown = time.monotonic()
        # Not in a separate thread, so that an interrupt or a closed terminal is noticed here.
        count = progress.TextColumn("{task.description}", markup=False)
        self._bar = progress.Progress(
            *(() if total is None else (progress.BarColumn(),)), count,
            console=_rich(sys.stdout), auto_refresh=False, redirect_stderr=is_terminal(sys.stderr), disable=not is_terminal(),
        )  # fmt: skip
        self._task = self._bar.add_task("", total=total)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        if self.done:
            self._show()
        self._bar.stop()

    def advance(self, by: int = 1) -> None:
        """Add to the count."""
        self.done += by
        if (waited := time.monotonic() - self._shown) >= 0.2 and (waited >= 10.0 or not self._bar.disable):
            self._show()

    def _show(self) -> None:
        self._shown = time.monotonic()
        of = f"/{self.total:,}" if self.total is not None else ""
        rate = self.done / max(self._shown - self._start, 1e-9)
        unfinished = self.total is not None and 0 < self.done < self.total
        left = f", {timedelta(seconds=round(((self.total or 0) - self.done) / rate))} left" if unfinished else ""
        text = f"  {self.done:,}{of} {self.what} ({rate:,.0f}/s{left})"
        if self._bar.disable:
            _print(text)
        else:
            self._bar.update(self._task, completed=self.done, description=text, refresh=True)


def _annotate(level: str, text: str) -> None:
    text = neutralize(text)
    if in_github():
        _print(_command(level, text))
    else:
        color = {"notice": "cyan", "warning": "yellow", "error": "red"}[level]
        _print(_style(color, f"{level}: {text}", sys.stderr), file=sys.stderr)


def _command(name: str, text: str) -> str:
    """Return a command to GitHub. A newline would end it, so it is escaped."""
    return f"::{name}::{text.replace('%', '%25').replace(chr(10), '%0A')}"


def _print(text: str, *, file: TextIO | None = None) -> None:
    stream = file or sys.stdout
    if stream is None:
        return  # it was closed before this process began
    try:
        print(_encodable(text, stream), file=stream, flush=True)
    except OSError as problem:
        # Further output goes nowhere: cleaning up must not fail on the closed pipe, nor Python's own flush at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        if isinstance(problem, BrokenPipeError):
            raise OutputClosed from None
        raise  # a full disk, for example


def _encodable(text: str, stream: TextIO) -> str:
    """Return the text in a form that a terminal without UTF-8 can show."""
    # While there is a bar, the stream is a proxy without an encoding.
    encoding = getattr(stream, "rich_proxied_file", stream).encoding or "utf-8"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return text.translate(ASCII_SIGNS).encode(encoding, "backslashreplace").decode(encoding)
    return text


def _render(content: Padding | Text, stream: TextIO, *, colored: bool = True) -> str:
    console = _rich(stream, colored=colored)
    with console.capture() as captured:
        console.print(content, soft_wrap=isinstance(content, Text))
    return captured.get().removesuffix("\n")


def _rich(stream: TextIO, *, colored: bool = True) -> Console:
    """Return a console that decides by the stream alone, so that no environment variable makes it treat a log as a terminal."""
    watched = is_terminal(stream)
    return Console(
        file=stream, force_terminal=watched, force_jupyter=False, width=None if watched else UNLIMITED,
        color_system="auto" if colored else None, markup=False, emoji=False, highlight=False,
    )  # fmt: skip


def _style(style: str, text: str, stream: TextIO) -> str:
    return _render(Text(text, style), stream) if is_terminal(stream) else text
