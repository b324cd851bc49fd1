"""Real conversations from a Python package: ``chitchat-dataset`` (MIT), 7,168 chats between strangers.

The package is data (``dataset.json``: id → blocks of utterances, a block being one speaker's turn); it is found, not imported.
What is kept is clean: two speakers taking turns, nobody silent, and nothing that looks like personal data. Speaker ids, times and ratings
are left behind.
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
from mlops.dataset.conversation import Conversation, Message, content_id

__all__ = ["PERSONAL", "conversation", "locate", "package_version", "read"]

PERSONAL = tuple(
    re.compile(pattern)
    for pattern in (
        r"@\w",  # an e-mail address, a handle
        r"://|www\.",  # a link: it may name a user
        r"\.(?:com|net|org|io|edu|gov)\b",  # the same without its scheme
        r"[0-9](?:[\s().-]{0,2}[0-9]){6}",  # seven digits, however grouped: a telephone or card number
        r"(?:snap(?:chat)?|insta(?:gram)?|whatsapp|kik|skype|discord|venmo) +(?:is|name|username|id|handle)\b",
    )
)
"""What must not be in a conversation that is kept, in lower case. A name typed into a chat can't be told from other words.

Several simple patterns, each beginning with something rare: three times as fast as one that holds them all.
"""


class _Utterance(msgspec.Struct):
    text: str
    sender: str


class _Chat(msgspec.Struct):
    messages: list[list[_Utterance]]


def locate() -> Path:
    """The package's data file.

    Raises:
        ConfigError: the package is not installed.
    """
    spec = importlib.util.find_spec("chitchat_dataset")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / "dataset.json").is_file():
            return path
    raise ConfigError(
        "data.dataset is 'chitchat', but the package chitchat-dataset is not installed.",
        "install the extra `local`, or name another data set",
    )


def package_version() -> str:
    """The installed version, e.g. ``0.9.0``."""
    return version("chitchat-dataset")


def read(path: Path) -> Iterator[tuple[str, Conversation]]:
    """The conversations that are kept, each with where it stands (``file: chat id``)."""
    chats = msgspec.json.decode(path.read_bytes(), type=dict[str, _Chat])
    for chat_id, chat in chats.items():
        if (kept := conversation([[(said.sender, said.text) for said in block] for block in chat.messages])) is not None:
            yield f"{path.name}: {chat_id}", kept


def conversation(blocks: Sequence[Sequence[tuple[str, str]]]) -> Conversation | None:
    """One chat in the ultrachat schema, or None if it is not to be kept.

    Args:
        blocks: the turns; a turn is a list of (speaker, text). Its texts are joined by newlines. Who speaks first is the user; a
            user's turn at the end is left out.
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
    said = "\n".join(text for _, text in turns).lower()
    if any(pattern.search(said) for pattern in PERSONAL):
        return None
    turns = turns[: len(turns) // 2 * 2]
    messages = [Message(role, text) for role, (_, text) in zip(("user", "assistant") * (len(turns) // 2), turns, strict=True)]
    return Conversation(prompt=messages[0].content, messages=messages, prompt_id=content_id(messages))
