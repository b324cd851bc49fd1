"""Python as ``requirements/azure.lock`` leaves it: what only ``requirements/local.lock`` has can't be imported.

python tests/support/azure_only.py pytest -x tests/live
python tests/support/azure_only.py -c "import mlops.validate"
"""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import distribution, packages_distributions
from pathlib import Path
from types import ModuleType

REQUIREMENTS = Path(__file__).parent.parent.parent / "requirements"
ADDED = ("azureml-chat-mlops", "pip", "setuptools", "pytest")
"""What the environment has beside the lock: this project, and what docs/first-run-on-azure.md installs for the live tests."""


def blocked_modules() -> frozenset[str]:
    """Return the top-level modules of the packages that an environment from azure.lock lacks."""
    locked = re.findall(r"^([\w.-]+)==", (REQUIREMENTS / "azure.lock").read_text(), re.MULTILINE)
    available = {_normalize(name) for name in (*locked, *ADDED)}
    available |= {_normalize(re.split(r"[^\w.-]", text)[0]) for text in distribution("pytest").requires or () if "extra ==" not in text}
    return frozenset(
        module for module, packages in packages_distributions().items() if not available & {_normalize(package) for package in packages}
    )


def _normalize(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


class AzureOnly(PathFinder):
    """The interpreter's own finder, without what is not installed."""

    blocked = blocked_modules()

    @classmethod
    def find_spec(cls, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None) -> ModuleSpec | None:
        return None if fullname.partition(".")[0] in cls.blocked else super().find_spec(fullname, path, target)


if __name__ == "__main__":
    sys.meta_path[:] = [AzureOnly if finder is PathFinder else finder for finder in sys.meta_path]
    sys.path[0] = ""
    if sys.argv[1] == "-c":
        exec(sys.argv[2], {"__name__": "__main__"})
    else:
        sys.argv = sys.argv[1:]
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
