"""The store of JSON documents in SQLite."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from mlops.emulator.base.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with closing(Store(tmp_path / "deep" / "s.db")) as opened:
        yield opened


def test_a_document_is_stored_and_deleted(store: Store) -> None:
    assert store.get("job", "a") is None
    store.put("job", "a", {"x": [1, {"y": None}]})
    assert store.get("job", "a") == {"x": [1, {"y": None}]}
    assert store.get("endpoint", "a") is None
    assert (store.delete("job", "a"), store.delete("job", "a")) == (True, False)


def test_list_is_in_order_of_creation(store: Store) -> None:
    for key in ("b/2", "a/1", "b/1", "%/1"):
        store.put("k", key, {})
    store.put("k", "b/2", {"changed": True})
    assert [key for key, _ in store.list("k")] == ["b/2", "a/1", "b/1", "%/1"]
    assert store.list("k", "b/") == [("b/2", {"changed": True}), ("b/1", {})]
    # A prefix is text, not a pattern.
    assert [key for key, _ in store.list("k", "%")] == ["%/1"]


def test_documents_survive_closing_the_store(store: Store, tmp_path: Path) -> None:
    store.put("k", "a", {"kept": 1})
    store.close()
    with closing(Store(tmp_path / "deep" / "s.db")) as again:
        assert again.get("k", "a") == {"kept": 1}


def test_changing_a_missing_document_raises(store: Store) -> None:
    with pytest.raises(KeyError, match="k gone"), store.change("k", "gone"):
        pass


def test_a_change_that_raises_is_not_written(store: Store) -> None:
    store.put("k", "a", {"n": 1})
    with pytest.raises(ZeroDivisionError), store.change("k", "a") as document:
        document["n"] = 1 // 0
    assert store.get("k", "a") == {"n": 1}


def test_changes_from_several_threads_are_serialized(store: Store) -> None:
    store.put("k", "a", {"n": 0})

    def count() -> None:
        for _ in range(100):
            with store.change("k", "a") as document:
                document["n"] += 1

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.get("k", "a") == {"n": 400}
