"""A test that cancels its own step must not touch what other tests or developers run at the same time."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.support.workflows.signals import cancel_step, step_processes

WORDS = "pass # -m mlops run --from train"


def test_only_the_steps_of_this_harness_are_signaled(tmp_path: Path) -> None:
    wait = [sys.executable, "-c", f"import time; time.sleep(600); {WORDS}"]
    stores = (tmp_path / "mine", tmp_path / "theirs")
    mine, theirs = (subprocess.Popen(wait, env={**os.environ, "ARTIFACT_STORE": str(store)}, stderr=subprocess.DEVNULL) for store in stores)
    try:
        assert list(step_processes(stores[0], WORDS)) == [mine.pid]
        cancel_step(stores[0], WORDS)
        assert mine.wait(10) != 0
        assert theirs.poll() is None
    finally:
        for process in (mine, theirs):
            process.kill()
            process.wait()
