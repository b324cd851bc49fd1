"""Run one step of the emulated component.

    python -m mlops.emulator.component STEP SPEC.json

Exit code 0, or 1 with ``error.json`` in the working folder: ``{"code", "message", "inner"}``.
"""

from __future__ import annotations

import importlib
import json
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from pathlib import Path

from mlops.core import console
from mlops.emulator.base import libraries
from mlops.emulator.component.failures import StepError
from mlops.emulator.component.step import Step

__all__ = ["STEPS", "main"]

STEPS = {
    "ft_nlp_common_validation": "validation",
    "chat_completion_model_import": "model_import",
    "chat_completion_datapreprocess": "preprocess",
    "chat_completion_finetune": "finetune",
    "ft_nlp_model_converter": "converter",
}
"""Node → the module with its code. Only the module of the running step is imported: a single one needs torch."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run a step and return its exit code."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    if len(arguments) != 2 or arguments[0] not in STEPS:
        console.error(f"usage: python -m mlops.emulator.component {{{','.join(STEPS)}}} SPEC.json")
        return 2
    libraries.configure()
    # transformers warns about how peft calls it; readers of the job's log can't fix that.
    warnings.filterwarnings("ignore", message=".*is_gradient_checkpointing.*", category=FutureWarning)
    start = time.monotonic()
    try:
        importlib.import_module(f"mlops.emulator.component.{STEPS[arguments[0]]}").run(Step.read(Path(arguments[1])))
    except Exception as problem:
        traceback.print_exc()
        _write_error(problem)
        return 1
    console.info(f"{arguments[0]}: done in {time.monotonic() - start:.1f} s")
    return 0


def _write_error(problem: Exception) -> None:
    """Write error.json, which becomes the job's error."""
    if isinstance(problem, StepError):
        error = {"code": problem.code, "message": problem.message, "inner": problem.inner}
    else:
        error = {"code": "SystemError", "message": f"{type(problem).__name__}: {problem}", "inner": "InternalServerError"}
    Path("error.json").write_text(json.dumps(error, indent=2), encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
