"""HTTP clients for the emulator's own servers on loopback."""

from __future__ import annotations

import ssl

import httpx

__all__ = ["open_client"]


def open_client(url: str, timeout: httpx.Timeout | float) -> httpx.AsyncClient:
    """Return a client for a uvicorn server on loopback.

    It ignores the caller's proxy, and it drops idle connections before uvicorn does after five seconds, because a request sent at that
    moment would be lost.
    """
    # Plain HTTP needs no CA bundle; loading httpx's default takes longer than starting the rest of the emulator.
    no_trust = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    return httpx.AsyncClient(base_url=url, timeout=timeout, trust_env=False, verify=no_trust, limits=httpx.Limits(keepalive_expiry=1))
