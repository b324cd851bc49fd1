"""Install the locked pipeline from the checkout that contains this action.

python install.py true|false      true also installs the emulator

Uses only the standard library, because it runs before anything is installed.
"""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CPU_WHEELS = "https://download.pytorch.org/whl/cpu"


def commands(root: Path, offline: bool) -> list[list[str]]:
    """Return the pip commands. torch is separate: its CPU build has different hashes per platform, so the lock excludes it."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--progress-bar", "off"]
    lock = root / "requirements" / ("local.lock" if offline else "azure.lock")
    result = [[*pip, "--no-deps", "--require-hashes", "-r", str(lock)]]
    if offline:
        result.append([*pip, "--extra-index-url", CPU_WHEELS, torch(root)])
    return [*result, [*pip, "--no-deps", str(root)]]


def torch(root: Path) -> str:
    """Return the pinned requirement, e.g. ``torch==2.13.0``."""
    extras = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    return next(str(requirement) for requirement in extras["local"] if requirement.startswith("torch=="))


def main(arguments: list[str]) -> int:
    """Run the commands and stop at the first failure."""
    (offline,) = arguments
    if offline not in ("true", "false"):
        sys.exit(f"::error::offline must be 'true' or 'false', not {offline!r}")
    for command in commands(ROOT, offline == "true"):
        if code := subprocess.run(command, check=False).returncode:
            return code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
