"""Add this pipeline's workflows, a configuration and a data folder to your own repository.

    python -m mlops init ../my-repository --endpoint my-chat

Run this in a checkout of this project, to whose commit the workflows are pinned.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import tomlkit

from mlops.cli import stage
from mlops.core import console
from mlops.core.errors import UsageError

__all__ = ["CALLERS", "generate_files", "main"]

ROOT = Path(__file__).resolve().parents[2]
CALLERS = ("train.yml", "pr.yml", "dispatch.yml", "schedule.yml")
"""The workflows that are copied. They have triggers, and call pipeline.yml and the actions of this project."""
DATA = ("README.md", "sample.jsonl", "retention.jsonl")
PREFIX = "ultrachat"
"""Prefix of the names of the project's own endpoints and models."""


def generate_files(root: Path, project: str, commit: str, endpoint: str) -> dict[str, str]:
    """Return path → text of every file to write.

    Args:
        root: a checkout of this project.
        project: ``OWNER/NAME`` of it on GitHub.
        commit: the commit of this project that the workflows call.
        endpoint: prefix of the endpoints' names.
    """
    texts = {}
    for name in CALLERS:
        text = (root / ".github" / "workflows" / name).read_text(encoding="utf-8")
        # `$/` is the workflow's own repository; another one has to name this project.
        text = re.sub(r"uses: \$/(\S+)", rf"uses: {project}/\1@{commit}", text)
        texts[f".github/workflows/{name}"] = text.replace(f"endpoint.name={PREFIX}-", f"endpoint.name={endpoint}-")
    texts["pipeline.toml"] = _rename((root / "pipeline.toml").read_text(encoding="utf-8"), endpoint)
    for name in DATA:
        texts[f"data/{name}"] = (root / "data" / name).read_text(encoding="utf-8")
    texts[".gitignore"] = "run/\n.mlops/\n"
    return texts


def _rename(text: str, endpoint: str) -> str:
    """Replace the project's own prefix in every value of a TOML document: endpoints, the champion's among them, and models."""
    document = tomlkit.parse(text)

    def visit(node: Any) -> None:
        for key, value in list(node.items() if isinstance(node, Mapping) else enumerate(node)):
            if isinstance(value, str) and value.startswith(f"{PREFIX}-"):
                # Comments and white space belong to the value, so they are kept.
                renamed = tomlkit.string(f"{endpoint}{value.removeprefix(PREFIX)}")
                if isinstance(value, tomlkit.items.Item):
                    renamed.trivia.comment, renamed.trivia.comment_ws = value.trivia.comment, value.trivia.comment_ws
                    renamed.trivia.trail = value.trivia.trail
                node[key] = renamed
            elif isinstance(value, Mapping | list):
                visit(value)

    visit(document)
    return tomlkit.dumps(document)


def main(argv: Sequence[str]) -> int:
    """Write the files, except those that exist already."""
    parser = stage.bare_parser(__doc__ or "", prog="mlops init")
    parser.add_argument("directory", type=Path, nargs="?", default=Path(), help="the repository (default: here)")
    parser.add_argument("--endpoint", default="", metavar="NAME", help="prefix of endpoint names (default: the folder's name)")
    parser.add_argument("--project", default="", metavar="OWNER/NAME", help="this project on GitHub (default: this checkout's origin)")
    arguments = parser.parse_args(argv)

    def init() -> dict[str, list[str]]:
        directory: Path = arguments.directory.resolve()
        if not (directory / ".git").exists():
            raise UsageError(f"{directory} is not a git repository.", "create one there with `git init`, or choose another folder")
        if directory == ROOT:
            raise UsageError(
                "This is the project itself, which already has its workflows.", "give the path of the repository to add them to"
            )
        if not (ROOT / ".github" / "workflows" / "pipeline.yml").is_file():
            raise UsageError("The workflows are not in an installed package.", "clone the project and run `python -m mlops init` there")
        commit = _git("rev-parse", "HEAD")
        written: dict[str, list[str]] = {"written": [], "kept": []}
        project = arguments.project or _project(_git("remote", "get-url", "origin"))
        if not re.fullmatch(r"[\w.-]+/[\w.-]+", project, re.ASCII):
            raise UsageError(f"--project is {project!r}, which is not a repository on GitHub.", "write it as OWNER/NAME")
        for name, text in generate_files(ROOT, project, commit, _endpoint(arguments.endpoint or directory.name)).items():
            path = directory / name
            written["kept" if path.exists() else "written"].append(name)
            if path.exists():
                console.info(f"  exists, not changed: {name}")
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            console.info(f"  wrote {name}")
        console.info(f"The workflows call {project} at {commit[:12]}. Next: set up Azure and GitHub (docs/workflows.md, section 'Set up').")
        return written

    return stage.finish(init, as_json=arguments.json)


def _endpoint(name: str) -> str:
    """A valid endpoint name even with ``-pr-12345`` appended: letters, digits and ``-``, a letter first, at most 32 characters."""
    prefix = re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-")[:20].rstrip("-")
    if not prefix or not prefix[0].isalpha():
        raise UsageError(f"{name!r} can't be the prefix of endpoint names, which must begin with a letter.", "choose one with --endpoint")
    return prefix


def _project(url: str) -> str:
    match = re.search(r"github\.com[:/]([^/]+/[^/]+?)(?:\.git)?/?$", url)
    if match is None:
        raise UsageError(f"The origin of this checkout, {url!r}, is not on GitHub.", "add --project OWNER/NAME")
    return match[1]


def _git(*arguments: str) -> str:
    git = shutil.which("git")
    if git is None:
        raise UsageError("git is not installed.", "install git")
    process = subprocess.run([git, "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return process.stdout.strip()
