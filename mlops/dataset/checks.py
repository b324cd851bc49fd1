"""Checks of conversations before any GPU time is paid for. Every finding has a rule, a file and a line.

Rules for single rows follow from what fine-tuning does with them. The component ``chat_completion_pipeline`` fails on a system message
that isn't first, on one without a user turn, and on rows without assistant tokens; its chat templates expect user and assistant to
alternate. It checks none of this before the GPU runs. Rules across rows keep duplicates from counting twice, and test rows out of the
training data.

Memory: five 64-bit hashes per row (40 bytes) and no text. Two rows are considered equal if their hashes are equal.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from xxhash import xxh3_64_intdigest

from mlops.core import console
from mlops.core.records import Finding
from mlops.dataset.chunks import Chunk, map_chunks
from mlops.dataset.conversation import Conversation, InvalidRow, RetentionItem, TextHash, hash_conversation, hash_text, read_jsonl
from mlops.dataset.overlap import BATCH, LeakIndex, Leaks, Shared, resolve
from mlops.dataset.passages import RUN_WORDS
from mlops.remote.tasks import parse_checks, passes

if TYPE_CHECKING:
    import numpy as np

__all__ = ["RETENTION", "RULES", "TRAINING_SPLIT", "CheckResult", "check", "check_row"]

RETENTION = "retention"
"""The name of the retention suite when it is checked together with the splits."""

LONG_PROMPT = 40
"""In normalized bytes. A first prompt that is shared by training and test is only reported if it is longer than a mere greeting."""

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
    "overlap.answer": ("error", "no answer of an evaluation row is in the training data, behind whatever turns"),
    "overlap.passage": ("warning", f"no {RUN_WORDS} words in a row of an evaluation row's answer are in the training data"),
    "overlap.prompt": ("warning", "training and test share no long first prompt"),
}
"""Rule → severity and requirement."""

CONTROL_TOKEN = re.compile(
    r"<\|[A-Za-z_0-9]{2,40}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|<(?:bos|eos|pad|unk)>|\[(?:CLS|SEP|MASK|PAD)\]"
)
"""Tokens that chat templates put between messages, as they are spelled in the template of one model family or another."""
INVISIBLE = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters without ink: Hangul fillers and the empty Braille pattern."""

TRAINING_SPLIT, TARGET_SPLIT = "train_sft", "test_sft"
EVALUATION_SPLITS = ("test_sft", "test_gen", RETENTION)
"""Splits that must not overlap with the training split. This includes ``test_gen``, whose answers are shown to reviewers."""


@dataclass(frozen=True)
class CheckResult:
    """The number of rows per split, and the findings in the order of files and lines."""

    rows: Mapping[str, int]
    findings: tuple[Finding, ...]


def check(files: Mapping[str, Path], origins: Mapping[str, Path] | None = None) -> CheckResult:
    """Check JSON Lines files.

    Args:
        files: split → file; :data:`RETENTION` names the retention suite.
        origins: split → file with the place of each row in its source, one per line. Findings name these places.

    Raises:
        OSError: a file can't be read.
    """
    index = LeakIndex()
    suites = {split: files[split] for split in (TARGET_SPLIT, RETENTION) if split in files and TRAINING_SPLIT in files}
    suite_rows = {split: index.add_file(split, path) for split, path in suites.items()}
    hashes, findings, rows = {}, [], {}
    shared: list[tuple[int, Shared]] = []
    for split, path in files.items():
        places = origins[split].read_text(encoding="utf-8").split("\n") if origins and split in origins else []
        hashes[split] = _RowHashes(path, places)
        where = hashes[split].where
        ends_with_user: list[int] = []
        progress = console.Progress(f"rows of {split} checked")
        for part in map_chunks(path, _check_chunk, split, index if suites and split == TRAINING_SPLIT else None):
            findings += [_finding(rule, where(progress.done + line), message) for line, rule, message in part.problems]
            ends_with_user += [progress.done + line for line in part.ends_with_user]
            shared += [(progress.done + line, row) for line, row in part.shared]
            hashes[split].extend(part.hashes, progress.done)
            progress.advance(part.lines)
        progress.close()
        rows[split] = progress.done
        if not progress.done:
            findings.append(_finding("split.empty", f"{path}:1", "the file has no rows"))
        if ends_with_user:
            share = f"{len(ends_with_user):,} of {progress.done:,} conversations"
            message = f"{share} end with a user turn: they can be used for generation, but not for training"
            findings.append(_finding("generation.ending", where(ends_with_user[0]), message))
        findings += hashes[split].duplicates()
    for split in EVALUATION_SPLITS:
        if split in hashes and TRAINING_SPLIT in hashes:
            findings += hashes[split].overlaps(hashes[TRAINING_SPLIT])
    if TRAINING_SPLIT in files:
        findings += list(_report_leaks(resolve(index, shared, suite_rows), hashes, findings))
    return CheckResult(rows, tuple(findings))


