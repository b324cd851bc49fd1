"""Selection of the frozen suites that models are evaluated on."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path
from typing import Literal

from mlops.core.records import Finding
from mlops.core.run import write_atomically
from mlops.core.settings import EvaluationConfig
from mlops.dataset.conversation import Conversation, InvalidRow, RetentionItem, lines, read_jsonl
from mlops.remote.tasks import sample

__all__ = ["count_tasks", "freeze", "stratified_lines", "target_lines"]


def freeze(test: Path, retention: Path, folder: Path, evaluation: EvaluationConfig) -> tuple[dict[str, tuple[Path, int]], list[Finding]]:
    """Write ``target.jsonl`` and ``retention.jsonl``.

    Args:
        test: the split test_sft. Its rows are ordered by a hash, so the first ones are a fair sample.
        retention: the retention suite.
        folder: the output folder.
        evaluation: the number of rows of each suite.

    Returns:
        Suite → file and number of rows; and findings: fewer rows than configured (warning), fewer rows than kinds (error), equal ids (an
        error if more rows are lost than remain).
    """
    findings: list[Finding] = []
    target, repeated = target_lines(test, evaluation.target_rows)
    if len(target) < evaluation.target_rows:
        message = (
            f"{test.name} has only {len(target)} rows for the target suite, not {evaluation.target_rows}; verdicts will be less certain"
        )
        findings.append(Finding(rule="suite.short", severity="warning", where="evaluation.target_rows", message=message))
    if len(target) < evaluation.target_rows and repeated:
        message = (
            f"{repeated:,} of the {repeated + len(target):,} rows of {test.name} repeat a prompt_id. Scores are paired by id, so "
            f"only {len(target):,} can be used: give each row its own id, or omit the ids"
        )
        severity: Literal["error", "warning"] = "error" if repeated > len(target) else "warning"
        findings.append(Finding(rule="suite.ids", severity=severity, where="data.dataset", message=message))
    limit = evaluation.retention_rows
    retention_lines, kinds = stratified_lines(retention, limit)
    if limit is not None and limit < kinds:
        message = f"{limit} rows can't cover the {kinds} kinds of {retention}; forgetting in a kind without rows would go unnoticed"
        findings.append(Finding(rule="suite.kinds", severity="error", where="evaluation.retention_rows", message=message))
    files = {"target": (folder / "target.jsonl", len(target)), "retention": (folder / "retention.jsonl", len(retention_lines))}
    for (path, _), content in zip(files.values(), (target, retention_lines), strict=True):
        write_atomically(path, b"".join(content))
    return files, findings


def target_lines(test: Path, limit: int) -> tuple[Sequence[bytes], int]:
    """Return the first ``limit`` lines with different ``prompt_id``s, because scores are paired by id, and how many others were skipped.

    Invalid lines are also skipped, but not counted.
    """
    repeated = 0
    ids: set[str] = set()
    selected: list[bytes] = []
    for (_, row), (_, _, line) in zip(read_jsonl(test), lines(test), strict=True):
        if len(selected) == limit:
            break
        if not isinstance(row, Conversation):
            continue
        if row.prompt_id in ids:
            repeated += 1
            continue
        ids.add(row.prompt_id)
        selected.append(line.rstrip(b"\r\n") + b"\n")
    return selected, repeated


def stratified_lines(retention: Path, limit: int | None) -> tuple[Sequence[bytes], int]:
    """Select lines with different ids from the retention suite, spread as evenly as possible over its kinds.

    Args:
        retention: the suite.
        limit: the number of lines; None for all.

    Returns:
        The lines, in the order of the file; and the number of kinds.
    """
    kinds: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
    ids: set[str] = set()
    for (number, row), (_, _, line) in zip(read_jsonl(retention, RetentionItem), lines(retention), strict=True):
        if not isinstance(row, InvalidRow) and row.prompt_id not in ids:
            ids.add(row.prompt_id)
            kinds[row.kind].append((number, line.rstrip(b"\r\n") + b"\n"))
    # One line of each kind, then a second line of each, and so on.
    rounds = (numbered for numbered in chain.from_iterable(zip_longest(*kinds.values())) if numbered is not None)
    return [line for _, line in sorted(islice(rounds, limit))], len(kinds)


def count_tasks(retention: Path, limit: int) -> Counter[str]:
    """Count, by kind, the rows of a frozen retention suite for which an answer is generated and checked.

    Args:
        retention: the frozen suite.
        limit: the number of tasks.
    """
    rows = [row for _, row in read_jsonl(retention, RetentionItem)]
    kinds = [row.kind if not isinstance(row, InvalidRow) and row.checks else None for row in rows]
    return Counter(kind for index in sample(kinds, limit) if (kind := kinds[index]) is not None)
