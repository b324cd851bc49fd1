"""Every task of this project as one command: ``nox -s NAME``. Without a name: lint, types, tests."""

from __future__ import annotations

import hashlib
import os
import platform
import sys
from pathlib import Path

import nox
from packaging.specifiers import SpecifierSet

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True

TORCH = "torch==2.13.0"
LOCKS = {
    "requirements/azure.lock": ["pyproject.toml"],
    "requirements/lint.lock": ["--group", "lint"],
    "requirements/local.lock": ["pyproject.toml", "--extra=local", "--group=types", "--group=test", "--group=weights", "--group=workflows"],
}
"""Lock → the parts of pyproject.toml that it resolves. ``azure`` is all that a GitHub runner needs to talk to Azure."""
SCHEMAS = {"github-workflows": "workflows/*.yml", "github-actions": "actions/*/action.yml", "dependabot": "dependabot.yml"}
"""Schema → the files under .github that follow it."""
LOCAL = Path(".nox/local")
"""The environment that types, tests and the pipeline share, since it takes 2 GB."""
STATE = ".mlops/azure"
"""Where ``nox -s pipeline`` keeps the emulated subscription between runs."""
PYTEST = ("-m", "pytest", "-n", str(max(3, os.cpu_count() or 1)), "--dist", "loadfile", "--no-loadscope-reorder")
"""More workers than the two cores of a small machine: a test often waits for a process of the emulator, or for a deadline."""


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, the workflow files, and that the locks match pyproject.toml."""
    session.install("--quiet", "--no-deps", "--require-hashes", "-r", "requirements/lint.lock")
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("actionlint")
    session.run("zizmor", "--offline", "--no-progress", "--persona=pedantic", ".github")
    for schema, files in SCHEMAS.items():
        session.run("check-jsonschema", "--builtin-schema", f"vendor.{schema}", *sorted(map(str, Path(".github").glob(files))))
    for lock in LOCKS:
        fresh = Path(session.create_tmp(), Path(lock).name).resolve()
        fresh.write_bytes(Path(lock).read_bytes())
        _compile(session, lock, fresh)
        if _pins(fresh) != _pins(Path(lock)):
            session.error(f"{lock} does not match pyproject.toml. Run `nox -s lock` and commit it.")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Static types, strictly."""
    session.run(_local(session), "-m", "mypy", *session.posargs, external=True)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """All tests, those of the workflows included. The inner loop: ``nox -s tests -- -m "not slow"``."""
    session.run(_local(session), *PYTEST, *session.posargs, external=True)


@nox.session(venv_backend="none", default=False)
def workflows(session: nox.Session) -> None:
    """Only the tests of the GitHub workflows, which execute them: act as the runner, the emulator as Azure and GitHub."""
    session.run(_local(session), *PYTEST, "tests/workflows", *session.posargs, external=True)


@nox.session(venv_backend="none", default=False)
def coverage(session: nox.Session) -> None:
    """Branch coverage of the tests, child processes included; those of the workflows are left out."""
    python = _local(session)
    session.run(python, "-m", "coverage", "erase", external=True)
    session.run(python, "-m", "coverage", "run", *PYTEST, "--ignore", "tests/workflows", *session.posargs, external=True)
    session.run(python, "-m", "coverage", "combine", "--quiet", external=True)
    session.run(python, "-m", "coverage", "report", external=True)


@nox.session(venv_backend="none")
def pipeline(session: nox.Session) -> None:
    """The whole pipeline on this machine, target ``local``: from conversations to a live endpoint on the emulator, and teardown."""
    python = _local(session)
    emulator = (python, "-m", "mlops.emulator", "--state", STATE, "--")
    session.run(*emulator, python, "-m", "mlops", "run", "--target", "local", *session.posargs, external=True)


@nox.session(venv_backend="none", default=False)
def chaos(session: nox.Session) -> None:
    """Every fault at every request of every stage, and what follows; takes hours. ``nox -s chaos -- --help``."""
    session.run(_local(session), "-m", "tests.chaos", *session.posargs, external=True)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Rewrite the locks; ``-- --upgrade`` takes newer releases."""
    session.install("--quiet", "--no-deps", "--require-hashes", "-r", "requirements/lint.lock")
    for name in LOCKS:
        _compile(session, name, Path(name), *session.posargs)


def _compile(session: nox.Session, lock: str, output: Path, *options: str) -> None:
    # One lock for every platform. torch is left out, because its CPU build comes from a different index on each platform.
    uv = ("uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-package", "torch")
    heading = ("--custom-compile-command", "nox -s lock")
    session.run(*uv, *heading, *LOCKS[lock], *options, "--output-file", str(output), silent=True)


def _pins(lock: Path) -> list[str]:
    return [line.split(" \\")[0] for line in lock.read_text().splitlines() if line[:1].isalnum()]


def _local(session: nox.Session) -> str:
    """Install the shared environment as locked, unless it is up to date, and return its interpreter."""
    python = LOCAL / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = LOCAL / "installed"
    expected = hashlib.sha256(Path("requirements/local.lock").read_bytes() + TORCH.encode() + sys.version.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == expected:
        return str(python.absolute())
    supported = nox.project.load_toml("pyproject.toml")["project"]["requires-python"]
    if platform.python_version() not in SpecifierSet(supported):
        session.error(f"This is Python {platform.python_version()}, and the project needs {supported}. Install nox with another Python.")
    session.log("Installing the environment (2 GB; takes a few minutes the first time) …")
    session.run(sys.executable, "-m", "venv", "--clear", str(LOCAL), external=True)
    pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--progress-bar", "off")
    session.run(*pip, "--no-deps", "--require-hashes", "-r", "requirements/local.lock", external=True)
    session.run(*pip, TORCH, external=True)
    session.run(*pip, "--no-deps", "--no-build-isolation", "--editable", ".", external=True)
    stamp.write_text(expected)
    return str(python.absolute())
