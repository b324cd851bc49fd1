"""The files that `mlops init` writes; tests/workflows/test_init.py runs them."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from mlops.__main__ import main
from mlops.cli.init import CALLERS, DATA, ROOT, _endpoint, _project, generate_files
from mlops.core.config import load

COMMIT = "a" * 40


def test_the_callers_name_the_project_and_are_pinned() -> None:
    texts = generate_files(ROOT, "octo/project", COMMIT, "mine")
    for name in CALLERS:
        text = texts[f".github/workflows/{name}"]
        assert "$/" not in text
        assert all(re.search(r"@[0-9a-f]{40}", line) for line in text.splitlines() if "uses:" in line), name
    assert f"uses: octo/project/.github/workflows/pipeline.yml@{COMMIT}" in texts[".github/workflows/train.yml"]
    assert "settings: endpoint.name=mine-pr-${{ github.event.pull_request.number }}" in texts[".github/workflows/pr.yml"]


def test_the_configuration_has_its_own_names(tmp_path: Path) -> None:
    (tmp_path / "pipeline.toml").write_text(generate_files(ROOT, "octo/project", COMMIT, "mine")["pipeline.toml"])
    configs = {target: load(tmp_path / "pipeline.toml", target, environment={}) for target in ("prod", "pr", "local")}
    names = {target: config.endpoint.name for target, config in configs.items()}
    assert names == {"prod": "mine-completion", "pr": "mine-pr", "local": "mine-local"}
    assert configs["pr"].champion_endpoint == "mine-completion"
    assert configs["prod"].registration.name == "mine-chat"


def test_every_form_of_a_name_is_replaced_and_the_rest_is_kept(tmp_path: Path) -> None:
    (tmp_path / ".github" / "workflows").mkdir(parents=True)
    for name in (*(f".github/workflows/{caller}" for caller in CALLERS), *(f"data/{name}" for name in DATA)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    source = """\
# keep ultrachat-this comment
[defaults]
endpoint = { name = 'ultrachat-a', ephemeral = true } # and this
registration.name = "ultrachat-b"   # three
data.dataset = "HuggingFaceH4/ultrachat_200k"
[targets.pr]
evaluation.champion_endpoint = 'ultrachat-c'
tags = { list = "ultrachat" }
"""
    (tmp_path / "pipeline.toml").write_text(source)
    text = generate_files(tmp_path, "octo/project", COMMIT, "mine")["pipeline.toml"]
    values = tomllib.loads(text)
    assert values["defaults"]["endpoint"] == {"name": "mine-a", "ephemeral": True}
    assert values["defaults"]["registration"]["name"] == "mine-b"
    assert values["targets"]["pr"]["evaluation"]["champion_endpoint"] == "mine-c", "no other project's champion is judged against"
    assert values["defaults"]["data"]["dataset"] == "HuggingFaceH4/ultrachat_200k"
    assert "# keep ultrachat-this comment\n" in text
    assert "# and this\n" in text
    assert '"mine-b"   # three\n' in text


def test_existing_files_are_not_changed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path)], check=True)
    (tmp_path / "pipeline.toml").write_text("# mine\n")
    assert main(["init", str(tmp_path), "--project", "octo/project", "--endpoint", "mine"]) == 0
    assert (tmp_path / "pipeline.toml").read_text() == "# mine\n"
    assert "exists, not changed: pipeline.toml" in capsys.readouterr().out
    assert (tmp_path / "data/retention.jsonl").read_bytes() == (ROOT / "data/retention.jsonl").read_bytes()


def test_a_folder_that_is_not_a_repository_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["init", str(tmp_path), "--project", "octo/project"]) == 2
    assert "git init" in capsys.readouterr().err


def test_an_installed_package_says_where_the_workflows_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "mine")], check=True)
    monkeypatch.setattr("mlops.cli.init.ROOT", tmp_path / "site-packages")
    assert main(["init", str(tmp_path / "mine"), "--project", "octo/project"]) == 2
    assert "clone the project" in capsys.readouterr().err
    assert not (tmp_path / "mine/pipeline.toml").exists()


@pytest.mark.parametrize(("name", "prefix"), [("my_chat.repo", "my-chat-repo"), ("a" * 40, "a" * 20)])
def test_the_folder_name_becomes_a_valid_endpoint_prefix(name: str, prefix: str) -> None:
    assert _endpoint(name) == prefix


def test_a_project_that_is_not_a_repository_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / ".git").mkdir()
    assert main(["init", str(tmp_path), "--endpoint", "mine", "--project", "my project"]) == 2
    assert "write it as OWNER/NAME" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == [".git"]


@pytest.mark.parametrize("url", ["https://github.com/octo/chat.git", "git@github.com:octo/chat.git", "https://github.com/octo/chat"])
def test_the_project_is_read_from_the_origin(url: str) -> None:
    assert _project(url) == "octo/chat"


def test_without_the_dependencies_the_command_says_how_to_install_them() -> None:
    # -S: without site-packages, as in a fresh checkout.
    done = subprocess.run([sys.executable, "-S", "-m", "mlops", "init"], cwd=ROOT, env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "is not installed" in done.stderr
    assert "requirements/azure.lock" in done.stderr
    assert "Traceback" not in done.stderr
