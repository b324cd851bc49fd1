"""An unmodified third-party script, from sign-in to clean-up. Only its environment leads it to the emulator instead of Azure."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import mlops

TUTORIAL = Path(__file__).with_name("tutorial.py")
AZURE = (
    "management.azure.com", "login.microsoftonline.com", "*.api.azureml.ms", "*.blob.core.windows.net", "*.eastus.inference.ml.azure.com",
)  # fmt: skip


def write_conversations(file: Path, first: int, rows: int) -> Path:
    """Write a file of conversations in the format of ultrachat."""
    with file.open("w") as out:
        for number in range(first, first + rows):
            messages = [
                {"role": "user", "content": f"What comes after {number}?"},
                {"role": "assistant", "content": f"After {number} comes {number + 1}, as always."},
            ]
            out.write(json.dumps({"prompt": messages[0]["content"], "prompt_id": str(number), "messages": messages}) + "\n")
    return file


def list_processes(folder: Path) -> list[str]:
    """Return the command lines of processes that run in a folder or mention it."""
    commands = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                if str(folder) in words or (entry / "cwd").readlink().is_relative_to(folder):
                    commands.append(words)
            except OSError:
                continue
    return commands


def test_the_script_does_not_mention_the_emulator() -> None:
    source = TUTORIAL.read_text()
    assert not re.search(r"emulator|mlops|127\.0\.0\.1|localhost|proxy", source, re.IGNORECASE)


def test_the_script_runs_to_its_end(tmp_path: Path) -> None:
    files = [
        str(write_conversations(tmp_path / f"{name}.jsonl", first, rows))
        for name, first, rows in (("train_sft", 0, 24), ("test_sft", 100, 6), ("test_gen", 200, 2))
    ]
    work, hosts = tmp_path / "work", tmp_path / "hosts.txt"
    work.mkdir()
    environment = os.environ | {
        "HOME": str(tmp_path),
        "PYTHONPATH": str(Path(mlops.__path__[0]).parent),
        # Seconds between two status requests of the SDK; up to a minute by default.
        "AZUREML_RUN_POLLING_INTERVAL_MIN": "1",
        "AZUREML_RUN_POLLING_INTERVAL_MAX": "1",
    }
    emulator = [sys.executable, "-m", "mlops.emulator", "--catalog", "tutorial", "--weights", "tiny-phi3"]
    options = ["--state", str(tmp_path / "state"), "--hosts", str(hosts)]
    done = subprocess.run(
        [*emulator, *options, "--", sys.executable, str(TUTORIAL), *files],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert list_processes(tmp_path) == []
    lines = done.stdout.splitlines()
    assert "base model azureml://registries/azureml/models/Phi-3-mini-4k-instruct/versions/15" in lines
    assert "component chat_completion_pipeline 0.0.81" in lines
    assert "loss was logged 1 times" in lines, "every tenth of 19 steps is logged"
    assert any(re.fullmatch(r"metric eval_loss = [0-9.]+", line) for line in lines)
    (answer,) = (line.removeprefix("answer ") for line in lines if line.startswith("answer "))
    assert isinstance(json.loads(answer)["output"], str)
    assert re.search(r"deleted ultrachat-completion-\d+$", done.stdout, re.MULTILINE)
    contacted = dict(line.split() for line in hosts.read_text().splitlines())
    assert set(contacted.values()) == {"allowed"}
    assert [host for host in contacted if not any(fnmatch(host, name) and host.count(".") == name.count(".") for name in AZURE)] == []
    assert [name for name in AZURE if not any(fnmatch(host, name) for host in contacted)] == []
