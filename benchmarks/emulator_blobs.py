"""Compare the emulator's blob storage with Azurite, Microsoft's storage emulator.

    python benchmarks/emulator_blobs.py --azurite FOLDER [--rounds N] [--threads N] [--only NAME ...]

FOLDER is where ``npm install azurite`` was run; ``node`` must be on the PATH. The same client, azure-storage-blob in a process of
its own, uploads, lists and downloads the same blobs with a container's signature; the servers take turns in every round. Requests
to the emulator always pass the proxy and TLS, as those of a stage do; Azurite is measured over HTTP and over HTTPS. Both write to
the same file system. The table has the median of the rounds in seconds, the processor time of the client with the emulator, which no
server can shorten, and Azurite's median divided by the emulator's: above 1, the emulator is faster.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trustme
from azure.storage.blob import ContainerClient, ContainerSasPermissions, generate_container_sas

from mlops.emulator.base.azure import BLOB_SUFFIX, Options
from mlops.emulator.server import Emulator
from mlops.emulator.storage import blobs

# Azurite's published account; its key protects nothing.
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
CONTAINER = "benchmark"
MIB = 1 << 20
LARGE = 512 * MIB


def write(line: str) -> None:
    """Write a line to stdout."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def workloads(container: ContainerClient, threads: int) -> dict[str, Callable[[], None]]:
    """Return what is measured, in this order: name → function."""
    small, medium, large = os.urandom(1024), os.urandom(MIB), os.urandom(LARGE)
    pool = ThreadPoolExecutor(threads)

    def in_parallel(function: Callable[[int], object], numbers: Iterable[int]) -> None:
        for _ in pool.map(function, numbers):
            pass

    def list_small() -> None:
        if (count := sum(1 for _ in container.list_blobs(name_starts_with="small/"))) != 500:
            raise ValueError(f"{count} blobs were listed")

    def upload_large() -> None:
        container.upload_blob("large", large, overwrite=True, max_concurrency=threads)

    def download_large() -> None:
        if container.download_blob("large", max_concurrency=threads).readall() != large:
            raise ValueError("the blob has changed")

    return {
        "upload 500 × 1 KiB": lambda: in_parallel(lambda i: container.upload_blob(f"small/{i}", small, overwrite=True), range(500)),
        "download 500 × 1 KiB": lambda: in_parallel(lambda i: container.download_blob(f"small/{i}").readall(), range(500)),
        "list 500": list_small,
        "upload 100 × 1 MiB": lambda: in_parallel(lambda i: container.upload_blob(f"medium/{i}", medium, overwrite=True), range(100)),
        "download 100 × 1 MiB": lambda: in_parallel(lambda i: container.download_blob(f"medium/{i}").readall(), range(100)),
        "upload 512 MiB": upload_large,
        "download 512 MiB": download_large,
    }


def run_client(url: str, threads: int, only: list[str]) -> dict[str, tuple[float, float]]:
    """Return how many seconds each workload took, and how many seconds of processor time this client."""
    times = {}
    with ContainerClient.from_container_url(url) as container:
        container.upload_blob("warm-up", b"x", overwrite=True)
        for name, function in workloads(container, threads).items():
            if not only or name in only:
                begin, busy = time.perf_counter(), time.process_time()
                function()
                times[name] = time.perf_counter() - begin, time.process_time() - busy
    return times


@contextlib.contextmanager
def start_azurite(program: Path, folder: Path, *, with_tls: bool) -> Iterator[tuple[str, dict[str, str]]]:
    """Start Azurite, and yield the URL of a container and the client's environment."""
    folder.mkdir()
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    options: list[str] = []
    if with_tls:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(folder / "ca.pem"))
        certificate = authority.issue_cert("localhost", "127.0.0.1")
        certificate.private_key_pem.write_to_path(str(folder / "key.pem"))
        certificate.cert_chain_pems[0].write_to_path(str(folder / "cert.pem"))
        options = ["--cert", str(folder / "cert.pem"), "--key", str(folder / "key.pem")]
    command = [
        "node", str(program / "node_modules/azurite/dist/src/blob/main.js"), "--silent", "--disableTelemetry", "--skipApiVersionCheck",
        "--blobPort", str(port), "--location", str(folder), *options,
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        trust = {"NO_PROXY": "127.0.0.1,localhost", "no_proxy": "127.0.0.1,localhost", "REQUESTS_CA_BUNDLE": str(folder / "ca.pem")}
        token = generate_container_sas(
            ACCOUNT, CONTAINER, KEY, permission=ContainerSasPermissions.from_string("racwdl"), expiry=datetime.now(UTC) + timedelta(days=1)
        )
        account = f"{'https' if with_tls else 'http'}://127.0.0.1:{port}/{ACCOUNT}"
        _wait_for(port, process)
        with ContainerClient(account, CONTAINER, KEY, connection_verify=str(folder / "ca.pem") if with_tls else True) as container:
            container.create_container()
        yield f"{account}/{CONTAINER}?{token}", trust
    finally:
        process.terminate()
        process.wait()


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    while process.poll() is None:
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    raise SystemExit("Azurite did not start.")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--azurite", type=Path, help="folder in which npm has installed azurite")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1, help="uploads and downloads at a time; for one large blob, its blocks")
    parser.add_argument("--only", nargs="*", default=[], metavar="NAME", help="workloads")
    parser.add_argument("--client", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        write(json.dumps(run_client(**json.loads(options.client))))
        return
    with tempfile.TemporaryDirectory() as name, contextlib.ExitStack() as stack:
        folder = Path(name)
        emulator = stack.enter_context(Emulator(folder / "state", Options(weights="tiny-llama")))
        azure = emulator.azure
        container = blobs.datastore_container(azure)
        token = blobs.sas_token(azure, container, permissions="racwdl")
        servers = {"emulator": (f"https://{azure.identity.account}.{BLOB_SUFFIX}/{container}?{token}", emulator.environment())}
        if options.azurite:
            for label, with_tls in (("Azurite, HTTP", False), ("Azurite, HTTPS", True)):
                servers[label] = stack.enter_context(start_azurite(options.azurite, folder / label, with_tls=with_tls))
        times: dict[str, dict[str, list[tuple[float, float]]]] = {server: {} for server in servers}
        for _ in range(options.rounds):
            for server, (url, environment) in servers.items():
                arguments = json.dumps({"url": url, "threads": options.threads, "only": options.only})
                output = subprocess.check_output([sys.executable, __file__, "--client", arguments], env=os.environ | environment, text=True)
                for workload, seconds in json.loads(output).items():
                    times[server].setdefault(workload, []).append(seconds)
        report(times)


def report(times: dict[str, dict[str, list[tuple[float, float]]]]) -> None:
    """Print the table."""
    others = [server for server in times if server != "emulator"]
    write("| | emulator, s | of these, the client's | " + " | ".join(f"{server}, s | ratio" for server in others) + " |")
    write("|---" * (3 + 2 * len(others)) + "|")
    for workload, own in times["emulator"].items():
        ours, busy = (statistics.median(values) for values in zip(*own, strict=True))
        cells = [f"{ours:.2f}", f"{busy:.2f}"]
        for server in others:
            theirs = statistics.median(seconds for seconds, _ in times[server][workload])
            cells += [f"{theirs:.2f}", f"{theirs / ours:.2f}"]
        write(f"| {workload} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
