"""Speed and memory of the data checks and of `prepare`, on generated data of the size and shape of ultrachat_200k.

    python -m benchmarks.data                 207,865 + 23,110 rows, 1.5 GB on disk
    python -m benchmarks.data --share 0.05    a twentieth of it

All times are from one run on one machine. The reference is a loop that decodes every row and checks nothing.
"""

from __future__ import annotations

import argparse
import multiprocessing
import random
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from mlops.core import console
from mlops.core.config import Config
from mlops.core.run import Run
from mlops.dataset.checks import check
from mlops.dataset.conversation import SPLITS
from mlops.dataset.near_duplicates import check_near_duplicates
from mlops.dataset.overlap import find_leaks
from mlops.dataset.privacy import check_privacy
from mlops.prepare import prepare

ROWS = {"train_sft": 207_865, "test_sft": 23_110, "train_gen": 1_000, "test_gen": 1_000}
SEED = 20


def generate(folder: Path, share: float) -> int:
    """Write conversations of 4 to 8 messages and about 6,000 characters; return the number of bytes."""
    generator = random.Random(SEED)  # noqa: S311 - no secret
    words = ["".join(generator.choices("abcdefghijklmnopqrstuvwxyz", k=generator.randint(2, 10))) for _ in range(20_000)]
    encode = msgspec.json.Encoder().encode
    total = 0
    for split, count in ROWS.items():
        with (folder / f"{split}.jsonl").open("wb") as file:
            for number in range(max(20, round(count * share))):
                messages = []
                for turn in range(generator.choice((4, 6, 8))):
                    role = ("user", "assistant")[turn % 2]
                    length = generator.randint(10, 40) if role == "user" else generator.randint(100, 350)
                    messages.append({"role": role, "content": " ".join(generator.choices(words, k=length)) + "."})
                row = {"prompt": messages[0]["content"], "messages": messages, "prompt_id": f"{split}-{number}"}
                total += file.write(encode(row) + b"\n")
    return total


def decode_only(files: dict[str, Path]) -> None:
    """The reference: decode every row to plain objects, and check nothing."""
    for path in files.values():
        with path.open("rb") as file:
            for line in file:
                msgspec.json.decode(line)


def measure(name: str, function: Callable[..., object], *arguments: Any) -> None:
    """Run a function in a process of its own, so that its peak memory is its own, and print time, processor time and memory."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, function, arguments))
    process.start()
    seconds, processor, memory = receiver.recv()
    process.join()
    console.info(f"{name:32}{seconds:8.1f} s{processor:8.1f} s CPU{memory:8.0f} MiB")


def _run(sender: Any, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    start, processor = time.perf_counter(), time.process_time()
    function(*arguments)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    sender.send((time.perf_counter() - start, time.process_time() - processor, memory))


def place(split: str, line: int) -> str:
    """Name a row."""
    return f"{split}:{line}"


def prepare_all(folder: Path, run: Path) -> None:
    """Prepare all rows, as `mlops prepare` does."""
    prepare(Config.model_validate({"target": "benchmark", "data": {"dataset": str(folder), "percent": 100}}), Run(run))


def tutorial(folder: Path, output: Path) -> None:
    """The tutorial's way: load_dataset and to_json."""
    import datasets

    loaded = datasets.load_dataset("json", data_files={split: str(folder / f"{split}.jsonl") for split in SPLITS}, cache_dir=str(output))
    for split, rows in loaded.items():
        rows.to_json(str(output / f"{split}.jsonl"))


def main() -> None:
    """Generate the data, measure, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, default=1.0, help="of the full size (default: 1)")
    share = parser.parse_args().share
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "source")
        folder.mkdir()
        size = generate(folder, share)
        files = {split: folder / f"{split}.jsonl" for split in SPLITS}
        suites = {"target": files["test_gen"]}
        console.info(f"{sum(max(20, round(count * share)) for count in ROWS.values()):,} rows, {size / 1e6:,.0f} MB\n")
        measure("decode only (msgspec)", decode_only, files)
        measure("exact checks", check, files)
        measure("near duplicates", check_near_duplicates, files, "train_sft", place)
        measure("answers and shared passages", find_leaks, files["train_sft"], suites)
        measure("secrets and personal data", check_privacy, files, place)
        measure("prepare", prepare_all, folder, Path(temporary, "run"))
        measure("load_dataset + to_json", tutorial, folder, Path(temporary, "tutorial"))


if __name__ == "__main__":
    main()
