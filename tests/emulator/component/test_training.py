"""The training loop: equal to HF Trainer, resuming, early stopping, keeping the best checkpoint."""

from __future__ import annotations

import gc
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from mlops.emulator.component.finetune import _read_rows
from mlops.emulator.component.model import Row, load, pack, row_losses
from mlops.emulator.component.settings import Settings
from mlops.emulator.component.step import Step
from mlops.emulator.component.training import Training

MakeTraining = Callable[..., Training]
TIMES = {"eval_runtime", "eval_samples_per_second", "eval_steps_per_second"}


def _nothing(values: Mapping[str, float], step: int) -> None:
    pass


@pytest.fixture
def make(tmp_path: Path, prepare: Callable[[str], dict[str, str]], tokenizer: Callable[[str], Any]) -> MakeTraining:
    """Make a training on tiny-llama, ready to run."""

    def make_training(output: str = "out", log: Callable[[Mapping[str, float], int], None] = _nothing, **values: str) -> Training:
        from transformers import set_seed

        inputs = prepare("tiny-llama")
        rows = (
            _read_rows(Path(inputs["preprocess_output"], "train.jsonl")),
            _read_rows(Path(inputs["preprocess_output"], "validation.jsonl")),
        )
        step = Step({"learning_rate": "0.003", "logging_steps": "1", **values}, {})
        settings = Settings.from_step(step, len(rows[0]), "llama")
        set_seed(settings.seed)
        model = load(Path(inputs["model_selector_output"], "model"), settings)
        return Training(model, tokenizer("tiny-llama"), rows, settings, tmp_path / output, log)

    return make_training


def weights(training: Training) -> dict[str, Any]:
    return {name: value.clone() for name, value in training.model.state_dict().items()}


def same(left: Mapping[str, Any], right: Mapping[str, Any]) -> bool:
    return left.keys() == right.keys() and all(bool((left[name] == right[name]).all()) for name in left)


def logged(training: Training) -> list[dict[str, float]]:
    """Return the history without the run's own times."""
    rows = ({name: value for name, value in row.items() if name not in TIMES} for row in training.progress.history)
    return [row for row in rows if "train_runtime" not in row]


# ---- compared with HF Trainer


def hugging_face(training: Training, output: Path, **arguments: Any) -> Any:
    """Run HF Trainer on a copy of the same model and the same rows in the same order."""
    import copy

    import torch
    from transformers import Trainer, TrainingArguments

    class Order(torch.utils.data.Sampler[int]):  # type: ignore[misc]
        epoch = -1

        def __len__(self) -> int:
            return len(training.train_rows)

        def __iter__(self) -> Iterator[int]:
            self.epoch += 1
            generator = torch.Generator().manual_seed(training.settings.seed + self.epoch)
            return iter(torch.randperm(len(self), generator=generator).tolist())

    class InOrder(Trainer):  # type: ignore[misc]
        def _get_train_sampler(self, *_: Any) -> Any:
            return Order()

    def collate(rows: Sequence[dict[str, list[int]]]) -> dict[str, Any]:
        longest = max(len(row["input_ids"]) for row in rows)
        padded: dict[str, list[list[int]]] = {"input_ids": [], "labels": [], "attention_mask": []}
        for row in rows:
            rest = longest - len(row["input_ids"])
            padded["input_ids"].append([*row["input_ids"], *[0] * rest])
            padded["labels"].append([*row["labels"], *[-100] * rest])
            padded["attention_mask"].append([*[1] * len(row["input_ids"]), *[0] * rest])
        return {name: torch.tensor(value) for name, value in padded.items()}

    data = [[{"input_ids": ids, "labels": labels} for ids, labels in rows] for rows in (training.train_rows, training.validation_rows)]
    settings = training.settings
    trainer = InOrder(
        model=copy.deepcopy(training.model),
        args=TrainingArguments(
            output_dir=str(output), use_cpu=True, report_to=[], disable_tqdm=True, logging_steps=1, eval_strategy="epoch",
            save_strategy="no", learning_rate=settings.learning_rate, seed=settings.seed, dataloader_pin_memory=False,
            remove_unused_columns=False, optim=settings.optim, weight_decay=settings.weight_decay, **arguments,
        ),
        train_dataset=data[0],
        eval_dataset=data[1],
        data_collator=collate,
    )  # fmt: skip
    # Trainer collects garbage again and again. What is there already, all the libraries, need not be looked at each time.
    gc.freeze()
    try:
        trainer.train()
    finally:
        gc.unfreeze()
    return trainer


