"""Verdicts of the gate on four real trainings: a correct one, shuffled answers, a single step, and one topic at a high learning rate.

    .nox/local/bin/python benchmarks/scenarios.py [--target local] [--weights real] [--state DIR]

All four run with `mlops run` and the target's settings in one emulated Azure. The first goes live, so it is the champion for the others.
Prints two Markdown tables: verdict and time of each scenario, and the outcome of every rule with its values. The exit code is 1 if a
verdict or its reason is not the expected one. Takes about 15 minutes on two cores.

Half of the data is small talk (chitchat), half is questions about the opening hours of a fictional town. Small talk alone is not enough:
the answers depend so little on the questions that the effect of shuffling them is not detectable with 500 rows.
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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mlops.core.config import load
from mlops.core.judgement import Judgement, Outcome, Verdict
from mlops.core.records import Judged
from mlops.core.run import Run
from mlops.dataset import chitchat
from mlops.dataset.candidates import shorten
from mlops.dataset.conversation import Conversation, Message, encode
from mlops.dataset.hashes import content_id
from mlops.emulator.base.azure import Options
from mlops.emulator.server import Emulator
from mlops.judging.wording import number
from mlops.report.markdown import table

Row = dict[str, Any]

SHOPS = (
    "bakery", "bank", "barber", "bookshop", "butcher", "chemist", "florist", "garage", "library", "museum", "post office", "swimming pool",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
QUESTIONS = (
    "When is the {shop} open on {day}?", "I want to go to the {shop} on {day}. What are the hours?", "{day} at the {shop}: until when?",
    "Can you tell me the hours of the {shop} for {day}?", "Is the {shop} open on {day}, and when?",
)  # fmt: skip
HEADER = ("scenario", "rule", "candidate", "baseline", "difference", "margin", "n", "MDE", "outcome")


@dataclass(frozen=True)
class Scenario:
    """A training and its expected verdict.

    Attributes:
        dataset: the folder of :func:`write_data` for training and evaluation.
        failing_metrics: prefix of the metrics of all failed rules, if the verdict is REJECT.
        improved: a metric that must nevertheless be significantly better than the champion's and the base model's.
        settings: arguments of ``--set``.
    """

    name: str
    expected: tuple[Verdict, ...]
    dataset: str
    failing_metrics: str = ""
    improved: str = ""
    settings: tuple[str, ...] = ()

    def is_expected(self, gate: Judged) -> bool:
        """Return whether the verdict and its reason are the expected ones."""
        failed = [judgement.metric for judgement in gate.judgements if judgement.critical and judgement.outcome is Outcome.FAILED]
        reason_matches = gate.verdict is not Verdict.REJECT or all(metric.startswith(self.failing_metrics) for metric in failed)
        intervals = [judgement.interval for judgement in gate.judgements if judgement.metric == self.improved]
        return (
            gate.verdict in self.expected and reason_matches and all(interval is not None and interval.high < 0 for interval in intervals)
        )


SCENARIOS = (
    Scenario("correct", (Verdict.PROMOTE,), "correct"),
    Scenario("shuffled", (Verdict.REJECT,), "shuffled", "target."),
    Scenario("single step", (Verdict.HOLD, Verdict.REJECT), "correct", "target.", settings=("training.parameters.max_steps=1",)),
    Scenario("one topic", (Verdict.REJECT,), "topic", "retention.", "target.nll", ("training.parameters.learning_rate=2e-3",)),
)


def main() -> int:
    """Run the four scenarios and print the verdicts."""
    arguments = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    arguments.add_argument("--target", default="local")
    arguments.add_argument("--weights", default="real")
    arguments.add_argument("--state", type=Path, help="folder for all files, which are kept (default: a temporary folder)")
    options = arguments.parse_args()
    with tempfile.TemporaryDirectory(prefix="scenarios-") as temporary:
        folder = options.state or Path(temporary)
        write_data(folder, options.target)
        with Emulator(folder / "azure", Options(weights=options.weights)) as emulator:
            environment = os.environ | emulator.environment()
            results = [(scenario, *run_scenario(scenario, options.target, folder, environment)) for scenario in SCENARIOS]
    verdicts = [(scenario.name, gate.verdict.value, f"{seconds:.0f}") for scenario, gate, seconds in results]
    rules = [rule_row(scenario.name, judgement) for scenario, gate, _ in results for judgement in gate.judgements]
    sys.stdout.write(f"{table(('scenario', 'verdict', 's'), verdicts)}\n\n{table(HEADER, rules)}\n")
    return int(not all(scenario.is_expected(gate) for scenario, gate, _ in results))


def run_scenario(scenario: Scenario, target: str, folder: Path, environment: dict[str, str]) -> tuple[Judged, float]:
    """Run a scenario until the gate stops it or it is live; return the gate's record and the duration in seconds.

    Raises:
        RuntimeError: the run ended in any other way.
    """
    directory = folder / f"run-{scenario.name.replace(' ', '-')}"
    # --keep: the champion must survive when a later candidate is stopped.
    command = [sys.executable, "-m", "mlops", "run", "--target", target, "--run", str(directory), "--until", "promote", "--keep"]
    for setting in (f"data.dataset={folder / scenario.dataset}", *scenario.settings):
        command += ["--set", setting]
    start = time.monotonic()
    with (folder / f"{directory.name}.log").open("wb") as log:
        code = subprocess.run(command, stdout=log, stderr=log, env=environment).returncode
    seconds = time.monotonic() - start
    if code not in {verdict.exit_code for verdict in Verdict}:
        raise RuntimeError(f"{scenario.name} ended with exit code {code}:\n{Path(log.name).read_text()[-5000:]}")
    return Run(directory).read(Judged), seconds


def write_data(folder: Path, target: str) -> None:
    """Write the folders ``correct``, ``shuffled`` (the same with shuffled training answers) and ``topic``, with 120 training rows each."""
    data = load(Path("pipeline.toml"), target).data
    hours, chats = opening_hours(), small_talk(data.max_messages, data.max_characters)
    # The smoke test uses small talk only: such a small model repeats a question about hours that it can't answer.
    generation = {"train_gen": chats[:10], "test_gen": chats[10:20]}
    mixed = [row for pair in zip(hours[:110], chats[20:130], strict=True) for row in pair]
    correct = generation | {"test_sft": mixed[:100], "train_sft": mixed[100:220]}
    topic = generation | {"test_sft": hours[110:210], "train_sft": hours[210:330]}
    datasets = {"correct": correct, "shuffled": correct | {"train_sft": shuffle_answers(correct["train_sft"], seed=0)}, "topic": topic}
    for name, splits in datasets.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for split, rows in splits.items():
            (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def small_talk(max_messages: int | None, max_characters: int | None) -> list[Row]:
    """Return chats of the package, shortened as for the target."""
    chats = [shorten(chat, max_messages, "train_sft") for _, chat in chitchat.read_conversations(chitchat.find_data_file())]
    return sort_rows(
        chat for chat in chats if max_characters is None or sum(len(message.content) for message in chat.messages) <= max_characters
    )


def opening_hours() -> list[Row]:
    """Generate 420 questions about the opening hours of the shops in a small town, with consistent answers."""
    conversations = []
    for (shop, name), (day, weekday), question in itertools.product(enumerate(SHOPS), enumerate(DAYS), QUESTIONS):
        answer = f"The {name} is open from {7 + (shop + day) % 4} to {16 + (shop * 3 + day) % 5} o'clock on {weekday}."
        messages = [Message("user", question.format(shop=name, day=weekday)), Message("assistant", answer)]
        conversations.append(Conversation(prompt=messages[0].content, messages=messages, prompt_id=content_id(messages)))
    return sort_rows(conversations)


def sort_rows(conversations: Iterable[Conversation]) -> list[Row]:
    """Convert to rows, sorted by id. Ids are hashes, so the order is random."""
    return [json.loads(encode(row)) for row in sorted(conversations, key=lambda row: row.prompt_id)]


def shuffle_answers(rows: Sequence[Mapping[str, Any]], seed: int) -> list[Row]:
    """Return the same conversations with the assistants' messages permuted among all of them."""
    shuffled = copy.deepcopy([dict(row) for row in rows])
    turns = [message for row in shuffled for message in row["messages"] if message["role"] == "assistant"]
    texts = [turn["content"] for turn in turns]
    for turn, other in zip(turns, np.random.default_rng(seed).permutation(len(texts)), strict=True):
        turn["content"] = texts[other]
    return shuffled


def rule_row(scenario: str, judgement: Judgement) -> tuple[str, ...]:
    """Format a rule's outcome as a row of the table."""
    interval = judgement.interval
    between = f" [{number(interval.low)}, {number(interval.high)}]" if interval else ""
    against = f" ({judgement.compared_with})" if judgement.reference is not None else ""
    return (
        scenario,
        judgement.rule,
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
