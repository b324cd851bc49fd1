"""The frozen suites: JSON Lines of ``{prompt, prompt_id, messages}``, plus ``kind`` and ``checks`` in the retention suite."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlops.remote.tasks import Check, parse_checks

__all__ = ["Message", "Row", "Suite", "read_suite"]

Message = Mapping[str, str]
"""``role`` and ``content``."""


@dataclass(frozen=True)
class Row:
    """One conversation. It ends with the assistant's answer."""

    id: str
    kind: str
    messages: tuple[Message, ...]
    checks: tuple[Check, ...] = ()
    """Checks that a generated answer must pass; none if code can't decide."""

    @property
    def text(self) -> str:
        """Digest of the messages, 16 hex digits, by which the gate recognizes the row of the frozen suite."""
        return hashlib.sha256(json.dumps([[message["role"], message["content"]] for message in self.messages]).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Suite:
    """A fixed set of rows. ``digest`` is the sha256 of the file."""

    name: str
    digest: str
    rows: tuple[Row, ...]


def read_suite(name: str, path: Path) -> Suite:
    """Read a suite.

    Raises:
        ValueError: a row does not match the schema or repeats an id. The message names the file and line.
    """
    content = path.read_bytes()
    rows: list[Row] = []
    seen: set[str] = set()
    # Split at b"\n" only: str.splitlines would also split at line separators inside a message.
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        try:
            row = _parse_row(json.loads(line))
        except (KeyError, TypeError, ValueError) as problem:
            raise ValueError(f"{path}:{number}: not a conversation: {problem!r}") from problem
        if row.id in seen:
            raise ValueError(f"{path}:{number}: prompt_id {row.id!r} appears twice")
        seen.add(row.id)
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: no rows")
    return Suite(name, hashlib.sha256(content).hexdigest(), tuple(rows))


def _parse_row(row: Mapping[str, Any]) -> Row:
    messages = tuple({"role": str(message["role"]), "content": str(message["content"])} for message in row["messages"])
    roles = [message["role"] for message in messages]
    if "user" not in roles or not roles or roles[-1] != "assistant":
        raise ValueError(f"the roles are {roles}; a conversation must have a user turn and end with the assistant")
    return Row(id=str(row["prompt_id"]), kind=str(row.get("kind") or ""), messages=messages, checks=parse_checks(row.get("checks")))
