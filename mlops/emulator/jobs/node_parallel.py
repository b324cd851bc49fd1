"""The program of a parallel node: its entry script's ``init`` once, and ``run`` for each mini-batch of its files.

Rules of "How to use parallel job in pipelines" on learn.microsoft.com: each element that ``run`` returns is one success, a mini-batch that
fails is repeated, and the job fails if there are more failures than the thresholds
allow. The mini-batches run one after the other, on one node.
"""

from __future__ import annotations

import argparse
import importlib.util
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["RETRIES", "SIZE", "main"]

SIZE = 10
"""Number of files in a mini-batch if the node doesn't set it."""
RETRIES = 3
APPENDED = "parallel_run_step.txt"
"""Name of the result file if results are appended to a folder."""
TABLE = "MLTable"


class Refused(Exception):
    """The emulator does not run inputs of this kind."""


def main() -> str | None:
    """Run all mini-batches, and return what went wrong, or None."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--entry", required=True)
    parser.add_argument("--size", type=int, required=True)
    parser.add_argument("--failed-items", type=int, required=True, help="largest number of failed items; -1 for any number")
    parser.add_argument("--failed-batches", type=int, required=True, help="largest number of failed mini-batches; -1 for any number")
    parser.add_argument("--retries", type=int, required=True)
    parser.add_argument("--append-to", type=Path, help="file or folder that the results are appended to")
    parser.add_argument("rest", nargs="*")
    arguments = parser.parse_args()
    try:
        files = sorted(map(str, _list_files(arguments.input)))
    except Refused as problem:
        return str(problem)
    script = _load(arguments.entry, arguments.rest)
    results: list[str] = []
    failed_items = failed_batches = 0
    for begin in range(0, len(files), arguments.size):
        batch = files[begin : begin + arguments.size]
        rows = _run(script, batch, arguments.retries)
        failed_batches += rows is None
        failed_items += len(batch) - len(rows or ())
        results += rows or ()
        for failed, allowed, what in (
            (failed_items, arguments.failed_items, "items"),
            (failed_batches, arguments.failed_batches, "mini-batches"),
        ):
            if 0 <= allowed < failed:
                return f"Failed {what}: {failed}; at most {allowed} may fail."
    if arguments.append_to:
        target = arguments.append_to / APPENDED if arguments.append_to.is_dir() else arguments.append_to
        target.write_text("".join(f"{row}\n" for row in results), encoding="utf-8")
    sys.stdout.write(f"{len(files)} items, {failed_items} of them failed.\n")
    return None


def _list_files(path: Path) -> Iterator[Path]:
    """Return the files of an input: those that its MLTable names, or all of them."""
    if path.is_file():
        yield path
    elif not (path / TABLE).is_file():
        yield from (file for file in path.rglob("*") if file.is_file())
    else:
        import yaml

        table = yaml.safe_load((path / TABLE).read_text(encoding="utf-8"))
        if table.get("transformations"):
            raise Refused(
                "The emulator does not run parallel nodes over tables (an MLTable with transformations), only over files. Azure does."
            )
        for place in table["paths"]:
            ((kind, pattern),) = place.items()
            files = list(path.glob(pattern.removeprefix("./"))) if "://" not in pattern else []
            if not files:
                raise Refused(f"The path {pattern} in {TABLE} matches no file beside it.")
            for each in files:
                yield from (file for file in each.rglob("*") if file.is_file()) if kind == "folder" else [each]


def _load(entry: str, rest: list[str]) -> Any:
    sys.argv = [entry, *rest]
    sys.path.insert(0, str(Path.cwd()))
    specification = importlib.util.spec_from_file_location("entry_script", entry)
    assert specification is not None
    assert specification.loader is not None
    script = importlib.util.module_from_spec(specification)
    sys.modules["entry_script"] = script
    specification.loader.exec_module(script)
    if hasattr(script, "init"):
        script.init()
    return script


def _run(script: Any, batch: list[str], retries: int) -> list[str] | None:
    """Return a row for each success of a mini-batch, or None if every attempt failed."""
    for _ in range(1 + retries):
        try:
            result = script.run(batch)
            if hasattr(result, "to_csv"):
                text: str = result.to_csv(sep=" ", header=False, index=False)
                return text.splitlines()
            return [str(row) for row in result]
        except Exception:
            traceback.print_exc()
    return None


if __name__ == "__main__":
    sys.exit(main())
