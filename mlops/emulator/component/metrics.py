"""Metrics of a step: logged to every MLflow run named in the environment, under HF Trainer's names."""

from __future__ import annotations

import http.client
import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from urllib.parse import urlsplit

from mlops.emulator.component.failures import SystemFailure

__all__ = ["Metrics"]

ATTEMPTS = 4
TIMEOUT_S = 20.0
"""A missing server must fail the step soon."""


class Metrics:
    """Logs to the step's run and to the root run, as the component's training callback does with ``log_metrics_at_root``.

    Speaks MLflow's REST API directly: the import of ``mlflow`` would take longer than the training of a tiny model.

    Args:
        uri: the tracking server, or empty for none.
        runs: MLflow run ids.
        stepless: log without a step, as with ``logging_strategy=epoch``; otherwise a (step, name) pair is logged once.
    """

    def __init__(self, uri: str, runs: Sequence[str], stepless: bool = False) -> None:
        self._server = urlsplit(uri).netloc
        self._runs = tuple(runs) if uri else ()
        self._stepless = stepless
        self._logged: set[tuple[int, str]] = set()

    @classmethod
    def from_environment(cls, stepless: bool = False) -> Metrics:
        """Log to ``EMULATOR_MLFLOW_URI`` and ``EMULATOR_MLFLOW_RUNS``, or nowhere if they are not set."""
        runs = [run for run in os.environ.get("EMULATOR_MLFLOW_RUNS", "").split(",") if run]
        return cls(os.environ.get("EMULATOR_MLFLOW_URI", ""), runs, stepless)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log all values that are numbers; NaN is left out.

        Raises:
            SystemFailure: the server refuses the metrics or can't be reached.
        """
        new = {
            name: value for name, value in values.items() if not math.isnan(value) and (self._stepless or (step, name) not in self._logged)
        }
        self._logged |= {(step, name) for name in new}
        if not new:
            return
        now = int(time.time() * 1000)
        shown_step = 0 if self._stepless else step
        batch = [{"key": name, "value": _to_json(value), "timestamp": now, "step": shown_step} for name, value in new.items()]
        for run in self._runs:
            self._post({"run_id": run, "metrics": batch})

    def _post(self, batch: Mapping[str, object]) -> None:
        problem = ""
        for attempt in range(ATTEMPTS):
            time.sleep(attempt)
            connection = http.client.HTTPConnection(self._server, timeout=TIMEOUT_S)
            try:
                connection.request("POST", "/api/2.0/mlflow/runs/log-batch", json.dumps(batch), {"Content-Type": "application/json"})
                response = connection.getresponse()
                text = response.read().decode(errors="replace")
            except (OSError, http.client.HTTPException) as failure:
                problem = repr(failure)
                continue
            finally:
                connection.close()
            if response.status == http.HTTPStatus.OK:
                return
            problem = f"{response.status} {text}"
            if response.status < http.HTTPStatus.INTERNAL_SERVER_ERROR:
                break
        raise SystemFailure(f"The MLflow server at {self._server} does not accept the metrics: {problem}")


def _to_json(value: float) -> float | str:
    """Return a number in the form that protocol buffers have in JSON: infinity is a string."""
    return float(value) if math.isfinite(value) else "Infinity" if value > 0 else "-Infinity"
