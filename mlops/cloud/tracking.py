"""MLflow of the workspace, through azureml-mlflow, with the session's credential."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property, partial
from typing import Any
from urllib.parse import urlsplit

from mlops.cloud.errors import translate_errors
from mlops.cloud.run_history import RunHistory
from mlops.cloud.session import Session

__all__ = ["Tracking"]


class Tracking:
    """The workspace's MLflow runs. Use it as ``workspace.tracking``."""

    def __init__(self, session: Session, history: RunHistory) -> None:
        self._session = session
        self._history = history

    @cached_property
    def client(self) -> Any:
        """An ``mlflow.MlflowClient`` on the workspace's tracking URI.

        By default, azureml-mlflow builds its own credential, which may wait for a device-code login that nobody completes. It first looks
        up a context by tracking URI, so we register one with the session's credential.
        """
        import mlflow
        from azureml.mlflow._common._cloud.cloud import KNOWN_CLOUDS
        from azureml.mlflow._internal.service_context_loader import _AzureMLServiceContextLoader
        from azureml.mlflow._internal.utils import ServiceContext

        uri, workspace = self._session.tracking_uri, self._session.coordinates
        context = ServiceContext(
            host_url=f"https://{urlsplit(uri).netloc}",
            subscription_id=workspace["subscription_id"],
            resource_group_name=workspace["resource_group"],
            workspace_name=workspace["name"],
            auth=self._session.credential,
            cloud=KNOWN_CLOUDS["AzureCloud"],
        )
        _AzureMLServiceContextLoader.add_service_context(uri, context)
        return mlflow.MlflowClient(tracking_uri=uri)

    def wait_for_metrics(self, run: str, expected: Iterable[str] = (), patience_s: float = 60.0) -> dict[str, float]:
        """Return the last value of each metric of a run, including those of its children; the run's own values win.

        Metrics can arrive after a job has ended: waits up to ``patience_s`` for ``expected`` (or for any metric) and returns what exists.
        """
        names, deadline = set(expected), time.monotonic() + patience_s
        while True:
            metrics = self._read_metrics(run, names)
            if (metrics and names <= metrics.keys()) or time.monotonic() >= deadline:
                return metrics
            time.sleep(min(5.0, max(0.1, patience_s / 10)))

    def _read_metrics(self, run: str, names: set[str]) -> dict[str, float]:
        with translate_errors(f"reading the metrics of {run} from MLflow"):
            metrics = dict(self.client.get_run(run).data.metrics)
        if metrics and names <= metrics.keys():
            return metrics
        # Some components log to the step's run only.
        for child in self._history.list_descendants(run):
            with translate_errors(f"reading the metrics of {child.run} from MLflow"):
                metrics = {**self.client.get_run(child.run).data.metrics, **metrics}
        return metrics

    def find_runs(self, experiment: str, tag: str, values: Iterable[str], limit: int) -> dict[str, dict[str, str]]:
        """Return the tags of an experiment's runs whose ``tag`` has one of these values: for each value, the ``limit`` latest runs.

        An experiment that does not exist has no runs.
        """
        with translate_errors(f"searching the runs of experiment {experiment} in MLflow"):
            entity = self.client.get_experiment_by_name(experiment)
            if entity is None:
                return {}
            runs = [
                run
                for value in values
                for run in self.client.search_runs(
                    [entity.experiment_id], f"tags.{tag} = '{value}'", max_results=limit, order_by=["attributes.start_time DESC"]
                )
            ]
        return {run.info.run_id: dict(run.data.tags) for run in runs}

    def find_all_runs(self, tag: str, value: str) -> dict[str, dict[str, str]]:
        """Return the tags of the runs of all experiments whose ``tag`` has this value."""
        with translate_errors(f"searching the runs with {tag} = {value} in MLflow"):
            experiments = [experiment.experiment_id for experiment in _read_pages(self.client.search_experiments)]
            search = partial(self.client.search_runs, experiments, f"tags.{tag} = '{value}'")
            return {run.info.run_id: dict(run.data.tags) for run in _read_pages(search)} if experiments else {}

    def get_tags(self, run: str) -> dict[str, str]:
        """Return the tags of a run.

        They are not the tags of its job: those are copied to the run when the job is created, and later changes only reach one of the two.
        """
        with translate_errors(f"reading the tags of {run} in MLflow"):
            return dict(self.client.get_run(run).data.tags)

    def set_tags(self, run: str, tags: dict[str, str]) -> None:
        """Set tags on a run."""
        with translate_errors(f"tagging {run} in MLflow"):
            for key, value in tags.items():
                self.client.set_tag(run, key, value)

    def delete_tags(self, run: str, names: Iterable[str]) -> None:
        """Delete tags of a run."""
        with translate_errors(f"deleting tags of {run} in MLflow"):
            for name in names:
                self.client.delete_tag(run, name)


def _read_pages(search: Callable[..., Any]) -> Iterator[Any]:
    token: str | None = None
    while True:
        page = search(page_token=token)
        yield from page
        token = page.token
        if not token:
            return
