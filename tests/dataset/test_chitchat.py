"""Chats between two people in the ultrachat schema."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from mlops.core.errors import ConfigError
from mlops.dataset import chitchat
from mlops.dataset.checks import check_row
from mlops.dataset.chitchat import conversation
from mlops.dataset.conversation import Conversation, Message, content_id


def blocks(*turns: str) -> list[list[tuple[str, str]]]:
    """A: …, B: …, by turns; a turn's utterances are separated by |."""
    return [[("AB"[index % 2], text) for text in turn.split("|")] for index, turn in enumerate(turns)]


def said(found: Conversation | None) -> list[tuple[str, str]]:
    assert found is not None
    return [(message.role, message.content) for message in found.messages]


def test_who_speaks_first_is_the_user_and_a_turn_is_one_message() -> None:
    found = conversation(blocks("Hi| |how are you? ", "fine", "great|what now", "tea?"))
    assert said(found) == [("user", "Hi\nhow are you?"), ("assistant", "fine"), ("user", "great\nwhat now"), ("assistant", "tea?")]
    assert found is not None
    assert found.prompt == "Hi\nhow are you?"
    assert found.prompt_id == content_id(found.messages)
    assert list(check_row(found, learn=True)) == []


def test_the_users_turn_at_the_end_is_dropped() -> None:
    assert said(conversation(blocks("Hi", "Hello", "Bye"))) == [("user", "Hi"), ("assistant", "Hello")]


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
def test_a_chat_that_is_no_exchange_is_not_kept(chat: list[list[tuple[str, str]]]) -> None:
    assert conversation(chat) is None


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
def test_what_looks_like_personal_data_is_not_kept(text: str) -> None:
    assert conversation(blocks("Hi", "Hello", text, "ok")) is None


@pytest.mark.parametrize(
    "text", ["I was born in 1998, in May", "see you at 5 @ the park", "20 000 people", "e.g. this", "I kik ass is what he said"]
)
def test_what_only_resembles_personal_data_is_kept(text: str) -> None:
    assert conversation(blocks("Hi", "Hello", text, "ok")) is not None


def test_nothing_of_a_speaker_but_the_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / "dataset.json"
    utterances = [
        [{"text": "Hi", "timestamp": "2018-05-02", "sender": "secret-1"}],
        [{"text": "Hello", "timestamp": "…", "sender": "secret-2"}],
    ]
    path.write_text(json.dumps({"chat-1": {"messages": utterances, "ratings": {"witty": "1"}}, "chat-2": {"messages": []}}))
    ((where, found),) = chitchat.read(path)
    assert where == "dataset.json: chat-1"
    assert found.messages == [Message("user", "Hi"), Message("assistant", "Hello")]


def test_the_package_is_found_without_being_imported() -> None:
    assert chitchat.locate().name == "dataset.json"
    assert chitchat.package_version() == "0.9.0"


def test_without_the_package_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(ConfigError, match="extra `local`"):
        chitchat.locate()
