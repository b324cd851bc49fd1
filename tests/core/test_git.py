from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from mlops.core.git import commit

SHA = "d" * 40


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Create a repository with one commit, make it the current folder, and return the commit."""
    git = ("git", "-C", str(tmp_path), "-c", "user.name=o", "-c", "user.email=o@example.org")
    (tmp_path / "file").write_text("one")
    for arguments in (("init", "--quiet"), ("add", "."), ("commit", "--quiet", "-m", "One")):
        subprocess.run([*git, *arguments], check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("GITHUB_SHA", raising=False)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


def test_the_checked_out_commit_wins_over_the_one_that_started_the_workflow(checkout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert commit() == checkout
    monkeypatch.setenv("GITHUB_SHA", SHA)
    assert commit() == checkout


def test_uncommitted_changes_are_marked(checkout: str) -> None:
    Path("file").write_text("two")
    assert commit() == f"{checkout}+changes"


def test_outside_git_the_commit_is_github_sha(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    monkeypatch.setenv("GITHUB_SHA", SHA)
    assert commit() == SHA
    monkeypatch.delenv("GITHUB_SHA")
    assert commit() == "unknown"
