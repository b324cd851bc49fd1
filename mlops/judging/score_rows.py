"""The rows of score files of any program: one JSON object per line, with the row's ``id``, its ``input`` and the values of metrics."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlops.core.errors import EvidenceError
from mlops.judging.judge import reject_duplicates
from mlops.judging.metric_table import Floats

__all__ = ["Scores", "describe_rows", "read_scores"]

LABELS = ("id", "input")
"""Fields of a row that aren't metrics."""
_INVISIBLE = re.compile(r"\s|[\x00-\x1f\x7f\xad\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff]")


@dataclass(frozen=True)
class Scores:
    """The rows of a file, sorted by id. Each column has shape [rows]; NaN where a row has no value."""

    path: Path
    ids: tuple[str, ...]
    inputs: tuple[str, ...]
    """Inputs as text; empty where a row has none."""
    columns: Mapping[str, Floats]

    keys: tuple[str, ...]
    """Identities of the rows' contents: the normalized input, which copies share, or the id if no row has an input."""

    @property
    def has_inputs(self) -> bool:
        """Whether any row has an input."""
        return any(self.inputs)


def describe_rows(scores: Scores) -> str:
    """Describe how many rows there are, and how many of them are different."""
    count, distinct = len(scores.ids), len(set(scores.keys))
    if scores.has_inputs:
        return f"{count:,} with {distinct:,} different inputs"
    return f"{count:,} with {distinct:,} different ids; they have no input, so copies can't be recognized"


def read_scores(path: Path) -> Scores:
    """Read a file.

    Raises:
        EvidenceError: it can't be read, or a row is not valid; with its line.
    """
    rows: dict[str, dict[str, Any]] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as problem:
        raise EvidenceError(f"{path} can't be read: {problem.strerror}.", "correct the path") from problem
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line, object_pairs_hook=reject_duplicates)
            if not isinstance(row, dict):
                raise ValueError("it is not a JSON object")
            _check(row, rows)
        except (ValueError, RecursionError) as problem:
            fix = 'write one JSON object per line, such as {"id": "q-17", "accuracy": 1}'
            raise EvidenceError(f"{path}:{number}: {problem}.", fix) from problem
        rows[str(row["id"])] = row
    if not rows:
        raise EvidenceError(f"{path} has no rows.", "write one JSON object per line")
    ids = tuple(sorted(rows))
    names = dict.fromkeys(name for row in rows.values() for name in row if name not in LABELS)
    columns = {name: np.array([_value(rows[each].get(name)) for each in ids], dtype=np.float64) for name in names}
    inputs = tuple(_text(rows[each].get("input")) for each in ids)
    return Scores(path, ids, inputs, columns, tuple(_key(each) for each in (inputs if any(inputs) else ids)))


def _check(row: Mapping[str, Any], earlier: Mapping[str, object]) -> None:
    identity = row.get("id")
    if isinstance(identity, bool) or not isinstance(identity, (str, int)) or identity == "":
        raise ValueError("the row has no id (a string or an integer)")
    if str(identity) in earlier:
        raise ValueError(f"the id {identity!r} appears twice")
    for name, value in row.items():
        if name not in LABELS and value is not None and not isinstance(value, (bool, int, float)):
            raise ValueError(f"{name} is {json.dumps(value)[:40]}, but a metric is a number, true, false or null")


def _text(value: object) -> str:
    """Return an input as text; empty if it is null, or has nothing visible."""
    text = "" if value is None else value if isinstance(value, str) else json.dumps(value, sort_keys=True, ensure_ascii=False)
    return text if _INVISIBLE.sub("", text) else ""


def _key(text: str) -> str:
    """Return the text without differences in case, Unicode form, space and punctuation at its ends.

    Signs inside stay, unlike in :func:`mlops.dataset.hashes.normalize`: 3 + 4 is not 3 - 4.
    """
    bare = _INVISIBLE.sub("", unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()))
    return re.sub(r"^[\W_]+|[\W_]+$", "", bare) or bare


def _value(value: float | None) -> float:
    try:
        return math.nan if value is None else float(value)
    except OverflowError:
        return math.inf
