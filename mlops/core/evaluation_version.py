"""The version of an evaluation: a digest over the scoring code and over the settings that may change a score."""

from __future__ import annotations

from pathlib import Path

from mlops.core.records import Validated
from mlops.core.reuse import reuse_key
from mlops.core.run import file_sha256
from mlops.core.settings import Config

__all__ = ["EXCLUDED", "evaluation_version", "scoring_code"]

_CODE = Path(__file__).parents[1] / "remote"

EXCLUDED = {
    "evaluation.target_rows": "the key contains the digest of every suite",
    "evaluation.retention_suite": "the key contains the digest of every suite",
    "evaluation.retention_rows": "the key contains the digest of every suite",
    "evaluation.judge": "it compares answers after the models are scored",
    "evaluation.champion_endpoint": "selects the model, whose id is in the key",
    "compute.name": "the same VM size under another name gives the same scores; the version contains compute.trusted",
    "compute.size": "the version contains the actual size of the cluster",
    "compute.min_instances": "the number of idle nodes",
    "compute.max_instances": "the maximum number of nodes; a scoring job uses one",
    "compute.allow_low_priority": "low-priority nodes give the same scores, only later",
    "compute.idle_seconds": "when an idle node is released",
    "compute.price_per_hour_usd": "only for the cost estimate",
}
"""Settings that don't affect a model's scores, and why."""


def evaluation_version(config: Config, validated: Validated) -> str:
    """Return the sha256 over the code in mlops/remote and every setting that may change a score."""
    return reuse_key(
        {"evaluation": config.evaluation, "compute": config.compute},
        EXCLUDED,
        code={path.name: file_sha256(path) for path in scoring_code()},
        compute_size=validated.compute_size,
    )


def scoring_code() -> list[Path]:
    """Return the files that run on the compute: the package ``mlops.remote``."""
    return sorted(_CODE.glob("*.py"))
