"""Child processes end when they are told to, and when the emulator is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops.emulator.base.children import Child, Children

# A child with a grandchild; both write their process id.
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
    found = Children()
    yield found
    found.stop()


@pytest.fixture
def start(children: Children, tmp_path: Path) -> Callable[[str], Child]:
    return lambda code: children.start([sys.executable, "-c", code], cwd=tmp_path, environment={"ONLY": "this"}, log=tmp_path / "log")


def pids(folder: Path) -> list[int]:
    until(lambda: (folder / "pids").exists())
    return [int(pid) for pid in (folder / "pids").read_text().split()]


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def until(condition: Callable[[], bool]) -> None:
    for _ in range(600):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("it never happened")


def test_environment_folder_and_log(start: Callable[[str], Child], tmp_path: Path) -> None:
    child = start("import os, sys; print(sorted(os.environ) , os.getcwd()); print('err', file=sys.stderr); sys.exit(3)")
    assert child.wait() == 3
    assert child.returncode == 3
    log = (tmp_path / "log").read_text()
    assert "'ONLY'" in log
    assert "PATH" not in log
    assert str(tmp_path) in log
    assert "err" in log


def test_signal_as_a_shell_tells_it(start: Callable[[str], Child]) -> None:
    assert start("import os; os.kill(os.getpid(), 9)").wait() == 137


def test_stop_ends_the_grandchild(start: Callable[[str], Child], tmp_path: Path) -> None:
    child = start(FAMILY)
    family = pids(tmp_path)
    assert all(alive(pid) for pid in family)
    child.stop()
    assert child.returncode == 143
    until(lambda: not any(alive(pid) for pid in family))


def test_stop_ends_who_ignores_the_first_signal(start: Callable[[str], Child], tmp_path: Path) -> None:
    child = start("import signal; signal.signal(15, signal.SIG_IGN); open('ready', 'w').close(); signal.pause()")
    until(lambda: (tmp_path / "ready").exists())
    child.stop()
    assert child.returncode == 137


def test_what_a_child_leaves_running_ends_with_it(start: Callable[[str], Child], tmp_path: Path) -> None:
    child = start(FAMILY.rpartition("time.sleep(600)")[0])
    family = pids(tmp_path)
    assert child.wait() == 0
    until(lambda: not any(alive(pid) for pid in family))


def test_a_child_is_not_interrupted_at_the_terminal(start: Callable[[str], Child], tmp_path: Path) -> None:
    child = start(FAMILY)
    family = pids(tmp_path)
    assert os.getpgid(family[0]) != os.getpgid(0)
    assert child.returncode is None


def test_no_child_after_the_end(children: Children, start: Callable[[str], Child]) -> None:
    children.stop()
    with pytest.raises(RuntimeError, match="shutting down"):
        start("pass")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_the_family_ends_with_its_owner(tmp_path: Path, number: int) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, str(tmp_path), FAMILY], stderr=subprocess.DEVNULL)
    family = pids(tmp_path)
    owner.send_signal(number)
    owner.wait()
    until(lambda: not any(alive(pid) for pid in family))
