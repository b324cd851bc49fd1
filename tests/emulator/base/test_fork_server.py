"""A process of a fork server is what an ordinary process would be, and no more of the emulator or of other processes is in it."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from mlops.emulator.base import libraries
from mlops.emulator.base.children import Child, Children, Preload
from mlops.emulator.base.fork_servers import ForkServers
from tests.support.processes import alive, wait_until

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="fork servers are for Linux only")

PRELOAD = Preload.of(("colorsys", "no.such.module"), {"PYTHONPATH": "/nowhere", "OF_THE_SERVER": "1"})
REPORT = """
import ctypes  # libffi may keep a file open for it, which the fork has from the fork server
import json, os, signal, sys
report = {
    "argv": sys.argv, "name": __name__, "spec": __spec__.name, "path": sys.path, "cwd": os.getcwd(), "environment": dict(os.environ),
    "session": os.getsid(0) == os.getpid(), "loaded": sorted(sys.modules), "executable": sys.executable, "prefix": sys.prefix,
    "descriptors": sorted(map(int, os.listdir("/proc/self/fd"))), "main": sorted(vars(sys.modules["__main__"])),
    "command": open("/proc/self/cmdline").read().rstrip(chr(0)).split(chr(0)), "parent": os.getppid(),
    "signals": [str(signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGCHLD)],
}
print(json.dumps(report))
"""
FAMILY = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
open("pids.part", "w").write(f"{os.getpid()} {child.pid}")
os.rename("pids.part", "pids")
time.sleep(600)
"""
Start = Callable[..., Child]


@pytest.fixture
def servers() -> Iterator[ForkServers]:
    running = ForkServers()
    yield running
    running.stop()


@pytest.fixture
def children(servers: ForkServers) -> Iterator[Children]:
    running = Children(servers.connect)
    yield running
    running.stop()


@pytest.fixture
def start(children: Children, tmp_path: Path) -> Start:
    """Start a module with this source, as a fork unless ``preload`` is None."""

    def start_module(
        source: str, *arguments: str, preload: Preload | None = PRELOAD, python: str = sys.executable, **variables: str
    ) -> Child:
        (tmp_path / "program.py").write_text(source)
        command = [python, "-m", "program", *arguments]
        return children.start(command, cwd=tmp_path, environment=variables, log=tmp_path / "log", preload=preload)

    return start_module


def report(child: Child, folder: Path) -> dict[str, Any]:
    assert child.wait() == 0, (folder / "log").read_text()
    content: dict[str, Any] = json.loads((folder / "log").read_text())
    (folder / "log").unlink()
    return content


def list_servers() -> list[int]:
    """Return the process ids of this process's fork servers."""
    return [child.pid for child in psutil.Process().children() if "fork_server.py" in " ".join(child.cmdline())]


def test_a_fork_is_like_an_ordinary_process(start: Start, tmp_path: Path) -> None:
    variables = {"ONLY": "this", "PYTHONPATH": "/first:/second", "LANG": "C.UTF-8", "PYTHONUNBUFFERED": "1"}
    ordinary, fork = (report(start(REPORT, "a b", "ü", preload=preload, **variables), tmp_path) for preload in (None, PRELOAD))
    assert "colorsys" in fork["loaded"]
    assert "colorsys" not in ordinary["loaded"]
    assert not [name for name in fork["loaded"] if name.startswith("mlops")]
    for name in ordinary.keys() - {"loaded", "parent"}:
        assert fork[name] == ordinary[name], name


def test_a_fork_has_the_virtual_environment_of_its_interpreter(start: Start, tmp_path: Path) -> None:
    fork = report(start(REPORT, python=f"{tmp_path}/own/bin/python"), tmp_path)
    assert (fork["executable"], fork["prefix"]) == (f"{tmp_path}/own/bin/python", f"{tmp_path}/own")
    packages = [entry for entry in fork["path"] if entry.endswith("site-packages")]
    assert packages[0].startswith(f"{tmp_path}/own/lib")
    assert len(packages) > 1


def test_a_fork_can_be_started_from_many_at_once(start: Start, tmp_path: Path) -> None:
    source = "import sys, random; print(sys.argv[1], random.random())"
    for child in [start(source, str(number)) for number in range(8)]:
        assert child.wait() == 0
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert sorted(number for number, _ in lines) == sorted(map(str, range(8)))
    assert len({value for _, value in lines}) == 8, "each is seeded anew"


@pytest.mark.parametrize(
    ("source", "code", "says"),
    [
        ("import sys; sys.exit(3)", 3, ""),
        ("import os; os.kill(os.getpid(), 9)", 137, ""),
        ("raise SystemExit('a last word')", 1, "a last word\n"),
        ("def f():\n    raise ValueError('no')\nf()", 1, "ValueError: no\n"),
        ("import sys; print('out'); print('error', file=sys.stderr)", 0, "out\n"),
        ("import atexit; atexit.register(print, 'the end')", 0, "the end\n"),
        ("import threading, time; threading.Thread(target=lambda: time.sleep(0.1) or print('the end')).start()", 0, "the end\n"),
        ("class Last:\n    def __del__(self): print('the end')\nlast = Last()", 0, "the end\n"),
        ("log = open(1, 'a', closefd=False)\nlog.write('the end\\n')", 0, "the end\n"),
        ("import json\njson.log = open(1, 'a', closefd=False)\njson.log.write('the end\\n')", 0, "the end\n"),
        ("import sys; sys.exit(-1)", 255, ""),
        ("raise KeyboardInterrupt", 130, "KeyboardInterrupt\n"),
    ],
)
def test_a_fork_ends_as_an_ordinary_process_does(start: Start, tmp_path: Path, source: str, code: int, says: str) -> None:
    logs = []
    for preload in (None, PRELOAD):
        assert start(source, preload=preload).wait() == code
        logs.append((tmp_path / "log").read_text())
        (tmp_path / "log").unlink()
    assert logs[0] == logs[1]
    assert logs[0].endswith(says)


