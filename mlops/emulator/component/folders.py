"""Model folders: where the weights lie in one, how to copy them cheaply, and their digest."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path

from mlops.emulator.component.failures import UserError

__all__ = ["copy_folder", "find_model", "weights_digest"]


def find_model(folder: Path) -> Path:
    """The one folder below (or equal to) ``folder`` with ``config.json`` and safetensors: a Hugging Face model.

    Raises:
        UserError: there is none, or more than one.
    """
    found = sorted({path.parent for path in folder.rglob("*.safetensors") if (path.parent / "config.json").is_file()})
    # A training output keeps its checkpoints below the final model; the outermost one is meant.
    found = [path for path in found if not any(other != path and path.is_relative_to(other) for other in found)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise UserError(f"{folder} holds no model: no folder with config.json and *.safetensors is in it.", "NotFound")
    raise UserError(f"{folder} holds {len(found)} models ({', '.join(path.name for path in found)}); one is wanted.")


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a model folder, not the folders in it (checkpoints). Weights become hard links where the disk allows it."""
    target.mkdir(parents=True, exist_ok=True)
    for path in sorted(source.iterdir()):
        if not path.is_file():
            continue
        destination = target / path.name
        destination.unlink(missing_ok=True)
        try:
            if path.suffix != ".safetensors":
                raise OSError
            os.link(path, destination)
        except OSError:
            shutil.copyfile(path, destination)


def weights_digest(folder: Path) -> str:
    """sha256 over the weight files of a folder: for each ``*.safetensors``, by name, its name and its own sha256."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()