@dataclass
class _Part:
    """What was found in a part of a file. Lines are counted from its beginning."""

    hashes: _RowHashes
    lines: int = 0
    problems: list[tuple[int, str, str]] = field(default_factory=list)
    """Line, rule and description."""
    ends_with_user: list[int] = field(default_factory=list)
    shared: list[tuple[int, Shared]] = field(default_factory=list)


def _check_chunk(chunk: Chunk, split: str, index: LeakIndex | None) -> _Part:
    """Check the rows of a part of a file, and look them up in the suites if there is an index of those."""
    part = _Part(_RowHashes(chunk.path))
    batch: list[tuple[int, Conversation, list[TextHash]]] = []
    for part.lines, row in read_jsonl(chunk.path, RetentionItem if split == RETENTION else Conversation, chunk.start, chunk.end):
        if isinstance(row, InvalidRow):
            part.problems.append((part.lines, row.rule, str(row)))
            continue
        problems = list(check_row(row, for_training=not split.endswith("_gen")))
        problems += _check_task(row) if isinstance(row, RetentionItem) else ()
        part.problems += [(part.lines, rule, f"{message} (prompt_id {row.prompt_id!r})") for rule, message in problems]
        if not problems and split.endswith("_gen") and row.messages[-1].role != "assistant":
            part.ends_with_user.append(part.lines)
        texts = [hash_text(message.content) for message in row.messages]
        part.hashes.add(part.lines, row, texts, chunk.start + part.lines)
        batch.append((part.lines, row, texts))
        if len(batch) == BATCH:
            part.shared += _find_shared(batch, index)
            batch.clear()
    part.shared += _find_shared(batch, index)
    return part


def _find_shared(batch: Sequence[tuple[int, Conversation, list[TextHash]]], index: LeakIndex | None) -> Iterator[tuple[int, Shared]]:
    if index is not None and batch:
        shared = index.find([(row.messages, texts) for _, row, texts in batch])
        yield from ((number, each) for (number, _, _), each in zip(batch, shared, strict=True) if each.matches or each.passages)


def _report_leaks(leaks: Leaks, hashes: Mapping[str, _RowHashes], findings: Sequence[Finding]) -> Iterator[Finding]:
    """Yield rows of the suites that the training data gives away in parts, without those that are in it as a whole, and passages."""
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


