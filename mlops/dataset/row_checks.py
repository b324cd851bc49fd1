"""Checks of single conversations, which follow from what fine-tuning and scoring do with roles and texts.

The component ``chat_completion_pipeline`` fails on a system message that isn't first, on one without a user turn, and on rows without
assistant tokens; its chat templates expect user and assistant to alternate. It checks none of this before the GPU runs.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import lru_cache

from mlops.dataset.conversation import Conversation, RetentionItem
from mlops.remote.tasks import parse_checks, passes

__all__ = ["check_row", "check_task", "is_blank", "is_clean"]

CONTROL_TOKEN = re.compile(
    r"<\|[A-Za-z_0-9]{2,40}\|>|</?s>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|<(?:bos|eos|pad|unk)>|\[(?:CLS|SEP|MASK|PAD)\]"
)
"""Tokens that chat templates put between messages, as they are spelled in the template of one model family or another."""
INVISIBLE = "\u115f\u1160\u2800\u3164\uffa0"
"""Letters without ink: Hangul fillers and the empty Braille pattern."""
_ROLES = ("system", "user", "assistant")


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
        if is_blank(content):
            invisible = " (it has invisible characters only)" if content.strip() else ""
            yield "text.empty", f"messages[{position}].content ({message.role}) is empty{invisible}"
        elif ("<" in content or "[" in content) and (token := CONTROL_TOKEN.search(content)):
            message_text = "a tokenizer may read it as the end of the turn or as another role"
            yield "text.control-token", f"messages[{position}].content ({message.role}) contains {token[0]}: {message_text}"
        elif "\ufffd" in content:
            yield "text.replacement", f"messages[{position}].content ({message.role}) contains U+FFFD: its encoding was damaged earlier"
    yield from _check_roles([message.role for message in row.messages], for_training)
    first = next((message.content for message in row.messages if message.role == "user"), None)
    if first is not None and row.prompt.strip() and first.strip() != row.prompt.strip():
        yield "prompt.mismatch", "prompt differs from the first user message"


def is_clean(row: Conversation, *, for_training: bool) -> bool:
    """Return whether :func:`check_row` would certainly find nothing. This is several times as fast, and nearly all rows are clean."""
    messages = row.messages
    roles = tuple([message.role for message in messages])
    if not (_are_roles_valid(roles, for_training) and "!" <= row.prompt_id[:1] <= "~" and "!" <= row.prompt[:1] <= "~"):
        return False
    if row.prompt != messages[roles[0] == "system"].content:
        return False
    for message in messages:
        content = message.content
        if not "!" <= content[:1] <= "~" or "<" in content or "[" in content or not (content.isascii() or "\ufffd" not in content):
            return False
    return True


def is_blank(text: str) -> bool:
    """Return whether a text has nothing that a reader could see: only white space, or characters of width zero."""
    if "!" <= text[:1] <= "~":
        return False
    bare = text.strip()
    if bare and not bare.isascii() and len(bare) < 64:
        return all(unicodedata.category(letter) in ("Cf", "Mn", "Cc") or letter in INVISIBLE or letter.isspace() for letter in bare)
    return not bare


def check_task(row: RetentionItem) -> Iterator[tuple[str, str]]:
    """Yield what is wrong with the checks of a row, by the code that scores it."""
    try:
        checks = parse_checks(row.checks)
    except ValueError as problem:
        yield "task.checks", str(problem)
        return
    if row.messages and not passes(row.messages[-1].content, checks, [message.content for message in row.messages[:-1]]):
        yield "task.reference", f"the reference answer does not pass its own checks: {row.messages[-1].content[:60]!r}"


@lru_cache(maxsize=1024)
def _are_roles_valid(roles: tuple[str, ...], for_training: bool) -> bool:
    return bool(roles) and not list(_check_roles(list(roles), for_training))


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
