"""What scoring costs beside the forward passes that it can't do without, on the real small model and the suites of a target.

    .nox/local/bin/python benchmarks/evaluate.py [--target local] [--rows 60] [--repeats 5]

Prints a table row for each way to go through a suite: seconds (median), tokens a second, and the ratio to the forward passes alone, which
are the very batches of ``mlops/remote/likelihood.py`` put through the model and nothing else. The ways take turns, so that whatever else
happens on the machine happens to all of them; a ratio is the median over the rounds. Needs the emulator's real weights.
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

from mlops.core.config import Config, load
from mlops.core.run import Run
from mlops.dataset.suites import freeze
from mlops.emulator.registry.weights import standin
from mlops.prepare import prepare
from mlops.remote import models
from mlops.remote.encoding import EncodedSequence, encode
from mlops.remote.likelihood import batches, score
from mlops.remote.suites import read_suite

CACHE = Path.home() / ".cache" / "azureml-chat-mlops"
Way = Callable[[], object]


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="local")
    parser.add_argument("--rows", type=int, default=60, help="at most so many of each suite")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    config = load(Path("pipeline.toml"), options.target)
    settings = config.evaluation
    model, base = (models.load_model(standin("real", CACHE), None, settings.precision, "cpu") for _ in range(2))
    with tempfile.TemporaryDirectory(prefix="benchmark-") as folder:
        suites = frozen(config, Path(folder), options.rows)
        for name, path in suites.items():
            encoded = [encode(model.tokenizer, row, settings.max_tokens) for row in read_suite(name, path).rows]
            measure(name, encoded, model.model, base.model if name == "retention" else None, settings.batch_tokens, options.repeats)
    return 0


def frozen(config: Config, folder: Path, rows: int) -> dict[str, Path]:
    """Suite → file, as validation freezes them."""
    run = Run(folder)
    prepared = prepare(config, run)
    wanted = config.evaluation.model_copy(update={"target_rows": rows, "retention_rows": rows})
    files, _ = freeze(run.directory / prepared.files["test_sft"].path, Path(wanted.retention_suite), folder, wanted)
    return {name: path for name, (path, _) in files.items()}


def measure(name: str, rows: Sequence[Sequence[EncodedSequence]], model: Any, base: Any, batch_tokens: int, repeats: int) -> None:
    """Go through a suite in every way, in turns, and print the table."""
    sequences = [sequence for row in rows for sequence in row if sequence.tokens]
    lengths = [len(sequence.ids) for sequence in sequences]
    bucketed = [[sequences[index] for index in batch] for batch in batches(lengths, batch_tokens)]
    ways: dict[str, Way] = {
        "forward passes alone": lambda: forward(model, bucketed),
        "score": lambda: score(model, rows, batch_tokens=batch_tokens),
        "score, batches in the order of the file": lambda: [
            score(model, part, batch_tokens=2**40) for part in unsorted(rows, batch_tokens)
        ],
        "score, one row at a time": lambda: score(model, rows, batch_tokens=1),
    }
    if base is not None:
        ways |= {
            "forward passes alone, of model and base": lambda: [forward(one, bucketed) for one in (model, base)],
            "score with KL from the base": lambda: score(model, rows, batch_tokens=batch_tokens, base=base),
        }
    forward(model, bucketed[-1:])  # so that nobody pays for the first call
    took: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(repeats):
        for way, go in ways.items():
            start = time.perf_counter()
            go()
            took[way].append(time.perf_counter() - start)
    tokens, scored = sum(lengths), sum(sequence.tokens for sequence in sequences)
    in_file_order = [[len(sequence.ids) for row in part for sequence in row] for part in unsorted(rows, batch_tokens)]
    sys.stdout.write(
        f"\n{name}: {len(rows)} rows, {tokens} tokens, {scored} of them scored, {len(bucketed)} batches; padding is "
        f"{padding([[len(sequence.ids) for sequence in batch] for batch in bucketed]):.1%} of what is computed, in the order of the file "
        f"it would be {padding(in_file_order):.1%}\n\n| {name} | s | tokens/s | of the forward passes |\n|---|---|---|---|\n"
    )
    for way, seconds in took.items():
        alone = took["forward passes alone, of model and base" if "base" in way else "forward passes alone"]
        ratio = median(one / other for one, other in zip(seconds, alone, strict=True))
        sys.stdout.write(f"| {way} | {median(seconds):.2f} | {tokens / median(seconds):,.0f} | {ratio:.2f} |\n")
    sys.stdout.flush()


def forward(model: Any, bucketed: Sequence[Sequence[EncodedSequence]]) -> float:
    """The model's own forward pass over padded batches, with logits at every position, as it comes from the library.

    Returns:
        The sum of the last logits, so that they are really computed.
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
    """Batches of the same size made of neighbours in the file."""
    parts: list[list[Sequence[EncodedSequence]]] = [[]]
    for row in rows:
        longest = max(len(sequence.ids) for other in (*parts[-1], row) for sequence in other)
        if parts[-1] and longest * (sum(map(len, parts[-1])) + len(row)) > batch_tokens:
            parts.append([])
        parts[-1].append(row)
    return parts


def padding(lengths: Sequence[Sequence[int]]) -> float:
    """Share of the computed positions that are padding, in [0, 1)."""
    computed = sum(max(batch) * len(batch) for batch in lengths)
    return 1 - sum(map(sum, lengths)) / computed


if __name__ == "__main__":
    sys.exit(main())
