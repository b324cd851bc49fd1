"""The cost of scoring compared with bare forward passes, for the real small model and the suites of a target.

    .nox/local/bin/python benchmarks/evaluate.py [--target local] [--rows 60] [--repeats 5]

Prints a table row for each way of processing a suite: seconds (median), tokens per second, and the ratio to bare forward passes, which run
the same batches as ``mlops/remote/likelihood.py`` through the model and do nothing else. The variants alternate, so that other load on the
machine affects all of them. A ratio is the median over the rounds. Requires the emulator's real weights.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from mlops.core.config import load
from mlops.core.run import Run
from mlops.core.settings import Config
from mlops.dataset.suites import freeze
from mlops.emulator.registry.weights import ensure_standin
from mlops.prepare import prepare
from mlops.remote import models
from mlops.remote.encoding import EncodedSequence, encode
from mlops.remote.likelihood import batches, score
from mlops.remote.suites import read_suite

CACHE = Path.home() / ".cache" / "azureml-chat-mlops"
Variant = Callable[[], object]


def main() -> int:
    """Run the benchmark and print its results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="local")
    parser.add_argument("--rows", type=int, default=60, help="maximum number of rows of each suite")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    config = load(Path("pipeline.toml"), options.target)
    settings = config.evaluation
    model, base = (models.load_model(ensure_standin("real", CACHE), None, settings.precision, "cpu") for _ in range(2))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        suites = freeze_suites(config, Path(folder), options.rows)
        for name, path in suites.items():
            encoded = [encode(model.tokenizer, row, settings.max_tokens) for row in read_suite(name, path).rows]
            measure(name, encoded, model.model, base.model if name == "retention" else None, settings.batch_tokens, options.repeats)
    return 0


def freeze_suites(config: Config, folder: Path, rows: int) -> dict[str, Path]:
    """Freeze the suites as the stage `validate` does and return suite → file."""
    run = Run(folder)
    prepared = prepare(config, run)
    settings = config.evaluation.model_copy(update={"target_rows": rows, "retention_rows": rows})
    files, _ = freeze(run.directory / prepared.files["test_sft"].path, Path(settings.retention_suite), folder, settings)
    return {name: path for name, (path, _) in files.items()}


def measure(name: str, rows: Sequence[Sequence[EncodedSequence]], model: Any, base: Any, batch_tokens: int, repeats: int) -> None:
    """Time every variant on a suite, alternating between them, and print the table."""
    sequences = [sequence for row in rows for sequence in row if sequence.tokens]
    lengths = [len(sequence.ids) for sequence in sequences]
    bucketed = [[sequences[index] for index in batch] for batch in batches(lengths, batch_tokens)]
    variants: dict[str, Variant] = {
        "forward passes": lambda: forward(model, bucketed),
        "score": lambda: score(model, rows, batch_tokens=batch_tokens),
        "score, batches in file order": lambda: [score(model, part, batch_tokens=2**40) for part in unsorted(rows, batch_tokens)],
        "score, one row at a time": lambda: score(model, rows, batch_tokens=1),
    }
    if base is not None:
        variants |= {
            "forward passes of model and base": lambda: [forward(either, bucketed) for either in (model, base)],
            "score with KL from the base": lambda: score(model, rows, batch_tokens=batch_tokens, base=base),
        }
    forward(model, bucketed[-1:])  # warm up
    timings: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(repeats):
        for variant, function in variants.items():
            start = time.perf_counter()
            function()
            timings[variant].append(time.perf_counter() - start)
    tokens, scored = sum(lengths), sum(sequence.tokens for sequence in sequences)
    in_file_order = [[len(sequence.ids) for row in part for sequence in row] for part in unsorted(rows, batch_tokens)]
    sys.stdout.write(
        f"\n{name}: {len(rows)} rows, {tokens} tokens, {scored} of them scored, {len(bucketed)} batches; padding is "
        f"{padding([[len(sequence.ids) for sequence in batch] for batch in bucketed]):.1%} of the computed positions; in file order "
        f"it would be {padding(in_file_order):.1%}\n\n| {name} | s | tokens/s | ratio to the forward passes |\n|---|---|---|---|\n"
    )
    for variant, seconds in timings.items():
        baseline = timings["forward passes of model and base" if "base" in variant else "forward passes"]
        ratio = median(one / other for one, other in zip(seconds, baseline, strict=True))
        sys.stdout.write(f"| {variant} | {median(seconds):.2f} | {tokens / median(seconds):,.0f} | {ratio:.2f} |\n")
    sys.stdout.flush()


def forward(model: Any, bucketed: Sequence[Sequence[EncodedSequence]]) -> float:
    """Run the library's own forward pass over padded batches, with logits at every position.

    Returns:
        The sum of the last logits, which forces their computation.
    """
    import torch

    last = 0.0

    for batch in bucketed:
        longest = max(len(sequence.ids) for sequence in batch)
        ids = torch.zeros(len(batch), longest, dtype=torch.long)
        attention = torch.zeros_like(ids)
        for number, sequence in enumerate(batch):
            ids[number, : len(sequence.ids)] = torch.tensor(sequence.ids)
            attention[number, : len(sequence.ids)] = 1
        with torch.inference_mode():
            last = float(model(input_ids=ids, attention_mask=attention, use_cache=False).logits[:, -1].sum())
    return last


def unsorted(rows: Sequence[Sequence[EncodedSequence]], batch_tokens: int) -> list[list[Sequence[EncodedSequence]]]:
    """Group rows that are adjacent in the file into batches of the same size."""
    parts: list[list[Sequence[EncodedSequence]]] = [[]]
    for row in rows:
        longest = max(len(sequence.ids) for other in (*parts[-1], row) for sequence in other)
        if parts[-1] and longest * (sum(map(len, parts[-1])) + len(row)) > batch_tokens:
            parts.append([])
        parts[-1].append(row)
    return parts


def padding(lengths: Sequence[Sequence[int]]) -> float:
    """Return the share of padding among the computed positions, in [0, 1)."""
    computed = sum(max(batch) * len(batch) for batch in lengths)
    return 1 - sum(map(sum, lengths)) / computed


if __name__ == "__main__":
    sys.exit(main())