def check_row(row: Conversation, *, for_training: bool) -> Iterator[tuple[str, str]]:
    """Yield the rules that a row breaks, each with a description of the problem.

    Args:
        row: a conversation.
        for_training: whether it is used for training or scoring, so that it must end with the assistant.
    """
    if is_blank(row.prompt_id):
        yield "id.empty", "prompt_id is empty"
    if is_blank(row.prompt):
        yield "text.empty", "prompt is empty"
    if not row.messages:
        yield "messages.empty", "messages is empty"
        return
    for position, message in enumerate(row.messages):
        content = message.content
        if not "!" <= content[:1] <= "~" and is_blank(content):
            invisible = " (it has invisible characters only)" if content.strip() else ""
            yield "text.empty", f"messages[{position}].content ({message.role}) is empty{invisible}"
        elif ("<" in content or "[" in content) and (token := CONTROL_TOKEN.search(content)):
            message_text = "a tokenizer may read it as the end of the turn or as another role"
            yield "text.control-token", f"messages[{position}].content ({message.role}) contains {token[0]}: {message_text}"
        elif "\ufffd" in content:
            yield "text.replacement", f"messages[{position}].content ({message.role}) contains U+FFFD: its encoding was damaged before"
    yield from _check_roles([message.role for message in row.messages], for_training)
    first = next((message.content for message in row.messages if message.role == "user"), None)
    if first is not None and row.prompt.strip() and first.strip() != row.prompt.strip():
        yield "prompt.mismatch", "prompt differs from the first user message"


def is_blank(text: str) -> bool:
    """Return whether a text has nothing that a reader could see: only white space, or characters of width zero."""
    bare = text.strip()
    if bare and not bare.isascii() and len(bare) < 64:
        return all(unicodedata.category(letter) in ("Cf", "Mn", "Cc") or letter in INVISIBLE or letter.isspace() for letter in bare)
    return not bare


