"""The command line: run a command inside the emulator, keep the emulator running, and leave nothing behind."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

EMULATOR = (sys.executable, "-m", "mlops.emulator")
TINY = ("--weights", "tiny-llama")


def run(*arguments: str, text: str = "", environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*EMULATOR, *arguments], input=text, capture_output=True, text=True, env=environment, timeout=120)


def inside(code: str, *options: str, text: str = "", environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return run(*TINY, *options, "--", sys.executable, "-c", code, text=text, environment=environment)


def wait_until(condition: Callable[[], bool]) -> None:
    for _ in range(1200):
        if condition():
            return
        time.sleep(0.05)
    raise AssertionError("timed out")


def family(pid: int) -> set[int]:
    """Return the process and all its descendants."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if fields[0] != "Z":
            parents[int(stat.parent.name)] = int(fields[1])
    members, last = {pid}, 0
    while len(members) > last:
        last = len(members)
        members |= {child for child, parent in parents.items() if parent in members}
    return members & parents.keys()


def alive(pids: set[int]) -> set[int]:
    return {pid for pid in pids if pid in family(pid)}


@pytest.fixture
def background() -> Iterator[Callable[[Sequence[str]], subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []

    def start(arguments: Sequence[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [*EMULATOR, *TINY, *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


class TestRun:
    """``-- COMMAND``."""

    def test_exit_status_output_and_input_are_those_of_the_command(self) -> None:
        done = inside("import sys; print(sys.stdin.read().upper()); print('e', file=sys.stderr); sys.exit(7)", text="hello")
        assert (done.returncode, done.stdout, done.stderr) == (7, "HELLO\n", "e\n")

    def test_the_command_is_signed_in(self) -> None:
        code = "from azure.identity import DefaultAzureCredential as C; C().get_token('https://management.azure.com/.default'); print('in')"
        assert inside(code).stdout == "in\n"

    def test_the_environment_combines_the_callers_and_the_emulators(self) -> None:
        code = "import os; print(os.environ['MINE'], os.environ['https_proxy'] != 'http://theirs', os.environ['AZUREML_WORKSPACE'])"
        done = inside(code, environment=dict(os.environ) | {"MINE": "kept", "https_proxy": "http://theirs"})
        assert done.stdout == "kept True ws-emulator\n"

    def test_contacted_hosts_are_written(self, tmp_path: Path) -> None:
        code = """
import requests
requests.get("https://eastus.api.azureml.ms/discovery")
try:
    requests.get("https://huggingface.co")
except requests.exceptions.ProxyError:
    print("refused")
"""
        assert inside(code, "--hosts", str(tmp_path / "hosts")).stdout == "refused\n"
        assert (tmp_path / "hosts").read_text() == "eastus.api.azureml.ms allowed\nhuggingface.co refused\n"

    def test_faults_are_injected(self) -> None:
        code = "import requests; print([requests.get('https://eastus.api.azureml.ms/discovery').status_code for _ in range(3)])"
        assert inside(code, "--fault", "503@api GET x1", "--fault", "429@api").stdout == "[429, 503, 200]\n"

    def test_verbose_writes_a_line_per_request(self) -> None:
        code = """
import requests
requests.get("https://eastus.api.azureml.ms/discovery?secret=1")
requests.get("https://eastus.api.azureml.ms/nowhere")
try:
    requests.get("https://huggingface.co/x")
except requests.exceptions.ProxyError:
    pass
"""
        assert inside(code).stderr == ""
        lines = inside(code, "--verbose").stderr.splitlines()
        expected = [
            r"GET eastus\.api\.azureml\.ms /discovery 200",
            r"GET eastus\.api\.azureml\.ms /nowhere 501",
            r"CONNECT huggingface\.co - 403",
        ]
        assert len(lines) == len(expected), lines
        for line, pattern in zip(lines, expected, strict=True):
            assert re.fullmatch(rf"\d\d:\d\d:\d\d\.\d{{3}} {pattern} \d+ ms", line), line

    def test_state_is_kept_only_with_the_option(self, tmp_path: Path) -> None:
        code = "import os; print(os.path.dirname(os.environ['REQUESTS_CA_BUNDLE']))"
        folder = Path(inside(code).stdout.strip())
        assert not folder.exists()
        done = inside(code, "--state", str(tmp_path / "state"))
        assert Path(done.stdout.strip()) == tmp_path / "state"
        assert (tmp_path / "state" / "emulator.db").exists()

    def test_a_missing_command_exits_with_127(self) -> None:
        done = run(*TINY, "--", "no-such-command-anywhere")
        assert (done.returncode, done.stderr) == (127, "no-such-command-anywhere: No such file or directory\n")

    def test_a_signal_that_kills_the_command_is_the_exit_status(self) -> None:
        assert inside("import os; os.kill(os.getpid(), 9)").returncode == 137

    @pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
    def test_signals_are_forwarded(self, background: Callable[[Sequence[str]], subprocess.Popen[str]], number: int) -> None:
        code = """
import signal, sys, time
for number in (1, 2, 15):
    signal.signal(number, lambda received, _: sys.exit(received + 50))
print("up", flush=True)
time.sleep(600)
"""
        process = background(["--", sys.executable, "-c", code])
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        members = family(process.pid)
        process.send_signal(number)
        assert process.wait(timeout=60) == number + 50
        wait_until(lambda: not alive(members))

    def test_a_killed_emulator_leaves_no_process(self, background: Callable[[Sequence[str]], subprocess.Popen[str]]) -> None:
        process = background(["--", sys.executable, "-c", "import time; print('up', flush=True); time.sleep(600)"])
        assert process.stdout is not None
        process.stdout.readline()
        # The emulator, the command and MLflow, each of the last two with its guard. MLflow starts last.
        wait_until(lambda: len(family(process.pid)) >= 5)
        members = family(process.pid)
        process.kill()
        wait_until(lambda: not alive(members))


class TestServe:
    """``serve --state DIR``."""

    def test_it_runs_until_it_is_stopped(self, tmp_path: Path, background: Callable[[Sequence[str]], subprocess.Popen[str]]) -> None:
        state = tmp_path / "a state"
        variables = state / "env"
        code = "import os; print(os.environ['AZURE_CLIENT_ID'], os.environ['HTTPS_PROXY'])"
        outputs = []
        for _ in range(2):
            process = background(["serve", "--state", str(state)])
            assert process.stdout is not None
            assert "is running" in process.stdout.readline()
            assert f"'{variables}'" in process.stdout.readline()
            assert "http://127.0.0.1:" in process.stdout.readline()
            assert variables.stat().st_mode & 0o777 == 0o600
            assert state.stat().st_mode & 0o777 == 0o700
            readable = [path for path in state.rglob("*") if path.is_file() and path.stat().st_mode & 0o077]
            assert readable == [], "the state contains secrets"
            outputs.append(
                subprocess.check_output(["sh", "-c", f'. "$1" && {sys.executable} -c "{code}"', "sh", str(variables)], text=True).split()
            )
            members = family(process.pid)
            process.terminate()
            assert process.wait(timeout=60) == 0
            assert not variables.exists()
            wait_until(lambda: not alive(members))  # noqa: B023 - called immediately
        assert outputs[0][0] == outputs[1][0]

    def test_only_one_emulator_uses_a_state(self, tmp_path: Path, background: Callable[[Sequence[str]], subprocess.Popen[str]]) -> None:
        process = background(["serve", "--state", str(tmp_path)])
        assert process.stdout is not None
        process.stdout.readline()
        done = run("serve", "--state", str(tmp_path))
        assert (done.returncode, "Another emulator is using" in done.stderr) == (1, True)

    def test_a_port_in_use_is_refused(self, tmp_path: Path, background: Callable[[Sequence[str]], subprocess.Popen[str]]) -> None:
        process = background(["serve", "--state", str(tmp_path / "1")])
        assert process.stdout is not None
        process.stdout.readline()
        proxy = next(line for line in (tmp_path / "1" / "env").read_text().splitlines() if "HTTPS_PROXY" in line)
        done = run(*TINY, "--port", proxy.rpartition(":")[2], "--", "true")
        assert (done.returncode, "Choose another --port" in done.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "enter a command after --"),
        (["--"], "enter a command after --"),
        (["serve"], "serve takes --state"),
        (["serve", "--state", "x", "--", "true"], "no command"),
        (["--catalog", "curent", "--", "true"], "invalid choice"),
        (["--fault", "job-faild", "--state", "x", "--", "true"], "did you mean 'job-failed'"),
    ],
)
def test_invalid_arguments_are_refused(arguments: list[str], text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    monkeypatch.chdir(tmp_path)
    done = run(*arguments)
    assert (done.returncode, text in done.stderr) == (2, True)
    assert list(tmp_path.iterdir()) == []


def test_help_is_fast_and_faults_are_listed() -> None:
    # It is fast because it doesn't import these.
    code = "import sys, mlops.emulator.__main__; print(sorted({'uvicorn', 'azure', 'mlflow', 'torch', 'pydantic'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
    assert "serve --state DIR" in run("--help").stdout
    assert "deployment-unhealthy" in run("--faults").stdout


def test_roles_come_from_a_file(tmp_path: Path) -> None:
    roles = tmp_path / "roles.yaml"
    roles.write_text("assignments: [{role: Readr, scope: workspace}]")
    process = inside("pass", "--roles", str(roles))
    assert (process.returncode, process.stdout) == (1, "")
    assert "there is no role 'Readr' (did you mean 'Reader'?)" in process.stderr
    roles.write_text("assignments: [{role: AzureML Data Scientist, scope: workspace}]")
    process = inside(
        "import os\nfrom azure.ai.ml import MLClient\nfrom azure.identity import EnvironmentCredential\n"
        "ml = MLClient(EnvironmentCredential(), *(os.environ[f'{name}'] for name in"
        " ('AZURE_SUBSCRIPTION_ID', 'AZUREML_RESOURCE_GROUP', 'AZUREML_WORKSPACE')))\n"
        "print(ml.workspaces.get().location)\n"
        "try:\n    list(ml.compute.list_sizes())\nexcept Exception as problem:\n    print(problem.status_code)",
        "--roles",
        str(roles),
    )
    assert process.stdout.split() == ["eastus", "403"], process.stderr
