"""Model folders: finding the weights, copying them cheaply, their digest, and loading the tokenizer."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path
from typing import Any

from mlops.emulator.component.failures import UserError

__all__ = ["copy_folder", "find_model", "load_tokenizer", "weights_digest"]


def find_model(folder: Path) -> Path:
    """Return the only folder below (or equal to) ``folder`` with ``config.json`` and safetensors: a Hugging Face model.

    Raises:
        UserError: there is no such folder, or more than one.
    """
    models = sorted({path.parent for path in folder.rglob("*.safetensors") if (path.parent / "config.json").is_file()})
    # A training output has its checkpoints below the final model; only the outermost folder counts.
    models = [path for path in models if not any(other != path and path.is_relative_to(other) for other in models)]
    if len(models) == 1:
        return models[0]
    if not models:
        raise UserError(f"{folder} contains no model: no folder with config.json and *.safetensors.", "NotFound")
    raise UserError(f"{folder} contains {len(models)} models ({', '.join(path.name for path in models)}); it must have exactly one.")


def copy_folder(source: Path, target: Path) -> None:
    """Copy the files of a model folder, but not its subfolders (checkpoints). Weights become hard links where the disk allows it."""
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
    """Return a sha256 over the weight files of a folder: for each ``*.safetensors``, by name, its name and its own sha256."""
    total = hashlib.sha256()
    for path in sorted(folder.glob("*.safetensors")):
        with path.open("rb") as file:
            total.update(f"{path.name} {hashlib.file_digest(file, 'sha256').hexdigest()}\n".encode())
    return total.hexdigest()


def load_tokenizer(folder: Path) -> Any:
    """Return the tokenizer of a model folder.

    ``AutoTokenizer`` imports torch, which takes five times as long as the rest. It is only needed for tokenizers with a custom class.
    """
    configuration = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    if configuration.get("tokenizer_class") in ("PreTrainedTokenizerFast", "TokenizersBackend"):
        from transformers import PreTrainedTokenizerFast

        return PreTrainedTokenizerFast.from_pretrained(folder)
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)
