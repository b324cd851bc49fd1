"""Whether the image that will serve a model can load what the training environment saves.

transformers 5 writes a checkpoint's configuration in a form that transformers 4 doesn't read. A deployment of such a model behind an older
image never becomes healthy, which would only be noticed after the training is paid for. The tables list the known pairs and when they were
checked; docs/serving.md shows them.

Sources: Azure/azureml-assets, ``assets/training/finetune_acft_hf_nlp`` (components, requirements of ``acft-hf-nlp-gpu``) and
``assets/training/model_management/environments/foundation-model-inference`` (releases of llm-optimized-inference); the requirements of
these releases and of vLLM on PyPI.
"""

from __future__ import annotations

from dataclasses import dataclass

from mlops.cloud.preflight import Locate, make_finding
from mlops.core.records import Finding
from mlops.core.settings import Config

__all__ = ["CHECKED", "IMAGES", "TRAININGS", "Image", "Training", "can_load", "check_images", "tables"]

CHECKED = "2026-07-23"
"""Date of the newest source of the tables."""

_ENVIRONMENTS = "azureml://registries/azureml/environments"


@dataclass(frozen=True)
class Training:
    """Versions of the component ``chat_completion_pipeline`` that save their models with the same transformers."""

    versions: tuple[str, ...]
    environment: str
    transformers: str


@dataclass(frozen=True)
class Image:
    """An image that serves models."""

    environment: str
    """The value of ``endpoint.environment``; empty for the image that Azure uses for an MLflow model without code."""
    transformers: str
    """The oldest version of transformers that it may contain."""
    contents: str


TRAININGS = (
    Training(("0.0.78", "0.0.79", "0.0.80", "0.0.81"), f"{_ENVIRONMENTS}/acft-hf-nlp-gpu/versions/105", "4.55.0"),
    Training(("0.0.82",), f"{_ENVIRONMENTS}/acft-hf-nlp-gpu/versions/112", "5.3.0"),
)
IMAGES = (
    Image("", "4.46", "transformers 4.46, vLLM 0.6.1"),
    Image(f"{_ENVIRONMENTS}/foundation-model-inference/versions/87", "4.56.0", "vLLM 0.13.0, with a transformers from 4.56 to before 5"),
    Image(f"{_ENVIRONMENTS}/foundation-model-inference/versions/93", "5.5.1", "vLLM 0.20.2, with transformers 5.5.1 or newer"),
    Image(f"{_ENVIRONMENTS}/foundation-model-inference/versions/94", "5.5.1", "vLLM 0.22.0, with transformers 5.5.1 or newer"),
)


def can_load(saved: str, reader: str) -> bool:
    """Return whether one version of transformers reads the checkpoints of another: that of its own major version, and older ones."""
    return int(saved.partition(".")[0]) <= int(reader.partition(".")[0])


def check_images(config: Config, version: str, locate: Locate) -> list[Finding]:
    """Check that the serving image, and the environment of the scoring jobs, can load the trained model.

    A pair that is not in the tables is an error, or a warning with ``endpoint.allow_unknown_image``.

    Args:
        config: the settings.
        version: of the component; ``training.component_version`` may be ``latest``.
        locate: where a setting comes from.
    """
    component = config.training.component
    chosen = config.endpoint.environment
    training = next((each for each in TRAININGS if version in each.versions), None) if component == "chat_completion_pipeline" else None
    image = next((each for each in IMAGES if each.environment.lower() == chosen.lower()), None)
    where = locate("endpoint.environment")
    if training is None or image is None:
        unknown = [f"{component} {version}"] * (training is None) + [chosen or "the default image"] * (image is None)
        message = (
            f"It is unknown which transformers {' and '.join(unknown)} contains (checked {CHECKED}), so the deployment may fail after the"
            " training is paid for. Known pairs: docs/serving.md. Set endpoint.allow_unknown_image = true to try it"
        )
        return [make_finding("endpoint.image.unknown", where, message, "warning" if config.endpoint.allow_unknown_image else "error")]
    findings = []
    saved = f"{component} {version} saves models with transformers {training.transformers}"
    if not can_load(training.transformers, image.transformers):
        newer = [each.environment for each in IMAGES if can_load(training.transformers, each.transformers)]
        older = [each.versions[-1] for each in TRAININGS if can_load(each.transformers, image.transformers)]
        message = (
            f"{saved}, which {chosen or 'the default serving image'} can't load ({image.contents}), so the deployment would fail."
            f" Set endpoint.environment to {' or '.join(newer)}, or training.component_version to {older[-1]}"
        )
        findings.append(make_finding("endpoint.image.incompatible", where, message))
    scoring = next((each for each in TRAININGS if each.environment.lower() == config.evaluation.environment.lower()), None)
    if scoring is not None and not can_load(training.transformers, scoring.transformers):
        message = f"{saved}, which {scoring.environment} can't load (transformers {scoring.transformers}). Set it to {training.environment}"
        findings.append(make_finding("evaluation.environment.incompatible", locate("evaluation.environment"), message))
    return findings


def tables() -> str:
    """Return the tables in Markdown, for the documentation."""
    rows = ["| component version | environment | saves models with | which these images can load |", "|---|---|---|---|"]
    for training in TRAININGS:
        images = [_name(each) for each in IMAGES if can_load(training.transformers, each.transformers)]
        versions = ", ".join(f"`{version}`" for version in training.versions)
        environment = training.environment.removeprefix(f"{_ENVIRONMENTS}/").replace("/versions/", " ")
        rows.append(f"| {versions} | {environment} | transformers {training.transformers} | {', '.join(images)} |")
    rows += ["", "| serving image (`endpoint.environment`) | contents |", "|---|---|"]
    rows += [f"| {f'`{each.environment}`' if each.environment else 'empty'} | {_name(each)}: {each.contents} |" for each in IMAGES]
    return "\n".join([f"Checked on {CHECKED}.", "", *rows])


def _name(image: Image) -> str:
    return image.environment.removeprefix(f"{_ENVIRONMENTS}/").replace("/versions/", " ") or "default image"