SCHEDULES = ("linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup")


@pytest.mark.parametrize(
    ("values", "arguments"),
    [
        *(({"lr_scheduler_type": name, "warmup_steps": "2"}, {"lr_scheduler_type": name, "warmup_steps": 2}) for name in SCHEDULES),
        (
            {"per_device_train_batch_size": "2", "gradient_accumulation_steps": "3", "num_train_epochs": "3", "weight_decay": "10"},
            {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 3, "num_train_epochs": 3},
        ),
        ({"per_device_eval_batch_size": "3", "max_steps": "11"}, {"per_device_eval_batch_size": 3, "max_steps": 11}),
        ({"optim": "adafactor", "max_grad_norm": "0.1"}, {"max_grad_norm": 0.1}),
        (
            {"adam_beta1": "0.5", "adam_beta2": "0.9", "adam_epsilon": "0.001", "max_grad_norm": "0"},
            {"adam_beta1": 0.5, "adam_beta2": 0.9, "adam_epsilon": 0.001, "max_grad_norm": 0.0},
        ),
    ],
    ids=[*SCHEDULES, "accumulation", "eval-batches", "adafactor", "betas"],
)
@pytest.mark.filterwarnings("ignore")  # HF Trainer's own
def test_each_update_equals_hf_trainers(values: dict[str, str], arguments: dict[str, Any], make: MakeTraining, tmp_path: Path) -> None:
    ours = make(**{"num_train_epochs": "2"} | values)
    defaults = {"num_train_epochs": 2, "per_device_train_batch_size": 1, "per_device_eval_batch_size": 1}
    theirs = hugging_face(ours, tmp_path / "theirs", **defaults | arguments)
    ours.run()
    last = weights(ours) if ours.progress.best_step == ours.progress.step else None
    expected = [row for row in theirs.state.log_history if "train_loss" not in row]
    actual = ours.progress.history[:-1]
    assert [set(row) for row in actual] == [set(row) for row in expected]
    for mine, other in zip(actual, expected, strict=True):
        for name in set(mine) - TIMES:
            assert mine[name] == pytest.approx(other[name], rel=2e-3, abs=1e-7), (name, mine, other)
        if "learning_rate" in mine:
            assert mine["learning_rate"] == other["learning_rate"]
    final, end = theirs.state.log_history[-1], ours.progress.history[-1]
    assert set(end) == set(final)
    assert end["train_loss"] == pytest.approx(final["train_loss"], rel=1e-3)
    if last is not None:
        for name, value in theirs.model.state_dict().items():
            assert value.numpy() == pytest.approx(last[name].numpy(), abs=2e-3), name


def test_total_flos_equals_hf_trainers(make: MakeTraining, tmp_path: Path) -> None:
    ours = make()
    theirs = hugging_face(ours, tmp_path / "theirs", num_train_epochs=1, per_device_train_batch_size=1)
    ours.run()
    assert ours.progress.history[-1]["total_flos"] == theirs.state.log_history[-1]["total_flos"]


def test_accumulation_of_k_is_batch_k(make: MakeTraining) -> None:
    results = []
    for batch, accumulation in (("4", "1"), ("1", "4"), ("2", "2")):
        training = make(per_device_train_batch_size=batch, gradient_accumulation_steps=accumulation, num_train_epochs="2")
        training.run()
        results.append(weights(training))
    assert same(results[0], results[1])
    assert same(results[0], results[2])
    other = make(per_device_train_batch_size="2", num_train_epochs="2")
    other.run()
    assert not same(results[0], weights(other))


