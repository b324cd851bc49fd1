"""The base model's tokenizer, if the user provides it: the weights, and the tokenizer with them, stay in the registry.

A ``tokenizer.json`` is what ``transformers`` saves beside a model (https://huggingface.co/docs/tokenizers).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from mlops.core.errors import ConfigError, DataError
from mlops.dataset.sources import is_hub_failure

__all__ = ["load_counter"]

FILE = "tokenizer.json"


def load_counter(setting: str) -> Callable[[str], int]:
    """Return a function that counts the tokens of a text, without special tokens at its beginning and end.

    Args:
        setting: ``model.tokenizer``: a file, its folder, or ``hub:OWNER/NAME@COMMIT``.

    Raises:
        ConfigError: there is no such file, or it is not a tokenizer.
        DataError: the hub does not have it, or can't be reached.
    """
    from tokenizers import Tokenizer

    path = _download(setting) if setting.startswith("hub:") else Path(setting).expanduser()
    path = path / FILE if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_buffer(path.read_bytes())
    except OSError as problem:
        raise ConfigError(
            f"model.tokenizer is {setting!r}, which can't be read: {problem.strerror or problem}",
            f"set it to a {FILE}, the folder that has it, or hub:OWNER/NAME@COMMIT; or unset it",
        ) from problem
    except Exception as problem:  # the package raises no other class
        raise ConfigError(
            f"model.tokenizer is {setting!r}, but {path} is not a tokenizer: {problem}",
            f"use the {FILE} of the base model, as `tokenizer.save_pretrained` writes it",
        ) from problem
    tokenizer.no_truncation()
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)


def _download(setting: str) -> Path:
    """Return the local copy of the file at a commit of the hub; one that is there already is not downloaded again."""
    from huggingface_hub import hf_hub_download

    match = re.fullmatch(r"hub:([\w.-]+/[\w.-]+)@([0-9a-f]{40})", setting)
    if match is None:
        raise ConfigError(
            f"model.tokenizer is {setting!r}, which names no repository of the hub at a commit. A branch or tag may move.",
            "use hub:OWNER/NAME@COMMIT, with the 40 digits of a commit",
        )
    try:
        return Path(hf_hub_download(match[1], FILE, revision=match[2]))
    except Exception as problem:
        if not is_hub_failure(problem):
            raise
        raise DataError(
            f"The hub does not provide {FILE} of {match[1]} at {match[2]}: {type(problem).__name__}: {problem}",
            "correct model.tokenizer, or unset it; for a gated model, accept its terms and set HF_TOKEN",
        ) from problem
