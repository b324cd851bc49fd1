"""MLflow of the workspace, through azureml-mlflow, as ourselves."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from mlops.cloud.errors import translated
from mlops.cloud.run_history import RunHistory
from mlops.cloud.session import Session

__all__ = ["Tracking"]


class Tracking:
    """Reads and tags the workspace's MLflow runs. Use it as ``workspace.tracking``."""

    def __init__(self, session: Session, history: RunHistory) -> None:
        self._session = session
        self._history = history
        self._client: Any = None

    @property
    def client(self) -> Any:
        """An ``mlflow.MlflowClient`` on the workspace's tracking URI.

        Left alone, azureml-mlflow builds a credential of its own, which may wait for a device-code log-in where nobody sits. It looks
        for a context by tracking URI first, so we put one there that carries the credential we have checked.
        """
        if self._client is None:
            import mlflow
            from azureml.mlflow._common._cloud.cloud import KNOWN_CLOUDS
            from azureml.mlflow._internal.service_context_loader import _AzureMLServiceContextLoader
            from azureml.mlflow._internal.utils import ServiceContext

            uri, at = self._session.tracking_uri, self._session.coordinates
            context = ServiceContext(
                host_url=f"https://{urlsplit(uri).netloc}",
                subscription_id=at["subscription_id"],
                resource_group_name=at["resource_group"],
                workspace_name=at["name"],
                auth=self._session.credential,
                cloud=KNOWN_CLOUDS["AzureCloud"],
            )
            _AzureMLServiceContextLoader.add_service_context(uri, context)
            self._client = mlflow.MlflowClient(tracking_uri=uri)
        return self._client

    def metrics(self, run: str, expected: Iterable[str] = (), patience_s: float = 60.0) -> dict[str, float]:
        """Return the last value of each metric of a run: those of the root run, or of its children where the root has none.

        Metrics can arrive after a job has ended: waits up to ``patience_s`` for ``expected`` (or for any metric) and returns what is there.
        """
        wanted, deadline = set(expected), time.monotonic() + patience_s
        while True:
            found = self._metrics_once(run, wanted)
            if (found and wanted <= found.keys()) or time.monotonic() >= deadline:
                return found
            time.sleep(min(5.0, max(0.1, patience_s / 10)))

    def _metrics_once(self, run: str, wanted: set[str]) -> dict[str, float]:
        with translated(f"reading the metrics of {run} from MLflow"):
            found = dict(self.client.get_run(run).data.metrics)
        if found and wanted <= found.keys():
            return found
        # Some components log on the step's run only. The root's own values win.
        for child in self._history.descendants(run):
            with translated(f"reading the metrics of {child.run} from MLflow"):
                found = {**self.client.get_run(child.run).data.metrics, **found}
        return found

    def tagged(self, experiment: str, tag: str, values: Iterable[str], most: int) -> dict[str, dict[str, str]]:
        """Runs of an experiment whose tag has one of these values: run → its tags. Of each value the ``most`` that were begun last.

        An experiment that does not exist has no runs.
        """
        with translated(f"searching the runs of experiment {experiment} in MLflow"):
            known = self.client.get_experiment_by_name(experiment)
            if known is None:
                return {}
            found = [
                run
                for value in values
                for run in self.client.search_runs(
                    [known.experiment_id], f"tags.{tag} = '{value}'", max_results=most, order_by=["attributes.start_time DESC"]
                )
            ]
        return {run.info.run_id: dict(run.data.tags) for run in found}

    def set_tags(self, run: str, tags: dict[str, str]) -> None:
        """Put tags on a run."""
        with translated(f"tagging {run} in MLflow"):
            for key, value in tags.items():
                self.client.set_tag(run, key, value)
