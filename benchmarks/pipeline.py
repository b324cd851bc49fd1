"""Time and memory of the main job: a first run with an empty state, then a second run without changes.

    .nox/local/bin/python benchmarks/pipeline.py [--target local] [--weights real]

Prints a table row for each run: wall time of the whole command, ratio to the first run, and peak memory of all its processes together
(proportional set size, so that shared pages count once; sampled twice per second). Linux only.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil


def main() -> int:
    """Run the pipeline twice and print the measurements. Return the exit code of the first failed run, or 0."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--target", default="local")
    arguments.add_argument("--weights", default="real")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        emulator = [sys.executable, "-m", "mlops.emulator", "--weights", options.weights, "--state", f"{folder}/azure", "--"]
        pipeline = [sys.executable, "-m", "mlops", "run", "--target", options.target, "--run", f"{folder}/run"]
        sys.stdout.write("| run | s | ratio to the first run | peak memory, GiB |\n|---|---|---|---|\n")
        first = 0.0
        for name in ("first", "second, no changes"):
            code, seconds, peak = measure([*emulator, *pipeline], Path(folder, f"{name.split(',')[0]}.log"))
            if code != 0:
                sys.stderr.write(Path(folder, f"{name.split(',')[0]}.log").read_text()[-5000:])
                return code
            first = first or seconds
            sys.stdout.write(f"| {name} | {seconds:.0f} | {seconds / first:.2f} | {peak / 2**30:.2f} |\n")
            sys.stdout.flush()
    return 0


def measure(command: list[str], log: Path) -> tuple[int, float, int]:
    """Run a command; return its exit code, its wall time in seconds and the peak memory of its process tree in bytes."""
    start, peak = time.monotonic(), 0
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        root_process = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, memory(root_process))
            time.sleep(0.5)
    return process.returncode, time.monotonic() - start, peak


def memory(root_process: psutil.Process) -> int:
    """Return the proportional set size of a process and its descendants in bytes. Processes that have just ended are ignored."""
    total = 0
    try:
        members = [root_process, *root_process.children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0
    for member in members:
        try:
            total += member.memory_full_info().pss
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            continue
    return total


if __name__ == "__main__":
    sys.exit(main())
