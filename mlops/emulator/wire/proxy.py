"""The way into the emulator: an HTTP proxy that tunnels Azure's host names to it and refuses every other host.

Only ``CONNECT`` (RFC 9110, 9.3.6) is served. A plain ``http://`` request through the proxy is refused as well, so a client that honors the
proxy variables and gets a response is certain to have reached the emulator.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import time
from collections.abc import Callable, Sequence
from fnmatch import fnmatch

from mlops.emulator.wire.https import close, listen
from mlops.emulator.wire.request_log import log_request
from mlops.emulator.wire.tls import HOSTS

__all__ = ["Proxy"]


class Proxy:
    """A CONNECT proxy on loopback.

    Args:
        target: port of the emulator's TLS server on 127.0.0.1.
        record: called with (host, allowed) for each request.
        hosts: allowed host names; ``*`` stands for one label.
    """

    def __init__(self, target: int, record: Callable[[str, bool], None], hosts: Sequence[str] = HOSTS) -> None:
        self._target = target
        self._record = record
        self._hosts = hosts
        self._server: asyncio.Server | None = None
        self._tunnels: dict[asyncio.Task[None], asyncio.StreamWriter] = {}

    async def start(self, port: int = 0) -> int:
        """Start listening and return the port."""
        listener = listen(port)
        self._server = await asyncio.start_server(self._serve, sock=listener)
        bound: int = listener.getsockname()[1]
        return bound

    async def stop(self) -> None:
        """Stop listening. Open tunnels stay open."""
        if self._server is not None:
            await close(self._server)

    async def close_tunnels(self) -> None:
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
            started = time.perf_counter()
            method, address, _ = head.split(b"\r\n", 1)[0].decode("latin-1").split(" ", 2)
            host = address.removeprefix("http://").split("/")[0].rpartition(":")[0] if method == "CONNECT" else address
            allowed = method == "CONNECT" and self._is_allowed(host)
            self._record(host, allowed)
            if not allowed:
                log_request(method, host, "-", 403, started)
                text = f"The Azure ML emulator is offline: {host} is not one of the hosts it emulates.\n"
                headers = f"Content-Type: text/plain\r\nContent-Length: {len(text)}\r\nConnection: close"
                writer.write(f"HTTP/1.1 403 Forbidden\r\n{headers}\r\n\r\n{text}".encode())
                await writer.drain()
                return
            upstream_reader, upstream_writer = await asyncio.open_connection("127.0.0.1", self._target)
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_pump(reader, upstream_writer, acknowledge=writer), _pump(upstream_reader, writer))
        except (TimeoutError, ValueError, OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            # The client doesn't speak HTTP or has hung up: it gets no response.
            pass
        finally:
            writer.close()

    def _is_allowed(self, host: str) -> bool:
        # fnmatch's * would match dots as well, but Azure's wildcards cover one label.
        return any(fnmatch(host, name) and host.count(".") == name.count(".") for name in self._hosts)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, acknowledge: asyncio.StreamWriter | None = None) -> None:
    """Copy bytes until the reader ends, acknowledging what the connection of ``acknowledge`` has received at once."""
    try:
        while data := await reader.read(65536):
            if acknowledge is not None:
                _acknowledge_now(acknowledge)
            writer.write(data)
            await writer.drain()
    except OSError:
        pass
    finally:
        with contextlib.suppress(OSError):
            writer.close()


def _acknowledge_now(writer: asyncio.StreamWriter) -> None:
    """Send the pending acknowledgement instead of delaying it by 40 ms.

    urllib3 leaves Nagle's algorithm on for proxied connections: it holds a request's body back until its headers are acknowledged.
    The kernel returns to delayed acknowledgements by itself, so this is repeated after every read.
    """
    if hasattr(socket, "TCP_QUICKACK"):  # Linux only
        with contextlib.suppress(OSError):
            writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
