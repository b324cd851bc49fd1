"""The HTTPS server: uvicorn on loopback sockets, started and stopped without delay."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import uvicorn

__all__ = ["HttpsServer", "close", "listen"]

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


async def close(server: asyncio.Server) -> None:
    """Stop listening; established connections stay open.

    asyncio leaks the sockets that it has accepted but not yet handed to a protocol when a server is closed
    (github.com/python/cpython/issues/109564), so those get two passes of the loop first.
    """
    for listener in server.sockets:
        asyncio.get_running_loop().remove_reader(listener.fileno())
    for _ in range(2):
        await asyncio.sleep(0)
    server.close()


class HttpsServer(uvicorn.Server):
    """uvicorn's server, without the fixed sleeps of its start and stop."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._stopping = asyncio.Event()
        self._serving: asyncio.Task[None] | None = None

    async def start(self, listener: socket.socket) -> None:
        """Start serving; return once requests are accepted."""
        self._serving = asyncio.create_task(self.serve(sockets=[listener]))
        # A server that is asked to exit before it has started leaves its socket open.
        while not (self.started or self._serving.done()):
            await asyncio.sleep(0.001)

    async def stop(self) -> None:
        """Stop listening, and let requests in progress finish for a moment."""
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

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Close the listeners and connections; requests that outlast the grace period are canceled with the emulator's other tasks."""
        for server in self.servers:
            await close(server)
        for listener in sockets or []:
            listener.close()
        for connection in list(self.server_state.connections):
            connection.shutdown()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(GRACE_S):
                while self.server_state.connections or self.server_state.tasks:
                    await asyncio.sleep(0.002)
