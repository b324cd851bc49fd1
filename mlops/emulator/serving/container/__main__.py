"""Serve an MLflow model on loopback.

    python -m mlops.emulator.serving.container --model DIR --port 0 --ready-file PATH

The port goes into the ready file (a decimal number), whole or not at all, once the model is loaded and the server listens.
Standard output is the container's log. A model that does not load ends the process with 1 and its traceback in the log.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlops.core import console
from mlops.core.run import write_atomically
from mlops.emulator.base import libraries

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Load, listen, serve until SIGTERM; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mlops.emulator.serving.container", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--model", type=Path, required=True, metavar="DIR", help="an MLflow model")
    parser.add_argument("--port", type=int, default=0, help="0 for a free one (default)")
    parser.add_argument("--ready-file", type=Path, required=True, metavar="PATH", help="gets the port once the model is loaded")
    parser.add_argument("--max-concurrent", type=int, default=1, metavar="N", help="maxConcurrentRequestsPerInstance (default 1)")
    parser.add_argument("--request-timeout-ms", type=int, default=5000, metavar="N", help="requestTimeout (default 5000)")
    arguments = parser.parse_args(argv)
    libraries.configure()
    try:
        model = _load(arguments.model)
    except Exception:
        console.info(traceback.format_exc())
        console.info(f"the model in {arguments.model} can't be loaded")
        return 1
    with socket.create_server(("127.0.0.1", arguments.port)) as listener:
        asyncio.run(_serve(model, listener, arguments))
    return 0


def _load(folder: Path) -> Any:
    """The model behind ``mlflow.pyfunc``, told in the log."""
    console.info(f"loading model from {folder}")
    start = time.monotonic()
    import mlflow.pyfunc

    # Not torch: a model brings its own framework, whose threads OMP_NUM_THREADS counts.
    model = mlflow.pyfunc.load_model(str(folder))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    digest = (model.metadata.metadata or {}).get("weights_digest", "unknown")
    console.info(f"model loaded from {folder} in {time.monotonic() - start:.1f} s, {memory:.2f} GB, weights sha256 {digest}")
    return model


async def _serve(model: Any, listener: socket.socket, arguments: argparse.Namespace) -> None:
    import uvicorn

    from mlops.emulator.serving.container.app import make_app
    from mlops.emulator.serving.container.worker import Worker

    worker = Worker(model.predict, batch=min(arguments.max_concurrent, 4), limit=2 * arguments.max_concurrent)
    app = make_app(worker, arguments.request_timeout_ms / 1000)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=2))
    port = listener.getsockname()[1]

    async def announce() -> None:
        while not server.started:
            await asyncio.sleep(0.01)
        write_atomically(arguments.ready_file, f"{port}\n".encode())
        console.info(f"listening on 127.0.0.1:{port}")

    announcing = asyncio.create_task(announce())
    await server.serve(sockets=[listener])
    announcing.cancel()


if __name__ == "__main__":
    sys.exit(main())
