"""Put the workflows that call this pipeline, a configuration and a data folder into a repository of yours.

    python -m mlops init ../my-repository --endpoint my-chat

Run it from a checkout of this project: what it writes is pinned to that commit.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from mlops.cli import stage
from mlops.core import console
from mlops.core.errors import UsageError

__all__ = ["CALLERS", "main", "written"]

ROOT = Path(__file__).resolve().parents[2]
CALLERS = ("train.yml", "pr.yml", "dispatch.yml", "schedule.yml")
"""The workflows that start something; they call pipeline.yml and the actions where they lie, in this project."""
DATA = ("README.md", "sample.jsonl", "retention.jsonl")
OURS = "ultrachat"
"""What our own endpoints' names begin with."""


def written(root: Path, project: str, commit: str, endpoint: str) -> dict[str, str]:
    """Path → text of every file that is written.

    Args:
        root: a checkout of this project.
        project: ``OWNER/NAME`` of it on GitHub.
        commit: what the callers are pinned to.
        endpoint: what the endpoints' names begin with.
    """
    texts = {}
    for name in CALLERS:
        text = (root / ".github" / "workflows" / name).read_text(encoding="utf-8")
        # `$/` is the repository that a workflow lies in; from elsewhere it has to be named.
        text = re.sub(r"uses: \$/(\S+)", rf"uses: {project}/\1@{commit}", text)
        texts[f".github/workflows/{name}"] = text.replace(f"endpoint.name={OURS}-", f"endpoint.name={endpoint}-")
    toml = (root / "pipeline.toml").read_text(encoding="utf-8")
    texts["pipeline.toml"] = re.sub(rf'^name = "{OURS}-', f'name = "{endpoint}-', toml, flags=re.MULTILINE)
    for name in DATA:
        texts[f"data/{name}"] = (root / "data" / name).read_text(encoding="utf-8")
    texts[".gitignore"] = "run/\n.mlops/\n"
    return texts


def main(argv: Sequence[str]) -> int:
    """Write the files; what is there already is left alone."""
    parser = stage.bare_parser(__doc__ or "", prog="mlops init")
    parser.add_argument("directory", type=Path, nargs="?", default=Path(), help="the repository (default: here)")
    parser.add_argument("--endpoint", default="", metavar="NAME", help="what endpoint names begin with (default: the folder's name)")
    parser.add_argument("--project", default="", metavar="OWNER/NAME", help="this project on GitHub (default: this checkout's origin)")
    arguments = parser.parse_args(argv)

    def init() -> int:
        directory: Path = arguments.directory.resolve()
        if not (directory / ".git").exists():
            raise UsageError(f"{directory} is no git repository.", "make one there with `git init`, or name another folder")
        if directory == ROOT:
            raise UsageError("This is the project itself, which has its workflows.", "name the repository that shall get them")
        if not (ROOT / ".github" / "workflows" / "pipeline.yml").is_file():
            raise UsageError("The workflows are not in an installed package.", "clone the project, and run `python -m mlops init` there")
        commit = _git("rev-parse", "HEAD")
        project = arguments.project or _project(_git("remote", "get-url", "origin"))
        for name, text in written(ROOT, project, commit, _endpoint(arguments.endpoint or directory.name)).items():
            path = directory / name
            if path.exists():
                console.info(f"  left alone: {name}")
                continue
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            console.info(f"  wrote {name}")
        console.info(f"The workflows call {project} at {commit[:12]}. Next: docs/workflows.md, section 'In a repository of your own'.")
        return 0

    return stage.guarded(init)


def _endpoint(name: str) -> str:
    """A name that Azure takes with ``-pr-12345`` behind it: letters, digits and ``-``, a letter first, 32 characters in all."""
    made = re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-")[:20].rstrip("-")
    if not made or not made[0].isalpha():
        raise UsageError(f"{name!r} can't begin an endpoint's name: it must begin with a letter.", "give another one with --endpoint")
    return made


def _project(url: str) -> str:
    found = re.search(r"github\.com[:/]([^/]+/[^/]+?)(?:\.git)?/?$", url)
    if found is None:
        raise UsageError(f"The origin of this checkout, {url!r}, is not on GitHub.", "give --project OWNER/NAME")
    return found[1]


def _git(*arguments: str) -> str:
    git = shutil.which("git")
    if git is None:
        raise UsageError("git is not installed.", "install git")
    done = subprocess.run([git, "-C", str(ROOT), *arguments], capture_output=True, text=True, check=False)
    return done.stdout.strip()
