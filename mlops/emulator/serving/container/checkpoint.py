"""Checks whether the image that a container emulates could read a model's checkpoint.

The container runs with this machine's libraries, so a model that the real image can't load would load here. transformers 5 writes a
configuration that transformers 4 doesn't read (the rotary embedding's settings, for one).
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

__all__ = ["UnreadableCheckpoint", "check_checkpoint"]


class UnreadableCheckpoint(ValueError):
    """The image's transformers can't read the checkpoint."""


def check_checkpoint(folder: Path, transformers: str) -> None:
    """Check a model's checkpoint.

    Args:
        folder: an MLflow model.
        transformers: its version in the image; empty if the image loads no checkpoints itself.

    Raises:
        UnreadableCheckpoint: the model was saved by a newer major version.
    """
    saved = _saved_by(yaml.safe_load((folder / "MLmodel").read_text(encoding="utf-8")))
    if transformers and saved and _major(saved) > _major(transformers):
        raise UnreadableCheckpoint(
            f"The model was saved by transformers {saved}. Its config.json can't be read by transformers {transformers}, the one installed."
        )


def _saved_by(mlmodel: Any) -> str:
    """Return the transformers that saved a model: from the flavor that loads it, else from the metadata; empty without one."""
    flavors = (mlmodel.get("flavors") or {}).values()
    versions = [flavor["transformers_version"] for flavor in flavors if isinstance(flavor, dict) and flavor.get("transformers_version")]
    return str((versions or [(mlmodel.get("metadata") or {}).get("transformers_version", "")])[0])


def _major(version: str) -> int:
    return int(version.partition(".")[0])
