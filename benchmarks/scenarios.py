"""What the gate says to four real trainings: as it should be, on shuffled answers, for a single step, and on one topic far too fast.

    .nox/local/bin/python benchmarks/scenarios.py [--target local] [--weights real] [--state DIR]

All four run through `mlops run` with the target's own settings in one emulated Azure. The first goes live, so it is the champion of the
others. Prints two Markdown tables: verdict and time of each scenario, and what every rule said with its figures. The exit code is 1 if a
verdict or its reason is not what the scenario must have. About 15 minutes on two cores.

The data are small talk (chitchat) and questions about the opening hours of an invented town, half and half. Small talk alone would not do:
two strangers' answers hang together with the questions so loosely that shuffling them changes nothing that 500 rows could show.
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
from mlops.core.records import Judged, Judgement, Outcome, Verdict
from mlops.core.run import Run
from mlops.dataset import chitchat
from mlops.dataset.conversation import Conversation, Message, content_id, encode
from mlops.emulator.base.azure import Options
from mlops.emulator.server import Emulator
from mlops.judging.wording import number
from mlops.prepare import shorten
from mlops.report.markdown import table

Row = dict[str, Any]

SHOPS = (
    "bakery", "bank", "barber", "bookshop", "butcher", "chemist", "florist", "garage", "library", "museum", "post office", "swimming pool",
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
ASKED = (
    "When is the {shop} open on {day}?", "I want to go to the {shop} on {day}. What are the hours?", "{day} at the {shop}: until when?",
    "Can you tell me the hours of the {shop} for {day}?", "Is the {shop} open on {day}, and when?",
)  # fmt: skip
HEADER = ("scenario", "rule", "candidate", "baseline", "difference", "margin", "n", "MDE", "outcome")


@dataclass(frozen=True)
class Scenario:
    """A training and what the gate must say to it.

    Attributes:
        dataset: which of :func:`write_data`'s folders it is trained and judged on.
        blamed: how the metrics of all failed rules must begin where it is REJECT.
        improved: a metric of which the whole interval must lie on the good side of the champion's and the base model's figure all the same.
        settings: given with ``--set``.
    """

    name: str
    expected: tuple[Verdict, ...]
    dataset: str
    blamed: str = ""
    improved: str = ""
    settings: tuple[str, ...] = ()

    def as_it_must_be(self, gate: Judged) -> bool:
        """Whether the verdict is an expected one, for the expected reason."""
        failed = [judgement.metric for judgement in gate.judgements if judgement.critical and judgement.outcome is Outcome.FAILED]
        rightly = gate.verdict is not Verdict.REJECT or all(metric.startswith(self.blamed) for metric in failed)
        intervals = [judgement.interval for judgement in gate.judgements if judgement.metric == self.improved]
        return gate.verdict in self.expected and rightly and all(interval is not None and interval.high < 0 for interval in intervals)


SCENARIOS = (
    Scenario("right", (Verdict.PROMOTE,), "right"),
    Scenario("shuffled", (Verdict.REJECT,), "shuffled", "target."),
    Scenario("single step", (Verdict.HOLD, Verdict.REJECT), "right", "target.", settings=("training.parameters.max_steps=1",)),
    Scenario("one topic", (Verdict.REJECT,), "topic", "retention.", "target.nll", ("training.parameters.learning_rate=2e-3",)),
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
        write_data(folder, options.target)
        with Emulator(folder / "azure", Options(weights=options.weights)) as emulator:
            environment = os.environ | emulator.environment()
            found = [(scenario, *judged(scenario, options.target, folder, environment)) for scenario in SCENARIOS]
    verdicts = [(scenario.name, gate.verdict.value, f"{seconds:.0f}") for scenario, gate, seconds in found]
    rules = [rule_row(scenario.name, judgement) for scenario, gate, _ in found for judgement in gate.judgements]
    sys.stdout.write(f"{table(('scenario', 'verdict', 's'), verdicts)}\n\n{table(HEADER, rules)}\n")
    return int(not all(scenario.as_it_must_be(gate) for scenario, gate, _ in found))


def judged(scenario: Scenario, target: str, folder: Path, environment: dict[str, str]) -> tuple[Judged, float]:
    """Run a scenario until the gate has stopped it or it is live; what the gate said and the seconds it took.

    Raises:
        RuntimeError: it ended otherwise.
    """
    directory = folder / f"run-{scenario.name.replace(' ', '-')}"
    # --keep: the champion must outlive a candidate that is stopped.
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
    """Write the folders ``right``, ``shuffled`` (the same with other answers to learn from) and ``topic``; 120 rows to learn from each."""
    data = load(Path("pipeline.toml"), target).data
    hours, chats = opening_hours(), small_talk(data.max_messages, data.max_characters)
    # The smoke test asks small talk only: so small a model repeats a question about hours that it can't answer.
    asked = {"train_gen": chats[:10], "test_gen": chats[10:20]}
    mixed = [row for pair in zip(hours[:110], chats[20:130], strict=True) for row in pair]
    right = asked | {"test_sft": mixed[:100], "train_sft": mixed[100:220]}
    topic = asked | {"test_sft": hours[110:210], "train_sft": hours[210:330]}
    for name, made in {"right": right, "shuffled": right | {"train_sft": shuffled(right["train_sft"], seed=0)}, "topic": topic}.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        for split, rows in made.items():
            (folder / name / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def small_talk(max_messages: int | None, max_characters: int | None) -> list[Row]:
    """Chats of the package, cut as the target cuts them."""
    cut = [shorten(chat, max_messages, "train_sft") for _, chat in chitchat.read(chitchat.locate())]
    return ordered(chat for chat in cut if max_characters is None or sum(len(said.content) for said in chat.messages) <= max_characters)


def opening_hours() -> list[Row]:
    """When the shops of a small town are open: 420 questions, and answers that follow from them."""
    made = []
    for (shop, name), (day, weekday), asked in itertools.product(enumerate(SHOPS), enumerate(DAYS), ASKED):
        answer = f"The {name} is open from {7 + (shop + day) % 4} to {16 + (shop * 3 + day) % 5} o'clock on {weekday}."
        messages = [Message("user", asked.format(shop=name, day=weekday)), Message("assistant", answer)]
        made.append(Conversation(prompt=messages[0].content, messages=messages, prompt_id=content_id(messages)))
    return ordered(made)


def ordered(conversations: Iterable[Conversation]) -> list[Row]:
    """As rows, in the order of their ids, which are hashes."""
    return [json.loads(encode(row)) for row in sorted(conversations, key=lambda row: row.prompt_id)]


def shuffled(rows: Sequence[Mapping[str, Any]], seed: int) -> list[Row]:
    """The same conversations, with what the assistants say handed round among all of them."""
    made = copy.deepcopy([dict(row) for row in rows])
    turns = [message for row in made for message in row["messages"] if message["role"] == "assistant"]
    said = [turn["content"] for turn in turns]
    for turn, other in zip(turns, np.random.default_rng(seed).permutation(len(said)), strict=True):
        turn["content"] = said[other]
    return made


def rule_row(scenario: str, judgement: Judgement) -> tuple[str, ...]:
    """What a rule said, as a row of the table."""
    interval = judgement.interval
    between = f" [{number(interval.low)}, {number(interval.high)}]" if interval else ""
    against = f" ({judgement.answered_against})" if judgement.reference is not None else ""
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
