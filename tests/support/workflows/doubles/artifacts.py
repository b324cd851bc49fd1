"""The doubles of actions/upload-artifact and actions/download-artifact. Standard library only; inputs come from the environment.

An artifact is the folder ``$ARTIFACT_STORE/<run id>/<name>``. Rules as in the actions' READMEs (upload v7, download v8): the root is the
least common ancestor of the files, an existing name is an error without ``overwrite``, an unknown one is an error.
"""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path


def upload() -> str:
    """Keep the files; return why that failed, or an empty string."""
    target = folder(os.environ["GITHUB_RUN_ID"]) / os.environ["NAME"]
    files = matching_files(os.environ["FILES"].splitlines())
    if not files:
        message = f"No files were found with the provided path: {os.environ['FILES'].strip()}. No artifacts will be uploaded."
        level = os.environ["IF_NO_FILES_FOUND"]
        if level == "error":
            return message
        if level == "warn":
            print(f"::warning::{message}")
        return ""
    if target.exists():
        if os.environ["OVERWRITE"] != "true":
            return "Failed to CreateArtifact: (409) Conflict: an artifact with this name already exists on the workflow run"
        shutil.rmtree(target)
    root = Path(os.path.commonpath([file.parent for file in files]))
    for file in files:
        place = target / file.relative_to(root)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, place)
    output("artifact-id", "1")
    return ""


def download() -> str:
    """Give the files back; return why that failed, or an empty string."""
    run = os.environ.get("RUN_ID") or os.environ["GITHUB_RUN_ID"]
    if run != os.environ["GITHUB_RUN_ID"] and not os.environ.get("TOKEN"):
        return "Input required and not supplied: github-token"
    source = folder(run) / os.environ["NAME"]
    if not source.is_dir():
        return f"Unable to download artifact(s): Artifact not found for name: {os.environ['NAME']}"
    into = Path(os.environ["GITHUB_WORKSPACE"], os.environ.get("INTO") or ".")
    shutil.copytree(source, into, dirs_exist_ok=True)
    output("download-path", str(into))
    return ""


def matching_files(patterns: list[str]) -> list[Path]:
    """List the files that the patterns match, without hidden ones, as the action does."""
    workspace = Path(os.environ["GITHUB_WORKSPACE"])
    files: set[Path] = set()
    for pattern in filter(None, map(str.strip, patterns)):
        for match in workspace.glob(pattern.rstrip("/")):
            files |= {path for path in match.rglob("*") if path.is_file()} if match.is_dir() else {match}
    return sorted(file for file in files if not any(part.startswith(".") for part in file.relative_to(workspace).parts))


def folder(run: str) -> Path:
    return Path(os.environ["ARTIFACT_STORE"], run)


def output(name: str, value: str) -> None:
    with Path(os.environ["GITHUB_OUTPUT"]).open("a") as file:
        file.write(f"{name}={value}\n")


if __name__ == "__main__":
    problem = {"upload": upload, "download": download}[sys.argv[1]]()
    if problem:
        print(f"::error::{problem}")
    sys.exit(1 if problem else 0)
