"""The rules that conversations obey before a GPU is paid for. Every finding has a rule, a file and a line.

Rules on a row follow what fine-tuning does with it: the component ``chat_completion_pipeline`` stops at a system message that isn't first,
at one without a user's turn, and where no assistant token is left; its chat templates expect user and assistant by turns. It checks none
of this before the GPU runs. Rules across rows keep duplicates from counting twice, and test rows out of the training data.

Memory: five 64-bit hashes and no text for each row (40 bytes); two rows are held equal when their hashes are.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from mlops.core import console
from mlops.core.records import Finding
from mlops.dataset.conversation import Conversation, Message, RetentionItem, Unreadable, hash64, normalise, read_jsonl

if TYPE_CHECKING:
    import numpy as np

__all__ = ["RETENTION", "RULES", "Checked", "check", "check_row"]

RETENTION = "retention"
"""The name under which the retention suite is checked along with the splits."""

LONG_PROMPT = 40
"""Normalised bytes. The same first prompt in training and test says something only where it is no mere greeting."""

RULES: Mapping[str, tuple[Literal["error", "warning"], str]] = {
    "json.blank": ("error", "every line holds an object"),
    "json.bom": ("error", "no byte order mark"),
    "json.duplicate-key": ("error", "no key stands twice in an object"),
    "json.encoding": ("error", "UTF-8"),
    "json.malformed": ("error", "JSON as the standard has it: no NaN, no lone surrogates"),
    "json.too-long": ("error", "no line beyond the limit"),
    "schema.field": ("error", "prompt, messages, prompt_id, of the right types; role and content alone in a message"),
    "split.empty": ("error", "a split has rows"),
    "id.empty": ("error", "a row has a prompt_id"),
    "id.duplicate": ("warning", "a prompt_id stands once in a split"),
    "prompt.mismatch": ("warning", "prompt is the first user message"),
    "text.empty": ("error", "no text is empty or white space"),
    "messages.empty": ("error", "a conversation has messages"),
    "role.unknown": ("error", "a role is system, user or assistant"),
    "role.system": ("error", "at most one system message, and it comes first"),
    "role.order": ("error", "user and assistant take turns, the user first"),
    "role.ending": ("error", "a conversation to learn from ends with the assistant"),
    "assistant.missing": ("error", "a conversation to learn from has an assistant's turn"),
    "generation.ending": ("warning", "the conversations of a *_gen split end as those to learn from do"),
    "duplicate.exact": ("warning", "a conversation stands once in a split"),
    "duplicate.normalised": ("warning", "… also when case, white space and punctuation don't count"),
    "overlap.exact": ("error", "nothing that models are judged on is in the training data"),
    "overlap.normalised": ("error", "… also when case, white space and punctuation don't count"),
    "overlap.prompt": ("warning", "a long first prompt is not shared by training and test"),
}
"""Rule → severity and what it demands."""

TRAINED_ON = "train_sft"
JUDGED_ON = ("test_sft", "test_gen", RETENTION)
"""What must not be in it. ``test_gen`` too: its answers are shown to people as what the model can do."""


@dataclass(frozen=True)
class Checked:
    """What was looked at, and what was found, in the order of the files and lines."""

    rows: Mapping[str, int]
    findings: tuple[Finding, ...]


def check(files: Mapping[str, Path]) -> Checked:
    """Check JSON Lines files.

    Args:
        files: split → file; :data:`RETENTION` names the retention suite.

    Raises:
        OSError: a file can't be read.
    """
    columns, findings, rows = {}, [], {}
    for split, path in files.items():
        columns[split] = found = _Columns(path)
        ends_with_user: list[int] = []
        progress = console.Progress(f"rows of {split} checked")
        for number, row in read_jsonl(path, RetentionItem if split == RETENTION else Conversation):
            progress.advance()
            if isinstance(row, Unreadable):
                findings.append(_finding(row.rule, path, number, str(row)))
                continue
            problems = list(check_row(row, learn=not split.endswith("_gen")))
            findings += [_finding(rule, path, number, f"{message} (prompt_id {row.prompt_id!r})") for rule, message in problems]
            if not problems and split.endswith("_gen") and row.messages[-1].role != "assistant":
                ends_with_user.append(number)
            found.add(number, row)
        progress.close()
        rows[split] = progress.done
        if not progress.done:
            findings.append(_finding("split.empty", path, 1, "the file has no rows"))
        if ends_with_user:
            share = f"{len(ends_with_user):,} of {progress.done:,} conversations"
            message = f"{share} end with the user's turn: fit to generate from, not to learn from"
            findings.append(_finding("generation.ending", path, ends_with_user[0], message))
        findings += found.duplicates()
    for split in JUDGED_ON:
        if split in columns and TRAINED_ON in columns:
            findings += columns[split].overlaps(columns[TRAINED_ON])
    return Checked(rows, tuple(findings))


def check_row(row: Conversation, *, learn: bool) -> Iterator[tuple[str, str]]:
    """The rules that one row breaks, with what is wrong.

    Args:
        row: a conversation.
        learn: whether it is to be learnt from or judged on, so that it must end with the assistant.
    """
    if not row.prompt_id.strip():
        yield "id.empty", "prompt_id is empty"
    if not row.prompt.strip():
        yield "text.empty", "prompt is empty"
    if not row.messages:
        yield "messages.empty", "messages is empty"
        return
    for position, message in enumerate(row.messages):
        if not message.content.strip():
            yield "text.empty", f"messages[{position}].content ({message.role}) is empty"
    unknown = [(position, message.role) for position, message in enumerate(row.messages) if message.role not in _ROLES]
    for position, role in unknown:
        yield "role.unknown", f"messages[{position}].role is {role!r}, not one of {', '.join(_ROLES)}"
    if not unknown:
        yield from _check_order(row.messages, learn)
    first = next((message.content for message in row.messages if message.role == "user"), None)
    if first is not None and row.prompt.strip() and first.strip() != row.prompt.strip():
        yield "prompt.mismatch", "prompt differs from the first user message"


_ROLES = ("system", "user", "assistant")


def _check_order(messages: list[Message], learn: bool) -> Iterator[tuple[str, str]]:
    for position, message in enumerate(messages):
        if message.role == "system" and position:
            yield "role.system", f"messages[{position}] is a system message, which may only be the first"
    turns = [(position, message.role) for position, message in enumerate(messages) if message.role != "system"]
    if not turns:
        yield "role.order", "there is a system message, but no user's turn"
        return
    wanted = "user"
    for position, role in turns:
        if role != wanted:
            yield "role.order", f"messages[{position}] is the {role}'s where the {wanted}'s turn is due"
            return
        wanted = "assistant" if role == "user" else "user"
    if learn and len(turns) == 1:
        yield "assistant.missing", "the assistant says nothing, so there is nothing to learn from"
    elif learn and turns[-1][1] != "assistant":
        yield "role.ending", f"messages[{turns[-1][0]}], the last, is the {turns[-1][1]}'s; it must be the assistant's"


@dataclass
class _Columns:
    """What is remembered of a file's rows."""

    path: Path
    numbers: array[int] = field(default_factory=lambda: array("Q"))
    ids: array[int] = field(default_factory=lambda: array("Q"))
    exact: array[int] = field(default_factory=lambda: array("Q"))
    normalised: array[int] = field(default_factory=lambda: array("Q"))
    prompts: array[int] = field(default_factory=lambda: array("Q"))
    """0 for a prompt too short to say anything."""

    def add(self, number: int, row: Conversation) -> None:
        said = [(message.role.encode(), message.content) for message in row.messages]
        # A row without messages has been reported; hashing its number keeps it from being a duplicate as well.
        marks = [] if said else [number.to_bytes(8, "little")]
        self.numbers.append(number)
        self.ids.append(hash64(row.prompt_id.encode()))
        self.exact.append(hash64(*marks, *(part for role, text in said for part in (role, text.encode()))))
        self.normalised.append(hash64(*marks, *(part for role, text in said for part in (role, normalise(text)))))
        prompt = normalise(row.prompt)
        self.prompts.append(hash64(prompt) if len(prompt) >= LONG_PROMPT else 0)

    def duplicates(self) -> Iterator[Finding]:
        """Rows that an earlier row of the file repeats, by the strictest rule that says so; and repeated ids of different rows."""
        exact, normalised, ids = _earlier(self.exact), _earlier(self.normalised), _earlier(self.ids)
        for index in range(len(self.numbers)):
            if (same := exact.get(index)) is not None:
                yield self._finding("duplicate.exact", index, f"says the same as line {self.numbers[same]}")
            elif (same := normalised.get(index)) is not None:
                yield self._finding("duplicate.normalised", index, f"says nearly the same as line {self.numbers[same]}")
            elif (same := ids.get(index)) is not None:
                yield self._finding("id.duplicate", index, f"has the prompt_id of line {self.numbers[same]}, which says something else")

    def overlaps(self, training: _Columns) -> Iterator[Finding]:
        """Rows of this file that the training data has too, by the strictest rule that says so."""
        exact, normalised = _shared(self.exact, training.exact), _shared(self.normalised, training.normalised)
        prompts = _shared(self.prompts, training.prompts)
        for index in range(len(self.numbers)):
            if (same := exact.get(index)) is not None:
                yield self._finding("overlap.exact", index, f"is in the training data: {training.path}:{training.numbers[same]}")
            elif (same := normalised.get(index)) is not None:
                yield self._finding(
                    "overlap.normalised", index, f"is nearly in the training data: {training.path}:{training.numbers[same]}"
                )
            elif (same := prompts.get(index)) is not None and self.prompts[index]:
                where = f"{training.path}:{training.numbers[same]}"
                yield self._finding("overlap.prompt", index, f"begins with the prompt of the training data's {where}")

    def _finding(self, rule: str, index: int, message: str) -> Finding:
        return _finding(rule, self.path, self.numbers[index], message)


def _earlier(hashes: array[int]) -> dict[int, int]:
    """Index of each repeated hash → index of its first appearance."""
    import numpy as np

    values = _view(hashes)
    _, first, inverse = np.unique(values, return_index=True, return_inverse=True)
    origin = first[inverse]
    return {int(index): int(origin[index]) for index in np.flatnonzero(origin != np.arange(len(values)))}


def _shared(hashes: array[int], others: array[int]) -> dict[int, int]:
    """Index of each hash that the others have too → index of its first appearance among the others."""
    import numpy as np

    values, known = _view(hashes), _view(others)
    unique, first = np.unique(known, return_index=True)
    found = np.flatnonzero(np.isin(values, unique))
    return {int(index): int(first[np.searchsorted(unique, values[index])]) for index in found}


def _view(hashes: array[int]) -> np.ndarray[tuple[int], np.dtype[np.uint64]]:
    import numpy as np

    return np.frombuffer(hashes, dtype=np.uint64) if hashes else np.empty(0, dtype=np.uint64)


def _finding(rule: str, path: Path, line: int, message: str) -> Finding:
    return Finding(rule=rule, severity=RULES[rule][0], where=f"{path}:{line}", message=message)
