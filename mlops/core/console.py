"""All output of the pipeline, for a person at a terminal and for GitHub.

Stages call these functions and never print. GitHub's forms (``::group::``, ``::error::``, the step summary, masks) are written
only here, as described in https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands.
"""

from __future__ import annotations

import difflib
import os
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

__all__ = [
    "OutputClosed",
    "Progress",
    "did_you_mean",
    "error",
    "in_github",
    "info",
    "mask",
    "notice",
    "output",
    "step",
    "summary",
    "warning",
]


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


def info(text: str = "") -> None:
    """Print ordinary text."""
    _print(text)


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
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{name}<<{mark}\n{value}\n{mark}\n")


def summary(markdown: str) -> None:
    """Add to the job's page on GitHub. Elsewhere do nothing, since the same text is in run/."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(markdown.rstrip() + "\n\n")


@contextmanager
def step(title: str) -> Iterator[None]:
    """Print a titled section, folded on GitHub, and how long it took, even if it fails."""
    start = time.monotonic()
    info(f"::group::{title}" if in_github() else _styled("1", f"▸ {title}"))
    try:
        yield
    finally:
        seconds = time.monotonic() - start
        info(_styled("2", f"  {title}: {seconds:.1f} s"))
        if in_github():
            info("::endgroup::")


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
        if now - self._printed >= (0.2 if sys.stdout.isatty() else 10.0):
            self._printed = now
            self._print("\r" if sys.stdout.isatty() else "", "" if sys.stdout.isatty() else "\n")

    def close(self) -> None:
        """Print the final count."""
        self._print("\r" if sys.stdout.isatty() else "", "\n")

    def _print(self, start: str, end: str) -> None:
        of = f"/{self.total}" if self.total is not None else ""
        rate = self.done / max(time.monotonic() - self._start, 1e-9)
        _print(f"{start}  {self.done}{of} {self.what} ({rate:,.0f}/s)", end=end)


def _annotate(level: str, text: str) -> None:
    if in_github():
        # A newline would end the command, so it must be escaped.
        escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        _print(f"::{level}::{escaped}")
    else:
        color = {"notice": "36", "warning": "33", "error": "31"}[level]
        _print(_styled(color, f"{level}: {text}"), file=sys.stderr)


def _print(text: str, *, end: str = "\n", file: TextIO | None = None) -> None:
    stream = file or sys.stdout
    try:
        print(text, end=end, file=stream, flush=True)
    except BrokenPipeError:
        # Further output goes nowhere: cleaning up must not fail on the closed pipe, nor Python's own flush at exit.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
        raise OutputClosed from None


def _styled(code: str, text: str) -> str:
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\033[{code}m{text}\033[0m"
