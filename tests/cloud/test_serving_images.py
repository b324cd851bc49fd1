"""Whether the serving image can load what the training environment saves."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mlops.cloud.serving_images import IMAGES, TRAININGS, can_load, check_images
from mlops.core.settings import Config
from mlops.emulator.component import spec
from mlops.emulator.registry import catalog

ENVIRONMENTS = "azureml://registries/azureml/environments"
VLLM = f"{ENVIRONMENTS}/foundation-model-inference/versions/93"
NEWER = f"training.component_version = '0.0.82'\nevaluation.environment = '{ENVIRONMENTS}/acft-hf-nlp-gpu/versions/112'\n"


@pytest.mark.parametrize(
    ("toml", "findings"),
    [
        ("", []),
        (NEWER, [("endpoint.image.incompatible", "error")]),
        (
            NEWER + f"endpoint.environment = '{ENVIRONMENTS}/foundation-model-inference/versions/87'",
            [("endpoint.image.incompatible", "error")],
        ),
        (NEWER + f"endpoint.environment = '{VLLM}'", []),
        (f"endpoint.environment = '{VLLM.upper()}'", []),
        (
            "training.component_version = '0.0.82'",
            [("endpoint.image.incompatible", "error"), ("evaluation.environment.incompatible", "error")],
        ),
        ("training.component_version = '0.0.99'", [("endpoint.image.unknown", "error")]),
        ("training.component = 'my_pipeline'", [("endpoint.image.unknown", "error")]),
        ("endpoint.environment = 'azureml:mine:1'", [("endpoint.image.unknown", "error")]),
        ("endpoint = {environment = 'azureml:mine:1', allow_unknown_image = true}", [("endpoint.image.unknown", "warning")]),
        # What is known not to work stays an error.
        (NEWER + "endpoint.allow_unknown_image = true", [("endpoint.image.incompatible", "error")]),
    ],
)
def test_pairs(toml: str, findings: list[tuple[str, str]], settings: Callable[..., Config]) -> None:
    config = settings(toml)
    assert [
        (finding.rule, finding.severity) for finding in check_images(config, config.training.component_version, config.locate)
    ] == findings


def test_an_incompatible_pair_says_what_fits(settings: Callable[..., Config]) -> None:
    config = settings(NEWER)
    (finding,) = check_images(config, "0.0.82", config.locate)
    assert "0.0.82 saves models with transformers 5.3.0" in finding.message
    assert f"endpoint.environment to {VLLM}" in finding.message
    assert finding.message.endswith("training.component_version to 0.0.81")


def test_a_reader_reads_its_own_major_version_and_older_ones() -> None:
    assert can_load("4.55.0", "4.46")
    assert can_load("4.55.0", "5.3.0")
    assert not can_load("5.0.0", "4.57.1")
    assert can_load("9.0", "10.1")


def test_the_emulator_has_the_same_components_and_images() -> None:
    """What validate takes for compatible starts in the emulator, and the rest fails there as on Azure."""
    trainings = {version: (training.environment, training.transformers) for training in TRAININGS for version in training.versions}
    emulated = {version: (release.environment, release.transformers) for version, release in spec.RELEASES.items()}
    assert emulated.items() <= trainings.items()
    images = {image.environment: image.transformers for image in IMAGES}
    assert images == {"": catalog.DEFAULT_IMAGE_TRANSFORMERS, **catalog.SERVING_IMAGES}