def _check_task(row: RetentionItem) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the checks of a row, by the code that scores it."""
    try:
        checks = parse_checks(row.checks)
    except ValueError as problem:
        yield "task.checks", str(problem)
        return
    if row.messages and not passes(row.messages[-1].content, checks):
        yield "task.reference", f"the reference answer does not pass its own checks: {row.messages[-1].content[:60]!r}"


_ROLES = ("system", "user", "assistant")


def _check_roles(roles: list[str], for_training: bool) -> Iterator[tuple[str, str]]:
    after_system = roles[1:] if roles[0] == "system" else roles
    if after_system and after_system == ["user", "assistant"] * (len(after_system) // 2):
        return
    unknown = [(position, role) for position, role in enumerate(roles) if role not in _ROLES]
    for position, role in unknown:
        yield "role.unknown", f"messages[{position}].role is {role!r}, not one of {', '.join(_ROLES)}"
    if unknown:
        return
    for position, role in enumerate(roles):
        if role == "system" and position:
            yield "role.system", f"messages[{position}] is a system message, which may only be the first"
    turns = [(position, role) for position, role in enumerate(roles) if role != "system"]
    if not turns:
        yield "role.order", "there is a system message, but no user turn"
        return
    expected = "user"
    for position, role in turns:
        if role != expected:
            yield "role.order", f"messages[{position}] has role {role}, but the next turn should be the {expected}'s"
            return
        expected = "assistant" if role == "user" else "user"
    if for_training and len(turns) == 1:
        yield "assistant.missing", "there is no assistant turn, so there is nothing to learn"
    elif for_training and turns[-1][1] != "assistant":
        yield "role.ending", f"the last message, messages[{turns[-1][0]}], has role {turns[-1][1]}; it must be the assistant's"


@dataclass
class _RowHashes:
    """Line numbers and hashes of a file's rows."""

    path: Path
    places: Sequence[str] = ()
    """Line number - 1 → place in the source, if it is known."""
    numbers: array[int] = field(default_factory=lambda: array("Q"))
    ids: array[int] = field(default_factory=lambda: array("Q"))
    exact: array[int] = field(default_factory=lambda: array("Q"))
    normalized: array[int] = field(default_factory=lambda: array("Q"))
    prompts: array[int] = field(default_factory=lambda: array("Q"))
    """0 for prompts shorter than :data:`LONG_PROMPT`."""

    def where(self, number: int) -> str:
        """Return the place of a line: in the source, if it is known."""
        return self.places[number - 1] if number <= len(self.places) else f"{self.path}:{number}"

    def add(self, number: int, row: Conversation, texts: Sequence[TextHash], unique: int) -> None:
        """Add a row.

        Args:
            number: its line.
            row: the row.
            texts: the hashes of its messages.
            unique: a number that no other row of the file has.
        """
        # A row without messages has already been reported. Its own number keeps it from being reported as a duplicate, too.
        exact = b"\xff".join([part.encode() for message in row.messages for part in (message.role, message.content)])
        prompt = texts[0] if texts and row.prompt == row.messages[0].content else hash_text(row.prompt)
        self.numbers.append(number)
        self.ids.append(xxh3_64_intdigest(row.prompt_id.encode()))
        self.exact.append(xxh3_64_intdigest(exact) if exact else unique)
        self.normalized.append(hash_conversation(row.messages, texts) if texts else unique)
        self.prompts.append(prompt.value if prompt.size >= LONG_PROMPT else 0)

    def extend(self, other: _RowHashes, lines_before: int) -> None:
        """Add the rows of a part of the file, which begins after ``lines_before`` lines."""
        self.numbers.extend(number + lines_before for number in other.numbers)
        self.ids += other.ids
        self.exact += other.exact
        self.normalized += other.normalized
        self.prompts += other.prompts

    def duplicates(self) -> Iterator[Finding]:
        """Yield rows that repeat an earlier row, under the strictest rule that applies, and different rows with the same id."""
        exact, normalized, ids = _find_repetitions(self.exact), _find_repetitions(self.normalized), _find_repetitions(self.ids)
        for index in range(len(self.numbers)):
            if (same := exact.get(index)) is not None:
                yield self._finding("duplicate.exact", index, f"repeats {self._line(same)}")
            elif (same := normalized.get(index)) is not None:
                yield self._finding("duplicate.normalized", index, f"is nearly the same as {self._line(same)}")
            elif (same := ids.get(index)) is not None:
                yield self._finding("id.duplicate", index, f"has the prompt_id of {self._line(same)}, which is a different conversation")

    def overlaps(self, training: _RowHashes) -> Iterator[Finding]:
        """Yield rows that are also in the training data, under the strictest rule that applies."""
        exact, normalized = _find_matches(self.exact, training.exact), _find_matches(self.normalized, training.normalized)
        prompts = _find_matches(self.prompts, training.prompts)
        for index in range(len(self.numbers)):
            if (same := exact.get(index)) is not None:
                yield self._finding("overlap.exact", index, f"is in the training data: {training.where(training.numbers[same])}")
            elif (same := normalized.get(index)) is not None:
                yield self._finding(
                    "overlap.normalized", index, f"is nearly the same as a training row: {training.where(training.numbers[same])}"
                )
            elif (same := prompts.get(index)) is not None and self.prompts[index]:
                where = f"{training.where(training.numbers[same])}"
                yield self._finding("overlap.prompt", index, f"has the same first prompt as the training row {where}")

    def _finding(self, rule: str, index: int, message: str) -> Finding:
        return _finding(rule, self.where(self.numbers[index]), message)

    def _line(self, index: int) -> str:
        return self.where(self.numbers[index]) if self.places else f"line {self.numbers[index]}"


def _find_repetitions(hashes: array[int]) -> dict[int, int]:
    """Map the index of each repeated hash to the index of its first occurrence."""
    import numpy as np

    values = _as_numpy(hashes)
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    origin = first[inverse]
    return {int(index): int(origin[index]) for index in np.flatnonzero(origin != np.arange(len(values)))}


def _find_matches(hashes: array[int], others: array[int]) -> dict[int, int]:
    """Map the index of each hash that is also in ``others`` to the index of its first occurrence there."""
    import numpy as np

    values, other_values = _as_numpy(hashes), _as_numpy(others)
    unique, first = np.unique(other_values, return_index=True)
    common = np.flatnonzero(np.isin(values, unique))
    return {int(index): int(first[np.searchsorted(unique, values[index])]) for index in common}


def _as_numpy(hashes: array[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    import numpy as np

    return np.frombuffer(hashes, dtype=np.uint64) if hashes else np.empty(0, dtype=np.uint64)


def _finding(rule: str, where: str, message: str) -> Finding:
    return Finding(rule=rule, severity=RULES[rule][0], where=where, message=message)
