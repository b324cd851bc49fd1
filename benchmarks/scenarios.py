"""What the gate says to four real trainings: as it should be, on shuffled answers, for a single step, and on one topic far too fast.

    .nox/local/bin/python benchmarks/scenarios.py [--target local] [--weights real] [--state DIR]

All four run through `mlops run` with the target's own settings in one emulated Azure. The first goes live, so it is the champion of the
others. Prints a Markdown table: verdict and time of each scenario, and what every rule said with its figures. The exit code is 1 if a
verdict is not the one that the scenario must have. About 15 minutes on two cores.
"""

from __future__ import annotations

import argparse
import copy
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlops.core.records import Judged, Judgement, Verdict
from mlops.core.run import Run
from mlops.dataset.conversation import Conversation, Message, content_id, encode
from mlops.emulator.cloud import Options
from mlops.emulator.server import Emulator
from mlops.judging.wording import number
from mlops.report.markdown import table

Row = dict[str, Any]

SPLITS = ("train_sft", "test_sft", "train_gen", "test_gen")
SHOPS = (
    "bakery", "bank", "barber", "bookshop", "butcher", "chemist", "florist", "garage", "library", "museum", "post office", "swimming pool",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ASKED = (
    "When is the {shop} open on {day}?",
    "I want to go to the {shop} on {day}. What are the hours?",
    "{day} at the {shop}: until when?",
)
HEADER = ("scenario", "rule", "candidate", "baseline", "difference", "margin", "n", "MDE", "outcome")


@dataclass(frozen=True)
class Scenario:
    """A training and what the gate must say to it.

    Attributes:
        dataset: a folder of its own with the data; empty for the target's.
        settings: given with ``--set``.
    """

    name: str
    expected: tuple[Verdict, ...]
    dataset: str = ""
    settings: tuple[str, ...] = ()


ALL_ROWS = ("data.max_rows.test_sft=500", "evaluation.target_rows=500")
"""Nearly all chats of test_sft. Two strangers' small talk hangs together so loosely that shuffling it costs 0.2 % of the loss, which the
target's own 100 rows are too few to show."""
SCENARIOS = (
    Scenario("right", (Verdict.PROMOTE,), settings=ALL_ROWS),
    Scenario("shuffled", (Verdict.REJECT,), dataset="shuffled", settings=ALL_ROWS),
    Scenario("single step", (Verdict.HOLD, Verdict.REJECT), settings=("training.parameters.max_steps=1", *ALL_ROWS)),
    Scenario("one topic", (Verdict.REJECT,), dataset="topic", settings=("training.parameters.learning_rate=5e-3",)),
)


def main() -> int:
    """Run the four and print what the gate said."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--target", default="local")
    arguments.add_argument("--weights", default="real")
    arguments.add_argument("--state", type=Path, help="keep everything here (default: a temporary folder)")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="scenarios-") as temporary:
        folder = options.state or Path(temporary)
        with Emulator(folder / "azure", Options(weights=options.weights)) as emulator:
            environment = os.environ | emulator.environment()
            found = [judged(scenario, options.target, folder, environment) for scenario in SCENARIOS]
    verdicts = [(scenario.name, gate.verdict.value, f"{seconds:.0f}") for scenario, (gate, seconds) in zip(SCENARIOS, found, strict=True)]
    rules = [row(scenario.name, judgement) for scenario, (gate, _) in zip(SCENARIOS, found, strict=True) for judgement in gate.judgements]
    sys.stdout.write(f"{table(('scenario', 'verdict', 's'), verdicts)}\n\n{table(HEADER, rules)}\n")
    return int(any(gate.verdict not in scenario.expected for scenario, (gate, _) in zip(SCENARIOS, found, strict=True)))


def judged(scenario: Scenario, target: str, folder: Path, environment: dict[str, str]) -> tuple[Judged, float]:
    """Run a scenario until the gate has stopped it or it is live; what the gate said and the seconds it took.

    Raises:
        RuntimeError: it ended otherwise.
    """
    settings = list(scenario.settings)
    if scenario.dataset:
        make(scenario.dataset, folder)
        settings.append(f"data.dataset={folder / scenario.dataset}")
    directory = folder / f"run-{scenario.name.replace(' ', '-')}"
    # --keep: the champion must outlive a candidate that is stopped.
    command = [sys.executable, "-m", "mlops", "run", "--target", target, "--run", str(directory), "--until", "promote", "--keep"]
    start = time.monotonic()
    with (folder / f"{directory.name}.log").open("wb") as log:
        code = subprocess.run(
            [*command, *(part for setting in settings for part in ("--set", setting))], stdout=log, stderr=log, env=environment
        ).returncode
    seconds = time.monotonic() - start
    if code not in {verdict.exit_code for verdict in Verdict}:
        raise RuntimeError(f"{scenario.name} ended with exit code {code}:\n{Path(log.name).read_text()[-5000:]}")
    return Run(directory).read(Judged), seconds


def make(dataset: str, folder: Path) -> None:
    """Write a scenario's data: ``shuffled`` from what the first scenario was trained on, else one topic."""
    (folder / dataset).mkdir(exist_ok=True)
    if dataset == "shuffled":
        made = {split: [json.loads(line) for line in (folder / f"run-right/data/{split}.jsonl").open()] for split in SPLITS}
        made["train_sft"] = shuffled(made["train_sft"], seed=0)
    else:
        rows = opening_hours()
        made = {"train_gen": rows[:5], "test_gen": rows[5:10], "test_sft": rows[10:110], "train_sft": rows[110:]}
    for split, rows in made.items():
        (folder / dataset / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def shuffled(rows: Sequence[Row], seed: int) -> list[Row]:
    """The same conversations, with what the assistants say handed round among all of them."""
    made = copy.deepcopy(list(rows))
    turns = [message for row in made for message in row["messages"] if message["role"] == "assistant"]
    said = [turn["content"] for turn in turns]
    for turn, other in zip(turns, np.random.default_rng(seed).permutation(len(said)), strict=True):
        turn["content"] = said[other]
    return made


def opening_hours() -> list[Row]:
    """One topic: when the shops of a small town are open. In the order of their ids, which are hashes."""
    rows = []
    for (shop, name), (day, weekday), asked in itertools.product(enumerate(SHOPS), enumerate(DAYS), ASKED):
        answer = f"The {name} is open from {7 + (shop + day) % 4} to {16 + (shop * 3 + day) % 5} o'clock on {weekday}."
        messages = [Message("user", asked.format(shop=name, day=weekday)), Message("assistant", answer)]
        rows.append(json.loads(encode(Conversation(prompt=messages[0].content, messages=messages, prompt_id=content_id(messages)))))
    return sorted(rows, key=lambda row: str(row["prompt_id"]))


def row(scenario: str, judgement: Judgement) -> tuple[str, ...]:
    """What a rule said, as a row of the table."""
    interval = judgement.interval
    between = f" [{number(interval.low)}, {number(interval.high)}]" if interval else ""
    against = f" ({judgement.answered_against})" if judgement.reference is not None else ""
    return (
        scenario,
        # The metric is not in every rule's name where a rule asks about several.
        f"{judgement.metric}: {judgement.rule.partition(': ')[2]}",
        number(judgement.candidate),
        f"{number(judgement.reference)}{against}",
        f"{number(judgement.difference)}{between}",
        number(judgement.margin),
        str(judgement.n),
        number(judgement.mde),
        judgement.outcome.value,
    )


if __name__ == "__main__":
    sys.exit(main())
