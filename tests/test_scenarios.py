"""The gate on real trainings: one that it must let through, and three that it must stop.

All in one emulated Azure, one after the other, on a toy model that was taught some facts (tests/support/toy_model.py). The first
candidate goes live and is the champion of the others. benchmarks/scenarios.py does the same with a real model.
"""

from __future__ import annotations

import random
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest

from benchmarks.scenarios import shuffle_answers
from mlops.core.judgement import Judgement, Outcome, Verdict
from mlops.core.records import Judged
from mlops.emulator.base.azure import Options
from mlops.emulator.base.fork_servers import ForkServers
from mlops.emulator.server import Emulator
from tests.support.project import Project, client_of
from tests.support.rows import write_rows
from tests.support.toy_model import food_rows, pretrain, retention_rows, weather_rows

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

[defaults.promotion]
steps = [100]

[defaults.smoke]
requests = 1
max_new_tokens = 4

# The rules of the project's own pipeline.toml. The margins are wider, since so small a model moves more: a single step can improve it by
# 3 %, and it forgets more easily.
[defaults.gate.rules.target-vs-champion]
metric = "target.nll"
direction = "lower"
baseline = "champion"
test = "paired_bootstrap"
min_rows = 50

[defaults.gate.rules.target-vs-base]
metric = "target.nll"
direction = "lower"
baseline = "base"
margin = -0.05
test = "paired_bootstrap"
min_rows = 50

[defaults.gate.rules.retention-vs-base]
metric = "retention.nll"
direction = "lower"
baseline = "base"
margin = 0.2
test = "paired_bootstrap"
min_rows = 100

[defaults.gate.rules.retention-per-kind]
metric = "retention.*.nll"
direction = "lower"
baseline = "base"
margin = 0.3
margin_kind = "absolute"
test = "paired_bootstrap"
min_rows = 30

[defaults.gate.rules.retention-drift]
metric = "retention.kl_base"
direction = "lower"
ceiling = 1.0

[targets.right.data]
dataset = "right"
"""


class Scenarios(Project):
    """A project with good, shuffled and one-topic data, in front of an emulated Azure with an endpoint that may be live."""

    def __init__(self, folder: Path, emulator: Emulator) -> None:
        super().__init__(folder, emulator, TOML, target="right", endpoint=ENDPOINT)
        right, topic = food_rows(), weather_rows()
        random.Random(1).shuffle(right)
        random.Random(2).shuffle(topic)
        for name, rows in {"right": right, "shuffled": right[:66] + shuffle_answers(right[66:], seed=3), "topic": topic}.items():
            for split, part in {"train_gen": rows[:3], "test_gen": rows[3:6], "test_sft": rows[6:66], "train_sft": rows[66:]}.items():
                write_rows(folder / name / f"{split}.jsonl", part)
        write_rows(folder / "retention.jsonl", retention_rows())

    def train(self, run: str, dataset: str, *parameters: str) -> tuple[int, Judged]:
        """Train on one of the data sets, judge, and go live if the gate allows it: exit code and the gate's record."""
        settings = [part for parameter in parameters for part in ("--set", f"training.parameters.{parameter}")]
        # In the file, because options must not choose a permanent target's data.
        (self.folder / "pipeline.toml").write_text(TOML.replace('dataset = "right"', f'dataset = "{dataset}"'))
        # Not in the folder of the data, which has the same name.
        directory = f"run-{run}"
        code = self.mlops("run", "--until", "promote", *settings, run=directory)
        return code, self.records(directory).read(Judged)


@pytest.fixture(scope="module")
def scenarios(tmp_path_factory: pytest.TempPathFactory, fork_servers: ForkServers) -> Iterator[Scenarios]:
    """An emulated Azure whose base model knows something."""
    folder, cache = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("weights")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        pretrain(cache)
    state, options = tmp_path_factory.mktemp("emulator"), Options(weights="tiny-llama", cache=cache)
    with Emulator(state, options, fork_servers=fork_servers) as emulator, client_of(emulator, folder):
        yield Scenarios(folder, emulator)


