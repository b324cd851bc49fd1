"""Where a step's metrics go: every MLflow run named in the environment, under HF Trainer's names."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["Metrics"]

# A server that is gone must fail the step soon; MLflow's own default retries for minutes.
_RETRIES = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3", "MLFLOW_HTTP_REQUEST_TIMEOUT": "20"}


class Metrics:
    """Logs to the step's run and to the root run, as the component's training callback does with ``log_metrics_at_root``.

    Args:
        uri: a tracking server, or empty for none.
        runs: MLflow run ids.
        stepless: log without a step, as with ``logging_strategy=epoch``; otherwise a (step, name) pair is logged once.
    """

    def __init__(self, uri: str, runs: Sequence[str], stepless: bool = False) -> None:
        self._runs = tuple(runs) if uri else ()
        self._stepless = stepless
        self._seen: set[tuple[int, str]] = set()
        self._client: Any = None
        if self._runs:
            for name, value in _RETRIES.items():
                os.environ.setdefault(name, value)
            from mlflow import MlflowClient

            self._client = MlflowClient(tracking_uri=uri)

    @classmethod
    def from_environment(cls, stepless: bool = False) -> Metrics:
        """To ``EMULATOR_MLFLOW_URI`` and ``EMULATOR_MLFLOW_RUNS``; nowhere if they are not set."""
        runs = [run for run in os.environ.get("EMULATOR_MLFLOW_RUNS", "").split(",") if run]
        return cls(os.environ.get("EMULATOR_MLFLOW_URI", ""), runs, stepless)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Log all values that are numbers; NaN is left out.

        Raises:
            mlflow.exceptions.MlflowException: the server refuses or is gone.
        """
        fresh = {
            name: value for name, value in values.items() if not math.isnan(value) and (self._stepless or (step, name) not in self._seen)
        }
        self._seen |= {(step, name) for name in fresh}
        if self._client is None or not fresh:
            return
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        batch = [Metric(name, float(value), now, 0 if self._stepless else step) for name, value in fresh.items()]
        for run in self._runs:
            self._client.log_batch(run, metrics=batch)
