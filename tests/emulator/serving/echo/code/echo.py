"""An MLflow model that needs no weights: it says its name and the question again.

Questions that it takes as orders: ``sleep SECONDS``, ``fail``, ``die``.
"""

from __future__ import annotations

import os
import time
from typing import Any


class Echo:
    """The model. Its name is the environment variable ``NAME`` of the deployment."""

    def predict(self, payload: dict[str, Any], params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Answer each conversation in ``input_string``."""
        return {"output": [self._answer(conversation[-1]["content"]) for conversation in payload["input_string"]]}

    def _answer(self, question: str) -> str:
        order, _, rest = question.partition(" ")
        if order == "sleep":
            time.sleep(float(rest))
        elif order == "fail":
            raise ValueError("told to fail")
        elif order == "die":
            os._exit(9)
        return f"{os.environ.get('NAME', '')}: {question}"


def _load_pyfunc(_: str) -> Echo:
    return Echo()
