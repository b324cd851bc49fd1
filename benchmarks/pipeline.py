"""How long the main job takes and how much memory it needs: a first run on an empty state, then a second with nothing changed.

    .nox/local/bin/python benchmarks/pipeline.py [--target local] [--weights real]

Prints a table row for each run: wall time of the whole command, peak resident memory of all its processes together (proportional set
size, so that pages which processes share count once; sampled twice a second), and the ratio to the first run. Linux only.
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
    """Run the pipeline twice and print what it took; the exit code of the first run that failed, else 0."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--target", default="local")
    arguments.add_argument("--weights", default="real")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        emulator = [sys.executable, "-m", "mlops.emulator", "--weights", options.weights, "--state", f"{folder}/azure", "--"]
        pipeline = [sys.executable, "-m", "mlops", "run", "--target", options.target, "--run", f"{folder}/run"]
        sys.stdout.write("| run | s | of the first | peak memory, GiB |\n|---|---|---|---|\n")
        first = 0.0
        for name in ("first", "second, nothing changed"):
            code, seconds, peak = measured([*emulator, *pipeline], Path(folder, f"{name.split(',')[0]}.log"))
            if code != 0:
                sys.stderr.write(Path(folder, f"{name.split(',')[0]}.log").read_text()[-5000:])
                return code
            first = first or seconds
            sys.stdout.write(f"| {name} | {seconds:.0f} | {seconds / first:.2f} | {peak / 2**30:.2f} |\n")
            sys.stdout.flush()
    return 0


def measured(command: list[str], log: Path) -> tuple[int, float, int]:
    """Exit code, wall time in seconds and peak memory in bytes of a command and its descendants."""
    start, peak = time.monotonic(), 0
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)
        family = psutil.Process(process.pid)
        while process.poll() is None:
            peak = max(peak, memory(family))
            time.sleep(0.5)
    return process.returncode, time.monotonic() - start, peak


def memory(family: psutil.Process) -> int:
    """Proportional set size of a process and its descendants, in bytes; those that have just ended count as nothing."""
    total = 0
    try:
        members = [family, *family.children(recursive=True)]
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
