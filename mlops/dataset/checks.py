"""Checks of conversations before any GPU time is paid for. Every finding has a rule, a file and a line.

Rules for single rows follow from what fine-tuning does with them. The component ``chat_completion_pipeline`` fails on a system message
that isn't first, on one without a user turn, and on rows without assistant tokens; its chat templates expect user and assistant to
alternate. It checks none of this before the GPU runs. Rules across rows keep duplicates from counting twice, and test rows out of the
training data.

A file is read once, and only rows that may repeat others, or leak an evaluation row, are read again.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal, NamedTuple

from mlops.core import console
from mlops.core.records import Finding
from mlops.dataset.chunks import PARALLEL_BYTES, Chunk, map_chunks, split_file
from mlops.dataset.conversation import Conversation, InvalidRow, Message, RetentionItem, decode, read_batches
from mlops.dataset.conversation import lines as read_lines
from mlops.dataset.hashes import TextHash, hash_text
from mlops.dataset.leak_index import BATCH, EvaluatedRows, LeakIndex, Overlap
from mlops.dataset.overlap import Leaks, resolve
from mlops.dataset.passages import RUN_WORDS
from mlops.dataset.processes import keep_processes, map_items
from mlops.dataset.repetitions import RowHashes, WholeRow
from mlops.dataset.row_checks import check_row, check_task, is_clean

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Codes = npt.NDArray[np.uint8]

__all__ = ["RETENTION", "RULES", "TRAINING_SPLIT", "CheckResult", "check"]

RETENTION = "retention"
"""The name of the retention suite when it is checked together with the splits."""

RULES: Mapping[str, tuple[Literal["error", "warning"], str]] = {
    "json.blank": ("error", "every line contains an object"),
    "json.bom": ("error", "no byte order mark"),
    "json.duplicate-key": ("error", "no key appears twice in an object"),
    "json.encoding": ("error", "UTF-8"),
    "json.malformed": ("error", "standard JSON: no NaN, no lone surrogates"),
    "json.too-long": ("error", "no line exceeds the limit"),
    "schema.field": ("error", "a row has prompt, messages and prompt_id of the right types; a message has only role and content"),
    "content.type": ("error", "the parts of a message are text"),
    "message.weight": ("error", "a weight is 0 or 1, and one assistant message has weight 1"),
    "split.empty": ("error", "a split has rows"),
    "id.empty": ("error", "a row has a prompt_id"),
    "id.duplicate": ("warning", "a prompt_id appears once per split"),
    "prompt.mismatch": ("warning", "prompt is the first user message"),
    "text.empty": ("error", "no text is empty or only white space and invisible characters"),
    "text.control-token": ("warning", "no text contains a control token of a chat template"),
    "text.replacement": ("warning", "no text contains characters that were lost in an earlier conversion"),
    "messages.empty": ("error", "a conversation has messages"),
    "role.unknown": ("error", "a role is system, user or assistant"),
    "role.system": ("error", "at most one system message, and it comes first"),
    "role.order": ("error", "user and assistant alternate, starting with the user"),
    "role.ending": ("error", "a training conversation ends with the assistant"),
    "assistant.missing": ("error", "a training conversation has an assistant turn"),
    "task.checks": ("error", "the checks of a row of the retention suite are of a type that the scorer has, with its fields"),
    "task.reference": ("error", "the reference answer passes the checks of its row"),
    "generation.ending": ("warning", "the conversations of a *_gen split end with the assistant"),
    "duplicate.exact": ("warning", "a conversation appears once per split"),
    "duplicate.normalized": ("warning", "the same, ignoring case, white space and punctuation"),
    "overlap.exact": ("error", "no evaluation row is in the training data"),
    "overlap.normalized": ("error", "the same, ignoring case, white space and punctuation"),
    "overlap.answer": ("error", "no training row contains an answer of an evaluation row, after any turns"),
    "overlap.passage": ("warning", f"no {RUN_WORDS} words in a row of an evaluation row's answer are in the training data"),
    "overlap.suite": ("error", "few answers of a suite are in the training data piece by piece"),
    "overlap.prompt": ("warning", "training and test have no long first prompt in common"),
}
"""Rule → severity and requirement."""

TRAINING_SPLIT, TARGET_SPLIT = "train_sft", "test_sft"
EVALUATION_SPLITS = ("test_sft", "test_gen", RETENTION)
"""Splits that must not overlap with the training split. This includes ``test_gen``, whose answers are shown to reviewers."""
FEW_ROWS, FEW_SHARE = 5, 0.1
"""Single answers may occur piece by piece, as canned replies or templates, but not this many rows and this share of a suite."""


@dataclass(frozen=True)
class CheckResult:
    """The number of rows per split, and the findings in the order of files and lines."""

    rows: Mapping[str, int]
    findings: tuple[Finding, ...]


@keep_processes()
def check(files: Mapping[str, Path], origins: Mapping[str, Path] | None = None) -> CheckResult:
    """Check JSON Lines files.

    Args:
        files: split → file; :data:`RETENTION` names the retention suite.
        origins: split → file with the place of each row in its source, one per line. Findings name these places.

    Raises:
        OSError: a file can't be read.
    """
    index = LeakIndex()
    suites = [split for split in (TARGET_SPLIT, RETENTION) if split in files and TRAINING_SPLIT in files]
    scans: dict[str, _Scan] = {}
    for split in sorted(files, key=lambda split: split not in suites):
        places = origins[split].read_text(encoding="utf-8").split("\n") if origins and split in origins else []
        scans[split] = _scan(
            split, files[split], places, index, searches=bool(suites) and split == TRAINING_SPLIT, is_suite=split in suites
        )
    hashes = {split: scans[split].hashes for split in files}
    shared = _look_again(scans, index)
    findings: list[Finding] = []
    for split in files:
        findings += [*scans[split].findings, *(_finding(*problem) for problem in hashes[split].duplicates())]
    for split in EVALUATION_SPLITS:
        if split in hashes and TRAINING_SPLIT in hashes:
            findings += [_finding(*problem) for problem in hashes[split].overlaps(hashes[TRAINING_SPLIT])]
    if TRAINING_SPLIT in files:
        findings += list(_report_leaks(resolve(index, shared, {split: scans[split].lines for split in suites}), hashes, findings))
    return CheckResult({split: scans[split].lines for split in files}, tuple(findings))


@dataclass
class _Scan:
    """The result of the first pass over a file."""

    hashes: RowHashes
    findings: list[Finding] = field(default_factory=list)
    lines: int = 0
    chunks: list[tuple[Chunk, int]] = field(default_factory=list)
    """Parts of the file, each with the number of lines before it."""
    suspects: set[int] = field(default_factory=set)
    """Lines that may leak evaluation rows."""


def _scan(split: str, path: Path, places: Sequence[str], index: LeakIndex, *, searches: bool, is_suite: bool) -> _Scan:
    """Check the rows of a file one by one.

    Args:
        split: its name.
        path: JSON Lines.
        places: the place of each row in its source, or nothing.
        index: the suites.
        searches: whether to look for rows that leak the suites.
        is_suite: whether to add the rows to the index.
    """
    scan = _Scan(RowHashes(path, places))
    where = scan.hashes.where
    ends_with_user: list[int] = []
    with console.Progress(f"rows of {split} checked") as progress:
        for chunk, part in zip(split_file(path), map_chunks(path, _check_chunk, split, index if searches else None, is_suite), strict=True):
            scan.findings += [_finding(rule, where(progress.done + line), message) for line, rule, message in part.problems]
            ends_with_user += [progress.done + line for line in part.ends_with_user]
            scan.hashes.extend(part.hashes, progress.done)
            scan.chunks.append((chunk, progress.done))
            scan.suspects |= {progress.done + line for line in part.suspects}
            if searches:
                index.expect(part.codes)
            if part.evaluated is not None:
                index.add_encoded(split, part.evaluated, lines_before=progress.done)
            progress.advance(part.lines)
    scan.lines = progress.done
    if not progress.done:
        scan.findings.append(_finding("split.empty", f"{path}:1", "the file has no rows"))
    if ends_with_user:
        share = f"{len(ends_with_user):,} of {progress.done:,} conversations"
        message = f"{share} end with a user turn: they can be used for generation, but not for training"
        scan.findings.append(_finding("generation.ending", where(ends_with_user[0]), message))
    return scan


@dataclass
class _Part:
    """The result for a part of a file. Lines are counted from its beginning."""

    hashes: RowHashes
    lines: int = 0
    problems: list[tuple[int, str, str]] = field(default_factory=list)
    """Line, rule and description."""
    ends_with_user: list[int] = field(default_factory=list)
    suspects: list[int] = field(default_factory=list)
    codes: list[Codes] = field(default_factory=list)
    """The codes of the words in the suspects, to be announced to the index."""
    evaluated: EvaluatedRows | None = None


def _check_chunk(chunk: Chunk, split: str, index: LeakIndex | None, is_suite: bool) -> _Part:
    """Check the rows of a part of a file, and search them if there is an index of the suites."""
    part = _Part(RowHashes(chunk.path))
    for_training, kind = not split.endswith("_gen"), RetentionItem if split == RETENTION else Conversation
    evaluated: list[tuple[int, Sequence[Message]]] = []
    for first, rows, block in read_batches(chunk.path, kind, chunk.start, chunk.end):
        part.lines = first + len(rows) - 1
        valid: list[tuple[int, Conversation]] = []
        for line, row in enumerate(rows, first):
            if isinstance(row, InvalidRow):
                part.problems.append((line, row.rule, str(row)))
                continue
            valid.append((line, row))
            problems = () if is_clean(row, for_training=for_training) else list(check_row(row, for_training=for_training))
            if isinstance(row, RetentionItem):
                problems = [*problems, *check_task(row)]
            part.problems += [(line, rule, f"{message} (prompt_id {row.prompt_id!r})") for rule, message in problems]
            if not problems and not for_training and row.messages[-1].role != "assistant":
                part.ends_with_user.append(line)
        ends = part.hashes.add(valid, chunk.start)
        if index is not None and valid:
            texts = [[message.content for message in row.messages] for _, row in valid]
            suspects, codes = index.screen(texts, [own.values for own in ends], block)
            part.suspects += [valid[number][0] for number in suspects]
            part.codes += [codes] if len(codes) else []
        evaluated += [(line, row.messages) for line, row in valid] if is_suite else ()
    if is_suite:
        part.evaluated = EvaluatedRows.encode(evaluated)
    return part


class _Lines(NamedTuple):
    """Lines of a part of a file, counted from its beginning, to be read again."""

    chunk: Chunk
    hashed: Collection[int]
    searched: Collection[int]


class _Closer(NamedTuple):
    """The result of reading these lines again."""

    hashes: list[tuple[int, WholeRow]]
    shared: list[tuple[int, Overlap]]


def _look_again(scans: Mapping[str, _Scan], index: LeakIndex) -> list[tuple[int, Overlap]]:
    """Hash the rows that look equal in full, and return what the suspects of the training data have in common with the suites."""
    shared: list[tuple[int, Overlap]] = []
    equal = {split: scan.hashes.find_repeated() for split, scan in scans.items()}
    for split in EVALUATION_SPLITS:
        if split in scans and TRAINING_SPLIT in scans:
            equal[split] |= scans[split].hashes.find_common(scans[TRAINING_SPLIT].hashes)
            equal[TRAINING_SPLIT] |= scans[TRAINING_SPLIT].hashes.find_common(scans[split].hashes)
    for split, scan in scans.items():
        chosen = sorted(equal[split] | scan.suspects)
        items: list[_Lines] = []
        before: list[int] = []
        for number, (chunk, first) in enumerate(scan.chunks):
            last = scan.chunks[number + 1][1] if number + 1 < len(scan.chunks) else scan.lines
            if some := chosen[bisect_right(chosen, first) : bisect_right(chosen, last)]:
                before.append(first)
                hashed, searched = ({line - first for line in some if line in lines} for lines in (equal[split], scan.suspects))
                items.append(_Lines(chunk, hashed, searched))
        parallel = sum(item.chunk.end - item.chunk.start for item in items) >= PARALLEL_BYTES
        results = map_items(items, _look_at_lines, index if scan.suspects else None, parallel=parallel)
        for first, part in zip(before, results, strict=True):
            scan.hashes.replace((first + line, row) for line, row in part.hashes)
            shared += [(first + line, row) for line, row in part.shared]
    return shared


def _look_at_lines(lines: _Lines, index: LeakIndex | None) -> _Closer:
    hashes: list[tuple[int, WholeRow]] = []
    suspects: list[tuple[int, Sequence[Message], list[TextHash]]] = []
    for line, _, text in read_lines(lines.chunk.path, lines.chunk.start, lines.chunk.end):
        row = decode(text, Conversation) if line in lines.hashed or line in lines.searched else None
        if row is not None and row.messages:
            texts = [hash_text(message.content) for message in row.messages]
            hashes += [(line, WholeRow.of(row, texts))] if line in lines.hashed else []
            suspects += [(line, row.messages, texts)] if line in lines.searched else []
    shared: list[tuple[int, Overlap]] = []
    for start in range(0, len(suspects), BATCH):
        assert index is not None
        batch = suspects[start : start + BATCH]
        leaks = index.find([(messages, texts) for _, messages, texts in batch])
        shared += [(line, each) for (line, _, _), each in zip(batch, leaks, strict=True) if each.matches or each.passages]
    return _Closer(hashes, shared)


def _report_leaks(leaks: Leaks, hashes: Mapping[str, RowHashes], findings: Sequence[Finding]) -> Iterator[Finding]:
    """Yield findings about suite rows that the training data leaks in parts (not those that it contains as a whole), and about passages."""
    reported = {finding.where for finding in findings if finding.rule.startswith("overlap.")}
    whole = {finding.where for finding in findings if finding.rule in ("overlap.exact", "overlap.normalized")}
    training = hashes[TRAINING_SPLIT]
    for split, answers in leaks.answers.items():
        for leak in sorted(answers, key=lambda leak: leak.line):
            where = hashes[split].where(leak.line)
            reported.add(where)
            if where not in whole:
                yield _finding("overlap.answer", where, f"{leak.how}: {training.where(leak.training_line)}")
        passages = [(line, first) for line, first in leaks.passages[split].items() if hashes[split].where(line) not in reported]
        if passages:
            line, first = passages[0]
            message = (
                f"{len(passages):,} of {leaks.rows[split]:,} rows of {split} have an answer that shares {RUN_WORDS} words in a row with "
                f"the training data, the first one with {training.where(first)}: its score may show memory instead of ability"
            )
            yield _finding("overlap.passage", hashes[split].where(line), message)
        lines = [line for line in leaks.collected[split] if hashes[split].where(line) not in reported]
        if len(lines) >= max(FEW_ROWS, FEW_SHARE * leaks.rows[split]):
            message = f"{len(lines):,} of {leaks.rows[split]:,} rows of {split} have an answer that is in the training data piece by piece"
            yield _finding("overlap.suite", hashes[split].where(lines[0]), message)


def _finding(rule: str, where: str, message: str) -> Finding:
    return Finding(rule=rule, severity=RULES[rule][0], where=where, message=message)
