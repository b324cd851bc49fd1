"""The HTTPS server and the proxy on their sockets, and what they leave behind when they stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import warnings
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from mlops.emulator.wire.https import HttpsServer, listen
from mlops.emulator.wire.proxy import Proxy
from mlops.emulator.wire.tls import certificates


@pytest.fixture
def accepted(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[socket.socket]]:
    """The sockets that are accepted during the test, kept open until it ends."""
    sockets: list[socket.socket] = []
    accept = socket.socket.accept

    def record(listener: socket.socket) -> tuple[socket.socket, object]:
        connection, address = accept(listener)
        sockets.append(connection.dup())
        return connection, address

    monkeypatch.setattr(socket.socket, "accept", record)
    yield sockets
    for connection in sockets:
        connection.close()


async def application(scope: Scope, receive: Receive, send: Send) -> None:
    await PlainTextResponse("hello")(scope, receive, send)


@contextlib.asynccontextmanager
async def serve(folder: Path) -> AsyncIterator[tuple[HttpsServer, int, ssl.SSLContext]]:
    """Start a server behind a proxy; yield the server, the proxy's port and what a client trusts."""
    context = certificates(folder, ["management.azure.com"])
    server = HttpsServer(
        uvicorn.Config(application, lifespan="off", log_config=None, ssl_context_factory=lambda _config, _default: context)
    )
    await server.start()
    proxy = Proxy(server.adopt, lambda _host, _allowed: None, ["management.azure.com"])
    port = await proxy.start()
    yield server, port, ssl.create_default_context(cafile=folder / "ca.pem")
    await proxy.stop()
    server.abort_connections()
    await server.stop()


async def connect(port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Send CONNECT to the proxy, and return the connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(b"CONNECT management.azure.com:443 HTTP/1.1\r\n\r\n")
    assert b" 200 " in await reader.readuntil(b"\r\n\r\n")
    return reader, writer


def test_accepted_connections_have_no_delay(tmp_path: Path, accepted: list[socket.socket]) -> None:
    async def get() -> str:
        async with (
            serve(tmp_path) as (_, port, trust),
            httpx.AsyncClient(proxy=f"http://127.0.0.1:{port}", verify=trust, trust_env=False) as client,
        ):
            return (await client.get("https://management.azure.com/")).text

    assert asyncio.run(get()) == "hello"
    assert len(accepted) == 1, "proxy and server share the connection"
    assert accepted[0].getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_a_stopped_server_listens_no_more_and_closes_idle_connections(tmp_path: Path) -> None:
    async def stop_with_idle_connection() -> tuple[bytes, int]:
        async with serve(tmp_path) as (_, port, trust):
            reader, writer = await connect(port)
            await writer.start_tls(trust, server_hostname="management.azure.com")
            writer.write(b"GET / HTTP/1.1\r\nHost: management.azure.com\r\n\r\n")
            response = await reader.readuntil(b"hello")
        with contextlib.suppress(ConnectionResetError):
            assert await reader.read() == b""
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return response, port

    response, port = asyncio.run(stop_with_idle_connection())
    assert b"\r\ndate: " in response.lower()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.parametrize(
    "sent", [b"", b"CONNECT management.azure.com:443 HTTP/1.1\r\n\r\n", b"CONNECT x\r\n\r\n", b"\x16\x03\x01\r\n\r\nx"]
)
def test_a_connection_that_never_gets_to_a_request_is_not_leaked(tmp_path: Path, sent: bytes) -> None:
    async def stop_before_a_request(passes: int) -> None:
        async with serve(tmp_path) as (_, port, _):
            with socket.create_connection(("127.0.0.1", port), timeout=5) as client:
                client.sendall(sent)
                for _ in range(passes):
                    await asyncio.sleep(0)
        await asyncio.sleep(0.01)

    with warnings.catch_warnings(record=True, action="always") as leaks:
        for passes in (0, 1, 2, 3, 5, 20):
            asyncio.run(stop_before_a_request(passes))
        gc.collect()
    assert [str(leak.message) for leak in leaks] == []


def test_bytes_after_a_connect_that_was_not_answered_are_not_lost_silently(tmp_path: Path) -> None:
    async def send_early() -> bytes:
        async with serve(tmp_path) as (_, port, _):
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"CONNECT management.azure.com:443 HTTP/1.1\r\n\r\n\x16\x03\x01")
            writer.write_eof()
            answer = await reader.read()
            writer.close()
            return answer

    assert asyncio.run(send_early()) == b""


def test_a_failed_bind_raises() -> None:
    with contextlib.closing(listen()) as first:
        first.listen()
        with pytest.raises(OSError, match="Address already in use"):
            listen(first.getsockname()[1])
