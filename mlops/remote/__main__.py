"""Score one model on the frozen suites. Runs on the training compute, from a snapshot of this folder.

    python -m mlops.remote --model DIR --base DIR --target FILE --retention FILE --output DIR

Leaves ``scores.jsonl`` (a row per conversation) and ``result.json`` (metrics, digests, samples, versions) in the output folder and logs
the same to MLflow. Needs torch and transformers, peft for an adapter, and Python 3.10.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlops.remote import tracking
from mlops.remote.encoding import digest, encode
from mlops.remote.generation import Answer, generate
from mlops.remote.likelihood import score
from mlops.remote.metrics import aggregate
from mlops.remote.models import Loaded, load
from mlops.remote.suites import Suite, read

__all__ = ["main"]

SCHEMA_VERSION = 1
"""Of result.json and scores.jsonl."""


def main(argv: Sequence[str] | None = None) -> int:
    """Score and write; every failure is an exception, since a job without results must be a failed job."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("TQDM_DISABLE", "1")  # bars are for terminals, not for logs
    suites = [read("target", arguments.target), read("retention", arguments.retention)]
    device = _device()
    say(f"loading {arguments.model} in {arguments.precision} on {device}")
    model = load(arguments.model, arguments.base, arguments.precision, device)
    base = load(arguments.base, None, arguments.precision, device) if arguments.base else None

    notes: list[str] = []
    answers = _answers(model, suites[0], arguments)
    rows = [row for suite in suites for row in _rows(model, base, suite, arguments, notes)]
    for row, answer in zip(rows, answers, strict=False):  # the target suite comes first, and its first rows are answered
        row |= {"answer": answer.answer, "answer_tokens": answer.tokens, "stop": answer.stop, "rouge_l": answer.rouge_l}
    metrics = aggregate(rows)
    for name, value in sorted(metrics.items()):
        say(f"{name} = {value:.6g}")
    _write(arguments, suites, model, base, rows, metrics, answers, notes)
    return 0


def say(text: str) -> None:
    """A line in the job's log."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlops.remote", description="Score one model on the frozen suites.")
    files = parser.add_argument_group("what")
    files.add_argument("--model", type=Path, required=True, help="folder of the model: MLflow or Hugging Face layout, merged or adapter")
    files.add_argument("--base", type=Path, help="folder of the base model; left out where the model is the base")
    files.add_argument("--target", type=Path, required=True, help="JSON Lines")
    files.add_argument("--retention", type=Path, required=True, help="JSON Lines")
    files.add_argument("--output", type=Path, required=True, help="folder for scores.jsonl and result.json")
    names = parser.add_argument_group("names, for the record")
    names.add_argument("--model-id", default="")
    names.add_argument("--base-id", default="")
    names.add_argument("--role", default="")
    names.add_argument("--key", default="", help="over everything that decides the result")
    names.add_argument("--evaluation-version", default="")
    how = parser.add_argument_group("how")
    how.add_argument("--generate-rows", type=int, default=20, help="of the target suite, from its beginning")
    how.add_argument("--max-tokens", type=int, default=1024)
    how.add_argument("--max-new-tokens", type=int, default=128)
    how.add_argument("--batch-tokens", type=int, default=8192)
    how.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    return parser


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _answers(model: Loaded, suite: Suite, arguments: argparse.Namespace) -> list[Answer]:
    rows = suite.rows[: arguments.generate_rows]
    return generate(
        model.model,
        model.tokenizer,
        rows,
        max_tokens=arguments.max_tokens,
        max_new_tokens=arguments.max_new_tokens,
        batch_tokens=arguments.batch_tokens,
        advance=_Progress("answers", len(rows)),
    )


def _rows(model: Loaded, base: Loaded | None, suite: Suite, arguments: argparse.Namespace, notes: list[str]) -> list[dict[str, Any]]:
    """The suite's rows of scores.jsonl, without answers."""
    encoded = [encode(model.tokenizer, row, arguments.max_tokens) for row in suite.rows]
    reference = None
    if suite.name == "retention" and base is not None:
        sizes = [loaded.model.config.vocab_size for loaded in (model, base)]
        if encoded != [encode(base.tokenizer, row, arguments.max_tokens) for row in suite.rows]:
            notes.append("retention.kl_base is not measured: model and base tokenise the suite differently")
        elif len(set(sizes)) > 1:
            notes.append(f"retention.kl_base is not measured: model and base have vocabularies of {sizes[0]} and {sizes[1]} entries")
        else:
            reference = base.model
    sequences = sum(1 for row in encoded for sequence in row if sequence.tokens)
    scores = score(
        model.model, encoded, batch_tokens=arguments.batch_tokens, base=reference, advance=_Progress(f"{suite.name} sequences", sequences)
    )
    # The base model does not diverge from itself.
    is_base = suite.name == "retention" and arguments.base is None
    return [
        {
            "suite": suite.name,
            "id": row.id,
            "kind": row.kind,
            "input": digest(sequences),
            "tokens": result.tokens,
            "nll": result.nll,
            "kl": 0.0 if is_base else result.kl,
            "greedy_tokens": result.greedy_tokens,
        }
        for row, sequences, result in zip(suite.rows, encoded, scores, strict=True)
    ]


