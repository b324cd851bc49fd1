"""The gate on real trainings: what it must let through, and three ways of training that it must stop.

All in one emulated Azure, one after the other, on a model that has been to school (see small_world): the first candidate goes live and is
the champion of the others. benchmarks/scenarios.py does the same with a real model.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from benchmarks.scenarios import shuffled
from mlops.__main__ import main
from mlops.cloud.workspace import Workspace
from mlops.core.config import load
from mlops.core.records import Judged, Judgement, Outcome, Verdict
from mlops.core.run import Run
from mlops.emulator.base.azure import Options
from mlops.emulator.server import Emulator
from tests.support.toy_model import Row, known, school, tastes, weather

ENDPOINT = "scenarios"
KINDS = {"fact", "arithmetic", "refusal"}
TOML = f"""
[defaults.data]
percent = 100.0

[defaults.training.parameters]
max_steps = 100
learning_rate = 3e-4
per_device_train_batch_size = 4
gradient_accumulation_steps = 2
apply_deepspeed = "false"
evaluation_strategy = "disable"

[defaults.evaluation]
target_rows = 60
retention_suite = "retention.jsonl"
generate_rows = 1
max_new_tokens = 4
precision = "float32"

[defaults.endpoint]
name = "{ENDPOINT}"
probe_initial_delay_s = 1

[defaults.smoke]
requests = 1
max_new_tokens = 4

# The questions of the project's own pipeline.toml. The margins are wider, since so small a model moves more: a single step can better it by
# 3 %, and it holds what it knows less firmly.
[[defaults.gate.rules]]
metric = "target.nll"
direction = "lower"
baseline = "champion"
test = "paired_bootstrap"
min_rows = 50

[[defaults.gate.rules]]
metric = "target.nll"
direction = "lower"
baseline = "base"
margin = -0.05
test = "paired_bootstrap"
min_rows = 50

[[defaults.gate.rules]]
metric = "retention.nll"
direction = "lower"
baseline = "base"
margin = 0.2
test = "paired_bootstrap"
min_rows = 100

[[defaults.gate.rules]]
metric = "retention.*.nll"
direction = "lower"
baseline = "base"
margin = 0.3
margin_kind = "absolute"
test = "paired_bootstrap"
min_rows = 30

[[defaults.gate.rules]]
metric = "retention.kl_base"
direction = "lower"
ceiling = 1.0

[targets.right.data]
dataset = "right"

[targets.shuffled.data]
dataset = "shuffled"

[targets.topic.data]
dataset = "topic"
"""


class Scenarios:
    """A folder as a user has it, in front of an emulated Azure with an endpoint that may be live."""

    def __init__(self, folder: Path, emulator: Emulator) -> None:
        self.folder = folder
        self.emulator = emulator
        (folder / "pipeline.toml").write_text(TOML)
        right, topic = tastes(), weather()
        random.Random(1).shuffle(right)
        random.Random(2).shuffle(topic)
        self._write("right", right)
        self._write("shuffled", right[:66] + shuffled(right[66:], seed=3))
        self._write("topic", topic)
        (folder / "retention.jsonl").write_text(_lines(known()))

    def _write(self, name: str, rows: Sequence[Row]) -> None:
        (self.folder / name).mkdir()
        for split, part in {"train_gen": rows[:3], "test_gen": rows[3:6], "test_sft": rows[6:66], "train_sft": rows[66:]}.items():
            (self.folder / name / f"{split}.jsonl").write_text(_lines(part))

    def run(self, name: str, target: str, *parameters: str) -> tuple[int, Judged]:
        """Train, judge, and go live if the gate lets it: exit code and what the gate said."""
        settings = [part for parameter in parameters for part in ("--set", f"training.parameters.{parameter}")]
        code = main(["run", "--target", target, "--run", name, "--until", "promote", *settings])
        return code, Run(self.folder / name).read(Judged)

    def traffic(self) -> dict[str, int]:
        """What is live, by the service's own word."""
        found = Workspace.open(load(self.folder / "pipeline.toml", "right")).endpoints.find(ENDPOINT)
        assert found is not None
        return {name: share for name, share in found.traffic.items() if share}

    def billing(self) -> list[str]:
        """Deployments that cost money."""
        return [key for key, _ in self.emulator.azure.store.list("deployment")]


