"""Mutation testing of ``mlops/judging``: how many small faults in the gate's code do the tests notice?

    python -m benchmarks.mutants baseline STATE                # once: which test executes which line (takes minutes)
    python -m benchmarks.mutants run STATE --sample 300        # continues where it was interrupted
    python -m benchmarks.mutants report STATE

A mutant is the source of one file with one change: another comparison, operator, number, Boolean, branch or name, or a statement or an
argument that is left out. Texts for readers, type hints, assertions and the arguments of exceptions stay as they are. Each mutant runs in a
forked process, against the tests that execute the changed line, the fastest first, until one fails. Nothing is written to the project.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import itertools
import json
import math
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

import pytest

from benchmarks.mutations import Mutant, find_mutants, mutate

PACKAGE = Path("mlops/judging")
TESTS = ("tests/judging", "tests/test_gate.py", "tests/test_add_a_metric.py", "tests/report", "tests/cli/test_gate_queries.py")
"""The tests that execute the package. Those that need the emulator are left out: it would have to start for every mutant."""
_EMULATED = {"inside", "shared_emulator", "start_emulator", "workspace", "open_workspace"}
_PRELOADED = (
    "hypothesis.strategies", "numpy", "pandas", "scipy.special", "scipy.stats", "mlops.cloud.workspace", "mlops.dataset.checks",
    "mlops.emulator.server",
)  # fmt: skip
"""What takes long to import and does not import the package."""
_PYTEST = ("-q", "-x", "-p", "no:cacheprovider", "-p", "no:xdist", "-W", "ignore::pytest.PytestAssertRewriteWarning")
_BROKEN = 70
"""The exit code of a child in which something other than a test has failed."""


class _Recorder:
    """A pytest plugin that records which test executes which line, and how long it takes."""

    def __init__(self) -> None:
        import coverage

        self.coverage = coverage.Coverage(source=[str(PACKAGE)], data_file=None, config_file=False)
        self.seconds: dict[str, float] = {}

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        items[:] = [item for item in items if not _EMULATED & set(getattr(item, "fixturenames", ()))]

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        self.coverage.switch_context(item.nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.seconds[report.nodeid] = self.seconds.get(report.nodeid, 0.0) + report.duration
        if report.failed:
            raise pytest.UsageError(f"{report.nodeid} fails without a mutation: {report.longreprtext}")


class _MutatedModule(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Import one module from a changed source."""

    def __init__(self, path: Path, source: str) -> None:
        self._name, self._path, self._code = ".".join(path.with_suffix("").parts), path, compile(source, str(path), "exec")

    def find_spec(self, name: str, *_: Any) -> importlib.machinery.ModuleSpec | None:
        return importlib.util.spec_from_loader(name, self, origin=str(self._path)) if name == self._name else None

    def exec_module(self, module: ModuleType) -> None:
        exec(self._code, module.__dict__)  # noqa: S102


def in_child(function: Callable[[], int], seconds: float) -> int:
    """Run a function in a forked process without output, and return its exit code, or -1 after so many seconds."""
    if not (child := os.fork()):
        null = os.open(os.devnull, os.O_RDWR)
        for stream in (0, 1, 2):
            os.dup2(null, stream)
        code = _BROKEN
        with contextlib.suppress(BaseException):
            code = function()
        os._exit(code)
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return -1


def baseline(state: Path) -> None:
    """Store for every test how long it takes, and for every line by which tests it is executed."""

    def record() -> int:
        recorder = _Recorder()
        recorder.coverage.start()
        code = pytest.main([*_PYTEST, *TESTS, f"--basetemp={state / 'tmp'}"], plugins=[recorder])
        recorder.coverage.stop()
        data = recorder.coverage.get_data()
        lines = {path: data.contexts_by_lineno(str(path.resolve())) for path in PACKAGE.rglob("*.py")}
        named = {str(path): {line: sorted(filter(None, tests)) for line, tests in by_line.items()} for path, by_line in lines.items()}
        (state / "baseline.json").write_text(json.dumps({"seconds": recorder.seconds, "lines": named}))
        return int(code)

    if code := in_child(record, 3600):
        raise SystemExit(f"the tests fail without any mutation (exit code {code})")


def select_tests(covering: dict[str, float], budget: float) -> list[str]:
    """Return the tests that fit into the budget of seconds, the fastest first."""
    by_duration = sorted(covering.items(), key=lambda test: test[1])
    totals = itertools.accumulate(duration for _, duration in by_duration)
    return [test for (test, _), total in zip(by_duration, totals, strict=True) if total <= budget]


