"""A step's inputs and outputs, read from the file that its command line names.

{"inputs": {"learning_rate": "5e-06", "train_file_path": "/…/train.jsonl"}, "outputs": {"output_dir": "/…/out"}, "transformers": "5.3.0"}
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from mlops.emulator.component.failures import SystemFailure, UserError
from mlops.emulator.component.spec import INPUTS

__all__ = ["Step"]


@dataclass(frozen=True)
class Step:
    """Inputs and outputs of one step. A missing literal has the component's default.

    ``transformers`` is the version in the environment that the step emulates; this machine's is newer.
    """

    inputs: Mapping[str, str]
    outputs: Mapping[str, Path]
    transformers: str = ""

    @classmethod
    def read(cls, path: Path) -> Step:
        """Read a file.

        Raises:
            SystemFailure: the file does not have the form above.
        """
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
            inputs = {str(name): str(value) for name, value in document["inputs"].items()}
            outputs = {str(name): Path(value) for name, value in document["outputs"].items()}
            return cls(inputs, outputs, str(document.get("transformers", "")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as problem:
            raise SystemFailure(f"{path} is not a step's specification: {problem!r}") from problem

    def text(self, name: str) -> str:
        """Return a string literal."""
        value = self.inputs.get(name, INPUTS[name].default if name in INPUTS else None)
        if value is None:
            raise UserError(f"Input {name} is required, but missing.")
        return value

    def integer(self, name: str) -> int:
        """Return an integer literal."""
        try:
            return int(self.text(name))
        except ValueError:
            raise UserError(f"Input {name}: {self.text(name)!r} is not an integer.") from None

    def number(self, name: str) -> float:
        """Return a number literal."""
        try:
            return float(self.text(name))
        except ValueError:
            raise UserError(f"Input {name}: {self.text(name)!r} is not a number.") from None

    def flag(self, name: str) -> bool:
        """Return a literal ``true`` or ``false`` as a boolean."""
        value = self.text(name)
        if value not in ("true", "false"):
            raise UserError(f"Input {name}: {value!r} is not one of true, false.")
        return value == "true"

    def path(self, name: str) -> Path | None:
        """Return the path of an asset, or None if the input is missing.

        Raises:
            UserError: the path does not exist.
        """
        value = self.inputs.get(name)
        if not value:
            return None
        path = Path(value)
        if not path.exists():
            raise UserError(f"Input {name}: {path} does not exist.", "NotFound")
        return path

    def required_path(self, name: str) -> Path:
        """Return the path of a required asset."""
        path = self.path(name)
        if path is None:
            raise UserError(f"Input {name} is required, but missing.")
        return path

    def output(self, name: str) -> Path:
        """Return the path of an output."""
        try:
            return self.outputs[name]
        except KeyError:
            raise SystemFailure(f"The specification names no output {name}.") from None
