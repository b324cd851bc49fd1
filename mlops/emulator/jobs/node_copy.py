"""The program of a data transfer node that copies: files and the contents of folders into one folder, or one file to another."""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path

__all__ = ["main"]

FAIL_IF_CONFLICT = "fail_if_conflict"


def main() -> str | None:
    """Copy the sources to the target, and return what went wrong, or None."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mode", choices=(FAIL_IF_CONFLICT, "merge_with_overwrite"), required=True)
    parser.add_argument("--to-file", action="store_true", help="the target is a file")
    parser.add_argument("target", type=Path)
    parser.add_argument("sources", type=Path, nargs="+")
    arguments = parser.parse_args()
    for source in arguments.sources:
        for file in sorted(path for path in source.rglob("*") if path.is_file()) if source.is_dir() else [source]:
            relative = file.relative_to(source) if source.is_dir() else Path(file.name)
            target = arguments.target if arguments.to_file else arguments.target / relative
            if target.exists() and arguments.mode == FAIL_IF_CONFLICT:
                return f"{relative} exists already, and the mode is {FAIL_IF_CONFLICT}."
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)
    return None


if __name__ == "__main__":
    sys.exit(main())
