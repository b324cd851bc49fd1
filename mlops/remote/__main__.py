"""Score one model on the frozen suites. This package runs on the training compute, from a snapshot of its folder.

    python -m mlops.remote --model DIR --base DIR --target FILE --retention FILE --output DIR

Writes ``scores.jsonl`` (one row per conversation) and ``result.json`` (metrics, digests, samples, versions) to the output folder and
logs the metrics to MLflow. Requires Python 3.10, torch and transformers, and peft for adapters.
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

from mlops.remote import health, languages, refusals, tasks, tracking
from mlops.remote.encoding import digest, encode
from mlops.remote.generation import Answer, generate
from mlops.remote.likelihood import score
from mlops.remote.metrics import aggregate
from mlops.remote.models import LoadedModel, load_model
from mlops.remote.suites import Row, Suite, read_suite

__all__ = ["main"]

MAX_SAMPLES = 20
"""Number of answers for reports. All answers are in scores.jsonl."""
SCHEMA_VERSION = 2
"""The version of result.json and scores.jsonl."""


def main(argv: Sequence[str] | None = None) -> int:
    """Score the model and write the results. Every failure raises, because a job without results must end as a failed job."""
    arguments = _parser().parse_args(argv)
    os.environ.setdefault("TQDM_DISABLE", "1")  # progress bars clutter the job log
    suites = [read_suite("target", arguments.target), read_suite("retention", arguments.retention)]
    device = _device()
    log_line(f"loading {arguments.model} in {arguments.precision} on {device}")
    trust = arguments.trust_remote_code == "true"
    model = load_model(arguments.model, arguments.base, arguments.precision, device, trust_remote_code=trust)
    base = load_model(arguments.base, None, arguments.precision, device, trust_remote_code=trust) if arguments.base else None

    notes: list[str] = []
    target, retention = suites
    answers = _generate_answers("answers", model, target.rows[: arguments.generate_rows], arguments)
    chosen = tasks.sample([row.kind if row.checks else None for row in retention.rows], arguments.task_rows)
    solutions = _generate_answers("tasks", model, [retention.rows[index] for index in chosen], arguments)
    target_rows, retention_rows = (_score_suite(model, base, suite, arguments, notes) for suite in suites)
    for row, answer in zip(target_rows, answers, strict=False):
        row |= _describe(answer) | {"rouge_l": answer.rouge_l}
        row |= check_answer(answer)
    for index, answer in zip(chosen, solutions, strict=True):
        task = retention.rows[index]
        prompt = [message["content"] for message in task.messages[:-1]]
        retention_rows[index] |= _describe(answer) | {"passed": float(answer.is_last and tasks.passes(answer.answer, task.checks, prompt))}
    rows = target_rows + retention_rows
    metrics = aggregate(rows)
    for name, value in sorted(metrics.items()):
        log_line(f"{name} = {value:.6g}")
    _write_results(arguments, suites, model, base, rows, metrics, answers, notes)
    return 0


def log_line(text: str) -> None:
    """Write a line to the job's log."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="mlops.remote", description="Score one model on the frozen suites.")
    files = parser.add_argument_group("inputs and output")
    files.add_argument(
        "--model", type=Path, required=True, help="folder of the model: MLflow or Hugging Face layout, full weights or an adapter"
    )
    files.add_argument("--base", type=Path, help="folder of the base model; omit it if the model is the base")
    files.add_argument("--target", type=Path, required=True, help="JSON Lines")
    files.add_argument("--retention", type=Path, required=True, help="JSON Lines")
    files.add_argument("--output", type=Path, required=True, help="folder for scores.jsonl and result.json")
    names = parser.add_argument_group("identifiers recorded with the result")
    names.add_argument("--model-id", default="")
    names.add_argument("--base-id", default="")
    names.add_argument("--role", default="")
    names.add_argument("--key", default="", help="hash of everything that determines the result")
    names.add_argument("--evaluation-version", default="")
    how = parser.add_argument_group("settings")
    how.add_argument("--generate-rows", type=int, default=20, help="generate answers for this many of the first target rows")
    how.add_argument("--task-rows", type=int, default=20, help="generate answers for this many retention rows with checks")
    how.add_argument("--max-tokens", type=int, default=1024)
    how.add_argument("--max-new-tokens", type=int, default=128)
    how.add_argument("--batch-tokens", type=int, default=8192)
    how.add_argument("--precision", choices=("float32", "bfloat16", "float16"), default="bfloat16")
    how.add_argument("--trust-remote-code", choices=("true", "false"), default="false", help="run Python code that comes with a model")
    return parser


