"""Searches for runs by Azure Machine Learning's rules, where they differ from those of MLflow's own server.

Source: "Query and compare experiments and runs with MLflow" on learn.microsoft.com. Runs can't be ordered by metrics, parameters or tags,
metrics with quoted names and unequal tags can't be filtered, and ``attributes.duration``, in milliseconds, is the workspace's own.
"""

from __future__ import annotations

import dataclasses
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from mlops.emulator.base.errors import not_implemented
from mlops.emulator.wire import limits

__all__ = ["DurationSearch", "page", "translate"]

CLAUSES = re.compile(r"\s+and\s+(?=(?:[^'\"]|'[^']*'|\"[^\"]*\")*$)", re.IGNORECASE)
"""Between two clauses of a filter, outside of quotes."""
ORDER = re.compile(r"(.*?)(?:\s+(asc|desc))?", re.IGNORECASE)
ATTRIBUTE = re.compile(r"(?:attributes?|attr|run)\.(\w+)\s*([<>=!]+)\s*'([^']*)'", re.IGNORECASE)
DURATION = re.compile(r"(?:attributes?|attr|run)\.duration", re.IGNORECASE)
UNORDERED = re.compile(r"(metrics?|params?|parameters?|tags?)\.", re.IGNORECASE)
NUMBERS = ("start_time", "end_time", "creation_time", "created")
STATUSES = {status: status.upper() for status in ("Scheduled", "Running", "Finished", "Failed", "Killed")}
COMPARATORS: Mapping[str, Callable[[int, int], bool]] = {
    "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge, "=": operator.eq, "!=": operator.ne,
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class DurationSearch:
    """The part of a search that MLflow's server can't answer.

    Args:
        conditions: (comparator, milliseconds) pairs, all of which a run's duration fulfills.
        descending: order by the duration, longest first if True; None for no such order. A run that has not ended comes last.
    """

    conditions: tuple[tuple[str, int], ...] = ()
    descending: bool | None = None

    def apply(self, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the runs that fulfill the conditions, in the order."""
        durations = {run["info"]["run_id"]: _duration(run) for run in runs}

        def duration_of(run: dict[str, Any]) -> int | None:
            return durations[run["info"]["run_id"]]

        if self.conditions:
            runs = [
                run
                for run in runs
                if (duration := duration_of(run)) is not None and all(COMPARATORS[sign](duration, value) for sign, value in self.conditions)
            ]
        if self.descending is not None:
            sign = -1 if self.descending else 1
            runs = sorted(runs, key=lambda run: (duration_of(run) is None, sign * (duration_of(run) or 0)))
        return runs


def translate(content: dict[str, Any]) -> tuple[dict[str, Any], DurationSearch | None]:
    """Return a search for MLflow's server, and what remains to be done with its answer.

    Raises:
        AzureFault: 400, Azure doesn't support the search; 501, Azure's answer is unknown.
    """
    clauses, conditions = [], []
    for clause in CLAUSES.split(str(content.get("filter") or "")):
        match = ATTRIBUTE.fullmatch(clause.strip())
        name = match[1].lower() if match else ""
        if DURATION.match(clause.strip()):
            if match is None or match[2] not in COMPARATORS or not match[3].isdecimal():
                raise limits.mlflow_fault(f"Invalid clause in filter: '{clause}'. The duration is a quoted number of milliseconds.")
            conditions.append((match[2], int(match[3])))
        elif match and name in NUMBERS:
            clauses.append(f"attributes.{name.replace('creation_time', 'created')} {match[2]} {match[3]}")
        elif match and name == "status":
            clauses.append(f"attributes.status {match[2]} '{STATUSES.get(match[3].capitalize(), match[3])}'")
        elif re.match(r"\s*metrics?\.[`\"]", clause, re.IGNORECASE):
            raise limits.mlflow_fault(f"Invalid clause in filter: '{clause}'. Metrics with quoted names can't be filtered.")
        elif re.match(r"\s*tags?\.\S+\s*!=", clause, re.IGNORECASE):
            raise limits.mlflow_fault(f"Invalid clause in filter: '{clause}'. Tags can't be filtered with !=.")
        else:
            clauses.append(clause)
    order, descending = _translate_order([str(item) for item in content.get("order_by") or ()])
    sent = content | {"filter": " and ".join(clauses), "order_by": order}
    return sent, DurationSearch(tuple(conditions), descending) if conditions or descending is not None else None


def _translate_order(items: list[str]) -> tuple[list[str], bool | None]:
    descending: bool | None = None
    order = []
    for position, item in enumerate(items):
        match = ORDER.fullmatch(item.strip())
        assert match is not None
        if UNORDERED.match(match[1]):
            raise limits.mlflow_fault(f"Invalid order_by: '{item}'. Runs can't be ordered by metrics, parameters or tags.")
        if not DURATION.fullmatch(match[1]):
            order.append(item)
        elif position:
            raise not_implemented("attributes.duration in order_by behind another key")
        else:
            descending = (match[2] or "").lower() == "desc"
    return order, descending


def _duration(run: dict[str, Any]) -> int | None:
    begin, end = run["info"].get("start_time"), run["info"].get("end_time")
    return int(end) - int(begin) if begin and end else None


def page(field: str, items: Sequence[Any], query: Mapping[str, Any]) -> dict[str, Any]:
    """Return a page of what a search has found, with the token of the next one.

    Args:
        field: its name in the answer.
        items: everything that was found.
        query: may have ``page_token`` and ``max_results``.

    Raises:
        AzureFault: 400, these are not those of a search.
    """
    try:
        begin, size = int(query.get("page_token") or 0), int(query.get("max_results") or len(items))
    except ValueError:
        raise limits.mlflow_fault("max_results and page_token must be those of a search.") from None
    return {field: items[begin : begin + size]} | ({"next_page_token": str(begin + size)} if len(items) > begin + size else {})
