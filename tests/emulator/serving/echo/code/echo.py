"""An MLflow model without weights: it answers with its name and the question.

Some questions are commands: ``sleep SECONDS``, ``fail``, ``die``.
"""

from __future__ import annotations

import os
import time
from typing import Any


class Echo:
    """The model. Its name is the deployment's environment variable ``NAME``."""

    def predict(self, payload: dict[str, Any], params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Answer each conversation in ``input_string``."""
        return {"output": [self._answer(conversation[-1]["content"]) for conversation in payload["input_string"]]}

    def _answer(self, question: str) -> str:
        command, _, argument = question.partition(" ")
        if command == "sleep":
            time.sleep(float(argument))
        elif command == "fail":
            raise ValueError("the question was to fail")
        elif command == "die":
            os._exit(9)
        return f"{os.environ.get('NAME', '')}: {question}"


def _load_pyfunc(_: str) -> Echo:
    return Echo()
