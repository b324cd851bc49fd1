"""The frozen suites: JSON Lines of ``{prompt, prompt_id, messages}``, in the retention suite with a ``kind``."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Message", "Row", "Suite", "read"]

Message = Mapping[str, str]
"""``role`` and ``content``."""


@dataclass(frozen=True)
class Row:
    """One conversation, which ends with the assistant's answer."""

    id: str
    kind: str
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Suite:
    """Rows that never change: ``digest`` is the sha256 of the file."""

    name: str
    digest: str
    rows: tuple[Row, ...]


def read(name: str, path: Path) -> Suite:
    """Read a suite.

    Raises:
        ValueError: a row is not of this schema or its id was there before; the message names file and line.
    """
    content = path.read_bytes()
    rows: list[Row] = []
    seen: set[str] = set()
    # By b"\n" alone: str.splitlines would also cut at line separators inside a message.
    for number, line in enumerate(content.removesuffix(b"\n").split(b"\n"), start=1):
        try:
            row = _row(json.loads(line))
        except (KeyError, TypeError, ValueError) as problem:
            raise ValueError(f"{path}:{number}: not a conversation: {problem!r}") from problem
        if row.id in seen:
            raise ValueError(f"{path}:{number}: prompt_id {row.id!r} is there twice")
        seen.add(row.id)
        rows.append(row)
    if not rows:
        raise ValueError(f"{path}: no rows")
    return Suite(name, hashlib.sha256(content).hexdigest(), tuple(rows))


def _row(row: Mapping[str, Any]) -> Row:
    messages = tuple({"role": str(message["role"]), "content": str(message["content"])} for message in row["messages"])
    roles = [message["role"] for message in messages]
    if "user" not in roles or not roles or roles[-1] != "assistant":
        raise ValueError(f"roles are {roles}; a conversation has a user and ends with the assistant")
    return Row(id=str(row["prompt_id"]), kind=str(row.get("kind") or ""), messages=messages)
