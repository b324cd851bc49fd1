"""Step 3, ``chat_completion_datapreprocess``: encode conversations as token ids and labels.

``output_dir`` then contains ``train.jsonl``, ``validation.jsonl`` and ``test.jsonl`` (a row: ``{"input_ids": […], "labels": […]}``), the
tokenizer, and ``preprocess_args.json`` with the counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlops.core import console
from mlops.emulator.component.chat import IGNORED, check_messages, encode
from mlops.emulator.component.conversations import read
from mlops.emulator.component.failures import UserError
from mlops.emulator.component.folders import load_tokenizer
from mlops.emulator.component.model_import import MODEL
from mlops.emulator.component.step import Step

__all__ = ["ARGUMENTS", "SPLITS", "run", "split"]

SPLITS = ("train", "validation", "test")
ARGUMENTS = "preprocess_args.json"
COLUMN = "messages"

Rows = list[tuple[str, Any]]
"""Location of each row (file and line), and its conversation."""


def run(step: Step) -> None:
    """Preprocess all three splits.

    Raises:
        UserError: with the component's own text where it has one, and the file and line of an invalid row.
    """
    folder = step.required_path("model_selector_output") / MODEL
    tokenizer = load_tokenizer(folder)
    for name in ("EOS", "BOS"):
        if getattr(tokenizer, f"{name.lower()}_token_id") is None:
            raise UserError(f"Invalid Model artifacts. Data preprocessing requires {name} token and cannot be None.")
    if not tokenizer.chat_template:
        raise UserError("Invalid Model artifacts. Data preprocessing requires a chat template and the tokenizer has none.")
    limit = _get_limit(step.integer("max_seq_length"), folder, tokenizer)
    splits = split(*(_read_rows(step, name) for name in SPLITS))
    output = step.output("output_dir")
    output.mkdir(parents=True, exist_ok=True)
    counts = {name: _encode_rows(tokenizer, rows, limit, output / f"{name}.jsonl") for name, rows in splits.items()}
    for name in ("train", "validation"):
        if not counts[name]["assistant_tokens"]:
            raise UserError(
                f"Unable to continue finetuning. No assistant tokens found after preprocessing. The {name} set has "
                f"{counts[name]['rows']} rows at max_seq_length {limit}."
            )
    tokenizer.save_pretrained(output)
    (output / ARGUMENTS).write_text(json.dumps({"max_seq_length": limit, "splits": counts}, indent=2), encoding="utf-8")
    for name, count in counts.items():
        console.info(
            f"{name}: {count['rows']} rows, {count['tokens']:,} tokens, {count['assistant_tokens']:,} of them the assistant's"
            + (f"; {count['cut']} rows cut at {limit}" if count["cut"] else "")
            + (f"; {count['dropped']} dropped: no assistant token within {limit}" if count["dropped"] else "")
        )


def split(train: Rows | None, validation: Rows | None, test: Rows | None) -> dict[str, Rows]:
    """Split by the component's rule: with neither validation nor test, train is split 80/10/10; a single missing one gets 20% of train.

    Rows keep their order; the other splits are taken from the end of train.
    """
    if train is None:
        raise UserError("Either train_file_path or train_mltable_path needs to be passed.")
    if validation is None and test is None:
        tenth = round(len(train) * 0.1)
        cut = len(train) - 2 * tenth
        return {"train": train[:cut], "validation": train[cut : cut + tenth], "test": train[cut + tenth :]}
    if validation is None or test is None:
        cut = len(train) - round(len(train) * 0.2)
        rest, train = train[cut:], train[:cut]
        validation, test = (rest if validation is None else validation), (rest if test is None else test)
    return {"train": train, "validation": validation, "test": test}


def _read_rows(step: Step, name: str) -> Rows | None:
    # The table wins over the file, as the component's documentation says.
    path = step.path(f"{name}_mltable_path") or step.path(f"{name}_file_path")
    return None if path is None else list(read(path, COLUMN))


def _get_limit(requested: int, folder: Path, tokenizer: Any) -> int:
    """Return the number of tokens at which rows are cut: the requested one, but at most the model's context length."""
    configuration = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    model_limit = min(int(configuration.get("max_position_embeddings", 2048)), int(tokenizer.model_max_length))
    if requested == 0 or requested < -1:
        raise UserError(f"max_seq_length should be -1 or a positive number, not {requested}.")
    return model_limit if requested == -1 else min(requested, model_limit)


def _encode_rows(tokenizer: Any, rows: Sequence[tuple[str, Any]], limit: int, path: Path) -> dict[str, int]:
    count = {"rows": 0, "tokens": 0, "assistant_tokens": 0, "cut": 0, "dropped": 0}
    with path.open("w", encoding="utf-8") as file:
        for location, messages in rows:
            if problem := check_messages(messages):
                raise UserError(f"{problem} ({location})")
            try:
                ids, labels = encode(tokenizer, messages)
            except UserError as failure:
                raise UserError(f"{failure.message} ({location})", failure.inner) from failure
            count["cut"] += len(ids) > limit
            ids, labels = ids[:limit], labels[:limit]
            # The first token has no context to be predicted from, so its label does not count.
            labeled = sum(label != IGNORED for label in labels[1:])
            if not labeled:
                count["dropped"] += 1
                continue
            count["rows"] += 1
            count["tokens"] += len(ids)
            count["assistant_tokens"] += labeled
            file.write(json.dumps({"input_ids": ids, "labels": labels}) + "\n")
    return count
