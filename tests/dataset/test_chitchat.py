"""Chats between two people in the ultrachat schema."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from mlops.core.errors import ConfigError
from mlops.dataset import chitchat
from mlops.dataset.chitchat import to_conversation
from mlops.dataset.conversation import Conversation, Message
from mlops.dataset.hashes import content_id
from mlops.dataset.row_checks import check_row


def blocks(*turns: str) -> list[list[tuple[str, str]]]:
    """Return turns that alternate between speakers A and B; | separates the utterances of a turn."""
    return [[("AB"[index % 2], text) for text in turn.split("|")] for index, turn in enumerate(turns)]


def turns_of(row: Conversation | None) -> list[tuple[str, str]]:
    assert row is not None
    return [(message.role, message.content) for message in row.messages]


def test_the_first_speaker_is_the_user_and_a_turn_is_one_message() -> None:
    row = to_conversation(blocks("Hi| |how are you? ", "fine", "great|what now", "tea?"))
    assert turns_of(row) == [("user", "Hi\nhow are you?"), ("assistant", "fine"), ("user", "great\nwhat now"), ("assistant", "tea?")]
    assert row is not None
    assert row.prompt == "Hi\nhow are you?"
    assert row.prompt_id == content_id(row.messages)
    assert list(check_row(row, for_training=True)) == []


def test_a_user_turn_at_the_end_is_dropped() -> None:
    assert turns_of(to_conversation(blocks("Hi", "Hello", "Bye"))) == [("user", "Hi"), ("assistant", "Hello")]


@pytest.mark.parametrize(
    "chat",
    [
        pytest.param([], id="nothing"),
        pytest.param(blocks("Hi"), id="nobody answers"),
        pytest.param([[("A", "Hi")], [("A", "There")], [("B", "Hello")]], id="out of turn"),
        pytest.param([[("A", "Hi")], [("B", "Hello")], [("C", "Hey")], [("B", "You")]], id="three people"),
        pytest.param([[("A", "Hi"), ("B", "Hello")], [("B", "Well")]], id="two in one turn"),
        pytest.param(blocks("Hi", " | "), id="silence"),
    ],
)
def test_a_chat_without_an_exchange_is_dropped(chat: list[list[tuple[str, str]]]) -> None:
    assert to_conversation(chat) is None


@pytest.mark.parametrize(
    "text",
    [
        "write to jo.smith@mail.example",
        "look: https://example.org/u/jo",
        "WWW.example",
        "it's on jospage.COM ok",
        "I'm @jo_smith there",
        "call 555-0123-456",
        "(0801) 555 01",
        "my Snapchat is josm",
    ],
)
def test_a_chat_with_apparent_personal_data_is_dropped(text: str) -> None:
    assert to_conversation(blocks("Hi", "Hello", text, "ok")) is None


@pytest.mark.parametrize(
    "text", ["I was born in 1998, in May", "see you at 5 @ the park", "20 000 people", "e.g. this", "I kik ass is what he turns_of"]
)
def test_a_chat_that_only_resembles_personal_data_is_kept(text: str) -> None:
    assert to_conversation(blocks("Hi", "Hello", text, "ok")) is not None


def test_only_the_text_of_a_speaker_is_used(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    utterances = [
        [{"text": "Hi", "timestamp": "2018-05-02", "sender": "secret-1"}],
        [{"text": "Hello", "timestamp": "…", "sender": "secret-2"}],
    ]
    path.write_text(json.dumps({"chat-1": {"messages": utterances, "ratings": {"witty": "1"}}, "chat-2": {"messages": []}}))
    ((where, row),) = chitchat.read_conversations(path)
    assert where == "dataset.json: chat-1"
    assert row.messages == [Message("user", "Hi"), Message("assistant", "Hello")]


def test_the_package_is_located_without_being_imported() -> None:
    assert chitchat.find_data_file().name == "dataset.json"
    assert chitchat.package_version() == "0.9.0"


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="extra `local`"):
        chitchat.find_data_file()