@pytest.fixture(scope="module")
def champion(scenarios: Scenarios) -> tuple[int, Judged]:
    """The candidate with good training. It is live from then on."""
    return scenarios.train("right", "right")


def judgement_of(judged: Judged, metric: str, baseline: str) -> Judgement:
    """The one judgement of a metric against a baseline."""
    (judgement,) = [each for each in judged.judgements if (each.metric, each.baseline) == (metric, baseline)]
    return judgement


def failed(judged: Judged) -> set[tuple[str, str]]:
    """Metric and baseline of the critical rules that failed."""
    return {(answer.metric, answer.baseline) for answer in judged.judgements if answer.critical and answer.outcome is Outcome.FAILED}


def bounds(judgement: Judgement) -> tuple[float, float]:
    """The interval of the difference."""
    assert judgement.interval is not None
    return judgement.interval.low, judgement.interval.high


def test_good_data_promotes(scenarios: Scenarios, champion: tuple[int, Judged]) -> None:
    code, judged = champion
    assert (code, judged.verdict, judged.first_run) == (0, Verdict.PROMOTE, True)
    assert {answer.outcome for answer in judged.judgements} == {Outcome.SHOWN}
    # Each kind is judged on its own.
    assert {metric.split(".")[1] for metric in (a.metric for a in judged.judgements) if metric.count(".") == 2} == KINDS
    assert list((scenarios.traffic() or {}).values()) == [100]


def test_shuffled_answers_are_rejected(scenarios: Scenarios, champion: tuple[int, Judged]) -> None:
    live, billing = scenarios.traffic(), scenarios.billing()
    code, judged = scenarios.train("shuffled", "shuffled")
    assert (code, judged.verdict, judged.first_run) == (20, Verdict.REJECT, False)
    against = judgement_of(judged, "target.nll", "champion")
    assert (against.compared_with, against.outcome) == ("champion", Outcome.FAILED)
    # Not by a hair: the nearer end of the interval is farther from the margin than the smallest effect that these rows detect.
    assert against.mde is not None
    assert bounds(against)[0] > against.mde
    # And only because of the task.
    assert failed(judged) <= {("target.nll", "champion"), ("target.nll", "base")}
    assert (scenarios.traffic(), scenarios.billing()) == (live, billing)


def test_a_single_step_is_not_enough(scenarios: Scenarios, champion: tuple[int, Judged]) -> None:
    live, billing = scenarios.traffic(), scenarios.billing()
    code, judged = scenarios.train("step", "right", "max_steps=1")
    assert code == judged.verdict.exit_code
    assert judged.verdict in (Verdict.HOLD, Verdict.REJECT)
    assert judgement_of(judged, "target.nll", "base").outcome in (Outcome.UNPROVEN, Outcome.FAILED)
    assert judgement_of(judged, "target.nll", "champion").outcome is Outcome.FAILED
    # One step can't make the model forget.
    assert all(answer.outcome is Outcome.SHOWN for answer in judged.judgements if answer.metric.startswith("retention."))
    assert (scenarios.traffic(), scenarios.billing()) == (live, billing)


def test_a_model_that_learns_one_topic_and_forgets_the_rest_is_rejected(scenarios: Scenarios, champion: tuple[int, Judged]) -> None:
    live, billing = scenarios.traffic(), scenarios.billing()
    code, judged = scenarios.train("topic", "topic", "learning_rate=3e-2")
    assert (code, judged.verdict) == (20, Verdict.REJECT)
    # The target alone would promote it;
    for baseline in ("base", "champion"):
        assert judgement_of(judged, "target.nll", baseline).outcome is Outcome.SHOWN
        assert bounds(judgement_of(judged, "target.nll", baseline))[1] < -0.1
    # it is rejected for what it forgot, of every kind.
    assert all(metric.startswith("retention.") for metric, _ in failed(judged))
    assert failed(judged) >= {(f"retention.{kind}.nll", "base") for kind in KINDS}
    assert (scenarios.traffic(), scenarios.billing()) == (live, billing)
