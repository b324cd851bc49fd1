"""The emulator's persistent state: JSON documents by kind and key, in one SQLite file."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

__all__ = ["Document", "Store"]

Document = dict[str, Any]


class Store:
    """Documents that survive a restart.

    A kind is like a table (``"run"``, ``"endpoint"``); a key is unique within its kind. Safe to use from several threads.
    """

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        # It contains secrets. SQLite gives its journals the permissions of the database.
        path.touch(mode=0o600)
        path.chmod(0o600)
        self._lock = threading.RLock()
        self._database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        # Waiting for the disk is pointless while the file is still empty, and slow.
        self._database.execute("PRAGMA synchronous=OFF")
        self._database.execute("PRAGMA journal_mode=WAL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS documents (kind TEXT, key TEXT, born INTEGER, body TEXT, PRIMARY KEY (kind, key)) WITHOUT ROWID"
        )
        self._database.execute("CREATE INDEX IF NOT EXISTS documents_born ON documents (born)")
        self._database.execute("PRAGMA synchronous=NORMAL")

    def put(self, kind: str, key: str, document: Document) -> Document:
        """Create or replace a document and return it. Replacing keeps its place in the order of creation."""
        with self._lock:
            self._database.execute(
                "INSERT INTO documents VALUES (?, ?, (SELECT COALESCE(MAX(born), 0) + 1 FROM documents), ?)"
                " ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body",
                (kind, key, json.dumps(document)),
            )
        return document

    def get(self, kind: str, key: str) -> Document | None:
        """Return the document, or None if it doesn't exist."""
        with self._lock:
            row = self._database.execute("SELECT body FROM documents WHERE kind = ? AND key = ?", (kind, key)).fetchone()
        return json.loads(row[0]) if row else None

    def list(self, kind: str, prefix: str = "") -> list[tuple[str, Document]]:
        """Return the (key, document) pairs of a kind whose key starts with ``prefix``, oldest first."""
        with self._lock:
            rows = self._database.execute(
                "SELECT key, body FROM documents WHERE kind = ? AND substr(key, 1, ?) = ? ORDER BY born", (kind, len(prefix), prefix)
            ).fetchall()
        return [(key, json.loads(body)) for key, body in rows]

    def delete(self, kind: str, key: str) -> bool:
        """Delete a document. Return False if it didn't exist."""
        with self._lock:
            return self._database.execute("DELETE FROM documents WHERE kind = ? AND key = ?", (kind, key)).rowcount > 0

    @contextmanager
    def change(self, kind: str, key: str) -> Iterator[Document]:
        """Yield a document to be changed in place, and write it back, as one transaction.

        Raises:
            KeyError: there is no such document.
        """
        with self._lock:
            document = self.get(kind, key)
            if document is None:
                raise KeyError(f"{kind} {key}")
            yield document
            self.put(kind, key, document)

    def close(self) -> None:
        """Write pending changes and close the file."""
        with self._lock:
            self._database.close()
