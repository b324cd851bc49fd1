"""Speed and memory of the data checks and of `prepare`, on generated data of the size and shape of ultrachat_200k.

    python -m benchmarks.data                      207,865 + 23,110 rows, 1.5 GB on disk
    python -m benchmarks.data --share 0.05         a twentieth of it
    python -m benchmarks.data --only check --share 0.25 0.5 1    does the time grow with the number of rows, or faster?

All times are from one run on one machine. The reference is a loop on one processor that decodes every row and checks nothing, with orjson
if that is installed. Processor time and memory (its proportional set size, sampled) include the processes that a check starts.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import multiprocessing
import random
import resource
import tempfile
import threading
import time
from collections.abc import Callable, Collection
from pathlib import Path
from typing import Any, NamedTuple

import msgspec
import psutil

from mlops.core import console
from mlops.core.run import Run
from mlops.core.settings import Config
from mlops.dataset.checks import check
from mlops.dataset.conversation import SPLITS
from mlops.dataset.near_duplicates import check_near_duplicates
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


def decode_only(files: dict[str, Path], decode: Callable[[bytes], object]) -> None:
    """The reference: decode every row to plain objects, and check nothing."""
    for path in files.values():
        with path.open("rb") as file:
            for line in file:
                decode(line)


class Cost(NamedTuple):
    """What a function needed: seconds, seconds of all processors together, and MiB of memory at the most."""

    seconds: float
    processor: float
    memory: float


def measure(function: Callable[..., object], *arguments: Any) -> Cost:
    """Run a function in a process of its own, so that its peak memory is its own."""
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_run, args=(sender, function, arguments))
    process.start()
    sender.close()
    cost: Cost = receiver.recv()
    process.join()
    return cost


def _run(sender: Any, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
    peak, done = [0.0], threading.Event()
    sampler = threading.Thread(target=_sample_memory, args=(peak, done))
    sampler.start()
    start, processor = time.perf_counter(), _processor_time()
    function(*arguments)
    cost = time.perf_counter() - start, _processor_time() - processor
    done.set()
    sampler.join()
    sender.send(Cost(*cost, peak[0] / 2**20))


def _sample_memory(peak: list[float], done: threading.Event) -> None:
    own = psutil.Process()
    while not done.wait(0.1):
        total = 0
        for process in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.Error):
                total += process.memory_full_info().pss
        peak[0] = max(peak[0], total)


def _processor_time() -> float:
    """Return the processor time of this process and of those that it started and that have ended."""
    return sum(usage.ru_utime + usage.ru_stime for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)))


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


def print_costs(share: float, only: Collection[str]) -> None:
    """Generate the data, measure, print a table."""
    reference, decode = ("msgspec", msgspec.json.decode)
    if importlib.util.find_spec("orjson"):
        reference, decode = "orjson", importlib.import_module("orjson").loads
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary, "source")
        folder.mkdir()
        size = generate(folder, share)
        files = {split: folder / f"{split}.jsonl" for split in SPLITS}
        training = {"train_sft": files["train_sft"]}
        cases: dict[str, tuple[Any, ...]] = {
            "rows": ("rows and duplicates of train_sft", check, training),
            "check": ("exact checks of all splits, with leaks", check, files),
            "near": ("near duplicates", check_near_duplicates, files, "train_sft", place),
            "privacy": ("secrets and personal data", check_privacy, files, place),
            "prepare": ("prepare", prepare_all, folder, Path(temporary, "run")),
            "tutorial": ("load_dataset + to_json", tutorial, folder, Path(temporary, "tutorial")),
        }
        console.info(f"{sum(max(20, round(count * share)) for count in ROWS.values()):,} rows, {size / 1e6:,.0f} MB\n")
        costs = {f"decode only ({reference})": measure(decode_only, files, decode)}
        costs |= {name: measure(function, *arguments) for key, (name, function, *arguments) in cases.items() if key in (only or cases)}
    base = next(iter(costs.values()))
    console.info(f"\n{'':34}{'s':>8}{'ratio':>8}{'s CPU':>8}{'ratio':>8}{'MiB':>8}")
    for name, cost in costs.items():
        ratios = cost.seconds / base.seconds, cost.processor / base.processor
        console.info(f"{name:34}{cost.seconds:8.1f}{ratios[0]:8.1f}{cost.processor:8.1f}{ratios[1]:8.1f}{cost.memory:8.0f}")


def main() -> None:
    """Measure at every requested size."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--share", type=float, nargs="+", default=[1.0], help="of the full size (default: 1)")
    parser.add_argument("--only", nargs="+", default=[], help="some of rows, check, near, privacy, prepare, tutorial")
    arguments = parser.parse_args()
    for share in arguments.share:
        print_costs(share, arguments.only)


if __name__ == "__main__":
    main()
