"""A Hugging Face hub on loopback: as much of its protocol as ``datasets`` needs to load one data set of Parquet files at a revision.

Routes and headers follow https://huggingface.co/docs/hub/api and what huggingface_hub asks for: repository info and tree under
``/api/datasets/{id}``, files under ``/datasets/{id}/resolve/{revision}/{path}`` with ``ETag``, ``X-Repo-Commit`` and ranges; errors name
themselves in ``X-Error-Code``.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any
from urllib.parse import unquote, urlsplit

__all__ = ["Hub"]


class Hub:
    """Serves one data set repository at one commit (also as ``main``); every other revision is refused with 404.

    Args:
        repository: e.g. ``"tester/chats"``.
        commit: 40 hex digits.
        files: path in the repository → content.
    """

    def __init__(self, repository: str, commit: str, files: Mapping[str, bytes]) -> None:
        self.repository, self.commit, self.files = repository, commit, dict(files)
        self.requests: list[str] = []
        """Method and path of every request, in order."""
        handler = type("Handler", (_Handler,), {"hub": self})
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05})

    @property
    def url(self) -> str:
        """For HF_ENDPOINT."""
        return f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def entry(self, path: str) -> dict[str, Any]:
        """A file as the tree and paths-info routes describe it."""
        content = self.files[path]
        return {"type": "file", "path": path, "size": len(content), "oid": hashlib.sha1(content).hexdigest()}

    def tree(self, folder: str, recursive: bool) -> list[dict[str, Any]] | None:
        """What lies in a folder, or None where there is no such folder."""
        inside = [path for path in sorted(self.files) if not folder or path.startswith(folder + "/")]
        if folder and not inside:
            return None
        found: dict[str, dict[str, Any]] = {}
        for path in inside:
            rest = path[len(folder) + 1 :] if folder else path
            head, slash, _ = rest.partition("/")
            if slash:
                name = f"{folder}/{head}" if folder else head
                found[name] = {"type": "directory", "path": name, "size": 0, "oid": hashlib.sha1(name.encode()).hexdigest()}
            if recursive or not slash:
                found[path] = self.entry(path)
        return list(found.values())


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
        if match := re.fullmatch(rf"/datasets/{name}/resolve/([^/]+)/(.+)", path):
            self._file(*match.groups())
        elif match := re.fullmatch(rf"/api/datasets/{name}(?:/(revision|tree|paths-info)/([^/]+)(?:/(.+))?)?", path):
            self._api(match[1] or "revision", match[2] or "main", match[3] or "", parts.query, body)
        else:
            self._refuse("RepoNotFound", "Repository not found")

    def _known(self, revision: str) -> bool:
        return revision in {self.hub.commit, "main"}

    def _file(self, revision: str, path: str) -> None:
        if not self._known(revision):
            return self._refuse("RevisionNotFound", f"Invalid rev id: {revision}")
        if path not in self.hub.files:
            return self._refuse("EntryNotFound", "Entry not found")
        content = self.hub.files[path]
        headers = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "Accept-Ranges": "bytes"}
        if asked := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or ""):
            start, end = int(asked[1]), min(int(asked[2] or len(content) - 1), len(content) - 1)
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
            return self._send(206, content[start : end + 1], "application/octet-stream", headers)
        return self._send(200, content, "application/octet-stream", headers)

    def _api(self, what: str, revision: str, path: str, query: str, body: bytes) -> None:
        if not self._known(revision):
            return self._refuse("RevisionNotFound", f"Invalid rev id: {revision}")
        if what == "tree":
            found = self.hub.tree(path, "recursive=true" in query.lower())
            return self._refuse("EntryNotFound", f"{path} does not exist") if found is None else self._json(found)
        if what == "paths-info":
            wanted = json.loads(body)["paths"]
            return self._json([self.hub.entry(path) for path in wanted if path in self.hub.files])
        siblings = [{"rfilename": path} for path in sorted(self.hub.files)]
        return self._json({"id": self.hub.repository, "sha": self.hub.commit, "private": False, "tags": [], "siblings": siblings})

    def _json(self, answer: Any) -> None:
        self._send(200, json.dumps(answer).encode(), "application/json", {})

    def _refuse(self, code: str, message: str) -> None:
        self._send(404, json.dumps({"error": message}).encode(), "application/json", {"X-Error-Code": code, "X-Error-Message": message})

    def _send(self, status: int, content: bytes, kind: str, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in {"Content-Type": kind, "X-Repo-Commit": self.hub.commit, **headers}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
