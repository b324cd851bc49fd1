"""What can be done here, each as one command: ``nox -s NAME``. Without a name: lint, types, tests, workflows."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import nox

nox.needs_version = ">=2024.10.9"
nox.options.sessions = ["lint", "types", "tests", "workflows"]
nox.options.reuse_existing_virtualenvs = True
nox.options.error_on_external_run = True

TORCH = "torch==2.13.0"
LOCKS = {
    "requirements/azure.lock": ["pyproject.toml"],
    "requirements/lint.lock": ["--group", "lint"],
    "requirements/local.lock": ["pyproject.toml", "--extra=local", "--group=types", "--group=test", "--group=weights", "--group=workflows"],
}
"""Lock → what of pyproject.toml is in it. ``azure`` is all that a GitHub runner needs that only talks to Azure."""
SCHEMAS = {"github-workflows": "workflows/*.yml", "github-actions": "actions/*/action.yml", "dependabot": "dependabot.yml"}
"""Schema → the files under .github that follow it."""
LOCAL = Path(".nox/local")
"""One environment for types, tests and the pipeline: it is 2 GB, so there is one of it."""
STATE = ".mlops/azure"
"""Where the emulated subscription of ``nox -s pipeline`` lives on between runs."""


@nox.session
def lint(session: nox.Session) -> None:
    """Style, formatting, the workflow files, and that the locks fit pyproject.toml."""
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
            session.error(f"{lock} is stale: pyproject.toml asks for something else. Run `nox -s lock` and commit it.")


@nox.session(venv_backend="none")
def types(session: nox.Session) -> None:
    """Static types, strictly."""
    session.run(_local(session), "-m", "mypy", *session.posargs, external=True)


@nox.session(venv_backend="none")
def tests(session: nox.Session) -> None:
    """All tests but those of the workflows, the whole pipeline among them."""
    options = ("-n", "2", "--dist", "loadfile", "--ignore", "tests/workflows")
    session.run(_local(session), "-m", "pytest", *options, *session.posargs, external=True)


@nox.session(venv_backend="none")
def workflows(session: nox.Session) -> None:
    """The GitHub workflows, executed: act as the runner, the emulator as Azure and GitHub."""
    options = ("-n", "2", "--dist", "loadfile", "tests/workflows")
    session.run(_local(session), "-m", "pytest", *options, *session.posargs, external=True)


@nox.session(venv_backend="none")
def pipeline(session: nox.Session) -> None:
    """From conversations to a live endpoint, on this machine: the emulator as Azure, target ``local``."""
    python = _local(session)
    emulator = (python, "-m", "mlops.emulator", "--state", STATE, "--")
    session.run(*emulator, python, "-m", "mlops", "run", "--target", "local", *session.posargs, external=True)


@nox.session(default=False)
def lock(session: nox.Session) -> None:
    """Write the locks anew; ``-- --upgrade`` takes newer releases."""
    session.install("--quiet", "--no-deps", "--require-hashes", "-r", "requirements/lint.lock")
    for name in LOCKS:
        _compile(session, name, Path(name), *session.posargs)


def _compile(session: nox.Session, lock: str, output: Path, *options: str) -> None:
    # Universal: one lock for every platform. torch has no hashes here, since its CPU build comes from other places on other platforms.
    uv = ("uv", "pip", "compile", "--quiet", "--universal", "--python-version", "3.11", "--generate-hashes", "--no-emit-package", "torch")
    heading = ("--custom-compile-command", "nox -s lock")
    session.run(*uv, *heading, *LOCKS[lock], *options, "--output-file", str(output), silent=True)


def _pins(lock: Path) -> list[str]:
    return [line.split(" \\")[0] for line in lock.read_text().splitlines() if line[:1].isalnum()]


def _local(session: nox.Session) -> str:
    """The interpreter of the shared environment, installed as locked; at once where nothing changed."""
    python = LOCAL / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    stamp = LOCAL / "installed"
    wanted = hashlib.sha256(Path("requirements/local.lock").read_bytes() + TORCH.encode() + sys.version.encode()).hexdigest()
    if stamp.is_file() and stamp.read_text() == wanted:
        return str(python.absolute())
    session.log("Installing the environment (2 GB, some minutes the first time) …")
    session.run(sys.executable, "-m", "venv", "--clear", str(LOCAL), external=True)
    pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--progress-bar", "off")
    session.run(*pip, "--no-deps", "--require-hashes", "-r", "requirements/local.lock", external=True)
    session.run(*pip, TORCH, external=True)
    session.run(*pip, "--no-deps", "--no-build-isolation", "--editable", ".", external=True)
    stamp.write_text(wanted)
    return str(python.absolute())
