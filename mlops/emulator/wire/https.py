"""The HTTPS server: uvicorn on connections that the proxy has accepted, started and stopped without delay."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

__all__ = ["HttpsServer", "Protocol", "listen"]

GRACE_S = 2.0
"""Seconds that requests in progress get to finish when the server stops."""


def listen(port: int = 0) -> socket.socket:
    """Return a socket that is bound to this port of loopback, or to a free one.

    The socket names its protocol because asyncio sets TCP_NODELAY on accepted connections only then. Without TCP_NODELAY every response
    waits 40 ms for the client's delayed acknowledgement.
    """
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
    except BaseException:
        listener.close()
        raise
    return listener


class Protocol(H11Protocol):
    """uvicorn's protocol, which acknowledges what it has received at once instead of 40 ms later.

    urllib3 leaves Nagle's algorithm on for proxied connections: it holds a request's body back until its headers are acknowledged.
    The kernel returns to delayed acknowledgements by itself, so this is repeated after every read.
    """

    def data_received(self, data: bytes) -> None:
        """Acknowledge and handle data."""
        if hasattr(socket, "TCP_QUICKACK"):  # Linux only
            with contextlib.suppress(OSError):
                self.transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        super().data_received(data)


class HttpsServer(uvicorn.Server):
    """uvicorn's server, without the fixed sleeps of its start and stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Start; return once connections can be adopted."""
        self._serving = asyncio.create_task(self.serve(sockets=[]))
        while not (self.started or self._serving.done()):
            await asyncio.sleep(0.001)

    async def adopt(self, connection: socket.socket) -> None:
        """Serve an accepted connection, beginning with its TLS handshake if the server has certificates; return after the handshake.

        Raises:
            OSError: the handshake failed.
        """

        def make_protocol() -> asyncio.Protocol:
            return Protocol(self.config, self.server_state, self.lifespan.state)

        await asyncio.get_running_loop().connect_accepted_socket(make_protocol, connection, ssl=self.config.ssl)

    def abort_connections(self) -> None:
        """Close all connections at once. A client that keeps one open would not answer TLS's request to close it."""
        for connection in list(self.server_state.connections):
            connection.transport.abort()

    async def stop(self) -> None:
        """Let requests in progress finish for a moment, and close the connections."""
        self.should_exit = True
        self._stopping.set()
        if self._serving is not None:
            await self._serving

    async def main_loop(self) -> None:
        """Refresh the Date header once per second until the server is stopped; uvicorn looks ten times per second."""
        ticks = 0
        while not await self.on_tick(ticks):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), timeout=1)
            ticks += 10

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:  # noqa: ARG002 - uvicorn passes them
        """Close the connections; requests that outlast the grace period are canceled with the emulator's other tasks."""
        for connection in list(self.server_state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                while self.server_state.connections or self.server_state.tasks:
                    await asyncio.sleep(0.002)
