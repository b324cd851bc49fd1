"""Measure what a request to the emulator costs, and how long the emulator takes to start and stop.

    python benchmarks/emulator_latency.py [--requests N] [--starts N]

Sends sequential requests as the Azure SDK does (`requests` over one kept-alive connection through the proxy): GET of a compute from the
management API, and PUT of a small blob. The baseline is a bare TLS server on loopback without a proxy that sends a fixed response: no
HTTPS server answers this client faster. The client runs in a process of its own; the column CPU is the server's processor time.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import requests

from mlops.emulator.base.azure import Azure, Options, arm_id
from mlops.emulator.identity.entra import MANAGEMENT, issue
from mlops.emulator.server import Emulator
from mlops.emulator.storage import blobs
from mlops.emulator.wire.tls import certificates

WARM_UP = 20
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def write(line: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def client(url: str, method: str, count: int, headers: dict[str, str]) -> list[float]:
    """Return the milliseconds that each of ``count`` sequential requests took."""
    times = []
    with requests.Session() as session:
        for _ in range(WARM_UP + count):
            begin = time.perf_counter()
            response = session.request(method, url, headers=headers, data=b"x" * 1000 if method == "PUT" else None, timeout=30)
            times.append((time.perf_counter() - begin) * 1000)
            response.raise_for_status()
    return times[WARM_UP:]


def measure(name: str, environment: dict[str, str], url: str, method: str, count: int, headers: dict[str, str]) -> float:
    """Run the client in a process of its own, print a row, and return the median in milliseconds."""
    arguments = json.dumps({"url": url, "method": method, "count": count, "headers": headers})
    begin = time.process_time()
    output = subprocess.check_output([sys.executable, __file__, "--client", arguments], env=os.environ | environment, text=True)
    busy = (time.process_time() - begin) * 1000 / (WARM_UP + count)
    times = json.loads(output)
    median = float(statistics.median(times))
    write(f"{name:<32}{median:9.2f}{statistics.quantiles(times, n=20)[-1]:9.2f}{busy:9.2f}")
    return median


def serve_bare(folder: Path) -> int:
    """Start the bare TLS server in a thread and return its port."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError):
            while await reader.readuntil(b"\r\n\r\n"):
                writer.write(RESPONSE)

    async def run() -> None:
        server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=certificates(folder, ["localhost"]))
        ports.append(server.sockets[0].getsockname()[1])
        ready.set()
        await server.serve_forever()

    ports: list[int] = []
    ready = threading.Event()
    threading.Thread(target=lambda: asyncio.run(run()), daemon=True).start()
    ready.wait()
    return ports[0]


def targets(azure: Azure) -> dict[str, tuple[str, str, dict[str, str]]]:
    """Return the measured requests of the emulator: name → URL, method, headers."""
    token = {"Authorization": f"Bearer {issue(azure, MANAGEMENT)}"}
    query = "?api-version=2023-08-01-preview"
    blob = blobs.sas_url(azure, blobs.datastore_container(azure), "latency", permissions="rcw")
    return {
        "ARM: GET the workspace": (MANAGEMENT + azure.workspace_id + query, "GET", token),
        "ARM: GET the list of computes": (MANAGEMENT + arm_id(azure, "computes") + query, "GET", token),
        "blob: PUT 1,000 bytes": (blob, "PUT", {"x-ms-blob-type": "BlockBlob"}),
        "blob: GET 1,000 bytes": (blob, "GET", {}),
    }


def measure_requests(folder: Path, count: int) -> None:
    """Print the latency of requests to the bare server and to the emulator."""
    write(f"{'ms a request':<32}{'median':>9}{'p95':>9}{'CPU':>9}")
    bare = folder / "bare"
    bare.mkdir()
    port = serve_bare(bare)
    trust = {"REQUESTS_CA_BUNDLE": str(bare / "ca.pem"), "NO_PROXY": "localhost", "no_proxy": "localhost"}
    baseline = measure("bare TLS server", trust, f"https://localhost:{port}/", "GET", count, {})
    with Emulator(folder / "state", Options(weights="tiny-llama")) as emulator:
        medians = [
            measure(name, emulator.environment(), url, method, count, headers)
            for name, (url, method, headers) in targets(emulator.azure).items()
        ]
    write(f"the emulator's slowest median is {max(medians) / baseline:.1f} times the bare server's")


def measure_starts(folder: Path, count: int) -> None:
    """Print how long starting and stopping an idle emulator takes."""
    starts, stops = [], []
    for number in range(count + 1):
        emulator = Emulator(folder / f"start-{number}", Options(weights="tiny-llama"))
        begin = time.perf_counter()
        emulator.start()
        middle = time.perf_counter()
        emulator.stop()
        starts.append((middle - begin) * 1000)
        stops.append((time.perf_counter() - middle) * 1000)
    # The first start imports the modules.
    write(f"first start {starts[0]:.0f} ms; then start {statistics.median(starts[1:]):.0f} ms, stop {statistics.median(stops[1:]):.0f} ms")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=200)
    parser.add_argument("--starts", type=int, default=10)
    parser.add_argument("--client", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        write(json.dumps(client(**json.loads(options.client))))
        return
    with tempfile.TemporaryDirectory() as name:
        measure_requests(Path(name), options.requests)
        measure_starts(Path(name), options.starts)


if __name__ == "__main__":
    main()
