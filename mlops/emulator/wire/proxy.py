"""The way in: an HTTP proxy that tunnels Azure's host names to the emulator and refuses every other host.

Only ``CONNECT`` (RFC 9110, 9.3.6) leads anywhere. A plain ``http://`` request through the proxy is refused as well, so whatever honours
the proxy variables and gets an answer got it from the emulator.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Sequence
from fnmatch import fnmatch

from mlops.emulator.wire.tls import HOSTS

__all__ = ["Proxy"]


class Proxy:
    """A CONNECT proxy on loopback.

    Args:
        target: port of the emulator's TLS server on 127.0.0.1.
        hosts: names that are let through; ``*`` stands for one label.
        note: called with (host, allowed) for each request, for the list of hosts asked for.
    """

    def __init__(self, target: int, note: Callable[[str, bool], None], hosts: Sequence[str] = HOSTS) -> None:
        self._target = target
        self._note = note
        self._hosts = hosts
        self._server: asyncio.Server | None = None
        self._tunnels: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self, port: int = 0) -> int:
        """Listen; the port."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", port)
        listening: int = self._server.sockets[0].getsockname()[1]
        return listening

    async def stop(self) -> None:
        """Listen no more."""
        if self._server is not None:
            self._server.close()

    async def hang_up(self) -> None:
        """Close the tunnels of clients that keep their connections open."""
        tunnels = dict(self._tunnels)
        for writer in tunnels.values():
            writer.transport.abort()
        await asyncio.gather(*tunnels, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tunnel = asyncio.ensure_future(self._tunnel(reader, writer))
        self._tunnels[tunnel] = writer
        tunnel.add_done_callback(self._tunnels.pop)
        await tunnel

    async def _tunnel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), timeout=30)
            method, address, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
            host = address.removeprefix("http://").split("/")[0].rpartition(":")[0] if method == "CONNECT" else address
            # fnmatch's * would cross dots, and Azure's wildcards cover one label.
            allowed = method == "CONNECT" and any(fnmatch(host, name) and host.count(".") == name.count(".") for name in self._hosts)
            self._note(host, allowed)
            if not allowed:
                text = f"The Azure ML emulator is offline: {host} is none of the hosts it stands for.\n"
                headers = f"Content-Type: text/plain\r\nContent-Length: {len(text)}\r\nConnection: close"
                writer.write(f"HTTP/1.1 403 Forbidden\r\n{headers}\r\n\r\n{text}".encode())
                await writer.drain()
                return
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_pump(reader, upstream_writer), _pump(upstream_reader, writer))
        except (TimeoutError, ValueError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # A client that speaks no HTTP or hangs up has earned no answer.
            pass
        finally:
            writer.close()


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):
            writer.close()
