"""The HTTPS server and the proxy on their sockets, and what they leave behind when they stop."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import socket
import ssl
import warnings
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import Receive, Scope, Send

from mlops.emulator.wire.https import HttpsServer, close, listen
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


def test_accepted_connections_have_no_delay(tmp_path: Path, accepted: list[socket.socket]) -> None:
    async def get() -> str:
        listener = listen()
        port = listener.getsockname()[1]
        context = certificates(tmp_path, ["management.azure.com"])
        server = HttpsServer(
            uvicorn.Config(application, lifespan="off", log_config=None, ssl_context_factory=lambda _config, _default: context)
        )
        await server.start(listener)
        proxy = Proxy(port, lambda _host, _allowed: None, ["management.azure.com"])
        proxy_port = await proxy.start()
        trust = ssl.create_default_context(cafile=tmp_path / "ca.pem")
        async with httpx.AsyncClient(proxy=f"http://127.0.0.1:{proxy_port}", verify=trust, trust_env=False) as client:
            text = (await client.get("https://management.azure.com/")).text
        await proxy.stop()
        await proxy.close_tunnels()
        await server.stop()
        return text

    assert asyncio.run(get()) == "hello"
    assert len(accepted) == 2, "one connection of the proxy and one of the server"
    assert all(connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY) for connection in accepted)


def test_a_stopped_server_listens_no_more_and_closes_idle_connections() -> None:
    async def stop_with_idle_connection() -> tuple[bytes, int]:
        listener = listen()
        port = listener.getsockname()[1]
        server = HttpsServer(uvicorn.Config(application, lifespan="off", log_config=None))
        await server.start(listener)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        response = await reader.readuntil(b"hello")
        await server.stop()
        assert await reader.read() == b""
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
        return response, port

    response, port = asyncio.run(stop_with_idle_connection())
    assert b"\r\ndate: " in response.lower()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", port), timeout=5)


@pytest.mark.parametrize("passes", range(6))
def test_a_connection_that_is_being_accepted_is_not_leaked(passes: int) -> None:
    async def close_while_accepting() -> None:
        listener = listen()
        accepted: list[asyncio.StreamWriter] = []
        server = await asyncio.start_server(lambda _, writer: accepted.append(writer), sock=listener)
        with socket.create_connection(listener.getsockname(), timeout=5):
            for _ in range(passes):
                await asyncio.sleep(0)
            await close(server)
            for writer in accepted:
                writer.transport.abort()
            await asyncio.sleep(0.01)

    with warnings.catch_warnings(record=True, action="always") as leaks:
        asyncio.run(close_while_accepting())
        gc.collect()
    assert [str(leak.message) for leak in leaks] == []


def test_a_failed_bind_raises() -> None:
    with contextlib.closing(listen()) as first:
        first.listen()
        with pytest.raises(OSError, match="Address already in use"):
            listen(first.getsockname()[1])