def _device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _generate_answers(what: str, model: LoadedModel, rows: Sequence[Row], arguments: argparse.Namespace) -> list[Answer]:
    return generate(
        model.model,
        model.tokenizer,
        rows,
        max_tokens=arguments.max_tokens,
        max_new_tokens=arguments.max_new_tokens,
        batch_tokens=arguments.batch_tokens,
        advance=_Progress(what, len(rows)),
    )


def _describe(answer: Answer) -> dict[str, Any]:
    return {"answer": answer.answer, "answer_tokens": answer.tokens, "stop": answer.stop}


def check_answer(answer: Answer) -> dict[str, float]:
    """Return what can be measured about an answer without understanding it; 1 is bad, except for the length."""
    return {
        "empty": float(health.is_empty(answer.answer)),
        "truncated": float(answer.stop == "length"),
        "looping": float(health.is_loop(answer.answer)),
        "other_language": float(languages.has_other_language(answer.prompt, answer.answer)),
        "refused": float(refusals.is_refusal(answer.answer)),
        "length_ratio": health.length_ratio(answer.answer, answer.reference),
    }


def _score_suite(
    model: LoadedModel, base: LoadedModel | None, suite: Suite, arguments: argparse.Namespace, notes: list[str]
) -> list[dict[str, Any]]:
    """Return the suite's rows of scores.jsonl, without generated answers."""
    encoded = [encode(model.tokenizer, row, arguments.max_tokens) for row in suite.rows]
    reference = None
    if suite.name == "retention" and base is not None:
        own_size, base_size = (loaded.model.config.vocab_size for loaded in (model, base))
        if encoded != [encode(base.tokenizer, row, arguments.max_tokens) for row in suite.rows]:
            notes.append("retention.kl_base is not measured: model and base tokenize the suite differently")
        elif own_size != base_size:
            notes.append(f"retention.kl_base is not measured: model and base have vocabularies of {own_size} and {base_size} entries")
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
            "text": row.text,
            "tokens": result.tokens,
            "nll": result.nll,
            "kl": 0.0 if is_base else result.kl,
            "greedy_tokens": result.greedy_tokens,
            "overlong": float(any(sequence.cut for sequence in sequences)),
        }
        for row, sequences, result in zip(suite.rows, encoded, scores, strict=True)
    ]


def _write_results(
    arguments: argparse.Namespace,
    suites: Sequence[Suite],
    model: LoadedModel,
    base: LoadedModel | None,
    rows: Sequence[Mapping[str, Any]],
    metrics: Mapping[str, float],
    answers: Sequence[Answer],
    notes: list[str],
) -> None:
    """Write both files and log to MLflow in between. result.json comes last, so its presence means that the results are complete."""
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
    except Exception as problem:  # a failing tracking server must not waste hours of scoring; the gate reads the files
        run_id = ""
        notes.append(f"not logged to MLflow: {type(problem).__name__}: {problem}")
    for note in notes:
        log_line(f"note: {note}")
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
        "samples": [{"prompt": answer.prompt, "answer": answer.answer, "reference": answer.reference} for answer in answers[:MAX_SAMPLES]],
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
    """Progress of a loop, logged every few seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._label, self._total, self._done = what, total, 0
        self._start = self._last_logged = time.monotonic()

    def __call__(self, by: int) -> None:
        self._done += by
        now = time.monotonic()
        if now - self._last_logged >= 5 or self._done == self._total:
            self._last_logged = now
            log_line(f"{self._label}: {self._done}/{self._total} after {now - self._start:.0f} s")


if __name__ == "__main__":
    sys.exit(main())