@pytest.mark.parametrize("kind", ["tiny-llama", "tiny-phi4"])
def test_packed_rows_attend_only_to_themselves(kind: str, prepare: Callable[[str], dict[str, str]]) -> None:
    import torch

    inputs = prepare(kind)
    rows = _read_rows(Path(inputs["preprocess_output"], "train.jsonl"))
    network = load(Path(inputs["model_selector_output"], "model"), Settings.from_step(Step({}, {}), len(rows), kind)).eval()
    with torch.inference_mode():
        together, counts = row_losses(network, rows)
        alone = [row_losses(network, [row]) for row in rows]
        plain = [network(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss.item() for ids, labels in rows]
    assert together.tolist() == pytest.approx([loss.item() for loss, _ in alone], rel=1e-5)
    assert (together / torch.tensor(counts)).tolist() == pytest.approx(plain, rel=1e-5)
    assert len(set(together.tolist())) > 3


def test_packing_keeps_the_order_and_limits_the_tokens() -> None:
    rows: list[Row] = [(list(range(length)), list(range(length))) for length in (200, 200, 200, 600, 10, 502, 1)]
    packed = [[len(ids) for ids, _ in together] for together in pack(rows)]
    assert packed == [[200, 200], [200], [600], [10, 502], [1]]
    assert list(pack([])) == []


# ---- resuming


class Interrupted(Exception):
    pass


@pytest.mark.parametrize(
    "values",
    [
        {"apply_lora": "true", "lora_dropout": "0.3"},
        {"lr_scheduler_type": "cosine", "warmup_steps": "3"},
        {"optim": "adafactor", "apply_lora": "true"},
    ],
    ids=["lora-with-dropout", "full", "adafactor"],
)
@pytest.mark.parametrize("schedule", [{"evaluation_strategy": "steps", "eval_steps": "3"}, {"evaluation_strategy": "epoch"}], ids=str)
def test_a_resumed_run_equals_an_uninterrupted_one(values: dict[str, str], schedule: dict[str, str], make: MakeTraining) -> None:
    values = values | schedule | {"num_train_epochs": "2", "logging_steps": "2"}
    whole = make("whole", **values)
    whole.run()

    def stop(row: Mapping[str, float], step: int) -> None:
        if step == 12:
            raise Interrupted

    with pytest.raises(Interrupted):
        make("part", stop, **values).run()
    loads: list[float] = []
    resumed = make(
        "part", lambda row, step: loads.extend(row.get("checkpoint_load_step", 0) for _ in "x"), resume_from_checkpoint="true", **values
    )
    resumed.run()
    assert max(loads) == (9 if schedule["evaluation_strategy"] == "steps" else 8)
    assert same(weights(whole), weights(resumed))
    assert logged(whole) == logged(resumed)


def test_resuming_a_finished_run_changes_nothing(make: MakeTraining) -> None:
    values = {"max_steps": "11", "evaluation_strategy": "steps", "eval_steps": "4"}
    whole = make(**values)
    whole.run()
    again = make(resume_from_checkpoint="true", **values)
    again.run()
    assert again.progress.step == 11
    assert same(weights(whole), weights(again))


def test_without_checkpoints_resuming_starts_at_the_beginning(make: MakeTraining, capsys: pytest.CaptureFixture[str]) -> None:
    training = make(resume_from_checkpoint="true", max_steps="2")
    training.run()
    assert training.progress.step == 2
    assert "no checkpoint" in capsys.readouterr().out


def test_a_half_written_checkpoint_is_not_resumed_from(make: MakeTraining, tmp_path: Path) -> None:
    make(max_steps="4", evaluation_strategy="steps", eval_steps="2").run()
    (tmp_path / "out" / "checkpoint-4").rename(tmp_path / "out" / ".checkpoint-4.part")
    training = make(max_steps="4", evaluation_strategy="steps", eval_steps="2", resume_from_checkpoint="true")
    training._resume()
    assert training.progress.step == 2


# ---- stopping and keeping the best

# With backwards() the loss falls while the model learns which tokens there are, and rises when it learns their order.
OVERFIT = {
    "learning_rate": "0.02",
    "lr_scheduler_type": "constant",
    "evaluation_strategy": "steps",
    "eval_steps": "2",
    "num_train_epochs": "3",
}


def backwards(row: Row) -> Row:
    """Reverse the assistant's tokens of a row."""
    ids, labels = list(row[0]), list(row[1])
    places = [place for place, label in enumerate(labels) if label >= 0]
    for place, other in zip(places, reversed(places), strict=True):
        ids[place] = labels[place] = row[0][other]
    return ids, labels


@pytest.fixture
def run_overfitting(make: MakeTraining) -> MakeTraining:
    """Run a training whose eval_loss falls, then rises."""

    def overfit(output: str = "out", **values: str) -> Training:
        training = make(output, **OVERFIT | values)
        training.validation_rows = [backwards(row) for row in training.train_rows[:5]]
        training.run()
        return training

    return overfit


def eval_losses(training: Training) -> list[float]:
    return [row["eval_loss"] for row in training.progress.history if "eval_loss" in row]


@pytest.mark.parametrize("lora", ["true", "false"])
def test_the_best_checkpoint_is_the_final_model(lora: str, run_overfitting: MakeTraining) -> None:
    training = run_overfitting(apply_lora=lora, learning_rate="0.02" if lora == "false" else "0.005")
    losses = eval_losses(training)
    assert losses[-1] > min(losses), "the test needs a run whose last evaluation is not its best"
    assert training.progress.best_loss == min(losses)
    assert training.evaluate() == pytest.approx(min(losses), rel=1e-6)


@pytest.mark.parametrize("patience", [1, 3])
def test_early_stopping_stops_after_its_patience(patience: int, run_overfitting: MakeTraining) -> None:
    losses = eval_losses(run_overfitting("all"))
    stopped = run_overfitting("some", apply_early_stopping="true", early_stopping_patience=str(patience))
    # Counted by hand over the whole run's evaluations.
    best, worse, expected = losses[0], 0, 1
    for loss in losses[1:]:
        worse = 0 if loss < best else worse + 1
        best, expected = min(best, loss), expected + 1
        if worse == patience:
            break
    assert expected < len(losses), "the test needs a run that stops early"
    assert eval_losses(stopped) == losses[:expected]


def test_an_improvement_within_the_threshold_does_not_count(make: MakeTraining) -> None:
    values = {"evaluation_strategy": "steps", "eval_steps": "2", "num_train_epochs": "2", "apply_early_stopping": "true"}
    patient = make("patient", **values)
    patient.run()
    strict = make("strict", early_stopping_threshold="100", **values)
    strict.run()
    assert len(eval_losses(patient)) == 8
    assert len(eval_losses(strict)) == 2


def test_evaluation_disabled_keeps_no_checkpoint_and_the_last_weights(make: MakeTraining, tmp_path: Path) -> None:
    training = make(evaluation_strategy="disable")
    training.run()
    assert eval_losses(training) == []
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("limit", "kept"), [("-1", 12), ("2", 2), ("1", 1)])
def test_the_checkpoint_limit_never_deletes_the_best(limit: str, kept: int, run_overfitting: MakeTraining, tmp_path: Path) -> None:
    training = run_overfitting(save_total_limit=limit)
    steps = {int(path.name.removeprefix("checkpoint-")) for path in (tmp_path / "out").iterdir()}
    assert len(steps) == kept
    assert training.progress.best_step in steps


