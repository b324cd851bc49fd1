"""A job's own Python environment: the emulator's packages, and what the job installs, which nobody else sees.

A virtual environment (PEP 405) without packages, whose site-packages refer to those of the emulator's Python. pip refuses to uninstall what
is outside of it.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path

__all__ = ["create_overlay"]

PIP = '#!/bin/sh\nexec "{python}" -m pip "$@"\n'


def create_overlay(folder: Path) -> dict[str, str]:
    """Create the environment in ``folder``, and return the variables that make it the ``python`` of a process."""
    scripts = folder / "bin"
    scripts.mkdir(parents=True)
    base = Path(getattr(sys, "_base_executable", sys.executable))
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n", encoding="utf-8")
    for name in ("python", "python3"):
        (scripts / name).symlink_to(base)
    for name in ("pip", "pip3"):
        (scripts / name).write_text(PIP.format(python=scripts / "python"), encoding="utf-8")
        (scripts / name).chmod(0o755)
    packages = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    packages.mkdir(parents=True)
    parents = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    # addsitedir also follows the .pth files of editable installations.
    lines = [f"import site; site.addsitedir({path!r})" for path in parents]
    (packages / "_emulator.pth").write_text("\n".join(lines) + "\n", encoding="utf-8")
    path = os.pathsep.join((str(scripts), str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)))
    return {"PATH": path, "VIRTUAL_ENV": str(folder), "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