def _lines(rows: Sequence[Row]) -> str:
    return "".join(json.dumps(row) + "\n" for row in rows)


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scenarios]:
    """An emulated Azure whose base model knows something."""
    folder, cache = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("schooled")
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("default")  # third parties' warnings are not ours to fail on
        school(cache)
        with Emulator(tmp_path_factory.mktemp("emulator"), Options(weights="tiny-llama", cache=cache)) as emulator:
            patch.chdir(folder)
            for name, value in emulator.environment().items():
                patch.setenv(name, value)
            yield Scenarios(folder, emulator)


@pytest.fixture(scope="module")
def champion(scenarios: Scenarios) -> tuple[int, Judged]:
    """The candidate trained as it should be. It is live from then on."""
    return scenarios.run("right", "right")


def answered(judged: Judged, metric: str, baseline: str) -> Judgement:
    """The one answer about a metric against a baseline."""
    (found,) = [answer for answer in judged.judgements if (answer.metric, answer.baseline) == (metric, baseline)]
    return found


def failed(judged: Judged) -> set[tuple[str, str]]:
    """Metric and baseline of the critical rules that are shown not to hold."""
    return {(answer.metric, answer.baseline) for answer in judged.judgements if answer.critical and answer.outcome is Outcome.FAILED}


def bounds(answer: Judgement) -> tuple[float, float]:
    """The interval of the difference."""
    assert answer.interval is not None
    return answer.interval.low, answer.interval.high


def test_the_right_data_promote(scenarios: Scenarios, champion: tuple[int, Judged]) -> None:
    code, judged = champion
    assert (code, judged.verdict, judged.first_run) == (0, Verdict.PROMOTE, True)
    assert {answer.outcome for answer in judged.judgements} == {Outcome.SHOWN}
    # Each kind was asked about on its own.
    assert {metric.split(".")[1] for metric in (a.metric for a in judged.judgements) if metric.count(".") == 2} == KINDS
    assert list(scenarios.traffic().values()) == [100]


def test_shuffled_answers_are_rejected_for_what_they_taught(scenarios: Scenarios, champion: tuple[int, Judged]) -> None:
    live, billing = scenarios.traffic(), scenarios.billing()
    code, judged = scenarios.run("shuffled", "shuffled")
    assert (code, judged.verdict, judged.first_run) == (20, Verdict.REJECT, False)
    against = answered(judged, "target.nll", "champion")
    assert (against.answered_against, against.outcome) == ("champion", Outcome.FAILED)
    # Not by a hair: the nearer end of the interval is farther from the margin than the smallest effect that these rows detect.
    assert against.mde is not None
    assert bounds(against)[0] > against.mde
    # And for no other reason than the task.
    assert failed(judged) <= {("target.nll", "champion"), ("target.nll", "base")}
    assert (scenarios.traffic(), scenarios.billing()) == (live, billing)


def test_a_single_step_is_not_enough(scenarios: Scenarios, champion: tuple[int, Judged]) -> None:
    live, billing = scenarios.traffic(), scenarios.billing()
    code, judged = scenarios.run("step", "right", "max_steps=1")
    assert code == judged.verdict.exit_code
    assert judged.verdict in (Verdict.HOLD, Verdict.REJECT)
    assert answered(judged, "target.nll", "base").outcome in (Outcome.UNPROVEN, Outcome.FAILED)
    assert answered(judged, "target.nll", "champion").outcome is Outcome.FAILED
    # One step can't have cost what the base model knew.
    assert all(answer.outcome is Outcome.SHOWN for answer in judged.judgements if answer.metric.startswith("retention."))
    assert (scenarios.traffic(), scenarios.billing()) == (live, billing)


def test_one_topic_learnt_at_the_price_of_all_others_is_rejected(scenarios: Scenarios, champion: tuple[int, Judged]) -> None:
    live, billing = scenarios.traffic(), scenarios.billing()
    code, judged = scenarios.run("topic", "topic", "learning_rate=3e-2")
    assert (code, judged.verdict) == (20, Verdict.REJECT)
    # The task alone would have let it through …
    for baseline in ("base", "champion"):
        assert answered(judged, "target.nll", baseline).outcome is Outcome.SHOWN
        assert bounds(answered(judged, "target.nll", baseline))[1] < -0.1
    # … and what is held against it is what it forgot, of every kind.
    assert all(metric.startswith("retention.") for metric, _ in failed(judged))
    assert failed(judged) >= {(f"retention.{kind}.nll", "base") for kind in KINDS}
    assert (scenarios.traffic(), scenarios.billing()) == (live, billing)
