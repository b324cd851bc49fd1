"""The entrance to the emulator: an HTTP proxy that connects Azure's host names with it and refuses every other host.

Only ``CONNECT`` (RFC 9110, 9.3.6) is served. A plain ``http://`` request through the proxy is refused as well, so a client that honors the
proxy variables and gets a response is certain to have reached the emulator. There is no second connection behind the first: after the
response to CONNECT, the HTTPS server continues on the same socket.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Awaitable, Callable, Sequence
from fnmatch import fnmatch

from mlops.emulator.wire.https import listen
from mlops.emulator.wire.request_log import log_request
from mlops.emulator.wire.tls import HOSTS

__all__ = ["Proxy"]

HEAD_MAX = 64 << 10
"""Bytes of a CONNECT request, at most."""


class Proxy:
    """A CONNECT proxy on loopback.

    Args:
        serve: takes over a connection after the response to its CONNECT.
        record: called with (host, allowed) for each request.
        hosts: allowed host names; ``*`` stands for one label.
    """

    def __init__(
        self, serve: Callable[[socket.socket], Awaitable[None]], record: Callable[[str, bool], None], hosts: Sequence[str] = HOSTS
    ) -> None:
        self._serve = serve
        self._record = record
        self._hosts = hosts
        self._listener: socket.socket | None = None
        self._tasks: dict[asyncio.Task[bool], socket.socket] = {}

    async def start(self, port: int = 0) -> int:
        """Start listening and return the port."""
        self._listener = listen(port)
        self._listener.listen(100)
        self._listener.setblocking(False)
        # asyncio's own server loses connections that it has accepted but not yet handed over when it is closed
        # (github.com/python/cpython/issues/109564).
        asyncio.get_running_loop().add_reader(self._listener, self._accept, self._listener)
        bound: int = self._listener.getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Stop listening, and drop clients that are not connected yet. Connections that the server has taken over stay open."""
        if self._listener is not None:
            asyncio.get_running_loop().remove_reader(self._listener)
            self._listener.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):  # the client has hung up already
            connection, _ = listener.accept()
            connection.setblocking(False)
            task = asyncio.create_task(self._connect(connection))
            self._tasks[task] = connection
            task.add_done_callback(self._finish)

    def _finish(self, task: asyncio.Task[bool]) -> None:
        connection = self._tasks.pop(task)
        if task.cancelled() or task.exception() or not task.result():
            connection.close()

    async def _connect(self, connection: socket.socket) -> bool:
        """Answer the CONNECT of a client and hand its connection over. Return whether that was possible.

        A client that doesn't speak HTTP gets no response.
        """
        loop = asyncio.get_running_loop()
        try:
            head = await asyncio.wait_for(_read_head(connection), timeout=30)
            started = time.perf_counter()
            method, address, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
            host = address.removeprefix("http://").split("/")[0].rpartition(":")[0] if method == "CONNECT" else address
            allowed = method == "CONNECT" and self._is_allowed(host)
            self._record(host, allowed)
            if allowed:
                await loop.sock_sendall(connection, b"HTTP/1.1 200 Connection established\r\n\r\n")
                await self._serve(connection)
                return True
            log_request(method, host, "-", 403, started)
            text = f"The Azure ML emulator is offline: {host} is not one of the hosts it emulates.\n"
            headers = f"Content-Type: text/plain\r\nContent-Length: {len(text)}\r\nConnection: close"
            await loop.sock_sendall(connection, f"HTTP/1.1 403 Forbidden\r\n{headers}\r\n\r\n{text}".encode())
        except (TimeoutError, ValueError, OSError):
            pass
        return False

    def _is_allowed(self, host: str) -> bool:
        # fnmatch's * would match dots as well, but Azure's wildcards cover one label.
        return any(fnmatch(host, name) and host.count(".") == name.count(".") for name in self._hosts)


async def _read_head(connection: socket.socket) -> bytes:
    """Return the request, which has no body: the client waits for the response before it sends anything else.

    Raises:
        ValueError: the client sends something else, or nothing.
    """
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        data = await asyncio.get_running_loop().sock_recv(connection, HEAD_MAX)
        if not data or len(head) > HEAD_MAX:
            raise ValueError(head)
        head += data
    return head
