"""Repositories on disk, and the workflow files in them: reading, rewriting, committing."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
REPOSITORY = "octo/chat"
"""The emulated repository."""


class Loader(yaml.SafeLoader):
    """A loader with YAML 1.2's booleans: ``on`` is a string."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


def read_workflow(path: Path) -> dict[str, Any]:
    """Read a workflow or action file."""
    document: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader)
    return document


def write_workflow(path: Path, document: dict[str, Any]) -> None:
    """Write a workflow or action file."""
    path.write_text(yaml.safe_dump(document, sort_keys=False, width=1000))


def inlined(caller: Mapping[str, Any], job_id: str, called: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the job that calls a reusable workflow by the jobs of that workflow.

    act ends a run after a reusable workflow has failed, whatever the ``if:`` of the jobs that need it; GitHub continues. Inlined, the jobs
    run as on GitHub: they see the values of the inputs, they are skipped where the caller is, and a job that needs the caller needs all.
    """
    jobs = dict(caller["jobs"])
    calls = jobs.pop(job_id)
    assert not jobs.keys() & called["jobs"].keys()
    declared = called["on"]["workflow_call"]["inputs"]
    values = {name: _expression(str(calls.get("with", {}).get(name, each.get("default", "")))) for name, each in declared.items()}

    def fill(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: fill(value) for name, value in part.items()}
        if isinstance(part, list):
            return [fill(value) for value in part]
        return re.sub(r"\binputs\.([\w-]+)", lambda match: values[match[1]], part) if isinstance(part, str) else part

    inlined_jobs = {}
    for name, job in called["jobs"].items():
        conditions = [_bare(str(holder["if"])) for holder in (calls, job) if "if" in holder]
        inlined_jobs[name] = fill(job) | {"env": fill(called.get("env", {})) | fill(job.get("env", {}))}
        inlined_jobs[name] |= {"if": "${{ " + " && ".join(f"({fill(condition)})" for condition in conditions) + " }}"} if conditions else {}
    for job in jobs.values():
        if job_id in (needs := job.get("needs", [])):
            job["needs"] = [*([needs] if isinstance(needs, str) else needs), *inlined_jobs]
            job["needs"].remove(job_id)
    return {**caller, "jobs": inlined_jobs | jobs}


def _expression(value: str) -> str:
    """Write an input's value as part of an expression."""
    parts = re.split(r"\$\{\{(.*?)\}\}", value)
    text = "".join(part if number % 2 == 0 else f"{{{number // 2}}}" for number, part in enumerate(parts)).replace("'", "''")
    if len(parts) == 1:
        return f"'{text}'"
    return f"({parts[1].strip()})" if text == "{0}" else f"format('{text}', {', '.join(part.strip() for part in parts[1::2])})"


def _bare(condition: str) -> str:
    return condition.strip().removeprefix("${{").removesuffix("}}").strip()


def copy_tree(source: Path, target: Path) -> None:
    """Copy the files that git tracks or would add, except the tests."""
    listed = subprocess.run(
        ["git", "-C", str(source), "ls-files", "-coz", "--exclude-standard"], capture_output=True, check=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (source / name).is_file() and not name.startswith("tests/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def make_repository(tree: Path) -> None:
    """Make a git repository with one commit and the emulated origin."""
    git(tree, "init", "--quiet", "--initial-branch", "main")
    git(tree, "remote", "add", "origin", f"https://github.com/{REPOSITORY}.git")
    commit(tree)


def commit(tree: Path) -> str:
    """Commit everything and return the commit."""
    git(tree, "add", "--all")
    git(tree, "-c", "user.name=octocat", "-c", "user.email=octocat@example.org", "commit", "--quiet", "--allow-empty", "-m", "A change")
    return git(tree, "rev-parse", "HEAD")


def git(tree: Path, *arguments: str) -> str:
    """Run git in a tree."""
    return subprocess.run(["git", "-C", str(tree), *arguments], check=True, capture_output=True, text=True).stdout.strip()


__all__ = ["REPOSITORY", "ROOT", "commit", "copy_tree", "git", "inlined", "make_repository", "read_workflow", "write_workflow"]
