"""All output of the pipeline, for a person at a terminal and for GitHub.

Stages call these functions and never print. Text may come from elsewhere (job logs, prompts, answers of models, messages of services), so
whatever would be a command to GitHub or to a terminal is printed so that it has no effect. GitHub's forms (``::group::``, ``::error::``,
the step summary, masks) are written only here, as described in
https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands.
"""

from __future__ import annotations

import difflib
import os
import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from mlops.core.errors import StorageFailed

__all__ = [
    "OutputClosed",
    "Progress",
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
    "warning",
]


ASCII_SIGNS = str.maketrans({"→": "->", "–": "-", "−": "-", "…": "...", "×": "x", "▸": ">", "≥": ">=", "≤": "<=", "ü": "ue"})
"""What a terminal without UTF-8 shows instead of our own signs."""


class OutputClosed(KeyboardInterrupt):
    """The reader of our output has closed it, as ``mlops show | head`` does. It ends a command like an interrupt, but quietly."""


def did_you_mean(word: str, names: Iterable[str]) -> str:
    """Return `` (did you mean 'NAME'?)`` for the name that is most like the word, ignoring case, or nothing if none is."""
    by_lower = {name.lower(): name for name in names}
    matches = difflib.get_close_matches(word.lower(), by_lower, n=1)
    return f" (did you mean {by_lower[matches[0]]!r}?)" if matches else ""


def in_github() -> bool:
    """Return whether this is a GitHub Actions job."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def is_terminal(stream: TextIO | None = None) -> bool:
    """Return whether a person is watching a stream, by default the output. Without one there is nobody."""
    stream = stream or sys.stdout
    return stream is not None and stream.isatty()


_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029]")
"""Control characters but tab and newline: at a terminal they move the cursor or set colors. A lone carriage return begins a new line."""
_COMMAND = re.compile(r"^(\s*):(?=:)|##(?=\[)", re.MULTILINE)
"""Where GitHub's runner sees a command: ``::`` at the beginning of a line, ``##[`` anywhere (github.com/actions/runner, ActionCommand)."""


def neutralize(text: str) -> str:
    """Return the text with the same look but without effect: control characters become spaces, commands to GitHub are broken up.

    A zero-width space inside ``::`` and ``##[`` breaks a command up, ``::stop-commands::``, which would hide our own ones, among them.
    """
    return _COMMAND.sub(lambda match: f"{match[0]}\u200b", _CONTROL.sub(" ", text))


def info(text: str = "") -> None:
    """Print ordinary text. It may be foreign."""
    _print(neutralize(text))


def notice(text: str) -> None:
    """Print a message that GitHub also shows on the run's page."""
    _annotate("notice", text)


def warning(text: str) -> None:
    """Warn of something that may cost the user later."""
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
    """Add to the job's page on GitHub. Elsewhere do nothing, since the same text is in run/."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        try:
            with Path(path).open("a", encoding="utf-8") as file:
                file.write(markdown.rstrip() + "\n\n")
        except OSError as problem:
            # The same text is in run/, so the page is not worth a failure.
            warning(f"GITHUB_STEP_SUMMARY ({path}) can't be written: {problem.strerror}.")


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print a titled section, folded on GitHub, and how long it took, even if it fails."""
    start = time.monotonic()
    _print(f"::group::{title}" if in_github() else _styled("1", f"▸ {title}"))
    try:
        yield
    finally:
        seconds = time.monotonic() - start
        _print(_styled("2", f"  {title}: {seconds:.1f} s"))
        if in_github():
            _print("::endgroup::")


class Progress:
    """A running count for long work: one line that is rewritten at a terminal, a line every ten seconds elsewhere.

    Args:
        what: what is being counted, e.g. ``"rows"``.
        total: how many there will be, or None if unknown.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._start = self._printed = time.monotonic()

    def advance(self, by: int = 1) -> None:
        """Add to the count."""
        self.done += by
        now = time.monotonic()
        if (waited := now - self._printed) >= 0.2 and (waited >= 10.0 or is_terminal()):
            self._printed = now
            self._print("\r" if is_terminal() else "", "" if is_terminal() else "\n")

    def close(self) -> None:
        """Print the final count."""
        self._print("\r" if is_terminal() else "", "\n")

    def _print(self, start: str, end: str) -> None:
        of = f"/{self.total:,}" if self.total is not None else ""
        rate = self.done / max(time.monotonic() - self._start, 1e-9)
        left = f", {(self.total - self.done) / rate:,.0f} s left" if self.total and 0 < self.done < self.total else ""
        _print(f"{start}  {self.done:,}{of} {self.what} ({rate:,.0f}/s{left})", end=end)


def _annotate(level: str, text: str) -> None:
    if in_github():
        # A newline would end the command, so it must be escaped.
        escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        _print(f"::{level}::{escaped}")
    else:
        color = {"notice": "36", "warning": "33", "error": "31"}[level]
        _print(_styled(color, f"{level}: {neutralize(text)}", sys.stderr), file=sys.stderr)


def _print(text: str, *, end: str = "\n", file: TextIO | None = None) -> None:
    stream = file or sys.stdout
    try:
        print(text, end=end, file=stream, flush=True)
    except UnicodeEncodeError:
        # The terminal is not UTF-8. Its replacement must not fail again, so this doesn't recurse without end.
        encoding = stream.encoding or "ascii"
        plain = text.translate(ASCII_SIGNS).encode(encoding, "backslashreplace").decode(encoding)
        _print(plain, end=end, file=file)
    except OSError as problem:
        # Further output goes nowhere: cleaning up must not fail on the closed pipe, nor Python's own flush at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        if isinstance(problem, BrokenPipeError):
            raise OutputClosed from None
        raise  # a full disk, for example


def _styled(code: str, text: str, stream: TextIO | None = None) -> str:
    # https://no-color.org: an empty value doesn't count.
    plain = not is_terminal(stream) or bool(os.environ.get("NO_COLOR")) or os.environ.get("TERM") == "dumb"
    return text if plain else f"\033[{code}m{text}\033[0m"