class _Judge:
    """A pytest plugin that runs tests against mutants instead of running them once."""

    def __init__(self, state: Path, mutants: Sequence[Mutant], covering: Callable[[Mutant], dict[str, float]], budget: float) -> None:
        self.failed = False
        self._state, self._mutants, self._covering, self._budget = state, mutants, covering, budget

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        self.failed = self.failed or report.failed

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        items = {item.nodeid: item for item in session.items}
        with (self._state / "results.jsonl").open("a") as file:
            for mutant in self._mutants:
                covering = self._covering(mutant)
                tests = [items[test] for test in select_tests(covering, self._budget) if test in items]
                result = self._judge(mutant, tests, covering) if tests else "untested"
                file.write(json.dumps({**mutant._asdict(), "result": result}) + "\n")
                file.flush()
        return True

    def _judge(self, mutant: Mutant, tests: Sequence[pytest.Item], covering: dict[str, float]) -> str:
        def run_tests() -> int:
            if mutant.function:
                replace_code(mutant)
            for test, following in itertools.zip_longest(tests, tests[1:]):
                test.config.hook.pytest_runtest_protocol(item=test, nextitem=following)
                if self.failed:
                    return 1
            return 0

        code = in_child(run_tests, 60 + 6 * sum(covering[test.nodeid] for test in tests))
        if code == _BROKEN:
            raise RuntimeError(f"{mutant} can't be made")
        return {0: "survived" if len(tests) == len(covering) else "doubtful", -1: "timeout"}.get(code, "killed")


def replace_code(mutant: Mutant) -> None:
    """Replace the code of the one function that a mutant changes, wherever it has been imported."""
    path = Path(mutant.path)
    codes = [compile(mutate(path.read_text(), mutant.number), mutant.path, "exec")]
    for code in codes:
        codes += [each for each in code.co_consts if isinstance(each, CodeType)]
    function: Any = importlib.import_module(".".join(path.with_suffix("").parts))
    for name in mutant.function.split("."):
        function = vars(function)[name]
    function = getattr(function, "fget", None) or getattr(function, "func", None) or getattr(function, "__func__", function)
    inspect.unwrap(function).__code__ = next(code for code in codes if code.co_qualname == mutant.function)


def run(state: Path, sample: int, seed: int, budget: float) -> None:
    """Judge a random sample of all mutants, and append the results to a file."""
    recorded = json.loads((state / "baseline.json").read_text())
    mutants = [mutant for path in sorted(PACKAGE.rglob("*.py")) for mutant in find_mutants(path)]
    done = {(result["path"], result["number"]) for result in read_results(state) if result["result"] != "doubtful" or budget < math.inf}
    sampled = random.Random(seed).sample(mutants, min(sample, len(mutants)))  # noqa: S311
    chosen = [mutant for mutant in sampled if (mutant.path, mutant.number) not in done]

    def covering(mutant: Mutant) -> dict[str, float]:
        lines = recorded["lines"][mutant.path]
        # What only an import executes counts for all tests of the file.
        tests = (mutant.function and lines.get(str(mutant.line))) or {test for names in lines.values() for test in names}
        return {test: recorded["seconds"][test] for test in tests if test in recorded["seconds"]}

    # Whatever is outside of functions takes effect when it is imported, so each of these mutants needs an interpreter without the package.
    sessions = [[mutant for mutant in chosen if mutant.function], *([mutant] for mutant in chosen if not mutant.function)]
    for session in filter(None, sessions):

        def judge(session: Sequence[Mutant] = session) -> int:
            if not session[0].function:
                sys.meta_path.insert(0, _MutatedModule(Path(session[0].path), mutate(Path(session[0].path).read_text(), session[0].number)))
            plugin = _Judge(state, session, covering, budget)
            return int(pytest.main([*_PYTEST, *TESTS, f"--basetemp={state / 'tmp'}"], plugins=[plugin]))

        code = in_child(judge, math.inf)
        if code == _BROKEN:
            raise SystemExit(f"{session[0]} or a later mutant can't be made")
        if code and not session[0].function:
            # The tests can't even be imported.
            with (state / "results.jsonl").open("a") as file:
                file.write(json.dumps({**session[0]._asdict(), "result": "killed"}) + "\n")


def read_results(state: Path) -> list[dict[str, Any]]:
    """Return the results so far."""
    path = state / "results.jsonl"
    results = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    # The last result of a mutant counts.
    return list({(result["path"], result["number"]): result for result in results}.values())


def report(state: Path) -> Iterator[str]:
    """Yield the counts, and the mutants that no test has noticed."""
    results = read_results(state)
    yield f"{len(results)} mutants: {dict(Counter(result['result'] for result in results))}"
    for result in sorted(results, key=lambda result: (result["path"], result["line"])):
        if result["result"] in ("survived", "untested", "doubtful"):
            yield f"{result['result']}  {result['path']}:{result['line']}  {result['change']}"


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one of the three commands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("command", choices=["baseline", "run", "report"])
    parser.add_argument("state", type=Path, help="a folder outside the project")
    parser.add_argument("--sample", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--budget", type=float, default=math.inf, help="seconds of tests per mutant; without it all tests, also of doubtful ones"
    )
    options = parser.parse_args(arguments)
    options.state.mkdir(parents=True, exist_ok=True)
    if options.command == "report":
        sys.stdout.write("\n".join(report(options.state)) + "\n")
        return
    for name in _PRELOADED:
        importlib.import_module(name)
    import hypothesis

    hypothesis.settings.register_profile("mutants", database=None, derandomize=True)
    hypothesis.settings.load_profile("mutants")
    if options.command == "baseline":
        baseline(options.state)
    else:
        run(options.state, options.sample, options.seed, options.budget)


if __name__ == "__main__":
    main()
