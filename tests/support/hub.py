"""A Hugging Face hub on loopback, with the part of its protocol that is needed to load a data set of Parquet files, or a file of a model.

Routes and headers follow https://huggingface.co/docs/hub/api and the requests of huggingface_hub: repository info and tree under
``/api/datasets/{id}``, files under ``/datasets/{id}/resolve/{revision}/{path}``, for a model without ``/datasets``, with ``ETag``,
``X-Repo-Commit`` and ranges. The header ``X-Error-Code`` identifies errors.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler
from typing import Any
from urllib.parse import unquote, urlsplit

from tests.support.loopback import LoopbackServer

__all__ = ["Hub"]


class Hub(LoopbackServer):
    """A server of one repository at one commit, also called ``main``. Other revisions are answered with 404.

    Args:
        repository: e.g. ``"tester/chats"``.
        commit: 40 hex digits.
        files: path in the repository → content.
    """

    def __init__(self, repository: str, commit: str, files: Mapping[str, bytes]) -> None:
        self.repository, self.commit, self.files = repository, commit, dict(files)
        self.requests: list[str] = []
        """Method and path of every request, in order."""
        super().__init__(type("Handler", (_Handler,), {"hub": self}))

    @property
    def url(self) -> str:
        """The value for HF_ENDPOINT."""
        return self.address

    def entry(self, path: str) -> dict[str, Any]:
        """Describe a file as the tree and paths-info routes do."""
        content = self.files[path]
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def tree(self, folder: str, recursive: bool) -> list[dict[str, Any]] | None:
        """List a folder; return None if it does not exist."""
        paths = [path for path in sorted(self.files) if not folder or path.startswith(folder + "/")]
        if folder and not paths:
            return None
        entries: dict[str, dict[str, Any]] = {}
        for path in paths:
            rest = path[len(folder) + 1 :] if folder else path
            head, slash, _ = rest.partition("/")
            if slash:
                name = f"{folder}/{head}" if folder else head
                entries[name] = {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}
            if recursive or not slash:
                entries[path] = self.entry(path)
        return list(entries.values())


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        self._answer()

    def do_HEAD(self) -> None:
        self._answer()

    def do_POST(self) -> None:
        self._answer()

    def _answer(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        path = unquote(parts.path)
        self.hub.requests.append(f"{self.command} {path}")
        name = re.escape(self.hub.repository)
        if match := re.fullmatch(rf"(?:/datasets)?/{name}/resolve/([^/]+)/(.+)", path):
            self._send_file(*match.groups())
        elif match := re.fullmatch(rf"/api/datasets/{name}(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?", path):
            self._answer_api(match[1] or "revision", match[2] or "main", match[3] or "", parts.query, body)
        else:
            self._send_error("RepoNotFound", "Repository not found")

    def _has_revision(self, revision: str) -> bool:
        return revision in {self.hub.commit, "main"}

    def _send_file(self, revision: str, path: str) -> None:
        if not self._has_revision(revision):
            return self._send_error("RevisionNotFound", f"Invalid rev id: {revision}")
        if path not in self.hub.files:
            return self._send_error("EntryNotFound", "Entry not found")
        content = self.hub.files[path]
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        if match := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(match[1]), min(int(match[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            return self._send_response(206, content[start : end + 1], "application/octet-stream", headers)
        return self._send_response(200, content, "application/octet-stream", headers)

    def _answer_api(self, what: str, revision: str, path: str, query: str, body: bytes) -> None:
        if not self._has_revision(revision):
            return self._send_error("RevisionNotFound", f"Invalid rev id: {revision}")
        if what == "tree":
            entries = self.hub.tree(path, "recursive=true" in query.lower())
            return self._send_error("EntryNotFound", f"{path} does not exist") if entries is None else self._send_json(entries)
        if what == "paths-info":
            paths = json.loads(body)["paths"]
            return self._send_json([self.hub.entry(path) for path in paths if path in self.hub.files])
        siblings = [{"rfilename": path} for path in sorted(self.hub.files)]
        return self._send_json({"id": self.hub.repository, "sha": self.hub.commit, "private": False, "tags": [], "siblings": siblings})

    def _send_json(self, answer: Any) -> None:
        self._send_response(200, json.dumps(answer).encode(), "application/json", {})

    def _send_error(self, code: str, message: str) -> None:
        self._send_response(
            404, json.dumps({"error": message}).encode(), "application/json", {"X-Error-Code": code, "X-Error-Message": message}
        )

    def _send_response(self, status: int, content: bytes, kind: str, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "X-Repo-Commit": self.hub.commit, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
