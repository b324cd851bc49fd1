"""Serve an MLflow model, or a scoring script, on loopback.

    python -m mlops.emulator.serving.container --model DIR --port 0 --ready-file PATH
    python -m mlops.emulator.serving.container --script FILE --port 0 --ready-file PATH

The port is written to the ready file (a decimal number), atomically, once the model is loaded and the server listens. Standard output is
the container's log. If the model can't be loaded, the process exits with 1 and its traceback in the log; with 3 if the script fails.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import importlib
import resource
import socket
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlops.core import console
from mlops.emulator.base import libraries
from mlops.emulator.serving.container import pyfunc
from mlops.emulator.serving.container.app import Scorer, make_app
from mlops.emulator.serving.container.calls import CallScorer
from mlops.emulator.serving.container.chat import ChatScorer
from mlops.emulator.serving.container.checkpoint import check_checkpoint
from mlops.emulator.serving.container.script import load_script
from mlops.emulator.serving.container.shapes import SHAPES
from mlops.emulator.serving.container.worker import Worker

__all__ = ["main"]

CHAT = "chat-completion"
"""The task in the metadata of a chat model's MLmodel file."""


def main(argv: Sequence[str] | None = None) -> int:
    """Load the model, listen, and serve until SIGTERM. Return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m mlops.emulator.serving.container", description=(__doc__ or "").splitlines()[0])
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--model", type=Path, metavar="DIR", help="an MLflow model")
    what.add_argument("--script", type=Path, metavar="FILE", help="a scoring script with init() and run()")
    parser.add_argument("--port", type=int, default=0, help="0 for any free port (default)")
    parser.add_argument("--ready-file", type=Path, required=True, metavar="PATH", help="receives the port once the model is loaded")
    parser.add_argument("--max-concurrent", type=int, default=1, metavar="N", help="maxConcurrentRequestsPerInstance (default 1)")
    parser.add_argument("--request-timeout-ms", type=int, default=5000, metavar="N", help="requestTimeout (default 5000)")
    parser.add_argument("--transformers", default="", metavar="VERSION", help="its version in the image that this container stands for")
    parser.add_argument("--answer-shape", choices=SHAPES, default="output", help="shape of the answers (default: %(default)s)")
    arguments = parser.parse_args(argv)
    libraries.configure()
    try:
        scorer = _load_script(arguments) if arguments.script else _load_scorer(arguments)
    except (Exception, SystemExit):  # a script may exit
        console.info(traceback.format_exc())
        console.info(f"{arguments.script or f'the model in {arguments.model}'} can't be loaded")
        return 3 if arguments.script else 1
    with socket.create_server(("127.0.0.1", arguments.port)) as listener:
        asyncio.run(_serve(scorer, listener, arguments.ready_file))
    return 0


def _load_script(arguments: argparse.Namespace) -> Scorer:
    return CallScorer(load_script(arguments.script.resolve()), arguments.max_concurrent, arguments.request_timeout_ms / 1000)


def _load_scorer(arguments: argparse.Namespace) -> Scorer:
    """Load a model: a chat model with its own payload and batches, any other one as tables and tensors."""
    check_checkpoint(arguments.model, arguments.transformers)
    model = _load_model(arguments.model)
    timeout_s = arguments.request_timeout_ms / 1000
    if (model.metadata.metadata or {}).get("task") != CHAT:
        return CallScorer(pyfunc.make_call(model), arguments.max_concurrent, timeout_s)
    # By name, because its import of mlflow must follow the preparations of the model's loading.
    chat_model = importlib.import_module("mlops.emulator.component.chat_model")
    worker = Worker(model.predict, batch=min(arguments.max_concurrent, 4), limit=2 * arguments.max_concurrent)
    return ChatScorer(worker, chat_model.parse, SHAPES[arguments.answer_shape], timeout_s)


def _load_model(folder: Path) -> Any:
    """Load the model with ``mlflow.pyfunc`` and log how long it took."""
    console.info(f"loading model from {folder}")
    start = time.monotonic()
    # Everything imported stays in use, and searching it for garbage would take 0.2 s.
    gc.disable()
    libraries.hide_mlflow_plugin()
    import mlflow.pyfunc

    # Not torch: a model imports its own framework, whose threads OMP_NUM_THREADS limits.
    model = mlflow.pyfunc.load_model(str(folder))
    gc.freeze()
    gc.enable()
    memory_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    digest = (model.metadata.metadata or {}).get("weights_digest", "unknown")
    console.info(f"model loaded from {folder} in {time.monotonic() - start:.1f} s, {memory_gb:.2f} GB, weights sha256 {digest}")
    return model


async def _serve(scorer: Scorer, listener: socket.socket, ready_file: Path) -> None:
    import uvicorn

    app = make_app(scorer)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", access_log=False, lifespan="off", timeout_graceful_shutdown=2))
    announcement = asyncio.create_task(_announce(server, listener.getsockname()[1], ready_file))
    await server.serve(sockets=[listener])
    announcement.cancel()


async def _announce(server: Any, port: int, ready_file: Path) -> None:
    """Write the port to the ready file once the server listens."""
    while not server.started:
        await asyncio.sleep(0.01)
    part = ready_file.with_suffix(".part")
    part.write_text(f"{port}\n", encoding="ascii")
    part.replace(ready_file)
    console.info(f"listening on 127.0.0.1:{port}")


if __name__ == "__main__":
    sys.exit(main())