def test_stop_ends_a_fork_and_what_it_has_started(start: Start, tmp_path: Path) -> None:
    child = start(FAMILY)
    wait_until(lambda: (tmp_path / "pids").exists())
    family = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    assert all(map(alive, family))
    assert os.getpgid(family[0]) == family[0]
    child.stop()
    assert child.returncode == 143
    wait_until(lambda: not any(map(alive, family)))


def test_children_of_a_fork_end_with_it(start: Start, tmp_path: Path) -> None:
    child = start(FAMILY.rpartition("time.sleep(600)")[0])
    assert child.wait() == 0
    family = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    wait_until(lambda: not any(map(alive, family)))


def test_a_fork_ends_with_its_guard(start: Start, tmp_path: Path) -> None:
    before = set(psutil.Process().children())
    child = start(FAMILY)
    wait_until(lambda: (tmp_path / "pids").exists())
    (guard,) = [each for each in set(psutil.Process().children()) - before if "children.py" in " ".join(each.cmdline())]
    guard.kill()
    assert child.wait() != 0
    family = [int(pid) for pid in (tmp_path / "pids").read_text().split()]
    wait_until(lambda: not any(map(alive, family)))


def test_stop_does_not_wait_for_a_server_that_still_imports(start: Start, tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import time; time.sleep(600)")
    child = start(REPORT, preload=Preload.of(("slow",), {"PYTHONPATH": str(tmp_path)}))
    child.stop()
    assert child.returncode == 143
    assert not (tmp_path / "log").read_text()


def test_a_fork_whose_guard_ended_before_the_server_was_ready_does_not_stay(tmp_path: Path) -> None:
    (tmp_path / "slow.py").write_text("import os, time\nwhile not os.path.exists('go'): time.sleep(0.01)")
    (tmp_path / "program.py").write_text("import sys, time\ntime.sleep(600 if sys.argv[1:] == ['stay'] else 0)")
    (tmp_path / "shared").mkdir()
    servers = ForkServers(tmp_path / "shared")
    children = Children(servers.connect)
    slow = Preload.of(("slow",), {"PYTHONPATH": str(tmp_path)})

    def start(*arguments: str) -> Child:
        command = [sys.executable, "-m", "program", *arguments]
        return children.start(command, cwd=tmp_path, environment={}, log=tmp_path / "log", preload=slow)

    def left() -> list[psutil.Process]:
        return [
            each for each in psutil.process_iter(["cwd", "cmdline"]) if each.info["cwd"] == str(tmp_path) and "stay" in each.info["cmdline"]
        ]

    try:
        with contextlib.chdir(tmp_path):
            stays = start("stay")
            time.sleep(0.2)
            stays.stop()
            (tmp_path / "go").touch()
            assert start().wait() == 0
        wait_until(lambda: not left())
    finally:
        for process in left():
            process.kill()
        children.stop()
        servers.stop()


def test_an_ordinary_process_starts_if_the_fork_server_has_ended(start: Start, tmp_path: Path) -> None:
    before = set(list_servers())
    assert "colorsys" in report(start(REPORT, LANG="C.UTF-8"), tmp_path)["loaded"]
    (server,) = set(list_servers()) - before
    os.kill(server, 9)
    wait_until(lambda: not alive(server))
    assert "colorsys" not in report(start(REPORT, LANG="C.UTF-8"), tmp_path)["loaded"]


def test_processes_share_a_server_which_ends_with_the_last_of_them(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text(REPORT)
    before = set(list_servers())
    users = [ForkServers(tmp_path), ForkServers(tmp_path)]
    for user in users:
        children = Children(user.connect)
        child = children.start([sys.executable, "-m", "program"], cwd=tmp_path, environment={}, log=tmp_path / "log", preload=PRELOAD)
        assert "colorsys" in report(child, tmp_path)["loaded"]
        (server,) = set(list_servers()) - before
        children.stop()
    users[1].stop()
    assert alive(server)
    users[0].stop()
    assert not alive(server)


def test_a_job_whose_variables_are_read_on_import_gets_a_separate_process() -> None:
    assert libraries.preload_for_job(["WORD", "AZURE_X"]) is not None
    for name in ("OMP_NUM_THREADS", "PYTHONHASHSEED", "HF_HOME", "LD_PRELOAD", "MLFLOW_X"):
        assert libraries.preload_for_job([name]) is None


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("python -m mlops.remote --a 'b c' \"d\"", ["PY", "-m", "mlops.remote", "--a", "b c", "d"]),
        ("python3 -m pip", ["PY", "-m", "pip"]),
        ("python train.py", None),
        ("/usr/bin/python -m a", None),
        ("python -m a && rm b", None),
        ("python -m a $HOME", None),
        ("python -m a *.py", None),
        ("python -m a\npython -m b", None),
        ("X=1 python -m a", None),
        ("python -m a 'b", None),
        ("python -m a ~/b", None),
    ],
)
def test_a_command_is_taken_apart_only_if_a_shell_would_do_nothing_else(command: str, words: list[str] | None) -> None:
    assert libraries.split_command(command, "PY") == words
