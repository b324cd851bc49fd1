"""An endpoint with two models, and evaluations against it."""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mlops.cloud import watch
from mlops.cloud.workspace import Workspace
from mlops.core import evaluation_version
from mlops.core.config import load
from mlops.core.settings import Config, EndpointConfig
from mlops.emulator.server import Emulator
from tests.support.evaluation import ENDPOINT, FINGERPRINT_OF_OTHER_DATA, MODEL_NAME, VERSIONS, Evaluation, Make, write_scorer

Settings = Callable[..., Config]
Open = Callable[[Config], Workspace]
TOML = """
[targets.test.endpoint]
ephemeral = true
name = "{endpoint}"
[targets.test.training]
experiment = "{experiment}"
"""


@pytest.fixture(scope="package")
def endpoint(shared_emulator: Emulator, trained_job: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """An endpoint with two models: ``blue``, trained on other data, and ``green``, whose data is unknown. No traffic."""
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("default")
        for name, value in shared_emulator.environment().items():
            patch.setenv(name, value)
        path = tmp_path_factory.mktemp("endpoint") / "pipeline.toml"
        path.write_text("[targets.test]\n")
        workspace = Workspace.open(load(path, "test"))
        settings = EndpointConfig(name=ENDPOINT, probe_initial_delay_s=1)
        workspace.endpoints.create(settings, {})
        for name, tags in {"blue": {"mlops.data_fingerprint": FINGERPRINT_OF_OTHER_DATA}, "green": {}}.items():
            output = f"azureml://jobs/{trained_job}/outputs/trained_model"
            model = workspace.assets.register_model(name=MODEL_NAME, version=VERSIONS[name], path=output, description="", tags=tags)
            workspace.endpoints.deploy(settings, name, model.id, {})
        yield ENDPOINT
        workspace.endpoints.delete(ENDPOINT)


@pytest.fixture
def make(
    inside: Emulator,
    endpoint: str,
    trained_job: str,
    settings: Settings,
    open_workspace: Open,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Make:
    """Build evaluations for this test only: ``make(role="what its scoring does", live="blue")``."""
    monkeypatch.setattr(watch, "FIRST_POLL_S", 0.05)
    monkeypatch.setattr(evaluation_version, "_CODE", tmp_path / "scorer")
    experiment = f"evaluate-{zlib.crc32(request.node.nodeid.encode())}"

    def build(*overrides: str, live: str = "", folder: str = "run", at: str = endpoint, **how: str) -> Evaluation:
        write_scorer(tmp_path / "scorer", experiment, how)
        config = settings(TOML.format(endpoint=at, experiment=experiment), *overrides)
        evaluation = Evaluation(tmp_path / folder, config, open_workspace(config), inside, trained_job)
        evaluation.traffic(**({live: 100} if live else {}))
        return evaluation

    return build
