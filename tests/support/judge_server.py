"""A judge on loopback: OpenAI's chat completions API, as far as the pipeline uses it (POST {base}/chat/completions)."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from typing import Any

from tests.support.loopback import LoopbackServer

__all__ = ["JudgeServer"]

KEY = "loopback-key"
_BLOCK = re.compile(r"<<<(?P<name>[A-Z ]+)>>>\n(?P<text>.*?)\n<<<END OF (?P=name)>>>", re.DOTALL)


class JudgeServer(LoopbackServer):
    """A server whose opinions come from a function of conversation, first and second answer. It returns the reply, or an HTTP status."""

    def __init__(self, reply: Callable[[str, str, str], str | int]) -> None:
        self.reply = reply
        self.requests = 0
        self.refuse_first = 0
        """How many requests are answered with 429 before the others."""
        self._lock = threading.Lock()
        super().__init__(type("Handler", (_Handler,), {"judge": self}))

    @property
    def url(self) -> str:
        return f"{self.address}/v1"

    def answer(self, body: dict[str, Any], key: str) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.requests += 1
            refused = self.requests <= self.refuse_first
        if refused:
            return 429, {"error": {"message": "slow down"}}
        if key != f"Bearer {KEY}":
            return 401, {"error": {"message": "wrong key"}}
        assert body["model"] == "judge-1"
        blocks = {match["name"]: match["text"] for match in _BLOCK.finditer(body["messages"][-1]["content"])}
        reply = self.reply(blocks["CONVERSATION"], blocks["FIRST ANSWER"], blocks["SECOND ANSWER"])
        if isinstance(reply, int):
            return reply, {"error": {"message": "broken on purpose"}}
        return 200, {"choices": [{"index": 0, "message": {"role": "assistant", "content": reply}, "finish_reason": "stop"}]}


class _Handler(BaseHTTPRequestHandler):
    judge: JudgeServer
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        status, content = (
            self.judge.answer(body, self.headers.get("Authorization", "")) if self.path == "/v1/chat/completions" else (404, {})
        )
        payload = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(payload)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        self.wfile.write(payload)

    def log_message(self, *_: object) -> None:
        pass
