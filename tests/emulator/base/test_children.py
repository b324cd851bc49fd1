"""Child processes end when they are stopped, and when the emulator is killed."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops.emulator.base.children import Child, Children
from tests.support.processes import alive, wait_until

# A child with a grandchild. The child writes both process ids.
FAMILY = """
import os, subprocess, sys, time
from pathlib import Path
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
Path("pids.part").write_text(f"{os.getpid()} {grandchild.pid}")
Path("pids.part").rename("pids")
time.sleep(600)
"""
OWNER = """
import sys, time
from pathlib import Path
from mlops.emulator.base.children import Children
folder = Path(sys.argv[1])
Children().start([sys.executable, "-c", sys.argv[2]], cwd=folder, environment={}, log=folder / "log")
time.sleep(600)
"""


@pytest.fixture
def children() -> Iterator[Children]:
    running = Children()
    yield running
    running.stop()


@pytest.fixture
def start(children: Children, tmp_path: Path) -> Callable[[str], Child]:
    return lambda code: children.start([sys.executable, "-c", code], cwd=tmp_path, environment={"ONLY": "this"}, log=tmp_path / "log")


def pids(folder: Path) -> list[int]:
    wait_until(lambda: (folder / "pids").exists())
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def test_a_child_gets_its_environment_folder_and_log(start: Callable[[str], Child], tmp_path: Path) -> None:
    child = start("import os, sys; print(sorted(os.environ) , os.getcwd()); print('err', file=sys.stderr); sys.exit(3)")
    assert child.wait() == 3
    assert child.returncode == 3
    log = (tmp_path / "log").read_text()
    assert "'ONLY'" in log
    assert "PATH" not in log
    assert str(tmp_path) in log
    assert "err" in log


def test_a_signal_becomes_the_exit_code_of_a_shell(start: Callable[[str], Child]) -> None:
    assert start("import os; os.kill(os.getpid(), 9)").wait() == 137


def test_stop_also_ends_the_grandchild(start: Callable[[str], Child], tmp_path: Path) -> None:
    child = start(FAMILY)
    family = pids(tmp_path)
    assert all(alive(pid) for pid in family)
    child.stop()
    assert child.returncode == 143
    wait_until(lambda: not any(alive(pid) for pid in family))


def test_stop_kills_a_child_that_ignores_sigterm(start: Callable[[str], Child], tmp_path: Path) -> None:
    child = start("import signal; signal.signal(15, signal.SIG_IGN); open('ready', 'w').close(); signal.pause()")
    wait_until(lambda: (tmp_path / "ready").exists())
    child.stop()
    assert child.returncode == 137


def test_a_grandchild_ends_with_its_parent(start: Callable[[str], Child], tmp_path: Path) -> None:
    child = start(FAMILY.rpartition("time.sleep(600)")[0])
    family = pids(tmp_path)
    assert child.wait() == 0
    wait_until(lambda: not any(alive(pid) for pid in family))


def test_a_child_has_its_own_process_group(start: Callable[[str], Child], tmp_path: Path) -> None:
    child = start(FAMILY)
    family = pids(tmp_path)
    assert os.getpgid(family[0]) != os.getpgid(0)
    assert child.returncode is None


def test_a_child_ends_although_its_owner_has_many_open_files(start: Callable[[str], Child], tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
    files = [os.open(os.devnull, os.O_RDONLY) for _ in range(1100)]
    try:
        child = start(FAMILY)
        family = pids(tmp_path)
        stopping = threading.Thread(target=child.stop, daemon=True)
        stopping.start()
        wait_until(lambda: not any(alive(pid) for pid in family))
    finally:
        for file in files:
            os.close(file)
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_child_starts_after_stop(children: Children, start: Callable[[str], Child]) -> None:
    children.stop()
    with pytest.raises(RuntimeError, match="shutting down"):
        start("pass")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_family_ends_with_its_owner(tmp_path: Path, number: int) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path), FAMILY], stderr=subprocess.DEVNULL)
    family = pids(tmp_path)
    owner.send_signal(number)
    owner.wait()
    wait_until(lambda: not any(alive(pid) for pid in family))
