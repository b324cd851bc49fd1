"""The request log: one line per request, written if the logger's level is INFO (``--verbose``)."""

from __future__ import annotations

import logging
import sys
import time

__all__ = ["log_request", "write_to_stderr"]

log = logging.getLogger("mlops.emulator.requests")


def log_request(method: str, host: str, path: str, status: int | None, started: float) -> None:
    """Log a request.

    Args:
        method: HTTP method.
        host: host name.
        path: path without the query, which may contain signatures.
        status: status of the response; None if the connection was closed without one.
        started: ``time.perf_counter()`` when the request arrived.
    """
    log.info("%s %s %s %s %.0f ms", method, host, path, "closed" if status is None else status, (time.perf_counter() - started) * 1000)


def write_to_stderr() -> None:
    """Write the log to stderr, each line with its time."""
    handler = logging.StreamHandler(sys.stderr)
    formatter = logging.Formatter("%(asctime)s.%(msecs)03d %(message)s", datefmt="%H:%M:%S")
    handler.setFormatter(formatter)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.propagate = False
