"""Real conversations from a Python package: ``chitchat-dataset`` (MIT), 7,168 chats between strangers.

The package consists of data (``dataset.json``: id → blocks of utterances, one block per turn). It is located without being imported.
Only clean chats are used: two speakers who take turns, no empty turns, and nothing that looks like personal data. Speaker ids, times and
ratings are ignored.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import msgspec

from mlops.core.errors import ConfigError
from mlops.dataset.conversation import Conversation, Message
from mlops.dataset.hashes import content_id

__all__ = ["PERSONAL_DATA", "find_data_file", "package_version", "read_conversations", "to_conversation"]

PERSONAL_DATA = tuple(
    re.compile(pattern)
    for pattern in (
        r"@\w",  # an e-mail address, a handle
        r"://|www\.",  # a link, which may contain a user name
        r"\.(?:com|net|org|io|edu|gov)\b",  # a link without its scheme
        r"[0-9](?:[\s().-]{0,2}[0-9]){6}",  # seven digits in any grouping: a telephone or card number
        r"(?:snap(?:chat)?|insta(?:gram)?|whatsapp|kik|skype|discord|venmo) +(?:is|name|username|id|handle)\b",
    )
)
"""Patterns of personal data, matched against lower-case text. A name that is typed into a chat can't be distinguished from other words.

Several simple patterns that each start with a rare character are three times as fast as one combined pattern.
"""


class _Utterance(msgspec.Struct):
    text: str
    sender: str


class _Chat(msgspec.Struct):
    messages: list[list[_Utterance]]


def find_data_file() -> Path:
    """Find the package's data file.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = importlib.util.find_spec("chitchat_dataset")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / "dataset.json").is_file():
            return path
    raise ConfigError(
        "data.dataset is 'chitchat', but the package chitchat-dataset is not installed.",
        "install the extra `local`, or choose another data set",
    )


def package_version() -> str:
    """Return the installed version, e.g. ``0.9.0``."""
    return version("chitchat-dataset")


def read_conversations(path: Path) -> Iterator[tuple[str, Conversation]]:
    """Yield the clean conversations, each with its location (``file: chat id``)."""
    chats = msgspec.json.decode(path.read_bytes(), type=dict[str, _Chat])
    for chat_id, chat in chats.items():
        row = to_conversation([[(utterance.sender, utterance.text) for utterance in block] for block in chat.messages])
        if row is not None:
            yield f"{path.name}: {chat_id}", row


def to_conversation(blocks: Sequence[Sequence[tuple[str, str]]]) -> Conversation | None:
    """Convert a chat to the ultrachat schema; return None if it is not clean.

    Args:
        blocks: the turns, each a list of (speaker, text). The texts of a turn are joined by newlines. The first speaker becomes the
            user, and a user turn at the end is dropped.
    """
    turns: list[tuple[str, str]] = []
    for block in blocks:
        speakers = {speaker for speaker, _ in block}
        text = "\n".join(stripped for _, raw in block if (stripped := raw.strip()))
        if len(speakers) != 1 or not text:
            return None
        turns.append((speakers.pop(), text))
    alternating = all(before[0] != after[0] for before, after in itertools.pairwise(turns))
    if len({speaker for speaker, _ in turns}) != 2 or not alternating:
        return None
    chat = "\n".join(text for _, text in turns).lower()
    if any(pattern.search(chat) for pattern in PERSONAL_DATA):
        return None
    turns = turns[: len(turns) // 2 * 2]
    messages = [Message(role, text) for role, (_, text) in zip(("user", "assistant") * (len(turns) // 2), turns, strict=True)]
    return Conversation(prompt=messages[0].content, messages=messages, prompt_id=content_id(messages))