def test_a_checkpoint_contains_the_components_files(make: MakeTraining, tmp_path: Path) -> None:
    make(max_steps="1").run()
    files = {path.name for path in (tmp_path / "out" / "checkpoint-1").iterdir()}
    assert {"model.safetensors", "config.json", "tokenizer.json", "optimizer.pt", "scheduler.pt", "rng_state.pth"} <= files
    assert json.loads((tmp_path / "out" / "checkpoint-1" / "trainer_state.json").read_text())["step"] == 1


@pytest.mark.parametrize("metric", ["f1", "exact"])
def test_a_metric_that_is_never_computed_fails_the_run(metric: str, make: MakeTraining) -> None:
    from mlops.emulator.component.failures import SystemFailure

    with pytest.raises(SystemFailure, match=f"'eval_{metric}', which is not found in the evaluation metrics"):
        make(metric_for_best_model=metric).run()
    make(metric_for_best_model=metric, evaluation_strategy="disable", max_steps="1").run()


def test_a_loss_that_is_not_finite_fails_the_run(make: MakeTraining) -> None:
    from mlops.emulator.component.failures import SystemFailure

    with pytest.raises(SystemFailure, match=r"The loss is (nan|inf) at step"):
        make(learning_rate="1e30", max_grad_norm="0").run()
