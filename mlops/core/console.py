"""What the pipeline says, to a person at a terminal and to GitHub, in one place.

Stages call these functions and never print. GitHub's forms (``::group::``, ``::error::``, the step summary, masks) are written
here alone, as described in https://docs.github.com/actions/reference/workflows-and-actions/workflow-commands.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["Progress", "error", "in_github", "info", "mask", "notice", "output", "step", "summary", "warning"]


def in_github() -> bool:
    """True inside a GitHub Actions job."""
    return os.environ.get("GITHUB_ACTIONS") == "true"


def info(text: str = "") -> None:
    """Say something ordinary."""
    print(text, flush=True)


def notice(text: str) -> None:
    """Say something worth a place on the run's page."""
    _annotate("notice", text)


def warning(text: str) -> None:
    """Say something that may cost the user later."""
    _annotate("warning", text)


def error(text: str) -> None:
    """Say why the command stops."""
    _annotate("error", text)


def mask(secret: str) -> None:
    """Keep a secret out of GitHub's log from now on. Call it before the secret is used."""
    if in_github() and secret:
        for line in secret.splitlines():
            print(f"::add-mask::{line}", flush=True)


def output(name: str, value: str) -> None:
    """Set a job output that a person wants to see in the UI (the verdict, the endpoint)."""
    if path := os.environ.get("GITHUB_OUTPUT"):
        # The heredoc form: a value with a newline can't smuggle in a second output.
        mark = f"mlops-{os.urandom(8).hex()}"
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(f"{name}<<{mark}\n{value}\n{mark}\n")


def summary(markdown: str) -> None:
    """Add to the job's page on GitHub; elsewhere do nothing, since the same text is in run/."""
    if path := os.environ.get("GITHUB_STEP_SUMMARY"):
        with Path(path).open("a", encoding="utf-8") as file:
            file.write(markdown.rstrip() + "\n\n")


@contextmanager
def step(title: str) -> Iterator[None]:
    """A titled section; folded on GitHub. Tells how long it took, also when it fails."""
    start = time.monotonic()
    info(f"::group::{title}" if in_github() else _styled("1", f"▸ {title}"))
    try:
        yield
    finally:
        took = time.monotonic() - start
        info(_styled("2", f"  {title}: {took:.1f} s"))
        if in_github():
            info("::endgroup::")


class Progress:
    """A running count for long work: one rewritten line at a terminal, a line every ten seconds elsewhere.

    Args:
        what: what is being counted, e.g. ``"rows"``.
        total: how many there will be, or None if unknown.
    """

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what = what
        self.total = total
        self.done = 0
        self._start = self._said = time.monotonic()

    def advance(self, by: int = 1) -> None:
        """Count ``by`` more."""
        self.done += by
        now = time.monotonic()
        if now - self._said >= (0.2 if sys.stdout.isatty() else 10.0):
            self._said = now
            self._say("\r" if sys.stdout.isatty() else "", "" if sys.stdout.isatty() else "\n")

    def close(self) -> None:
        """Say the final count."""
        self._say("\r" if sys.stdout.isatty() else "", "\n")

    def _say(self, start: str, end: str) -> None:
        of = f"/{self.total}" if self.total is not None else ""
        rate = self.done / max(time.monotonic() - self._start, 1e-9)
        print(f"{start}  {self.done}{of} {self.what} ({rate:,.0f}/s)", end=end, flush=True)


def _annotate(level: str, text: str) -> None:
    if in_github():
        # A newline would end the command, so GitHub wants it escaped.
        escaped = text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
        print(f"::{level}::{escaped}", flush=True)
    else:
        colour = {"notice": "36", "warning": "33", "error": "31"}[level]
        print(_styled(colour, f"{level}: {text}"), file=sys.stderr, flush=True)


def _styled(code: str, text: str) -> str:
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return text if plain else f"\033[{code}m{text}\033[0m"
