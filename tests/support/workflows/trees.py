"""Repositories on disk, and the workflow files in them: read, rewritten, committed."""

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
    """YAML 1.2's idea of a boolean: ``on`` is a word."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:bool"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile(r"^(?:true|false)$"), list("tf"))


def read_workflow(path: Path) -> dict[str, Any]:
    """A workflow or action file."""
    document: dict[str, Any] = yaml.load(path.read_text(encoding="utf-8"), Loader)
    return document


def write_workflow(path: Path, document: dict[str, Any]) -> None:
    """Write a workflow or action file."""
    path.write_text(yaml.safe_dump(document, sort_keys=False, width=1000))


def inlined(caller: Mapping[str, Any], job_id: str, called: Mapping[str, Any]) -> dict[str, Any]:
    """A workflow in which the jobs of a reusable workflow stand in the place of the job that calls it.

    act ends a run behind a reusable workflow that has failed, whatever the ``if:`` of the jobs that need it; GitHub goes on. Inlined, they
    run as they do there: the called jobs see the inputs' values and are skipped where the caller is, and who needs the caller needs all.
    """
    jobs = dict(caller["jobs"])
    calls = jobs.pop(job_id)
    assert not jobs.keys() & called["jobs"].keys()
    declared = called["on"]["workflow_call"]["inputs"]
    values = {name: _expression(str(calls.get("with", {}).get(name, given.get("default", "")))) for name, given in declared.items()}

    def filled(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: filled(value) for name, value in part.items()}
        if isinstance(part, list):
            return [filled(value) for value in part]
        return re.sub(r"\binputs\.([\w-]+)", lambda match: values[match[1]], part) if isinstance(part, str) else part

    made = {}
    for name, job in called["jobs"].items():
        conditions = [_bare(str(holder["if"])) for holder in (calls, job) if "if" in holder]
        made[name] = filled(job) | {"env": filled(called.get("env", {})) | filled(job.get("env", {}))}
        made[name] |= {"if": "${{ " + " && ".join(f"({filled(condition)})" for condition in conditions) + " }}"} if conditions else {}
    for job in jobs.values():
        if job_id in (needs := job.get("needs", [])):
            job["needs"] = [*([needs] if isinstance(needs, str) else needs), *made]
            job["needs"].remove(job_id)
    return {**caller, "jobs": made | jobs}


def _expression(value: str) -> str:
    """What stands for an input in an expression."""
    parts = re.split(r"\$\{\{(.*?)\}\}", value)
    text = "".join(part if number % 2 == 0 else f"{{{number // 2}}}" for number, part in enumerate(parts)).replace("'", "''")
    if len(parts) == 1:
        return f"'{text}'"
    return f"({parts[1].strip()})" if text == "{0}" else f"format('{text}', {', '.join(part.strip() for part in parts[1::2])})"


def _bare(condition: str) -> str:
    return condition.strip().removeprefix("${{").removesuffix("}}").strip()


def copy_tree(source: Path, target: Path) -> None:
    """The files that git knows or would add, as they are."""
    listed = subprocess.run(
        ["git", "-C", str(source), "ls-files", "-coz", "--exclude-standard"], capture_output=True, check=True, text=True
    ).stdout
    for name in filter(None, listed.split("\0")):
        if (source / name).is_file() and not name.startswith("tests/"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source / name, target / name)


def make_repository(tree: Path) -> None:
    """A git repository with one commit and the emulated origin."""
    git(tree, "init", "--quiet", "--initial-branch", "main")
    git(tree, "remote", "add", "origin", f"https://github.com/{REPOSITORY}.git")
    commit(tree)


def commit(tree: Path) -> str:
    """Commit everything; the commit."""
    git(tree, "add", "--all")
    git(tree, "-c", "user.name=octocat", "-c", "user.email=octocat@example.org", "commit", "--quiet", "--allow-empty", "-m", "A change")
    return git(tree, "rev-parse", "HEAD")


def git(tree: Path, *arguments: str) -> str:
    """Run git in a tree."""
    return subprocess.run(["git", "-C", str(tree), *arguments], check=True, capture_output=True, text=True).stdout.strip()


__all__ = ["REPOSITORY", "ROOT", "commit", "copy_tree", "git", "inlined", "make_repository", "read_workflow", "write_workflow"]