def _write(
    arguments: argparse.Namespace,
    suites: Sequence[Suite],
    model: Loaded,
    base: Loaded | None,
    rows: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
    answers: Sequence[Answer],
    notes: list[str],
) -> None:
    """Both files, and MLflow between them: result.json is last, so where it is, everything is."""
    arguments.output.mkdir(parents=True, exist_ok=True)
    scores = arguments.output / "scores.jsonl"
    scores.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tags = {
        "mlops.role": arguments.role,
        "mlops.model": arguments.model_id,
        "mlops.weights_digest": model.digest,
        "mlops.evaluation_version": arguments.evaluation_version,
        "mlops.evaluation_key": arguments.key,
        **{f"mlops.suite.{suite.name}": suite.digest for suite in suites},
    }
    try:
        run_id = tracking.log(metrics, tags, scores)
    except Exception as problem:  # hours of scoring must not be lost to a tracking server that is down; the gate reads the files
        run_id = ""
        notes.append(f"not logged to MLflow: {type(problem).__name__}: {problem}")
    for note in notes:
        say(f"note: {note}")
    result = {
        "schema_version": SCHEMA_VERSION,
        "key": arguments.key,
        "evaluation_version": arguments.evaluation_version,
        "role": arguments.role,
        "model": arguments.model_id,
        "base": arguments.base_id,
        "weights_digest": model.digest,
        "base_weights_digest": (base or model).digest,
        "mlflow_run_id": run_id,
        "metrics": metrics,
        "rows": {suite.name: len(suite.rows) for suite in suites},
        "suite_digests": {suite.name: suite.digest for suite in suites},
        "scores_sha256": hashlib.sha256(scores.read_bytes()).hexdigest(),
        "samples": [{"prompt": answer.prompt, "answer": answer.answer, "reference": answer.reference} for answer in answers],
        "notes": notes,
        "settings": {name: value for name, value in vars(arguments).items() if isinstance(value, (str, int))},
        "versions": _versions(),
    }
    (arguments.output / "result.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def _versions() -> dict[str, str]:
    import torch
    import transformers

    return {"python": platform.python_version(), "torch": torch.__version__, "transformers": transformers.__version__}


class _Progress:
    """A line in the log every few seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._what, self._total, self._done = what, total, 0
        self._start = self._said = time.monotonic()

    def __call__(self, by: int) -> None:
        self._done += by
        now = time.monotonic()
        if now - self._said >= 5 or self._done == self._total:
            self._said = now
            say(f"{self._what}: {self._done}/{self._total} after {now - self._start:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
