"""The frozen suites that models are judged on: which rows, in which order."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, islice, zip_longest
from pathlib import Path

from mlops.core.config import EvaluationConfig
from mlops.core.records import Finding
from mlops.core.run import write_atomically
from mlops.dataset.conversation import Conversation, RetentionItem, Unreadable, lines, read_jsonl

__all__ = ["freeze", "stratified", "target_lines"]


def freeze(test: Path, retention: Path, folder: Path, evaluation: EvaluationConfig) -> tuple[dict[str, tuple[Path, int]], list[Finding]]:
    """Write ``target.jsonl`` and ``retention.jsonl``.

    Args:
        test: the split test_sft; its rows stand in the order of a hash, so that the first ones are a fair sample.
        retention: the retention suite.
        folder: where to write.
        evaluation: how many rows of each.

    Returns:
        Suite → file and rows; and findings: fewer rows than wanted (warning), fewer rows than kinds (error).
    """
    findings: list[Finding] = []
    target = target_lines(test, evaluation.target_rows)
    if len(target) < evaluation.target_rows:
        message = (
            f"the target suite gets {len(target)} rows, not {evaluation.target_rows}: {test.name} has no more; the gate will be less sure"
        )
        findings.append(Finding(rule="suite.short", severity="warning", where="evaluation.target_rows", message=message))
    wanted = evaluation.retention_rows
    kept, kinds = stratified(retention, wanted)
    if wanted is not None and wanted < kinds:
        message = f"{wanted} rows can't hold the {kinds} kinds of {retention}; a kind that is not asked about can be forgotten unseen"
        findings.append(Finding(rule="suite.kinds", severity="error", where="evaluation.retention_rows", message=message))
    files = {"target": (folder / "target.jsonl", len(target)), "retention": (folder / "retention.jsonl", len(kept))}
    for (path, _), content in zip(files.values(), (target, kept), strict=True):
        write_atomically(path, b"".join(content))
    return files, findings


def target_lines(test: Path, wanted: int) -> Sequence[bytes]:
    """The first ``wanted`` lines with different ``prompt_id``s: scores are paired by id. Lines that can't be read are passed over."""
    seen: set[str] = set()
    found: list[bytes] = []
    for (_, row), (_, _, line) in zip(read_jsonl(test), lines(test), strict=True):
        if len(found) == wanted:
            break
        if isinstance(row, Conversation) and row.prompt_id not in seen:
            seen.add(row.prompt_id)
            found.append(line.rstrip(b"\r\n") + b"\n")
    return found


def stratified(retention: Path, wanted: int | None) -> tuple[Sequence[bytes], int]:
    """Lines of the retention suite with different ids, as evenly over the kinds as can be, in the order of the file; and how many kinds.

    Args:
        retention: the suite.
        wanted: how many lines; None for all.
    """
    kinds: dict[str, list[tuple[int, bytes]]] = defaultdict(list)
    seen: set[str] = set()
    for (number, row), (_, _, line) in zip(read_jsonl(retention, RetentionItem), lines(retention), strict=True):
        if not isinstance(row, Unreadable) and row.prompt_id not in seen:
            seen.add(row.prompt_id)
            kinds[row.kind].append((number, line.rstrip(b"\r\n") + b"\n"))
    # One of each kind, then a second of each, …
    turns = (numbered for numbered in chain.from_iterable(zip_longest(*kinds.values())) if numbered is not None)
    return [line for _, line in sorted(islice(turns, wanted))], len(kinds)
